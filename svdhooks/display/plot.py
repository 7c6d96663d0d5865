"""Curves as SVG: no script, nothing from outside, readable on light and on dark."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from svdhooks.display.overview import Curve, figure, log_spaced, thin

_SPARK_WIDTH, _SPARK_HEIGHT, _SPARK_POINTS = 72, 16, 40
_WIDTH, _HEIGHT = 640, 260
_BOX = (56.0, 10.0, 572.0, 216.0)  # left, top, width, height
_POINTS = 300
_MANY = 20
_TICKS = 5
_LOG_FROM = 30  # ratio of largest to smallest from which small values would be lost

# Tableau 10 without what is too light for white paper
_COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#9c755f")


def colours(number: int) -> list[str]:
    """Colours for layers: distinct ones for few, by depth from blue to red for many."""
    if number <= len(_COLOURS):
        return list(_COLOURS[:number])
    return [f"hsl({220 + 150 * i / (number - 1):.0f},60%,55%)" for i in range(number)]


def sparkline(curve: Curve) -> str:
    """A curve of the size of a word, from 0 on; empty if it has less than two values."""
    points = thin(curve, _SPARK_POINTS)
    finite = points.values[np.isfinite(points.values)]
    if len(finite) < 2:  # a curve has two points
        return ""
    axes = _Axes(points.steps, np.append(finite, 0.0), log=False)
    box = (1.5, 1.5, _SPARK_WIDTH - 3.0, _SPARK_HEIGHT - 3.0)
    return (
        f'<svg width="{_SPARK_WIDTH}" height="{_SPARK_HEIGHT}" '
        f'viewBox="0 0 {_SPARK_WIDTH} {_SPARK_HEIGHT}" aria-hidden="true">'
        f"{_line(axes, points, box, 'currentColor', 1.25)}</svg>"
    )


def plot(named: Sequence[tuple[str, Curve]], label: str) -> str:
    """One measure of several layers over the steps.

    Args:
        named: Layer and curve; may be empty.
        label: What the curves are, for those who do not see them.

    Returns:
        An ``<svg>`` element; each curve has its layer's name as tooltip.
    """
    drawn = [(name, thin(curve, _POINTS)) for name, curve in named]
    values = np.concatenate([curve.values for _, curve in drawn] or [np.empty(0)])
    steps = [step for _, curve in drawn for step in curve.steps.tolist()]
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return "<p>Nothing to draw yet.</p>"
    log = finite.min() > 0 and finite.max() > _LOG_FROM * finite.min()
    axes = _Axes(np.unique(steps), finite, log=bool(log))
    lines = [
        _line(axes, curve, _BOX, shade, 1.6 if len(drawn) <= _MANY else 1.0, name)
        for (name, curve), shade in zip(drawn, colours(len(drawn)), strict=True)
    ]
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'role="img" aria-label="{escape(label)}" style="max-width:100%;height:auto">'
        f"{_frame(axes, _BOX)}{''.join(lines)}</svg>"
    )


class _Axes:
    """From steps and values to fractions of the width and of the height, from the top.

    Args:
        steps: All of them, increasing; drawn as logarithms if those are even.
        values: All that are drawn, finite.
        log: Draw logarithms.
    """

    def __init__(
        self,
        steps: NDArray[np.number],
        values: NDArray[np.floating],
        *,
        log: bool,
    ) -> None:
        self.log = log
        self.first, self.last = float(steps[0]), float(steps[-1])
        self.early = log_spaced(steps)
        self.low, self.high = float(values.min()), float(values.max())
        if self.high == self.low:  # a flat line goes through the middle
            room = abs(self.low) * 0.1 or 1.0
            self.low, self.high = self.low - room, self.high + room

    def x(self, step: float) -> float:
        """Fraction of the width."""
        span = self.last - self.first
        if self.early:  # step 0 is there, too
            return math.log1p(step - self.first) / math.log1p(span)
        return (step - self.first) / span if span else 0.5

    def y(self, value: float) -> float:
        """Fraction of the height, 0 at the top."""
        if self.log:
            return math.log(self.high / value) / math.log(self.high / self.low)
        return (self.high - value) / (self.high - self.low)


Box = tuple[float, float, float, float]
"""Left, top, width, height."""


def _line(
    axes: _Axes, curve: Curve, box: Box, shade: str, width: float, name: str = ""
) -> str:
    """A curve, in pieces between what is not finite; dots where it stands alone."""
    left, top, across, down = box
    pieces: list[list[str]] = [[]]
    for step, value in zip(curve.steps.tolist(), curve.values.tolist(), strict=True):
        if not math.isfinite(value):
            pieces.append([])
            continue
        x, y = left + across * axes.x(float(step)), top + down * axes.y(value)
        pieces[-1].append(f"{x:.1f},{y:.1f}")
    tip = f"<title>{escape(name)}</title>" if name else ""
    drawn = "".join(
        f'<polyline points="{" ".join(points)}"/>' if len(points) > 1 else _dot(points)
        for points in pieces
        if points
    )
    return (
        f'<g fill="none" stroke="{shade}" stroke-width="{width}" '
        f'stroke-linejoin="round" stroke-linecap="round">{tip}{drawn}</g>'
    )


def _dot(points: Sequence[str]) -> str:
    """A value between two that failed, or the only one."""
    x, y = points[0].split(",")
    return f'<circle cx="{x}" cy="{y}" r="2"/>'


def _frame(axes: _Axes, box: Box) -> str:
    """Grid lines with their numbers."""
    left, top, across, down = box
    parts = []
    for value in _ticks(axes.low, axes.high, axes.log):
        y = top + down * axes.y(value)
        parts += [
            f'<path d="M{left} {y:.1f}h{across}" stroke="currentColor" opacity=".15"/>',
            _number(value, left - 8, y + 4, "end"),
        ]
    for step in _step_ticks(axes):
        if step == int(step):
            x = left + across * axes.x(step)
            parts.append(_number(step, x, top + down + 16, "middle"))
    middle = left + across / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{top + down + 31:.1f}" text-anchor="middle" '
        'font-size="11" fill="currentColor" opacity=".7">step</text>'
    )
    return "".join(parts)


def _number(value: float, x: float, y: float, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11" '
        f'fill="currentColor" opacity=".7">{figure(value)}</text>'
    )


def _step_ticks(axes: _Axes) -> list[float]:
    """Round steps."""
    if not axes.early:
        return _ticks(axes.first, axes.last, log=False)
    powers = [10.0**p for p in range(1, math.floor(math.log10(axes.last)) + 1)]
    return [axes.first, *powers]


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers between two others."""
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [m * 10.0**p for p in powers for m in (1, 2, 5)]
        inside = [value for value in found if low <= value <= high]
        return inside[:: len(inside) // (_TICKS + 2) + 1]
    if high <= low:
        return [low]
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    unit = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = math.ceil(low / unit), math.floor(high / unit)
    return [i * unit for i in range(first, last + 1)]
