"""One measure of some layers over a run, with the loss below."""

import fnmatch
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from svdhooks.alarms import loss_source
from svdhooks.analysis.plots._canvas import (
    MUTED,
    SMALL,
    Axes,
    Figure,
    label,
    name_figure,
    new_figure,
    shown,
)
from svdhooks.analysis.plots._curves import (
    colours,
    drawn_title,
    steps_axis,
    value_axis,
)
from svdhooks.display.overview import Source

_MOST = 24


def plot_measure(
    log: Source,
    metric: str,
    layers: str | Sequence[str] = "*",
    *,
    loss: str | None = None,
) -> Figure:
    """Draw one measure of some layers over the run, and the training loss below.

    Args:
        log: A `svdhooks.RunLog` or a `svdhooks.MemorySink`.
        metric: The measure.
        layers: Globs; of more than 24 layers those are drawn that are evenly spread
            over the model.
        loss: Name of a value of the run, or tag of a scalar; None: the training loss,
            if there is one; empty: none.

    Returns:
        A figure, not registered with pyplot.

    Raises:
        ImportError: If matplotlib is not installed: ``svdhooks[analysis]``.
        KeyError: If no layer that matches has the measure.
    """
    globs = [layers] if isinstance(layers, str) else list(layers)
    curves = _curves(log, metric, globs)
    kept = np.unique(np.linspace(0, len(curves) - 1, min(len(curves), _MOST)).round())
    names = [list(curves)[int(place)] for place in kept]
    below = _loss(log, loss)
    legend = 0.5 + 0.19 * len(names)
    figure = new_figure(7.0, max(4.4 if below else 3.4, legend))
    ratios = [3, 1] if below else [1]
    panels = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    axes: Axes = panels[0] if below else panels
    for name, colour in zip(names, colours(len(names)), strict=True):
        steps, values = curves[name]
        mark = "." if np.isfinite(values).sum() < 2 else None
        axes.plot(
            steps,
            values,
            color=colour,
            linewidth=1.4,
            marker=mark,
            label=shown(name, 32),
        )
    value_axis(axes, metric, np.concatenate([curves[name][1] for name in names]))
    steps_axis(axes, log.steps, "" if below else "step")
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside right upper",
        fontsize=SMALL,
        frameon=False,
    )
    if below:
        tag, at, read = below
        panels[1].plot(at, read, color=MUTED, linewidth=1.0)
        steps_axis(panels[1], log.steps)
        label(panels[1], "step", shown(tag, 16))
    left_out = len(curves) - len(names)
    told = f"{len(names)} of {len(curves)} layers, evenly spread." if left_out else ""
    name_figure(figure, drawn_title(str(getattr(log, "name", "run")), metric), told)
    return figure


_Curve = tuple[NDArray[np.int64], NDArray[np.floating]]


def _curves(log: Source, metric: str, globs: Sequence[str]) -> dict[str, _Curve]:
    """The layers that match and have the measure."""
    names = [
        name
        for name in log.layers
        if any(name == glob or fnmatch.fnmatchcase(name, glob) for glob in globs)
    ]
    every = {name: log.series(name, metric) for name in names}
    found = {name: curve for name, curve in every.items() if len(curve[0])}
    if not found:
        raise KeyError(
            f"No layer that matches {', '.join(globs)} has {metric!r}; there are "
            f"{', '.join(log.metrics)} of {', '.join(log.layers[:10])}."
        )
    return found


def _loss(
    log: Source, name: str | None
) -> tuple[str, NDArray[np.int64], NDArray[np.floating]] | None:
    """What is drawn below: its name, steps and values."""
    tag = loss_source(log) if name is None else name  # type: ignore[arg-type]
    if not tag:
        return None
    if tag in log.run_metrics or not hasattr(log, "align"):
        return tag, *log.run_series(tag)
    return tag, *log.align(tag)
