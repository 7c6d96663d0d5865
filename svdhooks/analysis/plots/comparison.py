"""One layer in several groups of runs: means, spreads over seeds, single runs."""

import math

import numpy as np

from svdhooks.analysis.comparison import Comparison
from svdhooks.analysis.comparison.curves import Curve
from svdhooks.analysis.comparison.rows import Difference
from svdhooks.analysis.comparison.text import change, since
from svdhooks.analysis.plots._canvas import (
    SMALL,
    Axes,
    Figure,
    name_figure,
    new_figure,
    shown,
)
from svdhooks.analysis.plots._curves import colours, steps_axis, value_axis
from svdhooks.display.overview import title_of


def plot_comparison(
    comparison: Comparison, layer: str, metric: str | None = None
) -> Figure:
    """Draw one measure of one layer in all groups.

    Thick lines are means over runs, bands one standard deviation over runs around them,
    thin lines single runs. A dotted line stands where two groups part for good, if they
    do: see `svdhooks.analysis.Comparison`.

    Args:
        comparison: From `svdhooks.compare`.
        layer: Its name.
        metric: One of ``comparison.metrics``; None: the first that the layer has.

    Returns:
        A figure, not registered with pyplot.

    Raises:
        ImportError: If matplotlib is not installed: ``svdhooks[analysis]``.
        KeyError: If the layer is not compared.
    """
    curve = comparison.curve(layer, metric)
    groups = [group for group in comparison.groups if curve.bands(group) is not None]
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    shades = dict(zip((g.name for g in groups), colours(len(groups)), strict=True))
    for group in groups:
        _draw_group(axes, curve, comparison, group.name, shades[group.name])
    every = np.concatenate(list(curve.values.values()))
    value_axis(axes, curve.metric, every)
    falling = len(curve.x) > 1 and curve.x[0] > curve.x[-1]
    if falling:
        label = f"{shown(comparison.align, 24)}, from high to low"
        steps_axis(axes, np.empty(0), label)
        axes.invert_xaxis()
    else:
        steps_axis(axes, curve.x, shown(comparison.align, 24))
    axes.legend(fontsize=SMALL, frameon=False)
    rows = [
        row
        for row in comparison.differences
        if (row.layer, row.metric) == (curve.layer, curve.metric)
    ]
    for row in rows:
        if row.differs and math.isfinite(row.since):
            axes.axvline(row.since, color=shades[row.group], linestyle=":", linewidth=1)
    below = [_told(row, comparison.align) for row in rows[:3]]
    below.append("Bands: one standard deviation over runs.")
    name_figure(figure, f"{shown(layer)}: {title_of(curve.metric)}", "\n".join(below))
    return figure


def _draw_group(
    axes: Axes, curve: Curve, comparison: Comparison, name: str, colour: str
) -> None:
    """Mean, band and runs of one group."""
    group = next(group for group in comparison.groups if group.name == name)
    mean, low, high = curve.bands(group) or (np.empty(0),) * 3
    runs = [curve.values[run] for run in group.runs if run in curve.values]
    mark = "o" if len(curve.x) == 1 else None
    many = f"{len(runs)} run" + ("" if len(runs) == 1 else "s")
    axes.plot(
        curve.x,
        mean,
        color=colour,
        linewidth=2,
        marker=mark,
        label=f"{shown(name, 32)} ({many})",
    )
    if len(runs) > 1:
        axes.fill_between(curve.x, low, high, color=colour, alpha=0.2, linewidth=0)
        for values in runs:
            axes.plot(
                curve.x, values, color=colour, linewidth=0.5, alpha=0.7, marker=mark
            )


def _told(row: Difference, align: str) -> str:
    """One difference in a line."""
    name = shown(row.group, 32)
    if row.differs is None:
        return f"{name}: {change(row)}; one run each, no spread is known."
    verdict = "differs" if row.differs else "no difference beyond what seeds do"
    spreads = f"{abs(row.effect):.1f} spreads"
    when = since(row, shown(align, 24)) if row.differs else ""
    return f"{name}: {verdict}, {change(row)}, {spreads}{when}"
