"""What may go wrong on one rank, and a training in which it does."""

import os
import signal
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import svdhooks
from svdhooks.conductor.models import Models
from svdhooks.linalg import _solvers
from svdhooks.quantities.weight_spectrum import WeightSpectrum
from svdhooks.reports import RecordingError, RecordingWarning
from tests.distributed.training import (
    Net,
    batches,
    make,
    shard,
    train,
    values_of,
)

Patch = Callable[[pytest.MonkeyPatch, nn.Module], None]


def run(rank: int, log_dir: str, fault: str, options: dict[str, Any]) -> dict[str, Any]:
    """Six updates; the same model on all ranks, whose training does not communicate."""
    model, sink = make(), svdhooks.MemorySink()
    data = [shard(x, rank, 2) for x in batches(6)]
    found: dict[str, Any] = {"raised": None, "steps": 0}
    begun = time.monotonic()
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(record=True) as w,
    ):
        warnings.simplefilter("always")
        recorder = svdhooks.watch(
            model,
            log_dir,
            every=2,
            probe=data[0],
            sinks=[sink],
            max_overhead=None,
            **options,
        )
        if rank == 1:
            FAULTS[fault](patch, model)
        try:
            with recorder:
                train(model, data, recorder)
        except (RecordingError, KeyboardInterrupt, ZeroDivisionError) as error:
            found["raised"] = type(error).__name__
        found["steps"] = recorder.steps
        found["team"] = recorder._team.broken
    found["records"] = values_of(sink.records)
    found["told"] = [
        str(x.message) for x in w if issubclass(x.category, RecordingWarning)
    ]
    found["hooks"] = sum(len(m._forward_hooks) for m in model.modules())
    found["seconds"] = time.monotonic() - begun
    return found


def at_step(number: int, fault: Callable[[], None]) -> Callable[..., bool]:
    """A `Recorder.step` that has a fault at its n-th call."""
    calls = {"n": 0}
    original = svdhooks.Recorder.step

    def step(self: Any, *args: Any, **kwargs: Any) -> bool:
        calls["n"] += 1
        if calls["n"] == number:
            fault()
        return original(self, *args, **kwargs)

    return step


def nan_weights(_patch: pytest.MonkeyPatch, model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)


def no_convergence(patch: pytest.MonkeyPatch, _model: nn.Module) -> None:
    def fails(_: Any) -> Any:
        raise _solvers.LinAlgError("it did not converge")

    patch.setattr(_solvers, "eigenvalues", fails)


def forward_fails(patch: pytest.MonkeyPatch, model: nn.Module) -> None:
    forward = Net.forward
    calls = {"n": 0}

    def sometimes(self: Net, x: torch.Tensor) -> torch.Tensor:
        calls["n"] += not self.training
        if calls["n"] == 1 and not self.training:  # in the probe of step 2
            raise torch.OutOfMemoryError("no room")
        return forward(self, x)

    patch.setattr(Net, "forward", sometimes)


def observer_fails(patch: pytest.MonkeyPatch, _model: nn.Module) -> None:
    def fails(*_: Any) -> Any:
        raise MemoryError("no room")

    patch.setattr("svdhooks.linalg.CovarianceAccumulator.update", fails)


def measuring_fails(patch: pytest.MonkeyPatch, _model: nn.Module) -> None:
    def fails(*_: Any) -> Any:
        raise KeyError("a mistake of ours")

    patch.setattr(Models, "measure", fails)


def interrupted(patch: pytest.MonkeyPatch, _model: nn.Module) -> None:
    def fails(*_: Any) -> Any:
        raise KeyboardInterrupt

    patch.setattr(WeightSpectrum, "measure", fails)


def training_fails(patch: pytest.MonkeyPatch, _model: nn.Module) -> None:
    def fails() -> None:
        raise ZeroDivisionError

    patch.setattr(svdhooks.Recorder, "step", at_step(3, fails))


def killed(patch: pytest.MonkeyPatch, _model: nn.Module) -> None:

    patch.setattr(
        svdhooks.Recorder,
        "step",
        at_step(3, lambda: os.kill(os.getpid(), signal.SIGKILL)),
    )


def counts_otherwise(patch: pytest.MonkeyPatch, _model: nn.Module) -> None:
    original = svdhooks.Recorder.step

    def step(self: Any) -> bool:
        return original(self, step=self.steps + 3)

    patch.setattr(svdhooks.Recorder, "step", step)


FAULTS: dict[str, Patch] = {
    f.__name__: f
    for f in (
        nan_weights,
        no_convergence,
        forward_fails,
        observer_fails,
        measuring_fails,
        interrupted,
        training_fails,
        killed,
        counts_otherwise,
    )
} | {"none": lambda _patch, _model: None}
