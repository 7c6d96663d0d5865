"""One record: what is measured of what is chosen, and what each part costs."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import svdhooks
from svdhooks.conductor.measured import Measured
from svdhooks.conductor.measuring import Measurer
from svdhooks.layers import find_layers
from svdhooks.probe import ProbeOptions, ReferenceBatch
from svdhooks.quantities import Covariance, Quantity, WeightSpectrum
from svdhooks.record import Record
from svdhooks.reports import RecordingWarning, Reporter
from tests.models import Reused, Tied, Uncalled, mlp
from tests.plain import hooks_on

X = torch.randn(9, 4)
BOTH = [WeightSpectrum(), Covariance()]


def _measurer(model: nn.Module, **options: Any) -> Measurer:
    reporter = options.pop("reporter", None) or Reporter()
    forward = options.pop("forward", None)
    options = ProbeOptions(**options)
    return Measurer(model, find_layers(model), options, forward, reporter)


def _measure(
    model: nn.Module,
    quantities: Sequence[Quantity] = BOTH,
    probe: Any = X,
    chosen: set[tuple[str, str]] | None = None,
    **options: Any,
) -> Measured:
    measurer = _measurer(model, **options)
    reference = None if probe is None else ReferenceBatch.given(probe)
    if chosen is None:
        chosen = set(measurer.parts(quantities, reference is not None))
    return measurer.measure(3, quantities, chosen, reference)


def _seen(measured: Measured) -> list[tuple[str, str]]:
    return [(r.layer, r.point) for r in measured.records]


# --- parts ------------------------------------------------------------------------------


def test_parts_are_pairs_of_quantity_and_layer_in_the_models_order():
    parts = _measurer(mlp(4, 6, 3)).parts(BOTH, probing=True)
    weights = [("weight_spectrum", "0"), ("weight_spectrum", "2")]
    assert parts == [*weights, ("covariance", "0"), ("covariance", "2")]
    assert _measurer(mlp(4, 6, 3)).parts(BOTH, probing=False) == weights


def test_a_tied_weight_is_no_part_and_its_points_are():
    parts = _measurer(Tied()).parts(BOTH, probing=True)
    assert ("weight_spectrum", "head") not in parts
    assert ("covariance", "head") in parts


def test_a_layer_with_no_measured_point_is_no_part():
    measurer, narrow = _measurer(mlp(4, 6, 3)), [Covariance(max_features=3)]
    assert measurer.parts(narrow, probing=True) == [("covariance", "2")]
    reasons = {s.name: s.reason for s in measurer.skipped_points(narrow)}
    assert set(reasons) == {"0 (input)", "0 (output)", "2 (input)"}
    assert reasons["0 (output)"] == "covariance: 6 features exceed max_features=3"


# --- measure -------------------------------------------------------------------------------


def test_everything_chosen_is_measured_and_nothing_else():
    measured = _measure(mlp(4, 6, 3))
    assert set(_seen(measured)) == {
        (layer, point) for layer in "02" for point in ("weight", "input", "output")
    }
    assert {r.step for r in measured.records} == {3}
    chosen = {("weight_spectrum", "2"), ("covariance", "0")}
    measured = _measure(mlp(4, 6, 3), chosen=chosen)
    assert _seen(measured) == [("2", "weight"), ("0", "input"), ("0", "output")]
    assert measured.costs.keys() == chosen


def test_without_a_reference_only_weights_are_measured():
    assert _seen(_measure(mlp(4, 6, 3), probe=None)) == [
        ("0", "weight"),
        ("2", "weight"),
    ]


def test_the_cost_of_a_part_is_the_sum_of_its_records():
    measured = _measure(mlp(4, 6, 3))
    for (quantity, layer), seconds in measured.costs.items():
        of_part = [
            r.seconds
            for r in measured.records
            if (r.quantity, r.layer) == (quantity, layer)
        ]
        assert seconds == pytest.approx(sum(of_part))
        assert all(s > 0 for s in of_part)


def test_no_forward_runs_when_no_point_is_chosen():
    def forward(model: nn.Module, batch: Any) -> None:
        pytest.fail("the probe ran")

    _measure(mlp(4, 6, 3), chosen={("weight_spectrum", "0")}, forward=forward)
    _measure(mlp(4, 6, 3), [WeightSpectrum()], forward=forward)


def test_the_first_probe_runs_twice_and_later_ones_once():
    """The first counts the calls of each module, so that each is solved at its last."""
    runs: list[int] = []

    def forward(model: nn.Module, batch: Tensor) -> Any:
        runs.append(1)
        return model(batch)

    model = mlp(4, 6, 3)
    measurer, reference = _measurer(model, forward=forward), ReferenceBatch.given(X)
    parts = set(measurer.parts(BOTH, probing=True))
    for expected in (2, 3, 4):
        measurer.measure(0, BOTH, parts, reference)
        assert len(runs) == expected


def test_only_the_chosen_layers_are_hooked():
    hooked: list[int] = []
    model = mlp(4, 6, 6, 3)

    def forward(inner: nn.Module, batch: Tensor) -> Any:
        hooked.append(hooks_on(inner))
        return inner(batch)

    _measure(model, chosen={("covariance", "2")}, forward=forward)
    assert hooked == [6, 1]  # at first all are counted and traced
    assert hooks_on(model) == 0


def test_points_of_a_reused_module_are_solved_after_its_last_call():
    measured = _measure(Reused(), probe=torch.randn(7, 5))
    counts = {
        r.layer: float(r.values["count"])
        for r in measured.records
        if r.point == "input"
    }
    assert counts == {"cell": 21, "out": 7}


def test_a_module_that_is_never_called_is_named_once():
    measurer, reference = _measurer(Uncalled()), ReferenceBatch.given(X)
    with pytest.warns(RecordingWarning, match="calls no module of unseen") as caught:
        measurer.rehearse(reference)
    assert len(caught) == 1
    parts = set(measurer.parts(BOTH, probing=True))
    # named by then: neither a warning for each record, nor an error on request
    measured = measurer.measure(0, BOTH, parts, reference)
    status = {(r.layer, r.point): r.status for r in measured.records}
    assert status["unseen", "weight"] == status["seen", "output"] == "ok"
    assert status["unseen", "output"] == "not called in the probe"


def test_a_module_that_is_called_no_more_is_told_when_it_happens():
    class Sometimes(Uncalled):
        called = True

        def forward(self, x: Tensor) -> Tensor:
            return self.unseen(x) if self.called else super().forward(x)

    model = Sometimes()
    measurer, reference = _measurer(model), ReferenceBatch.given(X)
    with pytest.warns(RecordingWarning, match="calls no module of seen"):
        measurer.rehearse(reference)
    model.called = False
    parts = set(measurer.parts(BOTH, probing=True))
    with pytest.warns(
        RecordingWarning, match="not called in the probe at step .: unseen"
    ):
        measurer.measure(0, BOTH, parts, reference)


def test_rehearsing_raises_what_the_model_raises():
    with pytest.raises(RuntimeError, match="shapes"):
        _measurer(mlp(4, 6)).rehearse(ReferenceBatch.given(torch.zeros(2, 5)))
    with pytest.raises(ValueError, match="no such key"):
        _measurer(mlp(4, 6), mask="m").rehearse(ReferenceBatch.given(X))


def test_a_model_that_changes_its_parameters_is_probed_once_and_never_again():
    runs: list[int] = []

    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            runs.append(1)
            # as a kernel that torch does not see tells what it wrote
            torch.autograd.graph.increment_version(self.linear.weight)
            return self.linear(x)

    model = Writes()
    measurer, reference = _measurer(model), ReferenceBatch.given(X)
    parts = set(measurer.parts(BOTH, probing=True))
    with pytest.warns(RecordingWarning, match="changes parameters in place"):
        measured = measurer.measure(0, BOTH, parts, reference)
    assert [r.ok for r in measured.records] == [True, False, False]
    runs.clear()
    assert _seen(measurer.measure(1, BOTH, parts, reference)) == [("linear", "weight")]
    assert not runs


def test_costs_of_a_part_add_up():
    measured = Measured()
    for point in ("input", "output"):
        measured.add(Record(0, "a", "covariance", point=point, seconds=0.5))
    assert measured.costs == {("covariance", "a"): 1.0}
    assert len(measured.records) == 2


@pytest.mark.parametrize(
    "quantity",
    ["attention_logits", "expert_load", "token_rank", svdhooks.TokenRank("typo*")],
)
def test_what_finds_nothing_to_measure_says_so(quantity):
    sink = svdhooks.MemorySink()
    with (
        pytest.warns(RecordingWarning, match="finds nothing to measure"),
        svdhooks.watch(
            mlp(4, 3),
            None,
            sinks=[sink],
            every=1,
            quantities=[quantity],
            probe=torch.randn(5, 4),
        ) as recorder,
    ):
        recorder.step()
    assert all(r.quantity in {"meta", "run"} for r in sink.records)
