"""Rank maps, spectra, measures and comparisons show the data they are given."""

import io
import warnings

import numpy as np
import pytest

from svdhooks.analysis.comparison import compare
from svdhooks.analysis.plots import (
    plot_comparison,
    plot_measure,
    plot_rank_map,
    plot_spectra,
)
from svdhooks.runlog import RunLog
from tests.drawn import drawn
from tests.logs import write_run
from tests.planted import RANK, Planted, seeds

HOSTILE = [
    "$x_1^{2}$ %s $5",
    "\\frac{a}{b}\n\x00 層",
    "encoder.layers." * 20 + "fc",
    "",
]


@pytest.fixture
def log() -> Planted:
    values = np.geomspace(40, 5, 20)
    failed = values.copy()
    failed[4:6] = np.nan
    loss = np.geomspace(2, 0.1, 20)
    return Planted({"a": values, "b": failed, "c": values[::-1]}, run={"loss": loss})


def saved(figure) -> None:
    """Drawing warns of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), dpi=40)


def mesh(figure):
    return figure.axes[0].collections[0].get_array()


def test_a_rank_map_has_layers_in_order_and_hides_what_failed(log) -> None:
    figure = plot_rank_map(log, RANK)
    found = mesh(figure)
    expected = np.array(list(log.curves.values()))
    np.testing.assert_array_equal(np.ma.getmaskarray(found), np.isnan(expected))
    np.testing.assert_array_equal(found.filled(np.nan), expected)
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"]
    assert axes.yaxis_inverted()
    assert "Hatched: not measured." in drawn(figure)
    saved(figure)


def test_a_relative_map_divides_by_the_first_value_and_one_is_in_the_middle(
    log,
) -> None:
    figure = plot_rank_map(log, RANK, relative=True)
    np.testing.assert_allclose(mesh(figure)[0], log.curves["a"] / 40)
    norm = figure.axes[0].collections[0].norm
    np.testing.assert_allclose(norm(1.0), 0.5)
    saved(figure)


def test_a_record_is_as_wide_as_the_steps_around_it() -> None:
    steps = [0, 10, 40]
    figure = plot_rank_map(Planted({"a": [1.0, 2.0, 3.0]}, steps), RANK)
    corners = figure.axes[0].collections[0].get_coordinates()
    np.testing.assert_array_equal(corners[0, :, 0], [0, 5, 25, 55])


def test_a_measure_has_a_line_for_each_layer_and_the_loss_below(log) -> None:
    figure = plot_measure(log, RANK)
    upper, lower = figure.axes
    for line, curve in zip(upper.lines, log.curves.values(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), curve)
    np.testing.assert_array_equal(lower.lines[0].get_ydata(), log.run["loss"])
    assert len(plot_measure(log, RANK, ["a", "c"], loss="").axes) == 1
    saved(figure)


def test_of_many_layers_those_are_drawn_that_are_spread_over_the_model() -> None:
    log = Planted({f"l{i}": np.full(5, i + 1.0) for i in range(100)})
    figure = plot_measure(log, RANK)
    first = [line.get_ydata()[0] for line in figure.axes[0].lines]
    assert (first[0], first[-1], len(first)) == (1, 100, 24)
    assert "24 of 100 layers, evenly spread." in drawn(figure)


def test_spectra_are_those_of_the_log(tmp_path) -> None:
    write_run(tmp_path / "run", [0, 10, 30], ("fc1",))
    log = RunLog(tmp_path / "run")
    figure = plot_spectra(log, "fc1")
    steps, values = log.spectra("fc1")
    curves = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    for line, row in zip(curves, values, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 9))
        np.testing.assert_array_equal(line.get_ydata(), row)
    traces = figure.axes[1].lines
    for line, place in zip(traces, (0, 1, 3, 7), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), steps)
        np.testing.assert_array_equal(line.get_ydata(), values[:, place])
    saved(figure)


def test_a_comparison_shows_means_bands_and_where_they_part() -> None:
    random = np.random.default_rng(0)
    runs = [*seeds(random, 4, 1), *seeds(random, 4, 1, {0: -2.0}, since=10)]
    found = compare({f"{'ab'[i > 3]} seed{i}": run for i, run in enumerate(runs)})
    figure = plot_comparison(found, "layer0")
    axes = figure.axes[0]
    every = np.log([run.curves["layer0"] for run in runs])
    np.testing.assert_allclose(
        axes.lines[0].get_ydata(), np.exp(every[:4].mean(axis=0))
    )
    band = axes.collections[0].get_paths()[0].vertices
    low = np.exp(every[:4].mean(axis=0) - every[:4].std(axis=0, ddof=1))
    assert np.isclose(band[:, 1][:, None], low).any(axis=0).all()
    (row,) = found.differences
    assert axes.lines[-1].get_xdata() == [row.since, row.since]
    assert row.since == 100
    assert "b: differs" in drawn(figure)
    saved(figure)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_in_every_picture(name) -> None:
    runs = {f"{name}{i}": Planted({name: np.linspace(9, 1, 6) + i}) for i in range(2)}
    found = compare(runs, by={f"{name}{i}": f"{name} {i}" for i in range(2)})
    log = runs[f"{name}0"]
    for figure in (
        plot_rank_map(log, RANK),
        plot_measure(log, RANK),
        plot_comparison(found, name),
    ):
        saved(figure)


@pytest.mark.parametrize("values", [[2.0], [0.0, 0.0], [np.nan, 1.0], [-1.0, 5.0]])
def test_short_flat_and_broken_curves_are_drawn(values) -> None:
    log = Planted({"fc": values}, run={"loss": values})
    for figure in (
        plot_rank_map(log, RANK),
        plot_rank_map(log, RANK, relative=True),
        plot_measure(log, RANK),
        plot_comparison(compare({"a": log, "b": log}), "fc"),
    ):
        saved(figure)


@pytest.mark.parametrize("plot", [plot_rank_map, plot_measure])
def test_what_is_not_there_is_named(plot, log) -> None:
    with pytest.raises(
        KeyError, match=r"No layer that matches .?x.* there are weight_"
    ):
        plot(log, RANK, layers="x")
