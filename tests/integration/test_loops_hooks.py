"""What hooks that stay would do to a loop, and that ours do not."""

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import svdhooks
from svdhooks.sinks.memory import MemorySink
from tests.models import mlp
from tests.plain import hooks_on


class _Naive:
    """A recorder whose hook stays on the model."""

    def __init__(self, model: nn.Module, locked: bool) -> None:
        self.calls: list[int] = []
        self.lock = threading.Lock() if locked else None
        model.register_forward_hook(self.hook)

    def hook(self, _module: nn.Module, args: tuple[Tensor], _output: Tensor) -> None:
        self.calls.append(len(args[0]))


@pytest.mark.parametrize("observe", ["probe", "training"])
def test_an_average_of_the_model_is_not_observed(observe):
    """Hazard 12: an EMA is a deep copy, made and called while a batch is waited for."""
    model, memory = mlp(4, 6, 3), MemorySink()
    recorder = svdhooks.watch(
        model, None, every=1, observe=observe, sinks=[memory], max_overhead=None
    )
    assert hooks_on(model)
    average = AveragedModel(model)
    average.train()
    average(torch.zeros(50, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.randn(7, 4)).sum().backward()
        optimizer.step()
        average.update_parameters(model)
        average(torch.zeros(50, 4))
        recorder.step()
    counts = {float(r.values["count"]) for r in memory.of("covariance")}
    assert counts == {7.0}
    recorder.close()
    assert hooks_on(model) == 0


def test_a_hook_that_stays_copies_its_recorder_or_prevents_the_copy():
    """The companion."""
    model = mlp(4, 6, 3)
    locked = _Naive(model, locked=True)
    for double in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="pickle"):
            double(model)
    assert locked.calls == []
    model = mlp(4, 6, 3)
    naive = _Naive(model, locked=False)
    average = AveragedModel(model)
    average(torch.zeros(50, 4))
    (hook,) = average.module._forward_hooks.values()
    assert hook.__self__ is not naive
    assert hook.__self__.calls == [50]  # of which nobody knows


def _frozen() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    model.train()
    model[1].eval()
    return model


def test_what_was_frozen_stays_frozen():
    """Hazard 11: batch norm in evaluation mode within a model that trains."""
    model = _frozen()
    recorder = svdhooks.watch(
        model, None, every=1, probe=torch.randn(9, 4), sinks=[MemorySink()]
    )
    recorder.step()
    assert [m.training for m in model.modules()] == [True, True, False, True]


def test_the_usual_two_calls_would_thaw_it():
    """The companion: ``eval()`` before the probe and ``train()`` after it."""
    model = _frozen()
    model.eval()
    model(torch.randn(9, 4))
    model.train()
    assert model[1].training


class _Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.mha(x, x, x, need_weights=False)[0]
        return result


@pytest.mark.parametrize("observe", ["probe", "training"])
def test_layers_whose_module_is_never_called_are_observed_all_the_same(observe):
    """Hazard 13: the projections of attention, of which only the whole is called."""
    model, memory, x = _Attending(), MemorySink(), torch.randn(5, 7, 8)
    recorder = svdhooks.watch(
        model, None, every=1, observe=observe, sinks=[memory], on_error="raise"
    )
    model(x)
    recorder.step()
    seen = {(r.layer, r.point) for r in memory.of("covariance") if r.ok}
    names = {f"mha.{letter}_proj" for letter in ("q", "k", "v", "out")}
    points = {(name, point) for name in names for point in ("input", "output")}
    # which is inside a fused product
    assert seen == points - {("mha.out_proj", "input")}


def test_a_hook_on_them_never_fires():
    """The companion: pytorch issue 78109."""
    model, calls = _Attending(), []

    def hook(*_: Any) -> None:
        calls.append(1)

    model.mha.out_proj.register_forward_hook(hook)
    model(torch.randn(5, 7, 8))
    assert calls == []
