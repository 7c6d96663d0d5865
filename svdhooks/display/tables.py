"""One layer in a table: steps in rows, or curves in rows; as text and as HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from svdhooks.display.overview import Curve, count
from svdhooks.display.page import key, wrapped
from svdhooks.display.plot import plot, sparkline
from svdhooks.display.text import printable, shortened, spark

_ROWS = 24
_GAP = "  "

Named = Sequence[tuple[str, Curve]]
"""Curves and what they are called."""


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Attributes:
        what: What it shows.
        layer: Of which layer; may hold anything.
        heading: What is the same of all rows.
        cells: Column -> cells.
        note: What stands beneath; may be empty.
    """

    what: str
    layer: str
    heading: str
    cells: Mapping[str, Sequence[str]]
    note: str = ""


def text_table(table: Table) -> str:
    """Numbers as text, a step per line.

    Args:
        table: The table; of more than 24 lines some, spread evenly, both ends included.

    Returns:
        Lines without a newline at the end and without control characters.
    """
    rows, hidden = _rows(table)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join([
        f"{table.what} of {brief(table.layer)}: {table.heading}",
        *(
            _GAP.join(cell.rjust(w) for cell, w in zip(row, widths, strict=True))
            for row in rows
        ),
        *([_left_out(hidden)] if hidden else []),
        *([table.note] if table.note else []),
    ])


def html_table(table: Table, curves: Named) -> str:
    """The same as HTML, with a plot of some curves."""
    (heads, *rows), hidden = _rows(table)
    title = f"{table.what} of {table.layer}"
    return wrapped([
        _title(title, table.heading),
        plot(curves, title) + key(list(curves)),
        _table(heads, [[f"<td>{escape(cell)}</td>" for cell in row] for row in rows]),
        *(
            f'<p class="sh-quiet">{escape(said)}</p>'
            for said in (_left_out(hidden), table.note)
            if said
        ),
    ])


def text_curves(what: str, layer: str, heading: str, curves: Named) -> str:
    """Curves as text, one per line: first and last value, and block characters.

    Args:
        what: What they show.
        layer: Of which layer; may hold anything.
        heading: Which steps.
        curves: Their names and values.

    Returns:
        Lines without a newline at the end and without control characters.
    """
    rows = [(name, " → ".join(c.ends), spark(c)) for name, c in curves]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        _GAP.join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([f"{what} of {brief(layer)}: {heading}", *lines])


def html_curves(what: str, layer: str, heading: str, curves: Named) -> str:
    """The same as HTML."""
    rows = [
        [
            f"<td>{escape(name)}</td>",
            f"<td>{sparkline(curve)}</td>",
            f'<td class="sh-number">{escape(" → ".join(curve.ends))}</td>',
        ]
        for name, curve in curves
    ]
    return wrapped([_title(f"{what} of {layer}", heading), _table([], rows)])


def brief(name: str) -> str:
    """A name for one line of text: its end, without what moves a cursor."""
    return shortened(printable(name))


def reach(steps: NDArray[np.int64]) -> str:
    """How many steps, and which."""
    if len(steps) == 1:
        return f"step {steps[0]:,}"
    return f"{count(len(steps), 'record')}, steps {steps[0]:,} to {steps[-1]:,}"


def _rows(table: Table) -> tuple[list[tuple[str, ...]], int]:
    """The head and the rows that there is room for, and how many are left out."""
    rows = list(zip(*table.cells.values(), strict=True))
    at = np.unique(np.rint(np.linspace(0, len(rows) - 1, _ROWS)).astype(int))
    kept = rows if len(rows) <= _ROWS else [rows[i] for i in at.tolist()]
    return [tuple(table.cells), *kept], len(rows) - len(kept)


def _left_out(hidden: int) -> str:
    return f"… and {count(hidden, 'record')} between" if hidden else ""


def _title(title: str, heading: str) -> str:
    return (
        f'<p class="sh-title"><strong>{escape(title)}</strong> '
        f'<span class="sh-quiet">{escape(heading)}</span></p>'
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    style = "sh-number sh-right" if heads else "sh-number"  # curves have no heads
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return (
        f'<div class="sh-scroll"><table class="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
