"""Promise 2: after setup nothing stops training; what fails becomes a status."""

import errno
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import svdhooks
from svdhooks import linalg
from svdhooks.eventfile import writer as eventfile
from svdhooks.layers import Layer, PointValue
from svdhooks.quantities.protocols import PointObserver, ProbeContext
from svdhooks.record import Record
from svdhooks.reports import RecordingError, RecordingWarning
from svdhooks.sinks.memory import MemorySink
from tests.models import mlp
from tests.plain import hooks_on, train

X = torch.randn(12, 4)


def _watch(model: nn.Module, log_dir: Path | None = None, **options: Any) -> Any:
    memory = MemorySink()
    options = {"every": 1, "max_overhead": None, "probe": X, **options}
    return svdhooks.watch(model, log_dir, sinks=[memory], **options), memory


@contextmanager
def _heard() -> Iterator[list[str]]:
    """The warnings of ours, each as often as it is given."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += [str(w.message) for w in caught]
    assert all(issubclass(w.category, RecordingWarning) for w in caught), messages


def _good(memory: MemorySink, step: int) -> set[tuple[str, str]]:
    return {
        (r.layer, r.point)
        for r in memory.records
        if r.layer and r.ok and r.step == step
    }


def _bad(memory: MemorySink, step: int) -> dict[tuple[str, str], str]:
    return {
        (r.layer, r.point): r.status
        for r in memory.records
        if r.step == step and not r.ok
    }


ALL = {(layer, point) for layer in "02" for point in ("weight", "input", "output")}


# --- numbers that are none ------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_weight_becomes_a_status_in_silence(value, tmp_path, capfd):
    """Hazard 37: nothing on stderr, also for infinity."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3))
    recorder, memory = _watch(model, tmp_path)
    with torch.no_grad():
        model[1].weight[1, 2] = value
    with _heard() as messages:
        for _ in range(3):
            recorder.step()
    recorder.close()
    bad = _bad(memory, 2)
    assert bad["1", "weight"] == bad["1", "output"] == "non-finite values (NaN or Inf)"
    assert _good(memory, 2) >= {("0", "weight"), ("0", "output"), ("2", "weight")}
    for layer in ("1", "2"):  # whatever is computed from layer 1 is not finite either
        assert sum(f"layer '{layer}'" in m for m in messages) == 1, messages
    assert not any("layer '0'" in m for m in messages)
    assert capfd.readouterr() == ("", "")  # LAPACK complains on stderr
    log = svdhooks.RunLog(tmp_path)
    steps, sigma = log.spectra("1")
    assert steps.tolist() == [0, 1, 2, 3]
    assert np.isfinite(sigma[0]).all()
    assert sigma.shape == (4, 5)
    assert np.isnan(sigma[1:]).all()
    assert {e.step for e in log.events if e.layer == "1" and not e.ok} == {1, 2, 3}


def test_what_c_code_prints_would_be_seen(capfd):
    """The companion: LAPACK complains below Python, about infinity for example."""
    os.write(2, b"Intel MKL ERROR: Parameter 4 was incorrect")
    assert "MKL" in capfd.readouterr().err


def test_a_model_that_recovers_is_recorded_again():
    model = mlp(4, 6, 3)
    recorder, memory = _watch(model)
    weight = model[0].weight.detach().clone()
    with _heard(), torch.no_grad():
        model[0].weight.fill_(torch.nan)
        recorder.step()
        model[0].weight.copy_(weight)
        recorder.step()
    assert _good(memory, 2) == ALL


class _Broken(nn.Module):
    """Takes the logarithm of what may be negative between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).log())


def test_non_finite_activations_become_statuses_of_their_points(capfd):
    with _heard() as messages:
        _, memory = _watch(_Broken())
    assert _bad(memory, 0).keys() == {("second", "input"), ("second", "output")}
    assert {("first", "output"), ("second", "weight")} <= _good(memory, 0)
    assert len(messages) == 1
    assert "layer 'second'" in messages[0]
    assert capfd.readouterr() == ("", "")


# --- quantities that raise --------------------------------------------------------------


@dataclass(frozen=True)
class _Failing:
    """A user's weight quantity that fails on one layer, from a step on."""

    error: Exception
    schedule: None = None
    name: str = "mine"

    def measure(self, layer: Layer, step: int) -> Record:
        if layer.name == "2" and step > 0:
            raise self.error
        return Record(step, layer.name, self.name, {"norm": np.asarray(1.0)})

    def failed(self, layer: Layer, step: int, status: str) -> Record:
        return Record(step, layer.name, self.name, {}, status=status)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no\nno"), "ValueError: no"),
        (KeyError(), "KeyError"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried …"), "out of memory"),
        (MemoryError(), "out of memory"),
        (torch.linalg.LinAlgError("did not converge"), "LinAlgError: did not converge"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Exception) else None,
)
def test_a_weight_quantity_that_raises(error, status, tmp_path):
    """Hazard 27: every kind of error."""
    recorder, memory = _watch(
        mlp(4, 6, 3), tmp_path, quantities=["weight_spectrum", _Failing(error)]
    )
    with _heard() as messages:
        for _ in range(3):
            recorder.step()
    recorder.close()
    mine = memory.of("mine", "2")
    assert [r.status for r in mine] == ["ok", status, status, status]
    assert [r.ok for r in memory.of("mine", "0")] == [True] * 4
    assert len(messages) == 1
    assert status in messages[0]
    assert svdhooks.RunLog(tmp_path).steps.tolist() == [0, 1, 2, 3]


def test_a_decomposition_that_does_not_converge(monkeypatch):
    model = mlp(4, 6, 3)
    recorder, memory = _watch(model)

    def diverge(*_: Any, **__: Any) -> Any:
        raise torch.linalg.LinAlgError("did not converge")

    with monkeypatch.context() as patch, _heard() as messages:
        patch.setattr(linalg.spectrum, "eigenvalues", diverge)
        patch.setattr("svdhooks.linalg.spectrum.eigenvalues", diverge)
        recorder.step()
    assert set(_bad(memory, 1)) == ALL
    assert "did not converge" in _bad(memory, 1)["0", "output"]
    assert len(messages) == 2  # one per layer
    recorder.step()
    assert _good(memory, 2) == ALL


class _PointQuantity:
    """A user's point quantity that fails where it is told to."""

    name, schedule = "mine", None

    def __init__(self, where: str) -> None:
        self.where = where

    def measured_points(self, layer: Layer) -> Sequence[str]:
        return list(layer.points)

    def skipped_points(self, layer: Layer) -> Mapping[str, str]:
        return {}

    def observer(self, layers: Sequence[Layer], context: ProbeContext) -> PointObserver:
        self._fail("observer", context.step)
        return _Observer(self, layers, context.step)

    def _fail(self, where: str, step: int) -> None:
        if where == self.where and step > 0:
            raise ValueError(f"wrong in {where}")


@dataclass
class _Observer:
    quantity: _PointQuantity
    layers: Sequence[Layer]
    step: int

    def receive(self, layer: Layer, values: Mapping[str, PointValue]) -> None:
        self.quantity._fail("receive", self.step)
        self.quantity._fail("fail", self.step)  # which then fails as well

    def fail(self, layer: Layer, error: Exception) -> None:
        self.quantity._fail("fail", self.step)

    def records(self) -> Sequence[Record]:
        self.quantity._fail("records", self.step)
        return [Record(self.step, x.name, "mine", point="input") for x in self.layers]


@pytest.mark.parametrize("where", ["observer", "receive", "fail", "records"])
def test_a_point_quantity_that_raises_takes_no_weight_with_it(where):
    model = mlp(4, 6, 3)
    quantities = ["weight_spectrum", "covariance", _PointQuantity(where)]
    recorder, memory = _watch(model, quantities=quantities)
    with _heard() as messages:
        recorder.step()
        recorder.step()
    assert _good(memory, 2) >= ALL  # the other quantities saw everything
    assert len(messages) == (0 if where == "receive" else 1)
    assert hooks_on(model) == 0


def test_layers_that_return_no_tensor_become_statuses():
    class Odd(nn.Linear):
        silent = False

        def forward(self, x: Tensor) -> Any:
            z = super().forward(x)
            return {"z": None, "n": 3} if self.silent else z

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.odd = nn.Linear(4, 6), Odd(6, 3)

        def forward(self, x: Tensor) -> Any:
            return self.odd(self.first(x))

    model = Model()
    recorder, memory = _watch(model)
    model.odd.silent = True
    with _heard() as messages:
        recorder.step()
        recorder.step()
    assert "floating-point tensor" in _bad(memory, 1)["odd", "output"]
    assert ("first", "output") in _good(memory, 1)
    assert len(messages) == 1


class _Changing(nn.Module):
    """Calls one layer as often as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.times = nn.Linear(4, 4), 2

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.cell(x)
        return x


@pytest.mark.parametrize("times", [0, 1, 3])
def test_a_layer_called_another_number_of_times_is_told_or_counted(times):
    model = _Changing()
    recorder, memory = _watch(model)
    model.times = times
    with _heard() as messages:
        recorder.step()
    (record,) = [
        r for r in memory.of("covariance") if (r.step, r.point) == (1, "input")
    ]
    if times == 1:  # fewer calls: fewer samples, and the count says so
        assert record.ok
        assert record.values["count"] == len(X)
    else:
        assert ("not called" if times == 0 else "3 times") in record.status
        assert len(messages) == 1


# --- forwards that raise ------------------------------------------------------------------


class _TrainingOnly(nn.Module):
    """Fails in evaluation mode, which the training never sees."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.first, self.second, self.error = nn.Linear(4, 6), nn.Linear(6, 3), error

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if not self.training:
            raise self.error
        return self.second(x)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotImplementedError("no evaluation"), "NotImplementedError: no evaluation"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
    ],
)
def test_a_forward_that_fails_in_evaluation_mode_becomes_a_status(
    error, status, tmp_path
):
    model = _TrainingOnly(error)
    recorder, memory = _watch(model, tmp_path, probe=None)
    with _heard() as messages:
        train(model, [X] * 3, recorder)
    recorder.close()
    assert model.training
    assert hooks_on(model) == 0
    assert {("first", "weight"), ("second", "weight")} <= _good(memory, 3)
    assert len(messages) == 1
    assert status in messages[0]
    assert "probe=" in messages[0]
    bad = _bad(memory, 2)
    assert set(bad) == {
        (x, p) for x in ("first", "second") for p in ("input", "output")
    }
    assert all(status in said for said in bad.values())
    events = svdhooks.RunLog(tmp_path).events
    assert {(e.layer, e.point) for e in events if not e.ok and e.step == 3} == set(bad)


def test_a_forward_that_begins_to_fail_keeps_what_was_measured_before():
    model = _TrainingOnly(MemoryError())
    handle = model.register_forward_pre_hook(
        lambda m, _: m.__dict__.update(training=True)
    )
    recorder, memory = _watch(model)  # the first probe works
    handle.remove()
    with _heard() as messages:
        recorder.step()
    assert ("first", "output") in _good(memory, 1)  # it had passed before the error
    assert "out of memory" in _bad(memory, 1)["second", "output"]
    assert len(messages) == 1


def test_out_of_memory_in_a_hook_costs_that_layer_only():
    model = mlp(4, 6, 3)
    recorder, memory = _watch(model)
    real = linalg.CovarianceAccumulator.update

    def update(self: Any, samples: Tensor) -> Any:
        if samples.shape[1] == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")
        return real(self, samples)

    with pytest.MonkeyPatch.context() as patch, _heard() as messages:
        patch.setattr(
            "svdhooks.linalg.accumulator.CovarianceAccumulator.update", update
        )
        recorder.step()
        recorder.step()
    assert _bad(memory, 2) == {("2", "output"): "out of memory"}
    assert len(messages) == 1


def test_an_interrupt_during_a_probe_leaves_the_model_clean():
    model = mlp(4, 6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with svdhooks.watch(
            model, None, sinks=[MemorySink()], every=1, probe=X, optimizer=optimizer
        ):
            model[1].register_forward_hook(_interrupt)
            optimizer.step()
    assert model.training
    assert hooks_on(model) == 1  # the one of this test
    assert not optimizer._optimizer_step_post_hooks


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


# --- the file -----------------------------------------------------------------------------


def test_a_full_disk_costs_the_records_of_that_time(tmp_path, monkeypatch):
    model = mlp(4, 6, 3)
    recorder, _ = _watch(model, tmp_path)
    real = os.write

    def full(handle: int, data: bytes) -> int:
        real(handle, data[: len(data) // 2])  # half of it still fits
        raise OSError(errno.ENOSPC, "No space left on device")

    with _heard() as messages:
        for step in range(1, 7):
            with monkeypatch.context() as patch:
                if step in {2, 3, 4}:
                    patch.setattr(eventfile.os, "write", full)
                train(model, [X], recorder)
    recorder.close()
    assert len(messages) == 1
    assert "No space left" in messages[0]
    assert "training goes on" in messages[0]
    log = svdhooks.RunLog(tmp_path)
    assert log.steps.tolist() == [0, 1, 5, 6]
    assert not any(log.damage.values())
    assert log.spectra("0")[0].tolist() == [0, 1, 5, 6]


def test_a_disk_that_is_full_from_the_start_stops_nothing(tmp_path, monkeypatch):
    model = mlp(4, 6, 3)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, _heard() as messages:
        patch.setattr(eventfile.os, "write", full)
        patch.setattr(torch, "save", full)
        recorder, memory = _watch(model, tmp_path)
        train(model, [X] * 2, recorder)
    train(model, [X] * 2, recorder)
    recorder.close()
    assert sum("No space left" in m for m in messages) == len(messages) <= 2
    assert _good(memory, 1) == ALL
    log = svdhooks.RunLog(tmp_path)
    assert log.steps.tolist() == [3, 4]
    assert log.layers == ("0", "2")  # the layer table is said again


def test_a_log_directory_that_is_removed_is_made_again(tmp_path):
    model = mlp(4, 6, 3)
    recorder, _ = _watch(model, tmp_path / "run")
    train(model, [X] * 2, recorder)
    shutil.rmtree(tmp_path / "run")
    train(model, [X] * 2, recorder)
    recorder.close()
    log = svdhooks.RunLog(tmp_path / "run")
    assert log.steps.tolist() == [3, 4]
    assert log.layers == ("0", "2")
    assert log.metrics


def test_a_sink_that_raises_does_not_keep_the_others_from_writing(tmp_path):
    class Wrong(MemorySink):
        def write(self, records: Sequence[Record]) -> None:
            raise ConnectionError("gone")

        def close(self) -> None:
            raise ConnectionError("gone")

    memory = MemorySink()
    with _heard() as messages:
        recorder = svdhooks.watch(
            mlp(4, 6, 3), tmp_path, every=1, probe=X, sinks=[Wrong(), memory]
        )
        recorder.step()
        recorder.close()
    assert [r.step for r in memory.of("run")] == [0, 1]
    assert memory.closed
    assert len(messages) == 2  # writing, closing
    assert svdhooks.RunLog(tmp_path).steps.tolist() == [0, 1]


# --- warnings, and those who want errors ------------------------------------------------


def test_a_filter_that_turns_warnings_into_errors_does_not_stop_training(caplog):
    model = mlp(4, 6, 3)
    recorder, memory = _watch(model)
    with torch.no_grad():
        model[2].weight.fill_(torch.nan)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, "svdhooks"):
        warnings.simplefilter("error")
        recorder.step()
        recorder.step()
    assert ("2", "weight") in _bad(memory, 2)
    assert _good(memory, 2) >= {("0", "weight"), ("0", "input"), ("0", "output")}
    assert sum("layer '2'" in r.getMessage() for r in caplog.records) == 1


@pytest.mark.parametrize("wrong", ["weight", "forward", "disk", "batch", "quantity"])
def test_those_who_want_it_are_stopped(wrong, tmp_path, monkeypatch):
    model = mlp(4, 6, 3)
    quantities = [svdhooks.Covariance(), _Failing(ValueError("wrong"))]
    options = {"quantities": quantities if wrong == "quantity" else None}
    recorder, _ = _watch(
        model,
        tmp_path,
        on_error="raise",
        probe=None if wrong == "batch" else X,
        **options,
    )
    batch = None
    if wrong == "weight":
        nn.init.constant_(model[0].weight, torch.nan)
    elif wrong == "forward":
        model[1].register_forward_hook(lambda *_: 1 / 0)
    elif wrong == "disk":
        monkeypatch.setattr(eventfile.os, "write", lambda *_: 1 / 0)
    elif wrong == "batch":
        batch = 3
    with pytest.raises(RecordingError, match="svdhooks"):
        recorder.step(batch)
    monkeypatch.undo()
    recorder.close()
    assert hooks_on(model) == (1 if wrong == "forward" else 0)


# --- the end ------------------------------------------------------------------------------


def test_closing_twice_and_stepping_after_it_is_harmless(tmp_path):
    model = mlp(4, 6, 3)
    recorder, memory = _watch(model, tmp_path)
    recorder.close()
    recorder.close()
    with _heard() as messages:
        assert not recorder.step()
        assert not recorder.step(X)
    assert len(messages) == 1
    assert "after close()" in messages[0]
    assert {r.step for r in memory.records} == {0}
    assert svdhooks.RunLog(tmp_path).steps.tolist() == [0]


def test_an_exception_in_the_loop_passes_and_the_log_is_whole(tmp_path):
    """Hazard 26: in a plain loop."""
    model = mlp(4, 6, 3)
    with pytest.raises(ZeroDivisionError):  # noqa: SIM117
        with svdhooks.watch(model, tmp_path, every=1) as recorder:
            train(model, [X] * 3, recorder)
            _ = 1 / 0
    assert hooks_on(model) == 0
    log = svdhooks.RunLog(tmp_path)
    assert log.steps.tolist() == [0, 1, 2, 3]
    assert not any(log.damage.values())


def test_a_schedule_that_raises_does_not_stop_training():
    class Wrong:
        def due(self, previous_step: int, step: int) -> bool:
            return step == 0 or bool(1 // (step - 2))

    recorder, memory = _watch(mlp(4, 6, 3), every=None, schedule=Wrong())
    with _heard() as messages:
        for _ in range(4):
            recorder.step()
    assert len(messages) == 1
    assert "ZeroDivisionError" in messages[0]
    assert {r.step for r in memory.records} == {0, 1, 3}
