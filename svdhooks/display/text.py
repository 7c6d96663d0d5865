"""A run as plain text."""

import shutil
import textwrap
from collections.abc import Sequence

import numpy as np

from svdhooks.display.overview import (
    Curve,
    Overview,
    Source,
    count,
    overview,
    spared,
    thin,
    title_of,
)

_BARS = "▁▂▃▄▅▆▇█"
_SPARK = 12
_NAME = 32
_GAP = "  "
_ENDLESS = 10_000
_TITLE = 14


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
    """The table; in a terminal that is too narrow with less beside the numbers."""
    width = shutil.get_terminal_size((_ENDLESS, 0)).columns
    measures = list(shown.measures)
    lines = _table(shown, measures)
    for narrower in ({"sparks": False}, {"sparks": False, "titles": _TITLE}):
        if max(map(len, lines)) > width:
            lines = _table(shown, measures, **narrower)
    for metric in spared(shown.measures):
        if max(map(len, lines)) > width:
            measures.remove(metric)
            lines = _table(shown, measures, sparks=False, titles=_TITLE)
    left = [title_of(metric) for metric in shown.measures if metric not in measures]
    return [*lines, *([f"Too narrow for {', '.join(left)}."] if left else [])]


def _table(
    shown: Overview,
    measures: Sequence[str],
    sparks: bool = True,
    titles: int = _ENDLESS,
) -> list[str]:
    heads = [textwrap.wrap(title_of(metric), titles) for metric in measures]
    depth = max(map(len, heads), default=1)
    padded = [["layer"], *heads]
    rows = [
        [*row]
        for row in zip(*([*h, *[""] * depth][:depth] for h in padded), strict=True)
    ]
    for row in shown.rows:
        curves = dict(zip(shown.measures, row.curves, strict=True))
        cells = [
            f"{' → '.join(c.ends)}{_GAP}{spark(c) if sparks else ''}".strip()
            for c in map(curves.__getitem__, measures)
        ]
        rows.append([shortened(printable(row.layer)), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        _GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        for cells in rows
    ]
    notes = [*[""] * depth, *(printable(row.failed) for row in shown.rows)]
    return [
        f"{line}{_GAP}{note}".rstrip() for line, note in zip(lines, notes, strict=True)
    ]
