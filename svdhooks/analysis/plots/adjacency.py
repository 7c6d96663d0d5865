"""The adjacency of two layers, with what is significant in it."""

import numpy as np

from svdhooks.analysis.graph import PairAdjacency
from svdhooks.analysis.plots._canvas import (
    SMALL,
    Axes,
    Figure,
    LinearSegmentedColormap,
    Normalize,
    Rectangle,
    colour_bar,
    label,
    largest,
    mpl,
    name_figure,
    new_figure,
    pooled,
    quiet,
    shown,
    whole_ticks,
)

_SHADES = 512
_BOX = "#D55E00"


def plot_adjacency(pair: PairAdjacency) -> Figure:
    """Draw the adjacency of a pair of layers as a heat map.

    Edges below the threshold are grey and those above it coloured, so that every
    significant edge shows at any size; of a pair with more than 400 neurons a pixel is
    the largest of a block. The box holds the internal dimensions, counted from 1.

    Args:
        pair: One of ``SpectralGraph.pairs``.

    Returns:
        A figure of one image and its colour bar, with the threshold marked in it; not
        registered with pyplot.

    Raises:
        ImportError: If matplotlib is not installed: ``svdhooks[analysis]``.
    """
    matrix = pair.adjacency
    rows, columns = matrix.shape
    top = max(largest(matrix), pair.threshold) if matrix.size else 1.0
    figure = new_figure(*_size(rows, columns))
    axes = figure.subplots()
    cells, extent = pooled(matrix)
    image = axes.imshow(
        cells,
        cmap=_broken_at(pair.threshold / top),
        norm=Normalize(0.0, top),
        extent=extent,
        interpolation="nearest",
        aspect="auto",
    )
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    bar = colour_bar(figure, image, axes, _weight(pair))
    bar.ax.axhline(pair.threshold, color=_BOX, lw=1.5)
    _draw_box(axes, pair)
    label(
        axes,
        f"spectral neuron of {shown(pair.source, 28)}",
        f"spectral neuron of {shown(pair.target, 28)}",
    )
    quiet(axes, framed=True)
    whole_ticks(axes)
    stream = "; through the residual stream" if pair.stream else ""
    name_figure(
        figure,
        f"{shown(pair.source, 28)} → {shown(pair.target, 28)}",
        f"{pair.significant:,} of {matrix.size:,} edges significant "
        f"(p = {pair.p:.3g}, {pair.null}); {pair.expected_false:.3g} expected by chance"
        f"{stream}",
    )
    return figure


def _size(rows: int, columns: int) -> tuple[float, float]:
    """Width and height in inches, cells square where that fits."""
    ratio = min(max(rows / max(columns, 1), 0.45), 1.4)
    return 6.6, 1.4 + 5.0 * ratio


def _weight(pair: PairAdjacency) -> str:
    product = "⟨v, u⟩²" if pair.positions == 1 else "Σ ⟨v, u⟩²"
    return f"edge weight {product}, significant above {pair.threshold:.3g}"


def _broken_at(threshold: float) -> LinearSegmentedColormap:
    """Greys below the threshold, a share of the scale, and colours above it."""
    most = _SHADES - (threshold < 1.0)  # where nothing is above, all are grey
    below = min(max(round(_SHADES * threshold), 1), most)
    greys = mpl.colormaps["Greys"](np.linspace(0.0, 0.4, below))
    colours = mpl.colormaps["viridis_r"](np.linspace(0.12, 1.0, _SHADES - below))
    shades = np.concatenate([greys, colours])
    return LinearSegmentedColormap.from_list("significant", shades, N=_SHADES)


def _draw_box(axes: Axes, pair: PairAdjacency) -> None:
    """The leading block that the internal dimensions cut out."""
    out, into = pair.internal_dimensions
    box = Rectangle((-0.5, -0.5), into, out, fill=False, ec=_BOX, lw=1.5)
    axes.add_patch(box)
    rows, columns = pair.adjacency.shape
    # beside the box, or in its corner where there is no room
    outside = into < 0.6 * columns and out < 0.95 * rows
    axes.annotate(
        f"internal dimensions {out} × {into}",
        (into - 0.5, out - 0.5),
        xytext=(4, -3) if outside else (-4, 4),
        textcoords="offset points",
        ha="left" if outside else "right",
        va="top" if outside else "bottom",
        fontsize=SMALL,
        color=_BOX,
        bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1.0},
    )
