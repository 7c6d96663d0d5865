"""A run as plain text."""

import shutil

import numpy as np

from svdhooks.display.overview import (
    Curve,
    Overview,
    Source,
    count,
    overview,
    thin,
    title_of,
)

_BARS = "▁▂▃▄▅▆▇█"
_SPARK = 12
_NAME = 32
_GAP = "  "
_ENDLESS = 10_000


def text(source: Source, *, title: str = "", rows: int = 40) -> str:
    """A table with a line per layer: first and last value of each headline measure.

    Args:
        source: A `RunLog` or a `MemorySink`.
        title: What the run is called.
        rows: Largest number of layers.

    Returns:
        Lines without a newline at the end and without control characters.
    """
    shown = overview(source, rows)
    head = f"{printable(title)}: {shown.heading}" if title else shown.heading
    lines = [head, *(_fitted(shown) if shown.rows else ())]
    if shown.hidden:
        lines.append(f"… and {count(shown.hidden, 'more layer')}")
    if shown.cost:
        lines.append(shown.cost)
    return "\n".join(lines)


def printable(name: str) -> str:
    """A name that moves no cursor and breaks no line."""
    return name if name.isprintable() else ascii(name)[1:-1]


def shortened(name: str) -> str:
    """The end of a long name, which tells layers apart better than its beginning."""
    return name if len(name) <= _NAME else f"…{name[1 - _NAME :]}"


def spark(curve: Curve) -> str:
    """A curve as block characters, from 0 on; empty if it has less than two values."""
    values = thin(curve, _SPARK).values
    finite = values[np.isfinite(values)]
    if len(values) < 2 or not len(finite):  # a curve has two points
        return ""
    # from 0, so that a change of a per cent does not look like a collapse
    low, high = min(finite.min(), 0.0), finite.max()
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        _BARS[round((v - low) * scale)] if np.isfinite(v) else " " for v in values
    )


def _fitted(shown: Overview) -> list[str]:
    """The table, without sparklines where the terminal, if it is one, is too narrow."""
    width = shutil.get_terminal_size((_ENDLESS, 0)).columns
    lines = _table(shown)
    return lines if max(map(len, lines)) <= width else _table(shown, sparks=False)


def _table(shown: Overview, sparks: bool = True) -> list[str]:
    rows = [["layer", *map(title_of, shown.measures)]]
    for row in shown.rows:
        cells = [
            f"{' → '.join(c.ends)}{_GAP}{spark(c) if sparks else ''}".strip()
            for c in row.curves
        ]
        rows.append([shortened(printable(row.layer)), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        _GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        for cells in rows
    ]
    notes = ["", *(printable(row.failed) for row in shown.rows)]
    return [
        f"{line}{_GAP}{note}".rstrip() for line, note in zip(lines, notes, strict=True)
    ]
