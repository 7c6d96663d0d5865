"""Spectral edges: the records of pairs of layers, against numpy."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from svdhooks.flow import Flow
from svdhooks.layers import find_layers
from svdhooks.layers.pairs import make_pair
from svdhooks.quantities.spectral_edges import EDGE_MEASURES, SpectralEdges


def _chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(30, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 12)
    )


def _pair(model: nn.Module, norm: nn.Module | None = None):
    earlier, later = find_layers(model).layers
    return make_pair(earlier, later, norm=norm)


def _by_numpy(first, second):
    U = np.linalg.svd(first.detach().double().numpy(), full_matrices=False)[0]
    Vh = np.linalg.svd(second.detach().double().numpy(), full_matrices=False)[2]
    return (Vh @ U) ** 2


def test_the_record_is_what_numpy_finds():
    model = _chain()
    record = SpectralEdges(k=None).measure_edge(_pair(model), 7)
    a = _by_numpy(model[0].weight, model[3].weight)
    chance = scipy.stats.norm.sf(3.0)
    threshold = scipy.stats.beta.isf(chance, 0.5, 19 / 2)
    sums = a.cumsum(0).cumsum(1)
    i, j = np.arange(1, 13)[:, None], np.arange(1, 21)[None]
    out, in_ = np.unravel_index(np.argmax(sums - i * j / 20), a.shape)
    assert record.measures == pytest.approx({
        "significant": (a > threshold).sum(),
        "significant_share": (a > threshold).mean(),
        "expected_false": chance * a.size,
        "top": a.max(),
        "internal_out": out + 1,
        "internal_in": in_ + 1,
        "threshold": threshold,
        "features": 20,
        "rows": 12,
        "columns": 20,
    })
    assert (record.step, record.layer, record.point) == (7, "0->3", "edges")
    assert tuple(record.measures) == EDGE_MEASURES
    assert record.ok


def test_the_leading_spectral_neurons_are_a_corner_of_all():
    model = _chain()
    record = SpectralEdges(k=5).measure_edge(_pair(model), 0)
    a = _by_numpy(model[0].weight, model[3].weight)[:5, :5]
    assert record.measures["top"] == pytest.approx(a.max())
    assert (record.measures["rows"], record.measures["columns"]) == (5, 5)


def test_a_batch_norm_is_folded_on_request():
    model = _chain()
    norm = model[1]
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.01, 9.0, 20))
        norm.running_var.copy_(torch.linspace(4.0, 0.02, 20))
    pair = _pair(model, norm)
    plain = SpectralEdges(k=None).measure_edge(pair, 0)
    folded = SpectralEdges(k=None, fold_batch_norm=True).measure_edge(pair, 0)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    expected = _by_numpy(scale[:, None] * model[0].weight, model[3].weight).max()
    assert folded.measures["top"] == pytest.approx(expected)
    assert abs(plain.measures["top"] - expected) > 0.01


def test_factors_that_are_not_whole_here_are_told():
    model = _chain()
    pair = _pair(model, model[1])
    model[1].weight = nn.Parameter(torch.empty(0))  # as FSDP leaves it between forwards
    with pytest.raises(ValueError, match=r"(?s)sharded.*expected all 20.*Leave fold"):
        SpectralEdges(fold_batch_norm=True).measure_edge(pair, 0)


def test_a_weight_is_decomposed_once_per_step_and_again_at_the_next():
    model = _chain()
    quantity, pair = SpectralEdges(k=None), _pair(model)
    first = quantity.measure_edge(pair, 0).measures
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(20, 30))
    assert quantity.measure_edge(pair, 0).measures == first
    later = quantity.measure_edge(pair, 1).measures
    expected = _by_numpy(model[0].weight, model[3].weight).max()
    assert later["top"] == pytest.approx(expected)
    assert set(quantity._known) == {"0", "3"}


def test_another_run_remembers_nothing():
    quantity = SpectralEdges()
    quantity.measure_edge(_pair(_chain()), 0)
    assert quantity._known
    assert not quantity.fresh()._known


@pytest.mark.parametrize("place", [0, 3])
def test_a_weight_that_is_not_finite_has_no_edges(place):
    model = _chain()
    with torch.no_grad():
        model[place].weight[0, 0] = math.nan
    record = SpectralEdges().measure_edge(_pair(model), 0)
    assert "non-finite" in record.status
    assert all(map(math.isnan, record.measures.values()))
    assert tuple(record.measures) == EDGE_MEASURES


@pytest.mark.parametrize(("place", "shape"), [(0, (12, 0)), (3, (0, 20))])
def test_a_weight_of_zeros_has_no_spectral_neurons(place, shape):
    model = _chain()
    nn.init.zeros_(model[place].weight)
    measures = SpectralEdges().measure_edge(_pair(model), 0).measures
    assert (measures["rows"], measures["columns"]) == shape
    assert (measures["significant"], measures["expected_false"]) == (0, 0)
    assert math.isnan(measures["top"])


def test_given_pairs_need_no_flow():
    table = find_layers(_chain())
    quantity = SpectralEdges(pairs=[("0", "3")])
    assert not quantity.needs_flow
    assert [pair.name for pair in quantity.edges(table, Flow())] == ["0->3"]


def test_pairs_of_another_model_are_left_to_it():
    quantity = SpectralEdges(pairs=[("0", "3"), ("other.0", "other.3")])
    assert len(quantity.edges(find_layers(_chain()), Flow())) == 1


def test_given_pairs_that_do_not_fit_any_more_are_left_out_with_the_reason():
    quantity = SpectralEdges(pairs=[("0", "3"), ("3", "0")])
    table = find_layers(_chain())
    assert [pair.name for pair in quantity.edges(table, Flow())] == ["0->3"]
    assert "12 outputs" in quantity.refused(table, Flow())["3->0"]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"k": 0}, ValueError, "expected at least 1"),
        ({"k": 2.5}, TypeError, "expected a whole number"),
        ({"streams": "some"}, ValueError, "'next', 'all' or 'none'"),
        ({"null": "normal"}, ValueError, "'beta' or 'chi2'"),
        ({"sigma": math.inf}, ValueError, "number of standard deviations"),
        ({"sigma": "3"}, ValueError, "number of standard deviations"),
        ({"pairs": ["fc1", "fc2"]}, ValueError, "pairs of layer names"),
        ({"pairs": []}, ValueError, "pairs of layer names"),
        ({"pairs": [("0", "3"), ["0", "3"]]}, ValueError, "more than once"),
        (
            {"pairs": [("0", "3")], "fold_batch_norm": True},
            ValueError,
            "which batch norm is between",
        ),
    ],
)
@pytest.mark.usefixtures("as_a_user_calls")
def test_options_out_of_range_are_refused(options, error, text):
    with pytest.raises(error, match=text):
        SpectralEdges(**options)
