"""Local rank as a quantity: what is recorded of Jacobians, of weights, and of chains."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import svdhooks
from svdhooks.jacobians.options import LayerJacobian
from svdhooks.layers import find_layers
from svdhooks.quantities import JacobianSpectrum
from svdhooks.quantities.local_rank import JACOBIAN_MEASURES, measures_of
from svdhooks.quantities.protocols import JacobianContext
from svdhooks.reports import RecordingWarning
from svdhooks.sinks.memory import MemorySink
from tests.models import mlp

SPECTRA = torch.tensor([[4.0, 1.0, 0.03, 0.005], [2.0, 0.5, 0.015, 0.0]])


def _jacobian(**changes: Any) -> LayerJacobian:
    values: dict[str, Any] = {
        "status": "ok",
        "method": "forward",
        "spectra": SPECTRA,
        "complete": True,
        "directions": 4,
        "inputs": 4,
        "outputs": 4,
        "frobenius": SPECTRA.square().sum(1).sqrt(),
        "error": None,
    }
    return LayerJacobian(**{**values, **changes})


def _layer(width: int = 4) -> Any:
    (layer,) = find_layers(nn.Sequential(nn.Linear(4, width))).layers
    return layer


def test_both_ranks_are_counted_sample_by_sample():
    record = JacobianSpectrum(eps=0.01, relative_eps=0.005).of_jacobian(
        _layer(), _jacobian(), JacobianContext(7, {}, {})
    )
    measures = record.measures
    assert (record.step, record.layer, record.point) == (7, "0", "jacobian")
    # above 0.01: 3 and 3; above 0.02 and 0.01: 3 and 3; the first has 0.03, the second 0.015
    ends = [measures[f"local_rank{end}"] for end in ("", "_std", "_min", "_max")]
    assert ends == [3, 0, 3, 3]
    quantity = JacobianSpectrum(eps=0.02, relative_eps=0.2)
    measures = quantity.of_jacobian(
        _layer(), _jacobian(), JacobianContext(7, {}, {})
    ).measures
    ends = [measures[f"local_rank{end}"] for end in ("", "_std", "_min", "_max")]
    assert ends == [2.5, 0.5, 2, 3]
    assert measures["relative_local_rank"] == 2  # 4, 1 > 0.8 and 2, 0.5 > 0.4
    assert measures["spectral_norm"] == 3
    assert np.isclose(measures["frobenius_norm"], SPECTRA.norm(dim=1).mean())
    assert np.allclose(record.spectrum, SPECTRA.mean(0))
    assert record.spectrum.dtype == np.float32
    assert (measures["samples"], measures["directions"]) == (2, 4)


def test_a_sketch_is_marked_as_a_lower_bound():
    context = JacobianContext(0, {}, {})
    record = JacobianSpectrum().of_jacobian(
        _layer(), _jacobian(complete=False), context
    )
    assert record.marks == ("lower_bound",)
    assert JacobianSpectrum().of_jacobian(_layer(), _jacobian(), context).marks == ()


def test_what_could_not_be_differentiated_has_a_reason_and_no_number():
    record = JacobianSpectrum().of_jacobian(
        _layer(),
        LayerJacobian.failed("no derivative"),
        JacobianContext(0, {}, {}),
    )
    assert record.status == "no derivative"
    assert all(np.isnan(value) for value in record.measures.values())
    infinite = SPECTRA.clone()
    infinite[1, 0] = torch.inf
    record = JacobianSpectrum().of_jacobian(
        _layer(), _jacobian(spectra=infinite), JacobianContext(0, {}, {})
    )
    assert "non-finite" in record.status


def test_the_weight_stands_next_to_it_and_the_bound_only_in_chains():
    sigma = np.array([3.0, 0.5, 0.02, 0.001])
    weights = {"0": sigma, "before": np.array([2.0, 0.1])}
    quantity = JacobianSpectrum(eps=0.01, relative_eps=0.1)
    plain = quantity.of_jacobian(_layer(), _jacobian(), JacobianContext(0, weights, {}))
    assert plain.measures["weight_rank"] == 3
    assert plain.measures["relative_weight_rank"] == 2
    assert np.isclose(plain.measures["weight_stable_rank"], (sigma**2).sum() / 9)
    assert np.isnan(plain.measures["rank_bound"])
    chained = JacobianContext(0, weights, {"0": ("before",)})
    # σ > 0.01 / 2 in exact numbers
    assert (
        quantity.of_jacobian(_layer(), _jacobian(), chained).measures["rank_bound"] == 3
    )
    strong = JacobianContext(0, {**weights, "before": np.array([20.0])}, chained.chains)
    assert (
        quantity.of_jacobian(_layer(), _jacobian(), strong).measures["rank_bound"] == 4
    )
    # the same layer applied at several positions is no matrix of the theorem
    several = _jacobian(outputs=8)
    assert np.isnan(
        quantity.of_jacobian(_layer(), several, chained).measures["rank_bound"]
    )


@pytest.mark.parametrize("options", [{"eps": -1.0}, {"relative_eps": float("nan")}])
def test_a_threshold_out_of_range_is_refused(options: Any):
    with pytest.raises(ValueError, match="expected a threshold"):
        JacobianSpectrum(**options)


@pytest.mark.usefixtures("as_a_user_calls")
def test_a_threshold_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="expected a number"):
        JacobianSpectrum(eps="small")  # type: ignore[arg-type]


def _run(model: nn.Module, probe: Any, **options: Any) -> MemorySink:
    sink = MemorySink()
    options = {"quantities": "local_rank", **options}
    with svdhooks.watch(model, None, sinks=[sink], probe=probe, **options):
        pass
    return sink


def test_a_record_is_what_the_front_door_says():
    model, x = mlp(8, 12, 5, 3), torch.randn(16, 8)
    records = _run(model, x).of("local_rank")
    found = svdhooks.local_rank(model, x)
    relative = svdhooks.local_rank(model, x, relative=True)
    assert [r.layer for r in records] == list(found)
    for record in records:
        ours = found[record.layer]
        assert record.measures["local_rank"] == ours.mean
        assert record.measures["local_rank_std"] == pytest.approx(ours.std)
        assert record.measures["relative_local_rank"] == relative[record.layer].mean
        assert np.allclose(record.spectrum, ours.spectra.mean(0), rtol=1e-6)
        assert record.measures["samples"] == 16


def test_the_bound_holds_for_every_sample_of_a_chain():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 9)
    )
    with torch.no_grad():
        for layer in (model[2], model[4]):  # small singular values, so that it binds
            layer.weight.mul_(torch.logspace(0, -4, layer.in_features))
    records = _run(model, torch.randn(32, 12), quantities=JacobianSpectrum(eps=0.05))
    bounds = {r.layer: r.measures["rank_bound"] for r in records.of("local_rank")}
    most = {r.layer: r.measures["local_rank_max"] for r in records.of("local_rank")}
    assert all(most[name] <= bounds[name] for name in bounds)
    assert bounds["2"] < 24
    assert bounds["0"] == 12


def test_what_is_recorded_is_told_before():
    model = mlp(8, 12, 5, 3)
    with svdhooks.watch(
        model,
        None,
        sinks=[MemorySink()],
        probe=torch.randn(4, 8),
        quantities="local_rank",
    ) as recorder:
        told = recorder.recorded
        for layer in recorder.layers:
            assert told[layer.name]["jacobian"] == measures_of(layer)
            record = recorder.last[layer.name, "jacobian"]
            assert set(told[layer.name]["jacobian"]) == set(record.measures)
            assert set(JACOBIAN_MEASURES) <= set(record.measures)


def test_its_own_schedule_is_log_spaced():
    sink = _run(mlp(8, 12, 5, 3), torch.randn(4, 8), quantities=["local_rank"])
    assert {r.step for r in sink.of("local_rank")} == {0}
    model, sink = mlp(8, 12, 5, 3), MemorySink()
    with svdhooks.watch(
        model,
        None,
        every=4,
        sinks=[sink],
        probe=torch.randn(4, 8),
        quantities=["weight_spectrum", "local_rank"],
    ) as recorder:
        for _ in range(20):
            recorder.step()
    assert {r.step for r in sink.of("weight_spectrum")} == set(range(0, 21, 4))
    rare = {r.step for r in sink.of("local_rank")}
    assert {0, 1, 2, 10, 20} <= rare
    assert rare < set(range(21))
    assert 17 not in rare


def test_it_needs_a_reference_batch():
    with pytest.raises(ValueError, match="observe='probe'"):
        svdhooks.watch(
            mlp(8, 12, 5, 3),
            None,
            sinks=[MemorySink()],
            observe="training",
            quantities="local_rank",
        )


def test_a_sketch_that_can_say_no_more_says_so_once():
    torch.manual_seed(0)
    model, x = mlp(30, 40, 20), torch.randn(4, 30)
    few = JacobianSpectrum(directions=3, max_directions=5, schedule=svdhooks.every(1))
    with pytest.warns(RecordingWarning, match="number of random directions") as caught:
        sink = _run(model, x, quantities=few)
    assert len(caught) == 1
    assert all(r.marks == ("lower_bound",) for r in sink.of("local_rank"))
    with torch.no_grad():  # of rank two: three directions are enough to see it
        model[0].weight[2:] = 0
        model[0].bias.fill_(1.0)
    records = _run(model, x, quantities=few).of("local_rank")
    ranks = [r.measures["local_rank"] for r in records]
    assert ranks[0] == 2
    assert 1 <= ranks[1] <= 2  # of some samples one of the two units is off
