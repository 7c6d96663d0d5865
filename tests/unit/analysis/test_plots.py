"""Pictures show the data that they are given, whatever it is called."""

import importlib
import io
import sys

import numpy as np
import pytest
import torch
from matplotlib import rcParams
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import rgb_to_hsv
from matplotlib.patches import Rectangle

from svdhooks import linalg
from svdhooks.analysis.descrambling import DescrambledLayer
from svdhooks.analysis.graph import PairAdjacency, SpectralGraph
from svdhooks.analysis.plots import (
    plot_adjacency,
    plot_descrambled,
    plot_descrambler,
    plot_layer_graph,
    plot_refit,
)
from svdhooks.analysis.plots._canvas import pooled, shown
from svdhooks.analysis.plots._placement import depths

HOSTILE = [
    "$x_1^{2}$ at %s {0} & # $5",
    "\\frac{a}{b} $\\alpha\ntwo\tlines\x00 層.注意力",
    "encoder.layers." * 20 + "fc",
    "",
]


def layer(side="out", name="fc1", gap=0.01, operator="fourier2"):
    """A layer of 12 outputs and 16 inputs (24 the other way), descrambled."""
    weight = torch.randn(12, 16, dtype=torch.float64, generator=seeded())
    if side == "out":
        found = linalg.descramble(weight @ weight.T, "fourier2")
        turned = found.weight(weight)
    else:
        found = linalg.descramble(weight.T @ weight, "fourier2")
        turned = found.next_weight(weight)
    return DescrambledLayer(
        layer=name,
        step=1200,
        side=side,
        operator=operator,
        data="measured",
        centred=False,
        weight=weight.numpy(),
        descrambled=turned.numpy(),
        descrambling=found,
        angles={},
        spans=found.spans(gap),
        gap=gap,
    )


def seeded():
    return torch.Generator().manual_seed(3)


def pair(adjacency, source="fc1", target="fc2", threshold=0.5, **other):
    rows, columns = adjacency.shape
    fields = {
        "source": source,
        "target": target,
        "kind": "fc-fc",
        "stream": False,
        "adjacency": adjacency,
        "threshold": threshold,
        "p": 0.00135,
        "null": "beta",
        "expected_false": 0.00135 * adjacency.size,
        "significant": int((adjacency > threshold).sum()),
        "features": columns,
        "positions": 1,
        "internal_dimensions": (2, 3),
        "intensity": np.ones(columns),
        "source_sigma": np.linspace(2.0, 0.5, columns),
        "target_sigma": np.linspace(3.0, 0.1, rows),
    }
    return PairAdjacency(**(fields | other))


def random_pair(rows=9, columns=7, **other):
    values = np.random.default_rng(0).uniform(size=(rows, columns))
    return pair(values, **other)


def rows_of_refit(layers=("fc1",), arms=("fixed_s", "haar")):
    return [
        {
            "arm": arm,
            "layer": name,
            "side": "right",
            "k": k,
            "mean": 0.6 + 0.01 * k + 0.1 * place,
            "low": 0.5 + 0.01 * k,
            "high": 0.8 + 0.01 * k,
            "chance": k / 20,
            "seeds": 3,
        }
        for name in layers
        for place, arm in enumerate(arms)
        for k in (1, 2, 4)
    ]


def images(figure):
    return [image for axes in figure.axes for image in axes.get_images()]


def drawn(figure):
    """All text of a figure that has been drawn."""
    figure.savefig(io.BytesIO(), dpi=40)
    return "\n".join(text.get_text() for text in figure.findobj(match=_is_text))


def _is_text(artist):
    return hasattr(artist, "get_text")


def every_picture(name):
    graph = SpectralGraph(step=3, pairs=(random_pair(source=name),))
    return [
        plot_descrambled(layer(name=name)),
        plot_descrambler(layer(name=name)),
        plot_adjacency(random_pair(source=name, target=name + "2")),
        plot_layer_graph(graph),
        plot_refit(rows_of_refit(layers=(name,), arms=("fixed_s", name))),
    ]


@pytest.mark.parametrize("side", ["out", "in"])
def test_a_descrambled_layer_shows_both_weights_and_both_transforms(side):
    data = layer(side)
    axis = 1 if side == "out" else 0
    n = data.weight.shape[axis]
    # the transform as a matrix, one row for each frequency from 0 to n/2
    waves = np.exp(-2j * np.pi * np.outer(np.arange(n // 2 + 1), np.arange(n)) / n)
    found = images(plot_descrambled(data))
    weights, transforms = found[:2], found[2:]
    for weight, transform, expected in zip(
        weights, transforms, (data.weight, data.descrambled), strict=True
    ):
        np.testing.assert_array_equal(weight.get_array(), expected)
        along = expected @ waves.T if axis == 1 else waves @ expected
        np.testing.assert_allclose(
            transform.get_array(), np.abs(along) / np.sqrt(n), atol=1e-12
        )


def test_raw_and_descrambled_share_colours_that_are_symmetric_about_zero():
    data = layer()
    raw, turned, raw_dft, turned_dft = images(plot_descrambled(data))
    assert raw.norm is turned.norm
    assert raw_dft.norm is turned_dft.norm
    top = max(np.abs(data.weight).max(), np.abs(data.descrambled).max())
    assert (raw.norm.vmin, raw.norm.vmax) == (-top, top)
    assert raw_dft.norm.vmin == 0


def test_the_colour_bars_of_a_descrambled_layer_say_their_units():
    text = drawn(plot_descrambled(layer()))
    assert "weight, output per unit of input" in text
    assert "|DFT| / √n, unit of the weight" in text
    assert "fc1, step 1,200: its outputs descrambled" in text


def test_a_wave_of_five_periods_is_drawn_at_frequency_five():
    data = layer()
    data.weight[:] = np.cos(2 * np.pi * 5 * np.arange(16) / 16)
    transform = images(plot_descrambled(data))[2]
    left, right, _, _ = transform.get_extent()
    cells = transform.get_array().shape[1]
    peak = transform.get_array()[0].argmax()
    assert left + (peak + 0.5) * (right - left) / cells == 5


def test_the_descrambler_is_shown_as_it_is():
    data = layer()
    figure = plot_descrambler(data)
    found = data.descrambling
    p, products = images(figure)
    np.testing.assert_array_equal(p.get_array(), found.P.numpy())
    cosines = np.abs([[float(t @ u) for u in found.U.T] for t in found.T.T])
    np.testing.assert_allclose(products.get_array(), cosines, atol=1e-12)
    # six pairs of curves, each with the line of zero
    assert len(figure.axes[0].lines) == 18


def test_each_curve_of_the_descrambler_is_its_vector_up_to_scale():
    data = layer()
    curves = plot_descrambler(data).axes[0].lines
    for mode in range(6):
        _, smooth, direction = curves[3 * mode : 3 * mode + 3]
        for line, vectors in (
            (smooth, data.descrambling.T),
            (direction, data.descrambling.U),
        ):
            upwards = mode - line.get_ydata()
            cosine = upwards @ vectors[:, mode].numpy() / np.linalg.norm(upwards)
            assert cosine == pytest.approx(1, abs=1e-12)


def test_modes_inside_small_gaps_are_hollow():
    data = layer(gap=0.05)
    inside = sum(len(span) for span in data.spans)
    assert 0 < inside < 12
    spectrum = next(
        axes for axes in plot_descrambler(data).axes if axes.get_yscale() == "log"
    )
    counted = {line.get_label(): len(line.get_xdata()) for line in spectrum.lines}
    assert counted == {"told apart": 12 - inside, "only as a span": inside}


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


def test_edges_of_neurons_that_are_not_drawn_are_counted():
    data = random_pair(threshold=0.2)
    figure = plot_layer_graph(SpectralGraph(step=0, pairs=(data,)), max_nodes=4)
    edges, nodes = edges_and_nodes(figure)
    assert [len(n.get_offsets()) for n in nodes] == [4, 4]
    kept = int((data.adjacency[:4, :4] > 0.2).sum())
    assert len(edges.get_segments()) == kept
    text = drawn(figure)
    assert f"{data.significant - kept} of neurons that are not drawn, 0 weaker" in text
    assert "5 more" in text


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


@pytest.mark.parametrize("wrong", [{"max_nodes": 0}, {"max_edges": -1}])
def test_numbers_that_draw_nothing_are_refused(wrong):
    graph = SpectralGraph(step=0, pairs=(random_pair(),))
    with pytest.raises(ValueError, match="expected 1 or more"):
        plot_layer_graph(graph, **wrong)
    with pytest.raises(ValueError, match="without pairs"):
        plot_layer_graph(SpectralGraph(step=0, pairs=()))


def test_a_refit_shows_means_bands_and_chance_of_every_arm():
    rows = rows_of_refit()
    figure = plot_refit(rows)
    (axes,) = figure.axes
    *arms, chance = axes.lines
    for line, arm in zip(arms, ("fixed_s", "haar"), strict=True):
        own = [row for row in rows if row["arm"] == arm]
        assert list(line.get_xdata()) == [1, 2, 4]
        assert list(line.get_ydata()) == [row["mean"] for row in own]
    assert list(chance.get_ydata()) == [1 / 20, 2 / 20, 4 / 20]
    bands = [c for c in axes.collections if isinstance(c, PolyCollection)]
    assert len(bands) == 2
    corners = {tuple(v) for v in bands[0].get_paths()[0].vertices.round(9)}
    assert {(1, 0.51), (2, 0.52), (4, 0.54), (1, 0.81), (4, 0.84)} <= corners
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "S fixed, trained",
        "Haar, untrained",
        "chance",
    ]


def test_scores_without_k_are_points_with_bars():
    one = {"layer": "fc1->fc2", "side": "adjacency", "k": None, "chance": None}
    rows = [
        {"arm": "free", "mean": 0.5, "low": 0.2, "high": 0.6, **one},
        {"arm": "haar", "mean": 0.1, "low": -0.1, "high": 0.2, **one},
    ]
    figure = plot_refit(rows)
    (axes,) = figure.axes
    bars = [c for c in axes.collections if isinstance(c, LineCollection)]
    ends = [bar.get_segments()[0][:, 1] for bar in bars]
    np.testing.assert_allclose(ends, [[0.2, 0.6], [-0.1, 0.2]])
    assert axes.get_ylim()[0] < -0.1
    assert "fc1 → fc2, adjacency" in drawn(figure)


def test_curves_come_before_points_and_every_layer_has_its_panel():
    point = {"layer": "all", "side": "function", "k": None, "chance": None}
    rows = [
        {"arm": "haar", "mean": 0.5, "low": 0.2, "high": 0.6, **point},
        *rows_of_refit(layers=("a", "b", "c")),
    ]
    titles = [axes.get_title(loc="left") for axes in plot_refit(rows).axes]
    assert titles == [
        "a, right vectors",
        "b, right vectors",
        "c, right vectors",
        "all",
    ]


@pytest.mark.usefixtures("as_a_user_calls")
def test_rows_that_are_no_intervals_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        plot_refit([])
    with pytest.raises(ValueError, match="without mean, low, high"):
        plot_refit([
            {"arm": "free", "layer": "a", "side": "left", "k": 1, "score": 0.5}
        ])


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_breaks_a_picture(name):
    # a warning is an error: glyphs that are missing, layouts that collapse
    for figure in every_picture(name):
        figure.savefig(io.BytesIO(), dpi=40)


def test_a_name_is_shown_on_one_line_without_formulas():
    assert shown("$a$") == r"\$a\$"
    assert shown("a\n\tb\x00") == "a b?"
    assert shown("層1") == "?1"
    assert shown("é→") == "é→"
    long = shown("model.layers.17.attention.output", 16)
    assert len(long) == 16
    assert long.startswith("model")
    assert long.endswith("output")


def test_pictures_leave_matplotlib_as_it_was():
    from matplotlib import pyplot as plt

    before = dict(rcParams)
    every_picture("fc1")
    assert dict(rcParams) == before
    assert plt.get_fignums() == []


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    for name in [n for n in sys.modules if n.startswith("svdhooks.analysis.plots")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"svdhooks\[analysis\]"):
        importlib.import_module("svdhooks.analysis.plots")
