"""The spectrum of one matrix over a run."""

import contextlib
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from svdhooks.analysis.plots._canvas import (
    MUTED,
    POSITIVE,
    SMALL,
    Axes,
    Figure,
    LogNorm,
    Normalize,
    colour_bar,
    label,
    mpl,
    name_figure,
    new_figure,
    panel_title,
    quiet,
    shown,
)
from svdhooks.analysis.plots._curves import log_ticks, steps_axis

_CURVES = 12
_TRACES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_RESOLVED = 1e-8


@runtime_checkable
class HasSpectra(Protocol):
    """What is needed of a `svdhooks.RunLog`."""

    def spectra(
        self, layer: str, point: str = "weight"
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Steps and spectra."""
        ...

    def spectrum_index(self, layer: str, point: str = "weight") -> NDArray[np.int64]:
        """Which entries they have."""
        ...


def plot_spectra(log: HasSpectra, layer: str, point: str = "weight") -> Figure:
    """Draw the spectrum of one matrix over the run, on logarithmic axes.

    On the left whole spectra at twelve steps at most; on the right the 1st, 2nd, 4th,
    8th … value over all steps. The dashed lines are the edge of what a random matrix of
    the same size and noise would have, where the log can tell it (first and last step).

    Args:
        log: A `svdhooks.RunLog`.
        layer: Its name.
        point: Which matrix: ``"weight"``, ``"input"``, ``"output"``, …

    Returns:
        A figure, not registered with pyplot.

    Raises:
        ImportError: If matplotlib is not installed: ``svdhooks[analysis]``.
        KeyError: If no such spectrum was recorded.
        ValueError: If it is zero throughout: no logarithm shows that.
    """
    steps, raw = log.spectra(layer, point)
    values = np.asarray(raw, dtype=np.float64)
    index = log.spectrum_index(layer, point) + 1
    there = np.isfinite(values).any(axis=1)
    if not there.any():
        raise KeyError(f"No spectrum of {point} of layer {layer!r} was measured.")
    steps, values = steps[there], values[there]
    # zeros, and what rounding makes of them, have no place on a logarithm
    values = np.where(values > _RESOLVED * np.nanmax(values), values, np.nan)
    if not np.isfinite(values).any():
        raise ValueError(f"The {point} of layer {layer!r} is zero at every step.")
    figure = new_figure(7.4, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    edges = _edges(log, layer, point)
    _draw_spectra(figure, left, steps, index, values)
    _draw_edges(left, edges)
    _draw_traces(right, steps, index, values)
    name = "eigenvalue" if point in {"input", "output", "tokens"} else "singular value"
    left.set_yscale("log")
    finite = values[np.isfinite(values)]
    log_ticks(left.yaxis, float(finite.max() / finite.min()))
    label(left, "index", name)
    panel_title(left, "whole spectra")
    panel_title(right, f"single {name}s")
    below = "Dashed: edge of a random matrix, at the first and the last step."
    name_figure(
        figure, f"{shown(layer)}: {shown(point)}", below if edges is not None else ""
    )
    return figure


def _draw_spectra(
    figure: Figure,
    axes: Axes,
    steps: NDArray[np.int64],
    index: NDArray[np.int64],
    values: NDArray[np.float64],
) -> None:
    """Spectra at some steps, coloured by step."""
    chosen = _chosen(steps)
    norm = _norm(steps)
    scale = mpl.colormaps[POSITIVE]
    for row in chosen.tolist():
        here = np.isfinite(values[row])
        place = 0.9 * float(norm(float(steps[row]) + _offset(steps)))
        axes.plot(
            index[here],
            values[row][here],
            color=scale(place),
            linewidth=1.2,
            marker="." if here.sum() < 2 else None,
        )
    if len(index) > 1:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    quiet(axes)
    if len(steps) > 1:
        shades = mpl.colors.ListedColormap(scale(np.linspace(0, 0.9, 256)))
        bar = colour_bar(figure, mpl.cm.ScalarMappable(norm, shades), axes, "")
        # above the bar: beside it, it would seem to belong to the next panel
        bar.ax.set_title("step", fontsize=SMALL)
        ticks = _ticks(steps)
        bar.set_ticks([float(step) + _offset(steps) for step in ticks])
        bar.set_ticklabels([f"{step:,}" for step in ticks])
        bar.minorticks_off()


def _draw_traces(
    axes: Axes,
    steps: NDArray[np.int64],
    index: NDArray[np.int64],
    values: NDArray[np.float64],
) -> None:
    """The 1st, 2nd, 4th … value over the run, named at the right end."""
    wanted = [k for k in (*_TRACES, int(index[-1])) if k <= index[-1]]
    columns = [int(np.argmin(np.abs(index - k))) for k in dict.fromkeys(wanted)]
    shades = np.linspace(0.15, 0.65, len(columns))
    last = float("inf")
    for column, shade in zip(dict.fromkeys(columns), shades, strict=False):
        trace = values[:, column]
        here = np.isfinite(trace)
        if not here.any():
            continue
        axes.plot(
            steps[here],
            trace[here],
            color=str(shade),
            linewidth=1.0,
            marker="." if here.sum() < 2 else None,
        )
        end = float(trace[here][-1])
        if end < 0.75 * last:  # names must not lie on one another
            axes.annotate(
                f"{index[column]}",
                (steps[here][-1], end),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=SMALL - 1,
                color=MUTED,
            )
            last = end
    steps_axis(axes, steps)


def _edges(log: Any, layer: str, point: str) -> NDArray[np.float64] | None:
    """The edge of a random matrix at the first and the last step; None: not known."""
    with contextlib.suppress(KeyError, AttributeError):
        _, edge = log.series(layer, f"{point}_marchenko_pastur_edge")
        finite = np.asarray(edge[np.isfinite(edge)], dtype=np.float64)
        if len(finite):
            return finite[[0, -1]]
    return None


def _draw_edges(axes: Axes, edges: NDArray[np.float64] | None) -> None:
    """The same as dashed lines, light and dark."""
    shades = (mpl.colormaps[POSITIVE](0.0), mpl.colormaps[POSITIVE](0.9))
    for edge, shade in zip(() if edges is None else edges, shades, strict=False):
        axes.axhline(float(edge), color=shade, linestyle="--", linewidth=0.8)


def _chosen(steps: NDArray[np.int64]) -> NDArray[np.intp]:
    """Rows of some steps, both ends among them, evenly on the axis of colours."""
    if len(steps) <= _CURVES:
        return np.arange(len(steps))
    at = np.log(steps - steps[0] + _offset(steps))
    wanted = np.linspace(at[0], at[-1], _CURVES)
    return np.unique(np.abs(at[:, None] - wanted).argmin(axis=0))


def _norm(steps: NDArray[np.int64]) -> Normalize:
    """Logarithmic, a record further, so that step 0 has a place."""
    low, high = (float(step) + _offset(steps) for step in steps[[0, -1]])
    return LogNorm(low, max(high, low * 1.01))


def _offset(steps: NDArray[np.int64]) -> float:
    """The first interval between records."""
    return float(steps[1] - steps[0]) if len(steps) > 1 else 1.0


def _ticks(steps: NDArray[np.int64]) -> list[int]:
    """A few steps for the bar of colours."""
    chosen = steps[_chosen(steps)].tolist()
    every = max(1, -(-len(chosen) // 5))
    return sorted({*chosen[::every], chosen[-1]})
