"""The conductor: counting, the overhead it allows itself, what it writes of the run."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from svdhooks.conductor import weighing
from svdhooks.conductor.settings import Settings
from svdhooks.layers import Layer
from svdhooks.record import Record
from svdhooks.recorder import Recorder
from svdhooks.reports import RecordingWarning
from svdhooks.schedule import every
from svdhooks.sinks.memory import MemorySink
from tests.models import mlp
from tests.plain import hooks_on

X = torch.randn(8, 4)


class _Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class _Slow:
    """A quantity whose measurement takes a second of a clock per layer."""

    name, schedule = "slow", None

    def __init__(self, clock: _Clock) -> None:
        self.clock = clock

    def measure(self, layer: Layer, step: int) -> Record:
        self.clock.now += 1.0
        return Record(step, layer.name, self.name, point="weight")

    def failed(self, layer: Layer, step: int, status: str) -> Record:
        return Record(step, layer.name, self.name, status=status, point="weight")


def _recorder(
    model: nn.Module | None = None, **options: Any
) -> tuple[Recorder, MemorySink]:
    memory, settings = MemorySink(), {"schedule": every(1), "on_error": "raise"}
    arguments = {
        k: options.pop(k) for k in ("begin", "clock", "optimizer") if k in options
    }
    made = Recorder(
        model or mlp(4, 6, 3),
        None,
        Settings(**{**settings, **options}),
        sinks=[memory],
        **arguments,
    )
    return made, memory


def _run(memory: MemorySink, name: str) -> list[float]:
    return [r.measures[name] for r in memory.of("run") if name in r.values]


# --- counting ------------------------------------------------------------------------------


def test_steps_are_counted_by_calls():
    recorder, _ = _recorder()
    for expected in range(1, 4):
        assert recorder.step()
        assert recorder.steps == expected


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize("step", [5, np.int64(5), torch.tensor(5)])
def test_a_told_step_may_be_any_whole_number(step):
    recorder, memory = _recorder()
    recorder.step(step=step)
    assert type(recorder.steps) is int
    assert recorder.steps == memory.of("run")[-1].step == int(step)


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize("step", [5.0, "5", torch.tensor(5.0)])
def test_a_told_step_that_is_no_whole_number_is_an_error_of_the_caller(step):
    recorder, _ = _recorder()
    with pytest.raises(TypeError, match="integer"):
        recorder.step(step=step)
    assert recorder.steps == 0


@pytest.mark.usefixtures("as_a_user_calls")
def test_what_is_no_number_in_the_context_costs_nothing_else():
    recorder, memory = _recorder(probe=X)
    with pytest.warns(RecordingWarning, match="'stage'.*found str") as caught:
        recorder.step(context={"stage": "warm-up", "epoch": torch.tensor(3)})
    assert len(caught) == 1
    recorder.step(context={"stage": "training"})
    assert [r.step for r in memory.of("run")] == [0, 1, 2]
    assert _run(memory, "epoch") == [3.0]
    assert _run(memory, "stage") == []


def test_a_resumed_run_counts_on():
    recorder, memory = _recorder(schedule=every(4), start_step=6)
    assert memory.records == []
    for _ in range(6):
        recorder.step()
    assert recorder.steps == 12
    assert [r.step for r in memory.of("run")] == [8, 12]


def test_a_resumed_run_records_the_step_it_resumes_at_if_that_is_due():
    _, memory = _recorder(schedule=every(4), start_step=8)
    assert [r.step for r in memory.of("run")] == [8]


def test_beginning_later_records_the_first_step_then_and_only_once():
    recorder, memory = _recorder(begin=False)
    assert memory.records == []
    assert recorder.begin(X, {"epoch": 0})
    assert not recorder.begin(X)
    assert {r.step for r in memory.of("covariance")} == {0}
    assert _run(memory, "epoch") == [0.0]


def test_a_recorder_that_begins_later_listens_from_then_on():
    model = mlp(4, 6, 3)
    recorder, _ = _recorder(model, begin=False)
    assert hooks_on(model) == 0
    recorder.begin()
    assert hooks_on(model) == 1


def test_layers_are_those_of_the_model():
    recorder, _ = _recorder(layers="2")
    assert [layer.name for layer in recorder.layers] == ["2"]


def test_the_last_record_of_each_matrix_is_at_hand():
    recorder, memory = _recorder(probe=X)
    recorder.step()
    assert recorder.last.keys() == {
        (layer, point) for layer in "02" for point in ("weight", "input", "output")
    }
    assert {record.step for record in recorder.last.values()} == {1}
    made = {id(record) for record in memory.records}
    assert made >= {id(record) for record in recorder.last.values()}


# --- what is written of the run ---------------------------------------------------------------


def test_every_record_says_what_it_cost_and_where_it_stands():
    recorder, memory = _recorder(probe=X)
    recorder.step(context={"logged_step": 7, "epoch": 2})
    first, second = memory.of("run")
    assert second.measures["logged_step"] == 7
    assert "logged_step" not in first.values
    for record in (first, second):
        assert record.measures["parts_measured"] == record.measures["parts_total"] == 4
        assert 0 < record.measures["seconds"] <= record.measures["spent"]
        assert record.measures["interval_stretch"] == 1
    assert second.measures["spent"] > first.measures["spent"]


def test_the_share_of_time_is_that_of_the_clock():
    clock = _Clock()
    recorder, memory = _recorder(
        quantities=(_Slow(clock),), max_overhead=None, clock=clock, begin=False
    )
    clock.now += 7.0  # setting up
    recorder.begin()
    for _ in range(3):
        clock.now += 50.0  # training
        recorder.step()
    # two layers, a second each; what we take is no training, nor is setting up
    assert _run(memory, "seconds") == [2.0] * 4
    assert _run(memory, "spent") == [2.0, 4.0, 6.0, 8.0]
    assert _run(memory, "elapsed") == [0.0, 50.0, 100.0, 150.0]
    assert _run(memory, "overhead")[-1] == pytest.approx(8 / 150)


def test_the_first_record_describes_the_run():
    _, memory = _recorder()
    assert memory.records[0].quantity == "meta"
    assert len(memory.of("meta")) == 1


# --- the overhead ---------------------------------------------------------------------------


def _overhead(seconds_per_step: float, steps: int, **options: Any) -> Any:
    clock = _Clock()
    with pytest.MonkeyPatch.context() as patch:
        # what each part takes is by the same clock, or a busy machine takes part
        patch.setattr(weighing, "time", SimpleNamespace(perf_counter=clock))
        recorder, memory = _recorder(
            quantities=(_Slow(clock),), clock=clock, on_error="warn", **options
        )
        for _ in range(steps):
            clock.now += seconds_per_step
            recorder.step()
    return recorder, memory, clock


def test_recording_stays_within_the_limit_and_its_credit():
    with pytest.warns(
        RecordingWarning, match="become rarer, at most tenfold"
    ) as caught:
        _, memory, clock = _overhead(10.0, 300, max_overhead=0.02)
    assert len(caught) == 1
    spent = _run(memory, "spent")[-1]
    assert spent <= 0.02 * (clock.now - spent) + 10.0 + 1e-9
    assert spent > 0.9 * 0.02 * (clock.now - spent)  # and what is allowed is used
    assert max(_run(memory, "interval_stretch")) == 10
    measured = {layer: len(memory.of("slow", layer)) for layer in "02"}
    assert abs(measured["0"] - measured["2"]) <= 1  # layers take turns


def test_without_a_limit_everything_is_recorded():
    _, memory, _ = _overhead(1.0, 30, max_overhead=None)
    assert [r.step for r in memory.of("run")] == list(range(31))
    assert set(_run(memory, "interval_stretch")) == {1.0}


def test_a_cheap_recorder_keeps_its_grid():
    _, memory, _ = _overhead(1000.0, 20, max_overhead=0.01)
    assert [r.step for r in memory.of("slow", "0")] == list(range(21))


# --- several processes ----------------------------------------------------------------------
