"""A comparison in words."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from svdhooks.analysis.comparison_statistics import detectable
from svdhooks.display.overview import count, figure, title_of

if TYPE_CHECKING:
    from svdhooks.analysis.comparison import Comparison
    from svdhooks.analysis.comparison_rows import Difference

_SHOWN = 20
_NAME = 28
_ALPHA = 0.05


def headline(comparison: "Comparison") -> str:
    """What was found, in some sentences, one for each group but the reference."""
    told = [
        _of_group(comparison, group.name)
        for group in comparison.groups
        if group.name != comparison.reference
    ]
    return " ".join(told)


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
    if row.scale == "ratio":
        return f"{figure(row.change)}× {both}"
    return f"{'+' if row.change >= 0 else '−'}{figure(abs(row.change))} {both}"


def since(row: "Difference", align: str) -> str:
    """Since when: ``, since step 30``; empty if they never part."""
    if math.isnan(row.since):
        return ""
    if math.isnan(row.until):
        return f", since {align} {figure(row.since)}"
    return f", from {align} {figure(row.since)} to {figure(row.until)}"


def text(comparison: "Comparison", width: int) -> str:
    """Everything, in lines of some width."""
    lines = _filled([headline(comparison)], width, "")
    shown = comparison.differences[:_SHOWN]
    names = max((min(len(row.layer), _NAME) for row in shown), default=5)
    lines += ["", *(_line(row, comparison.align, names)[:width] for row in shown)]
    if len(comparison.differences) > len(shown):
        lines.append(f"… and {len(comparison.differences) - len(shown)} more: .rows()")
    groups = [f"{group.name}: {', '.join(group.runs)}" for group in comparison.groups]
    lines += ["", *_filled(groups, width, "  ")]
    absent = [
        f"{layer} is not in {', '.join(runs)}."
        for layer, runs in list(comparison.absent.items())[:_SHOWN]
    ]
    return "\n".join([*lines, *_filled([*comparison.notes, *absent], width, "")])


def _line(row: "Difference", align: str, names: int) -> str:
    """One difference."""
    layer = " ".join(row.layer.split())
    if len(layer) > names:
        layer = f"…{layer[1 - names :]}"
    mark = "*" if row.differs else " "
    spreads = "" if math.isnan(row.effect) else f", {abs(row.effect):.1f} spreads"
    told = f"{title_of(row.metric)} {change(row)}{spreads}{since(row, align)}"
    return f"{mark} {layer:<{names}}  {told}"


def _filled(paragraphs: Sequence[str], width: int, indent: str) -> list[str]:
    """Paragraphs in lines."""
    return [
        line
        for paragraph in paragraphs
        for line in textwrap.wrap(paragraph, width, subsequent_indent=indent)
    ]
