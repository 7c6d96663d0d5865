"""Weights of many experts, and blocks of attention heads, become one record each."""

import numpy as np
import pytest
import torch
from torch import nn

from svdhooks import linalg
from svdhooks.layers import find_layers
from svdhooks.linalg import problems, spectrum
from svdhooks.quantities import WeightSpectrum
from svdhooks.quantities.again import UnchangedWeights
from tests.golden.models import build
from tests.oracles import singular_values
from tests.plain import ranks_of

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkp.*:FutureWarning")


@pytest.fixture(scope="module")
def mixtral():
    return build("mixtral")[0]


def _layer(model: nn.Module, ending: str):
    (layer,) = [x for x in find_layers(model).layers if x.name.endswith(ending)]
    return layer


def test_experts_are_told_by_median_and_extremes(mixtral):
    layer = _layer(mixtral, "layers.0.mlp.experts.gate_up_proj.gate")
    record = WeightSpectrum().measure(layer, 5)
    assert (record.point, record.status, record.step) == ("weight", "ok", 5)
    several = [singular_values(w) for w in layer.weight()]
    assert len(several) == layer.experts == 4
    np.testing.assert_allclose(record.spectrum, np.median(several, axis=0))
    assert len(record.spectrum) == layer.rank_limit
    ranks = [ranks_of(one) for one in several]
    for name in ranks[0]:
        values = [one[name] for one in ranks]
        for field, reduce in (
            (name, np.median),
            (f"{name}_min", np.min),
            (f"{name}_max", np.max),
        ):
            assert record.measures[field] == pytest.approx(reduce(values), rel=1e-6)


def test_experts_solved_in_parts_read_the_same(mixtral, monkeypatch):
    layer = _layer(mixtral, "layers.0.mlp.experts.down_proj")
    together = WeightSpectrum().measure(layer, 0)
    sizes = []
    original = spectrum.singular_values

    def solve(weights):
        sizes.append(len(weights))
        return original(weights)

    monkeypatch.setattr(spectrum, "singular_values", solve)
    monkeypatch.setattr(problems, "_AT_ONCE", 3 * 16**2)
    parts = WeightSpectrum().measure(layer, 0)
    assert sizes == [3, 1]
    np.testing.assert_allclose(parts.spectrum, together.spectrum, rtol=1e-12)


def test_the_number_of_fields_does_not_grow_with_the_experts(mixtral):
    layer = _layer(mixtral, "layers.0.mlp.experts.down_proj")
    record = WeightSpectrum().measure(layer, 0)
    assert len(record.measures) == 3 * len(linalg.MEASURES)
    failed = WeightSpectrum().failed(layer, 0, "out of memory")
    assert failed.values.keys() == record.values.keys()
    assert failed.spectrum.shape == record.spectrum.shape


def test_one_expert_that_is_lost_is_not_hidden_by_the_median(mixtral):
    layer = _layer(mixtral, "layers.1.mlp.experts.down_proj")
    weight = layer.sources()[0]
    before = weight.detach().clone()
    with torch.no_grad():
        weight[2, 0, 0] = torch.nan
    record = WeightSpectrum().measure(layer, 0)
    assert "non-finite" in record.status
    with torch.no_grad():
        weight.copy_(before)
        weight[2] = 0.0
    record = WeightSpectrum().measure(layer, 0)
    assert record.ok
    assert record.measures["numerical_rank_min"] == 0
    assert record.measures["numerical_rank"] == 16
    with torch.no_grad():
        weight.copy_(before)


def test_frozen_experts_are_recognised(mixtral, monkeypatch):
    measured = []
    original = WeightSpectrum.measure

    def measure(self, layer, step):
        measured.append(layer.name)
        return original(self, layer, step)

    monkeypatch.setattr(WeightSpectrum, "measure", measure)
    weights, layer = (
        UnchangedWeights(),
        _layer(mixtral, "0.mlp.experts.gate_up_proj.up"),
    )
    for step in range(4):
        weights.measure(WeightSpectrum(), layer, step)
    assert len(measured) == 2


# --- heads ----------------------------------------------------------------------------


def test_heads_are_another_record_of_the_same_layer():
    attention = nn.MultiheadAttention(8, 4).double()
    model = nn.ModuleDict({"a": attention, "b": nn.Linear(8, 8)})
    quantity = WeightSpectrum(heads=True)
    layers = {x.name: x for x in find_layers(model).layers}
    whole, heads = quantity.measure(layers["a.k_proj"], 2)
    assert (whole.point, heads.point) == ("weight", "heads")
    assert whole.layer == heads.layer == "a.k_proj"
    alone = WeightSpectrum().measure(layers["a.k_proj"], 2)
    np.testing.assert_array_equal(whole.spectrum, alone.spectrum)
    blocks = attention.in_proj_weight.detach()[8:16].split(2)
    several = [singular_values(block) for block in blocks]
    np.testing.assert_allclose(heads.spectrum, np.median(several, axis=0))
    ranks = [ranks_of(one)["effective_rank"] for one in several]
    assert heads.measures["effective_rank_min"] == pytest.approx(min(ranks))
    assert quantity.measure(layers["b"], 2).point == "weight"


def test_heads_of_an_output_projection_are_its_columns():
    attention = nn.MultiheadAttention(8, 4).double()
    layers = {x.name: x for x in find_layers(nn.ModuleDict({"a": attention})).layers}
    _, heads = WeightSpectrum(heads=True).measure(layers["a.out_proj"], 0)
    several = [
        singular_values(block)
        for block in attention.out_proj.weight.detach().split(2, dim=1)
    ]
    np.testing.assert_allclose(heads.spectrum, np.median(several, axis=0))


def test_a_dead_head_shows_in_the_minimum():
    attention = nn.MultiheadAttention(8, 4)
    with torch.no_grad():
        attention.in_proj_weight[2:4] = 0.0
    layers = {x.name: x for x in find_layers(nn.ModuleDict({"a": attention})).layers}
    whole, heads = WeightSpectrum(heads=True).measure(layers["a.q_proj"], 0)
    assert heads.measures["numerical_rank_min"] == 0
    assert heads.measures["numerical_rank_max"] == 2
    assert whole.measures["numerical_rank"] == 6


def test_heads_of_frozen_layers_are_recognised_with_their_weights():
    attention = nn.MultiheadAttention(8, 4)
    (layer, *_) = find_layers(nn.ModuleDict({"a": attention})).layers
    weights, quantity = UnchangedWeights(), WeightSpectrum(heads=True)
    found = [weights.measure(quantity, layer, step) for step in range(4)]
    assert [[r.point for r in records] for records in found] == [
        ["weight", "heads"]
    ] * 4
    assert [r.step for records in found for r in records] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_layer_without_heads_has_no_head_weights():
    (layer,) = find_layers(nn.ModuleDict({"a": nn.Linear(2, 2)})).layers
    with pytest.raises(ValueError, match="no attention heads"):
        layer.head_weights()
