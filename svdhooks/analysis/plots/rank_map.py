"""One measure of every layer over a run, as a map of layers and steps."""

import fnmatch

import numpy as np
from numpy.typing import NDArray

from svdhooks.analysis.plots._canvas import (
    POSITIVE,
    SMALL,
    Axes,
    Figure,
    LogNorm,
    Normalize,
    Rectangle,
    colour_bar,
    name_figure,
    new_figure,
    quiet,
    shown,
)
from svdhooks.analysis.plots._curves import drawn_title, log_ticks, steps_axis
from svdhooks.display.overview import Source, title_of

_NAMES = 60
_DECADES = 10


def plot_rank_map(
    log: Source, metric: str, *, relative: bool = False, layers: str = "*"
) -> Figure:
    """Draw one measure of every layer over the run: layers × steps.

    Layers stand in the order of the model, the first on top. What was not measured, or
    failed, is hatched.

    Args:
        log: A `svdhooks.RunLog` or a `svdhooks.MemorySink`.
        metric: The measure, for example ``"output_effective_rank"``.
        relative: Whether to divide by each layer's first value, so that layers of
            different widths can be compared.
        layers: Glob on layers.

    Returns:
        A figure, not registered with pyplot.

    Raises:
        ImportError: If matplotlib is not installed: ``svdhooks[analysis]``.
        KeyError: If no layer that matches has the measure.
    """
    names, steps, values = _table(log, metric, layers)
    if relative:
        first = np.array([_first(row) for row in values])
        values = values / np.where(first == 0, np.nan, first)[:, None]
    figure = new_figure(7.0, min(1.6 + 0.22 * len(names), 11.0))
    axes = figure.subplots()
    edges = _edges(steps)
    _hatch(axes)
    image = axes.pcolormesh(
        edges,
        np.arange(len(names) + 1) - 0.5,
        np.ma.masked_invalid(values),
        cmap=_map(relative),
        norm=_norm(values, relative),
        rasterized=True,
    )
    steps_axis(axes, steps)
    axes.set_xlim(edges[0], edges[-1])
    axes.invert_yaxis()
    quiet(axes, framed=True)
    kept = np.arange(0, len(names), -(-len(names) // _NAMES))
    axes.set_yticks(kept, [shown(names[i], 32) for i in kept], fontsize=SMALL)
    axes.tick_params(axis="y", length=0)
    unit = " / its first value" if relative else ""
    bar = colour_bar(figure, image, axes, title_of(metric) + unit)
    finite = values[np.isfinite(values)]
    if isinstance(image.norm, LogNorm):
        low, high = float(finite.min()), float(finite.max())
        log_ticks(bar.ax.yaxis, high / low)
        bar.ax.set_ylim(low, high if high > low else None)
    missing = not np.isfinite(values).all()
    name_figure(
        figure,
        drawn_title(str(getattr(log, "name", "run")), metric),
        "Hatched: not measured." if missing else "",
    )
    return figure


def _hatch(axes: Axes) -> None:
    """What shows where there is no value."""
    axes.add_patch(
        Rectangle(
            (0, 0),
            1,
            1,
            transform=axes.transAxes,
            facecolor="0.95",
            edgecolor="0.8",
            hatch="////",
            linewidth=0,
        )
    )


def _table(
    log: Source, metric: str, layers: str
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Layers that have the measure, steps, and values ``(layers, steps)``."""
    steps = log.steps
    found: dict[str, NDArray[np.float64]] = {}
    for layer in log.layers:
        if fnmatch.fnmatchcase(layer, layers):
            at, read = log.series(layer, metric)
            row = np.full(len(steps), np.nan)
            row[np.searchsorted(steps, at)] = read
            if len(at):
                found[layer] = row
    if not found:
        raise KeyError(
            f"No layer that matches {layers!r} has {metric!r}; there are "
            f"{', '.join(log.metrics)} of {', '.join(log.layers[:10])}."
        )
    values = np.array(list(found.values()))
    # steps at which other measures alone were recorded would be hatched stripes
    there = np.isfinite(values).any(axis=0)
    there |= ~there.any()
    return list(found), steps[there].astype(np.float64), values[:, there]


def _edges(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where one record's column ends and the next begins: half way."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middle = (steps[1:] + steps[:-1]) / 2
    last = steps[-1] + (steps[-1] - steps[-2]) / 2
    return np.concatenate([[steps[0]], middle, [last]])


def _first(row: NDArray[np.float64]) -> float:
    """The first value that there is."""
    finite = row[np.isfinite(row)]
    return float(finite[0]) if len(finite) else np.nan


def _map(relative: bool) -> str:
    """Blue to red through white where 1 is the middle."""
    return "RdBu" if relative else POSITIVE


def _norm(values: NDArray[np.float64], relative: bool) -> Normalize:
    """Logarithmic where values span a lot, and where they are ratios."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Normalize(0, 1)
    low, high = float(finite.min()), float(finite.max())
    if relative and low > 0:
        top = max(high, 1 / low, 1.25)
        return LogNorm(1 / top, top)
    if low > 0 and high > _DECADES * low:
        return LogNorm(low, high)
    return Normalize(min(low, 0.0), high if high > min(low, 0.0) else low + 1.0)
