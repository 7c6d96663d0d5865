"""What people see of Jacobians in a running training: records, statuses, warnings."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import svdhooks
from svdhooks.conductor import rehearsal
from svdhooks.conductor.measuring import Measurer
from svdhooks.layers import find_layers
from svdhooks.probe import ProbeOptions, ReferenceBatch
from svdhooks.quantities import JacobianSpectrum, Ledger
from svdhooks.reports import RecordingError, Reporter
from svdhooks.sinks.memory import MemorySink
from tests.models import mlp

ALWAYS = JacobianSpectrum(schedule=svdhooks.every(1))


class Moody(nn.Module):
    """Refuses its batch when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(8, 12, 5, 3)
        self.refusing = False

    def forward(self, x: Tensor) -> Tensor:
        if self.refusing:
            raise ValueError("not today")
        return self.net(x)


def _watch(model: nn.Module, **options: Any) -> tuple[Any, MemorySink]:
    sink = MemorySink()
    options = {
        "every": 1,
        "max_overhead": None,  # a loaded machine must not leave a record out
        "quantities": [ALWAYS, Ledger()],
        **options,
    }
    return svdhooks.watch(model, None, sinks=[sink], **options), sink


def _caught(act: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    return [str(each.message) for each in caught]


@pytest.mark.parametrize(
    "quantities", [[ALWAYS], [ALWAYS, Ledger()], [Ledger()]], ids=["j", "jl", "l"]
)
def test_a_batch_that_is_refused_is_told_once_and_every_record_says_so(quantities):
    model = Moody()
    recorder, sink = _watch(model, quantities=quantities)

    def act() -> None:
        with recorder:
            model(torch.randn(6, 8))  # captured
            model.refusing = True
            recorder.step()
            recorder.step()

    (message,) = _caught(act)
    assert "probe forward failed at step 1: ValueError: not today" in message
    for quantity in quantities:
        records = [r for r in sink.of(quantity.name) if r.step > 0]
        assert {(r.step, r.layer) for r in records} == {
            (step, layer) for step in (1, 2) for layer in ("net.0", "net.2", "net.4")
        }
        assert {r.status for r in records} == {"probe failed: ValueError: not today"}


def test_a_batch_that_is_refused_later_is_told_in_few_words():
    model = Moody()
    recorder, sink = _watch(model, probe=torch.randn(6, 8))

    def act() -> None:
        with recorder:
            model.refusing = True
            recorder.step()
            model.refusing = False
            recorder.step()

    assert len(_caught(act)) == 1
    status = {r.step: r.status for r in sink.of("local_rank")}
    assert status == {0: "ok", 1: "probe failed: ValueError: not today", 2: "ok"}


def test_layers_that_fail_alike_are_told_together():
    model = Moody()
    recorder, sink = _watch(model, quantities=[ALWAYS], probe=torch.randn(6, 8))

    def act() -> None:
        with recorder, torch.no_grad():
            model.net[2].bias.fill_(float("inf"))
            recorder.step()

    (message,) = _caught(act)
    assert "local_rank of net.2, net.4 could not" in message
    failed = {r.layer for r in sink.of("local_rank") if not r.ok}
    assert failed == {"net.2", "net.4"}


def test_numbers_that_are_not_finite_are_told_once_per_layer():
    model = mlp(8, 12, 5, 3)
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    sinks: list[MemorySink] = []

    def act() -> None:
        recorder, sink = _watch(model, probe=torch.randn(6, 8))
        recorder.close()
        sinks.append(sink)

    messages = _caught(act)
    assert len(messages) == 3
    assert all("ledger of layer" in message for message in messages)
    assert not any(r.ok for r in sinks[0].of("local_rank"))


def test_what_is_due_before_a_batch_is_known_comes_with_the_next_record():
    model, x = mlp(8, 12, 5, 3), torch.randn(6, 8)
    once = JacobianSpectrum(schedule=svdhooks.at(0))
    recorder, sink = _watch(model, quantities=["weight_spectrum", once], every=2)

    def act() -> None:
        with recorder:
            for _ in range(6):
                model(x)
                recorder.step()

    assert _caught(act) == []
    assert {r.step for r in sink.of("local_rank")} == {2}


def test_those_who_want_it_are_stopped():
    model = Moody()
    recorder, _ = _watch(model, quantities=[ALWAYS], on_error="raise")
    model(torch.randn(6, 8))
    model.refusing = True
    with pytest.raises(RecordingError, match="not today"), recorder:
        recorder.step()


def test_layers_for_which_there_is_no_time_come_first_the_next_time():
    """No record takes much longer than it may, and none waits for ever."""
    model, x = mlp(9, 8, 7, 6, 5), torch.randn(3, 9)
    # one layer at a time fits, and one direction
    quantity = JacobianSpectrum(directions=2, max_directions=4, max_bytes=150)
    asked = 0

    def exhausted() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2  # before the probe, and before the derivatives

    measurer = Measurer(
        model,
        find_layers(model),
        ProbeOptions(),
        None,
        Reporter("raise"),
        exhausted,
    )
    parts = measurer.parts([quantity], probing=True)
    reference = ReferenceBatch.given(x)
    seen: list[list[str]] = []
    for step in range(len(parts)):
        asked = 0
        found = measurer.measure(step, [quantity], set(parts), reference)
        seen.append([record.layer for record in found.records])
        assert [name for _, name in found.costs] == seen[-1]
        assert all(r.measures["samples"] == 1 for r in found.records)
    assert 0 < len(seen[0]) < len(parts)
    assert {name for names in seen[:3] for name in names} > set(seen[0])
    assert {name for names in seen for name in names} == {name for _, name in parts}


@pytest.mark.parametrize(
    ("quantities", "traced"),
    [(None, False), ("weight_spectrum", False), ("local_rank", True), ("ledger", True)],
)
def test_a_model_is_traced_only_for_what_has_to_know_the_flow(
    quantities, traced, monkeypatch
):
    made: list[bool] = []
    tracer = rehearsal.Tracer

    def noted(*args: Any) -> Any:
        made.append(True)
        return tracer(*args)

    monkeypatch.setattr(rehearsal, "Tracer", noted)
    _watch(mlp(8, 12, 5, 3), quantities=quantities, probe=torch.randn(6, 8))[0].close()
    assert bool(made) == traced
