"""Training loops of every shape: at which updates is recorded."""

import functools
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor

import svdhooks
from svdhooks.hooks import after_each_update
from svdhooks.sinks.memory import MemorySink
from tests import fits
from tests.models import mlp
from tests.oracles import singular_values

# --- Lightning ------------------------------------------------------------------------


class _Remembering(torch.optim.SGD):
    """Keeps the weights after each of its updates."""

    weights: list[Tensor]

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        self.weights.append(self.param_groups[0]["params"][0].detach().clone())
        return result


class _RememberingLBFGS(torch.optim.LBFGS):
    weights: list[Tensor]

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr, max_iter=3)

    def step(self, closure: Any) -> Any:
        result = super().step(closure)
        self.weights.append(self.param_groups[0]["params"][0].detach().clone())
        return result


class _Loop(fits.Fitted):
    """Optimisers of each layer; what they do is for the subclasses to say."""

    kinds: tuple[type, ...] = (_Remembering,)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        layers = [self.net[0], self.net[3]] if len(self.kinds) == 2 else [self.net]
        made = [
            kind(layer.parameters(), lr=0.05)
            for kind, layer in zip(self.kinds, layers, strict=True)
        ]
        for optimizer in made:
            first = optimizer.param_groups[0]["params"][0]
            optimizer.weights = [first.detach().clone()]
        return made


class _LBFGS(_Loop):
    kinds = (_RememberingLBFGS,)


class _ByHand(_Loop, fits.ByHand):
    kinds = (_Remembering, _Remembering)


class _Raw(_ByHand):
    """Past Lightning's wrappers, which then count nothing."""

    raw = True


class _RawLBFGS(_Loop):
    kinds = (_RememberingLBFGS,)

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], index: int) -> None:
        optimizer = self.optimizers().optimizer

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self(batch[0]).square().mean()
            self.manual_backward(loss)
            return loss

        optimizer.step(closure)


class _Accumulating(_Raw):
    """By hand: one update of the first optimiser for three batches."""

    def training_step(self, batch: list[Tensor], index: int) -> None:
        first, second = (wrapped.optimizer for wrapped in self.optimizers())
        self.manual_backward(self(batch[0]).square().mean())
        if index % 3 == 2:
            for optimizer in (first, second):
                optimizer.step()
                optimizer.zero_grad()


# module, options of the trainer, the optimiser followed, updates of it in 12 batches
LOOPS: dict[str, tuple[type, dict[str, Any], int, int]] = {
    "accumulation": (_Loop, {"accumulate_grad_batches": 3}, 0, 4),
    "LBFGS": (_LBFGS, {}, 0, 12),
    "by hand": (_ByHand, {}, 0, 12),
    "by hand, the second": (_ByHand, {}, 1, 6),
    "by hand and raw": (_Raw, {}, 0, 12),
    "LBFGS by hand and raw": (_RawLBFGS, {}, 0, 12),
    "accumulation by hand": (_Accumulating, {}, 0, 4),
}


class _Naive(pl.Callback):
    """What one would write first: the trainer's step, modulo the interval."""

    def __init__(self, every: int) -> None:
        self.every, self.steps = every, [0]

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.steps.append(trainer.global_step)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("kind", LOOPS)
def test_records_are_of_true_updates_and_of_their_weights(kind, every, tmp_path):
    """Hazard 25: every record holds the weights after as many updates as it says."""
    make, options, followed, updates = LOOPS[kind]
    monitor, memory = fits.monitor(tmp_path, every_n_steps=every, optimizer=followed)
    module, naive = make(), _Naive(3)
    trainer = fits.trainer(monitor, naive, **options)
    trainer.fit(module, fits.loader())
    weights = trainer.optimizers[followed].weights
    assert len(weights) == updates + 1
    records = memory.of("weight_spectrum", "net.3" if followed else "net.0")
    expected = list(range(0, updates + 1, every))
    assert [r.step for r in records] == expected
    for record in records:
        truth = singular_values(weights[record.step])
        np.testing.assert_allclose(record.spectrum, truth, rtol=1e-5)
    if every == 3 and kind != "LBFGS":  # where the trainer's step is the updates
        # the companion: it repeats, runs ahead, or stands still
        assert naive.steps != expected


# --- optimisers of one's own, and compiled ones --------------------------------------------


class _Decaying(_Remembering):
    """A subclass of a subclass: it calls the step of both."""

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.mul_(0.9)
        self.weights[-1] = self.param_groups[0]["params"][0].detach().clone()
        return result


def _decaying(model: torch.nn.Module) -> _Decaying:
    torch.optim.SGD([
        torch.zeros(1)
    ])  # torch wraps the step of a class at its first use
    optimizer = _Decaying(model.parameters(), lr=0.1)
    optimizer.weights = [model[0].weight.detach().clone()]
    return optimizer


def test_a_step_that_calls_that_of_its_base_class_is_one_update():
    """Hazard 25: recorded when the outermost ends, also after one that raised."""
    model, memory = mlp(6, 4, 3), MemorySink()
    optimizer = _decaying(model)
    recorder = svdhooks.watch(
        model, None, every=1, optimizer=optimizer, sinks=[memory], max_overhead=None
    )
    for i in range(5):
        if i == 2:
            with pytest.raises(ZeroDivisionError):
                optimizer.step(lambda: 1 / 0)
        model(fits.X).square().mean().backward()
        optimizer.step()
    assert recorder.steps == 5
    for record in memory.of("weight_spectrum", "0"):
        truth = singular_values(optimizer.weights[record.step])
        np.testing.assert_allclose(record.spectrum, truth, rtol=1e-5)


def test_torch_tells_of_such_a_step_more_than_once():
    """The companion: a plain hook after the step."""
    optimizer, told = _decaying(mlp(6, 4, 3)), []
    optimizer.register_step_post_hook(lambda *_: told.append(1))
    after_each_update(optimizer, lambda: told.append(2))
    optimizer.step()
    assert told.count(1) > 1 == told.count(2)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch")
@pytest.mark.parametrize("whole", [True, False], ids=["a function", "its step"])
def test_a_compiled_update_is_followed_and_not_compiled_again(whole):
    """Hazard 1 and 3, for the optimiser: what we do after its step is not traced."""
    graphs = []

    def backend(graph: Any, _example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def run(watched: bool) -> tuple[torch.nn.Module, int, MemorySink]:
        torch._dynamo.reset()
        torch.manual_seed(3)
        graphs.clear()
        model, memory = mlp(6, 4, 3), MemorySink()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        compiled = functools.partial(torch.compile, backend=backend)
        update = (
            compiled(lambda: optimizer.step()) if whole else compiled(optimizer.step)
        )
        if watched:
            svdhooks.watch(
                model,
                None,
                every=1,
                probe=fits.X,
                optimizer=optimizer,
                sinks=[memory],
                max_overhead=None,
                on_error="raise",
            )
        for _ in range(4):
            model(fits.X).square().mean().backward()
            update()
        return model, len(graphs), memory

    plain, expected, _ = run(watched=False)
    model, found, memory = run(watched=True)
    assert found == expected
    assert all(map(torch.equal, plain.parameters(), model.parameters()))
    assert all(r.ok for r in memory.records)
    assert [r.step for r in memory.of("weight_spectrum", "0")] == [0, 1, 2, 3, 4]
