"""One layer's weight becomes one record."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from svdhooks import linalg
from svdhooks.layers import Layer, find_layers
from svdhooks.quantities import WeightSpectrum
from tests.oracles import planted, singular_values, with_singular_values
from tests.plain import ranks_of


def _layer(module: nn.Module, weight: Tensor | None = None) -> Layer:
    if weight is not None:
        with torch.no_grad():
            module.weight.copy_(weight)
    (layer,) = find_layers(nn.Sequential(module)).layers
    return layer


MODULES = {
    "linear": nn.Linear(9, 5),
    "convolution": nn.Conv2d(4, 6, 3),
    "embedding": nn.Embedding(30, 7),
    "vector": nn.Linear(9, 1),
    "number": nn.Linear(1, 1),
}


@pytest.mark.parametrize("kind", MODULES)
def test_the_record_says_what_was_measured_where(kind):
    module = MODULES[kind]
    record = WeightSpectrum().measure(_layer(module), 12)
    assert (record.step, record.layer, record.point) == (12, "0", "weight")
    assert (record.quantity, record.status) == ("weight_spectrum", "ok")
    assert record.method
    expected = singular_values(module.weight.detach().flatten(1))
    np.testing.assert_allclose(record.spectrum, expected, rtol=1e-6)
    assert record.spectrum.dtype == np.float32
    assert (np.diff(record.spectrum) <= 0).all()
    for name, value in ranks_of(expected).items():
        assert record.measures[name] == pytest.approx(value, rel=1e-6)
    assert tuple(record.measures) == linalg.MEASURES


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_blocks_are_one_spectrum(groups: int):
    module = nn.Conv1d(6, 12, 3, groups=groups)
    record = WeightSpectrum().measure(_layer(module), 0)
    blocks: Iterable[Tensor] = module.weight.detach().reshape(groups, 12 // groups, -1)
    expected = singular_values(torch.block_diag(*blocks))
    assert len(record.spectrum) == len(expected[expected > 0])
    np.testing.assert_allclose(
        record.spectrum, expected[: len(record.spectrum)], rtol=1e-6
    )


def test_zeros_have_rank_0_and_are_no_failure():
    record = WeightSpectrum().measure(_layer(nn.Linear(4, 3), torch.zeros(3, 4)), 0)
    assert record.ok
    assert record.measures["stable_rank"] == record.measures["numerical_rank"] == 0
    assert record.marks == ()


def test_small_singular_values_are_resolved_and_those_in_the_noise_are_marked():
    sigma = [1.0, 1e-3, 1e-5]
    exact = with_singular_values(8, 3, sigma)
    record = WeightSpectrum().measure(_layer(nn.Linear(3, 8).double(), exact), 0)
    np.testing.assert_allclose(record.spectrum, sigma, rtol=1e-10)
    assert record.marks == ()
    rounded = WeightSpectrum().measure(_layer(nn.Linear(3, 8), exact), 0)
    np.testing.assert_allclose(rounded.spectrum, sigma, rtol=1e-2)
    assert rounded.marks == ()
    half = WeightSpectrum().measure(_layer(nn.Linear(3, 8).bfloat16(), exact), 0)
    assert half.marks == ("below_noise",)
    assert half.measures["numerical_rank"] == 1


def test_the_rank_of_a_planted_weight_is_read_in_bfloat16():
    module = nn.Linear(120, 90).bfloat16()
    record = WeightSpectrum().measure(_layer(module, planted(90, 120, 7)), 0)
    assert record.measures["numerical_rank"] == 7
    assert np.count_nonzero(record.spectrum) == 90


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_value_that_is_none_makes_all_of_them_unknown(value, capfd):
    weight = torch.randn(5, 9)
    weight[2, 3] = value
    record = WeightSpectrum().measure(_layer(nn.Linear(9, 5), weight), 0)
    assert not record.ok
    assert "non-finite" in record.status
    assert np.isnan(record.spectrum).all()
    assert len(record.spectrum) == 5
    assert all(np.isnan(v) for k, v in record.measures.items() if k != "spectral_norm")
    assert capfd.readouterr() == ("", "")


def test_a_failed_record_has_the_form_of_a_good_one():
    layer = _layer(nn.Conv2d(4, 6, 3, groups=2))
    good = WeightSpectrum().measure(layer, 3)
    failed = WeightSpectrum().failed(layer, 3, "out of memory")
    assert failed.status == "out of memory"
    assert failed.values.keys() == good.values.keys()
    assert failed.spectrum.shape == good.spectrum.shape
    assert np.isnan(failed.spectrum).all()
    for name in ("step", "layer", "quantity", "point"):
        assert getattr(failed, name) == getattr(good, name)


def test_measuring_leaves_the_weight_alone():
    module = nn.Linear(9, 5)
    before, version = module.weight.detach().clone(), module.weight._version
    WeightSpectrum().measure(_layer(module), 0)
    assert torch.equal(module.weight, before)
    assert module.weight._version == version
    assert module.weight.grad is None
