"""A comparison in words."""

import math
import textwrap
from collections.abc import Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING

from svdhooks.analysis.comparison.statistics import detectable
from svdhooks.display.overview import count, figure, title_of

if TYPE_CHECKING:
    from svdhooks.analysis.comparison.compared import Comparison
    from svdhooks.analysis.comparison.rows import Difference

_SHOWN = 20
_ALPHA = 0.05


def headline(comparison: "Comparison") -> str:
    """What was found, in one text."""
    return " ".join(sentences(comparison))


def sentences(comparison: "Comparison") -> list[str]:
    """What was found, a sentence or some for each group but the reference."""
    return [
        _of_group(comparison, group.name)
        for group in comparison.groups
        if group.name != comparison.reference
    ]


def _of_group(comparison: "Comparison", group: str) -> str:
    """What is told of one group."""
    rows = [row for row in comparison.differences if row.group == group]
    against = f"{group} against {comparison.reference}"
    tested = [row for row in rows if row.differs is not None]
    if not rows:
        return f"{against}: no layer in common."
    layers = len({row.layer for row in rows})
    if not tested:
        largest = rows[0]
        return (
            f"{against}: one run each, so what seeds alone do is not known, and no layer "
            f"can be called different. Largest change: {largest.layer}, "
            f"{title_of(largest.metric)} {change(largest)}."
        )
    found = [row for row in tested if row.differs]
    if not found:
        needed = detectable(
            rows[0].runs, rows[0].reference_runs, len(comparison.differences), _ALPHA
        )
        return (
            f"{against}: no layer of {layers} differs beyond what seeds do. With "
            f"{rows[0].runs} and {count(rows[0].reference_runs, 'run')} that takes about "
            f"{needed:.0f} times the spread over seeds."
        )
    differing = len({row.layer for row in found})
    top = found[0]
    return (
        f"{against}: {differing} of {count(layers, 'layer')} "
        f"{'differs' if differing == 1 else 'differ'} beyond what seeds do; surest "
        f"{top.layer}, {title_of(top.metric)} {change(top)}"
        f"{since(top, comparison.align)}."
    )


def change(row: "Difference") -> str:
    """How far the two are apart, with both values: ``0.33× (3.14 against 9.51)``."""
    both = f"({figure(row.value)} against {figure(row.reference_value)})"
    return f"{step(row.change, row.scale)} {both}"


def step(value: float, scale: str) -> str:
    """A ratio or a difference: ``0.33×``, ``+1.2``."""
    if scale == "ratio":
        return f"{figure(value)}×"
    return f"{'−' if value < 0 else '+'}{figure(abs(value))}"


def lettered(comparison: "Comparison") -> dict[str, str]:
    """A letter for each group, numbers if there are too many."""
    names = [group.name for group in comparison.groups]
    few = len(names) <= len(ascii_uppercase)
    letters = ascii_uppercase if few else [str(i + 1) for i in range(len(names))]
    return dict(zip(names, letters, strict=False))


def since(row: "Difference", align: str) -> str:
    """Since when: ``, since step 30``; empty if they never part."""
    if math.isnan(row.since):
        return ""
    if math.isnan(row.until):
        return f", since {align} {figure(row.since)}"
    return f", from {align} {figure(row.since)} to {figure(row.until)}"


def since_cell(row: "Difference") -> str:
    """Since when, for a table; empty where the two do not differ, or never part."""
    if not row.differs or math.isnan(row.since):
        return ""
    until = "" if math.isnan(row.until) else f" – {figure(row.until)}"
    return f"{figure(row.since)}{until}"


def text(comparison: "Comparison", width: int) -> str:
    """Everything, in lines of some width."""
    letters = lettered(comparison)
    groups = [
        f"{letters[group.name]}  {group.name}: {', '.join(group.runs)}"
        for group in comparison.groups
    ]
    lines = _filled(groups, width, "   ")
    lines += ["", *_filled(sentences(comparison), width, "")]
    for group in comparison.groups:
        for metric in comparison.metrics:
            rows = [
                row
                for row in comparison.differences
                if (row.group, row.metric) == (group.name, metric)
            ]
            if rows:
                pair = letters[group.name], letters[comparison.reference]
                lines += ["", f"{title_of(metric)}, {pair[0]} against {pair[1]}"]
                lines += _table(rows, pair, comparison.align, width)
    absent = [
        f"{layer} is not in {', '.join(runs)}."
        for layer, runs in list(comparison.absent.items())[:_SHOWN]
    ]
    notes = _filled([*comparison.notes, *absent], width, "")
    found = "\n".join([*lines, *([""] if notes else []), *notes])
    # a name may hold what moves a terminal's cursor
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in found)


def _table(
    rows: Sequence["Difference"], pair: tuple[str, str], align: str, width: int
) -> list[str]:
    """Rows of one measure and one group; what differs has a star."""
    names = max(min(max(len(row.layer) for row in rows[:_SHOWN]), width - 48), 8)
    head = f"{pair[1]:>9}{pair[0]:>9}{'change':>10}{'spreads':>9}  since {align}"
    lines = [f"  {'layer':<{names}}{head}"[:width]]
    for row in rows[:_SHOWN]:
        layer = " ".join(row.layer.split())
        layer = layer if len(layer) <= names else f"…{layer[1 - names :]}"
        spreads = "–" if math.isnan(row.effect) else f"{abs(row.effect):.1f}"
        cells = (
            f"{figure(row.reference_value):>9}{figure(row.value):>9}"
            f"{step(row.change, row.scale):>10}{spreads:>9}  {since_cell(row)}"
        )
        lines.append(f"{'*' if row.differs else ' '} {layer:<{names}}{cells}".rstrip())
    if len(rows) > _SHOWN:
        lines.append(f"  … and {len(rows) - _SHOWN} more: .rows()")
    return lines


def _filled(paragraphs: Sequence[str], width: int, indent: str) -> list[str]:
    """Paragraphs in lines."""
    return [
        line
        for paragraph in paragraphs
        for line in textwrap.wrap(paragraph, width, subsequent_indent=indent)
    ]
