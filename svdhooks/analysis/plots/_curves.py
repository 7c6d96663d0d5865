"""What pictures of curves over a run share: the axis of steps, names, many colours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.analysis.plots._canvas import (
    NORMAL,
    PALETTE,
    POSITIVE,
    SMALL,
    Axes,
    mpl,
    quiet,
    shown,
)
from svdhooks.display.overview import log_spaced, title_of

_FEW_DECADES = 2000.0


def steps_axis(axes: Axes, steps: NDArray[np.number], name: str = "step") -> None:
    """A horizontal axis of steps, logarithmic where most records are early.

    Args:
        axes: Which.
        steps: Of the records.
        name: What they are.
    """
    if len(steps) and log_spaced(steps):
        axes.set_xscale("symlog", linthresh=max(float(steps[1]), 1.0), linscale=0.3)
        # without it the ticks of the linear part and of the first decade collide
        axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    quiet(axes)
    axes.set_xlabel(name, fontsize=NORMAL)


def value_axis(axes: Axes, metric: str, values: NDArray[np.floating]) -> None:
    """A vertical axis of a measure, from zero; logarithmic where it spans a lot.

    Args:
        axes: Which.
        metric: The measure.
        values: All that are drawn.
    """
    finite = values[np.isfinite(values)]
    wide = len(finite) and finite.min() > 0 and finite.max() > 30 * finite.min()
    if wide:
        axes.set_yscale("log")
        log_ticks(axes.yaxis, float(finite.max() / finite.min()))
    elif len(finite) and finite.min() >= 0:
        axes.set_ylim(0, float(finite.max()) * 1.05 or 1.0)
    axes.set_ylabel(title_of(metric), fontsize=NORMAL)


def log_ticks(axis: Any, ratio: float) -> None:
    """Plain numbers on a logarithmic axis.

    Args:
        axis: Of a panel, or the long axis of a bar of colours.
        ratio: The largest value over the smallest.
    """
    close = ratio < _FEW_DECADES
    subs = (1.0, 2.0, 5.0) if close else (1.0,)
    axis.set_major_locator(mpl.ticker.LogLocator(subs=subs, numticks=8))
    axis.set_minor_formatter(mpl.ticker.NullFormatter())
    if close:
        axis.set_major_formatter("{x:g}")
    axis.set_tick_params(which="both", labelsize=SMALL)


def colours(count: int) -> Sequence[str]:
    """A colour for each of some curves: far apart for few, along a scale for many.

    Args:
        count: How many.

    Returns:
        Hexadecimal colours.
    """
    if count <= len(PALETTE):
        return PALETTE[:count]
    scale = mpl.colormaps[POSITIVE]
    # the yellow end is too light on white
    places = np.linspace(0.0, 0.9, count)
    return [mpl.colors.to_hex(scale(place)) for place in places]


def drawn_title(name: str, metric: str) -> str:
    """The title of a picture of one measure of a run."""
    return f"{shown(name)}: {title_of(metric)}"
