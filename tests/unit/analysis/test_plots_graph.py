"""Pictures of adjacencies and of layers show every edge that counts, and count the rest."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import rgb_to_hsv
from matplotlib.patches import Rectangle

from svdhooks.analysis.graph import SpectralGraph
from svdhooks.analysis.plots import plot_adjacency, plot_layer_graph
from svdhooks.analysis.plots._canvas import in_two_lines, pooled, shown
from svdhooks.analysis.plots._placement import depths, place
from tests.drawn import drawn, images, pair, random_pair


def test_edges_have_a_colour_exactly_if_they_are_significant():
    data = random_pair(threshold=0.6)
    (image,) = images(plot_adjacency(data))
    colours = image.cmap(image.norm(data.adjacency))[..., :3]
    saturation = rgb_to_hsv(colours)[..., 1]
    # one of 512 shades of the scale is as fine as it gets
    clear = np.abs(data.adjacency - 0.6) > data.adjacency.max() / 512
    assert clear.sum() > 60
    assert ((saturation > 0.1) == (data.adjacency > 0.6))[clear].all()


def test_the_box_of_an_adjacency_holds_its_internal_dimensions():
    figure = plot_adjacency(random_pair(internal_dimensions=(4, 2)))
    (box,) = [p for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    # cells are centred on whole numbers
    assert box.get_bbox().bounds == (-0.5, -0.5, 2, 4)
    assert "internal dimensions 4 × 2" in drawn(figure)


def test_the_colour_bar_of_an_adjacency_marks_the_threshold():
    data = random_pair(threshold=0.6)
    figure = plot_adjacency(data)
    (line,) = (line for line in figure.axes[1].lines if line.get_ydata()[0] == 0.6)
    assert line.get_ydata() == [0.6, 0.6]
    text = drawn(figure)
    assert "significant above 0.6" in text
    assert f"{data.significant} of 63 edges significant" in text
    assert f"{data.expected_false:.3g} expected by chance" in text


def test_no_edge_of_a_large_adjacency_is_lost_to_the_pixels():
    adjacency = np.zeros((1001, 450))
    adjacency[1000, 449] = adjacency[17, 3] = 0.9
    figure = plot_adjacency(pair(adjacency))
    (image,) = images(figure)
    assert (image.get_array() == 0.9).sum() == 2
    assert figure.axes[0].get_xlim() == (-0.5, 449.5)
    assert figure.axes[0].get_ylim() == (1000.5, -0.5)


def test_pooling_takes_the_largest_of_each_block():
    matrix = np.random.default_rng(1).uniform(size=(10, 7))
    cells, extent = pooled(matrix, cells=4)
    by_hand = [
        [matrix[i : i + 3, j : j + 2].max() for j in range(0, 7, 2)]
        for i in range(0, 10, 3)
    ]
    np.testing.assert_array_equal(cells, by_hand)
    assert extent == (-0.5, 7.5, 11.5, -0.5)
    np.testing.assert_array_equal(pooled(matrix)[0], matrix)


def edges_and_nodes(figure):
    axes = figure.axes[0]
    (edges,) = (c for c in axes.collections if isinstance(c, LineCollection))
    nodes = [c for c in axes.collections if not isinstance(c, LineCollection)]
    return edges, nodes


def test_every_significant_edge_joins_the_two_neurons_that_it_is_of():
    data = random_pair(threshold=0.7)
    edges, (source, target) = edges_and_nodes(
        plot_layer_graph(SpectralGraph(step=0, pairs=(data,)))
    )
    expected = {
        (*source.get_offsets()[earlier], *target.get_offsets()[later])
        for later, earlier in np.argwhere(data.adjacency > 0.7)
    }
    assert {tuple(np.ravel(segment)) for segment in edges.get_segments()} == expected
    assert len(edges.get_segments()) == data.significant


def test_an_area_grows_with_the_singular_value_and_a_width_with_the_weight():
    data = random_pair(threshold=0.7)
    edges, (source, _) = edges_and_nodes(
        plot_layer_graph(SpectralGraph(step=0, pairs=(data,)))
    )
    assert (np.diff(source.get_sizes()) < 0).all()
    weights = np.sort(data.adjacency[data.adjacency > 0.7])
    widths = np.array(edges.get_linewidths())
    assert np.corrcoef(weights, widths)[0, 1] == pytest.approx(1)


def test_the_weakest_edges_are_left_out_and_counted():
    data = random_pair(threshold=0.2)
    figure = plot_layer_graph(SpectralGraph(step=0, pairs=(data,)), max_edges=5)
    edges, _ = edges_and_nodes(figure)
    # width grows with the weight, as above
    five = np.sort(data.adjacency.ravel())[-5:]
    assert np.corrcoef(five, edges.get_linewidths())[0, 1] == pytest.approx(1)
    left = data.significant - 5
    assert (
        f"5 drawn, {left} left out: 0 of neurons that are not drawn, {left} weaker"
        in drawn(figure)
    )


def test_of_many_neurons_the_leading_and_those_of_strong_edges_are_drawn():
    data = random_pair(threshold=0.2)
    figure = plot_layer_graph(SpectralGraph(step=0, pairs=(data,)), max_nodes=4)
    edges, nodes = edges_and_nodes(figure)
    assert [len(n.get_offsets()) for n in nodes] == [4, 4]
    # neurons 0 and 1, and of the others those whose best edge is the best
    chosen = [
        sorted({0, 1, *(2 + np.argsort(-data.adjacency.max(axis)[2:])[:2])})
        for axis in (1, 0)
    ]
    block = data.adjacency[np.ix_(*chosen)]
    later, earlier = np.nonzero(block > 0.2)
    expected = {(int(e), int(n)) for n, e in zip(later, earlier, strict=True)}
    ends = [segment[:, 1] for segment in edges.get_segments()]
    assert {(int(e), int(n)) for e, n in ends} == expected
    kept = len(expected)
    text = drawn(figure)
    assert f"{data.significant - kept} of neurons that are not drawn, 0 weaker" in text
    assert "5 more" in text
    assert "half those of strongest edges" in text


def test_a_long_name_keeps_its_block_above_a_narrow_column():
    name = "backbone.encoder.layers.11.self_attn.q_proj"
    assert in_two_lines(name, 16) == "…oder.layers.11.\nself_attn.q_proj"
    assert in_two_lines("layers.0.linear1", 16) == "layers.0.linear1"
    assert in_two_lines("a" * 30, 16) == shown("a" * 30, 16)
    assert in_two_lines("a." + "b" * 30, 16) == shown("a." + "b" * 30, 16)


def test_an_edge_at_the_threshold_is_grey():
    (image,) = images(plot_adjacency(pair(np.ones((1, 1)), threshold=1.0)))
    colour = image.cmap(image.norm(1.0))[:3]
    assert len(set(colour)) == 1


def test_edges_through_the_stream_have_another_colour():
    pairs = (
        random_pair(),
        random_pair(source="fc2", target="fc3", stream=True, columns=9),
    )
    figure = plot_layer_graph(SpectralGraph(step=0, pairs=pairs))
    edges, _ = edges_and_nodes(figure)
    colours = {tuple(colour[:3]) for colour in edges.get_colors()}
    assert len(colours) == 2
    assert "residual stream" in drawn(figure)


def test_a_layer_stands_behind_all_that_feed_it():
    chain = [("a", "b"), ("b", "c"), ("a", "c"), ("x", "c"), ("c", "d")]
    assert depths(chain) == {"a": 0, "b": 1, "c": 2, "x": 0, "d": 3}
    assert depths([("a", "b"), ("b", "a")]) == {"a": 0, "b": 1}


def test_chains_stand_beside_one_another_and_continue_below_like_words():
    pairs = [
        replace(random_pair(), source=f"up{i}", target=f"down{i}") for i in range(7)
    ]
    pairs.append(replace(random_pair(), source="down0", target="head"))
    placed = place(pairs, 3)
    columns = {name: layer.column for name, layer in placed.items()}
    assert [columns[x] for x in ("up0", "down0", "head", "up1", "down1")] == [*range(5)]
    first = {name for name, layer in placed.items() if layer.top == 0}
    assert {f"up{i}" for i in range(7)} - first == {"up5", "up6"}
    assert (columns["up5"], columns["down6"]) == (0, 3)


@pytest.mark.parametrize("wrong", [{"max_nodes": 0}, {"max_edges": -1}])
def test_numbers_that_draw_nothing_are_refused(wrong):
    graph = SpectralGraph(step=0, pairs=(random_pair(),))
    with pytest.raises(ValueError, match="expected 1 or more"):
        plot_layer_graph(graph, **wrong)
    with pytest.raises(ValueError, match="without pairs"):
        plot_layer_graph(SpectralGraph(step=0, pairs=()))
