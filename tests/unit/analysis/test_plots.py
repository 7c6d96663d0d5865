"""Pictures show the data that they are given, whatever it is called."""

import importlib
import io
import sys

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.collections import LineCollection, PolyCollection

from svdhooks.analysis.graph import SpectralGraph
from svdhooks.analysis.plots import (
    plot_adjacency,
    plot_descrambled,
    plot_descrambler,
    plot_layer_graph,
    plot_refit,
)
from svdhooks.analysis.plots._canvas import shown
from tests.drawn import drawn, images, layer, random_pair, rows_of_refit

HOSTILE = [
    "$x_1^{2}$ at %s {0} & # $5",
    "\\frac{a}{b} $\\alpha\ntwo\tlines\x00 層.注意力",
    "encoder.layers." * 20 + "fc",
    "",
]


def every_picture(name):
    """One figure of each kind, of things of that name."""
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


def test_a_matrix_of_the_user_is_called_so():
    assert "roughness (your matrix)" in drawn(
        plot_descrambled(layer(operator="custom"))
    )
    assert "roughness (difference)" in drawn(
        plot_descrambled(layer(operator="difference"))
    )


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
    name = "model.layers.17.attention.output.dense"
    assert shown(name, 16) == "…on.output.dense"
    assert shown(name, 30) == f"{name[:9]}…{name[-20:]}"


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
