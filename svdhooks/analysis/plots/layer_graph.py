"""The spectral graph of a model, layer by layer."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from svdhooks.analysis.graph import PairAdjacency, SpectralGraph
from svdhooks.analysis.plots._canvas import (
    MUTED,
    PALETTE,
    SMALL,
    Axes,
    Figure,
    Line2D,
    LineCollection,
    in_two_lines,
    mpl,
    name_figure,
    new_figure,
)
from svdhooks.analysis.plots._placement import Placed, place

_STREAM = PALETTE[1]


def plot_layer_graph(
    graph: SpectralGraph, *, max_nodes: int | None = None, max_edges: int = 600
) -> Figure:
    """Draw spectral neurons and the significant edges between them.

    Layers stand from left to right in the order in which they feed one another; of each
    the neurons stand below one another, the largest singular value on top, with an area
    in proportion to it, relative to the layer's largest. Width and darkness of an edge
    are its weight; edges through the residual stream have another colour.

    Args:
        graph: From `svdhooks.analysis.spectral_graph`.
        max_nodes: The most neurons of a layer, half of them the leading ones, half those
            with the strongest edges; None: 40, or fewer where layers stand below one
            another.
        max_edges: The most edges, the strongest ones of all; a note says how many more
            are significant.

    Returns:
        A figure, not registered with pyplot.

    Raises:
        ImportError: If matplotlib is not installed: ``svdhooks[analysis]``.
        ValueError: If the graph has no pairs, or a number is not positive.
    """
    if not graph.pairs:
        raise ValueError("Found a graph without pairs, expected one or more to draw.")
    for name, value in (("max_nodes", max_nodes), ("max_edges", max_edges)):
        if value is not None and value < 1:
            raise ValueError(f"Found {name}={value}, expected 1 or more.")
    placed = place(graph.pairs, max_nodes)
    columns = 1 + max(layer.column for layer in placed.values())
    rows = max(layer.top + len(layer.sigma) for layer in placed.values())
    figure = new_figure(
        min(1.2 + (1.2 if columns > 9 else 1.8) * columns, 24.0),
        min(1.6 + 0.13 * max(rows, 12.0), 16.0),
    )
    axes = figure.subplots()
    drawn = _draw_edges(axes, graph.pairs, placed, max_edges)
    for layer in placed.values():
        _draw_layer(axes, layer, crowded=columns > 9)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows + 0.5, -3.5))
    axes.axis("off")
    name_figure(
        figure,
        f"Spectral graph, step {graph.step:,}",
        _about(graph.pairs, placed, drawn),
    )
    return figure


def _draw_edges(
    axes: Axes,
    pairs: Iterable[PairAdjacency],
    placed: Mapping[str, Placed],
    max_edges: int,
) -> int:
    """The strongest edges between neurons that are drawn; how many these are."""
    segments, weights, streams = [], [], []
    for pair in pairs:
        starts, ends, weight = _significant(pair, placed)
        segments.append(np.stack([starts, ends], axis=1))
        weights.append(weight)
        streams.append(np.full(len(weight), pair.stream))
    weight, stream = np.concatenate(weights), np.concatenate(streams)
    strongest = np.argsort(-weight, kind="stable")[:max_edges]
    # the weakest first, so that strong ones lie above them
    order = strongest[::-1]
    collection = LineCollection(
        list(np.concatenate(segments)[order]),
        colors=_colours(weight[order], stream[order]),
        linewidths=0.3 + 2.2 * weight[order],
        zorder=1,
    )
    axes.add_collection(collection, autolim=False)
    if stream.any() and not stream.all():
        _draw_legend(axes)
    return len(order)


def _significant(
    pair: PairAdjacency, placed: Mapping[str, Placed]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Where edges between neurons that are drawn begin and end, and their weights."""
    source, target = placed[pair.source], placed[pair.target]
    later, earlier = np.nonzero(pair.adjacency > pair.threshold)
    begin, end = source.rows()[earlier], target.rows()[later]
    there = np.isfinite(begin + end)
    starts = np.column_stack([np.full(len(begin), source.column), begin])
    ends = np.column_stack([np.full(len(end), target.column), end])
    return starts[there], ends[there], pair.adjacency[later, earlier][there]


def _colours(
    weight: NDArray[np.float64], stream: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The hue says which kind of edge it is, the opacity how strong it is."""
    hues = [mpl.colors.to_rgb(colour) for colour in (PALETTE[0], _STREAM)]
    colours = np.ones((len(weight), 4))
    colours[:, :3] = np.array(hues)[stream.astype(int)]
    colours[:, 3] = 0.12 + 0.88 * np.sqrt(weight.clip(0.0, 1.0))
    return colours


def _draw_legend(axes: Axes) -> None:
    """Of the two kinds of edges."""
    lines = [Line2D([], [], color=colour) for colour in (PALETTE[0], _STREAM)]
    axes.legend(
        lines,
        ["next layer", "residual stream"],
        frameon=False,
        fontsize=SMALL,
        loc="lower right",
        ncols=2,
        bbox_to_anchor=(1.0, 1.0),
    )


def _draw_layer(axes: Axes, layer: Placed, *, crowded: bool) -> None:
    """Its neurons, its name, and how many neurons are left out."""
    rows = layer.rows()[layer.drawn]
    axes.scatter(
        np.full(len(rows), layer.column),
        rows,
        s=3 + 60 * layer.sigma,
        color="0.2",
        ec="white",
        lw=0.6,
        zorder=2,
    )
    axes.annotate(
        in_two_lines(layer.name, 16 if crowded else 22),
        (layer.column, layer.top - 1.2),
        ha="center",
        va="bottom",
        fontsize=SMALL,
        fontweight="bold",
    )
    left = layer.neurons - len(layer.sigma)
    if left:
        axes.annotate(
            f"{left:,} more",
            (layer.column, layer.top + len(layer.sigma) + 0.2),
            ha="center",
            va="top",
            fontsize=SMALL,
            color=MUTED,
        )


def _about(
    pairs: Iterable[PairAdjacency], placed: Mapping[str, Placed], drawn: int
) -> str:
    """How many edges there are, are drawn, and were to be expected by chance."""
    pairs = list(pairs)
    total = sum(pair.significant for pair in pairs)
    chance = sum(pair.expected_false for pair in pairs)
    left = total - drawn
    every = all(len(layer.drawn) == layer.neurons for layer in placed.values())
    which = "" if every else ", half the leading neurons, half those of strongest edges"
    told = f"Dots: σ / σ₁{which}. {total:,} significant edges, {chance:.3g} expected by chance"
    if not left:
        return told
    hidden = total - sum(len(_significant(pair, placed)[2]) for pair in pairs)
    return (
        f"{told}; {drawn:,} drawn, {left:,} left out: {hidden:,} of neurons that are not "
        f"drawn, {left - hidden:,} weaker ones"
    )
