"""Promise 1: training is not changed; bit for bit, with and without the recorder."""

import copy
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import remove_parametrizations

import svdhooks
from svdhooks.sinks.memory import MemorySink
from tests.models import Everything
from tests.plain import hooks_on

# beartype draws from Python's random stream to choose which items it checks
pytestmark = pytest.mark.usefixtures("as_a_user_calls")

TOKENS = [torch.randint(0, 11, (6, 5)) for _ in range(12)]
LABELS = [torch.randint(0, 3, (6,)) for _ in range(12)]


def _seed() -> None:
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)


def _streams() -> list[Any]:
    return [
        random.random(),
        float(np.random.random()),  # noqa: NPY002
        float(torch.rand(())),
    ]


def _train(watch: Any = None) -> dict[str, Any]:
    """Train; record every loss, gradient, buffer and the state of all streams."""
    _seed()
    model = Everything()
    with torch.no_grad():
        model.embedding.weight.mul_(10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    recorder = watch(model) if watch else None
    trail: list[Any] = []
    for tokens, labels in zip(TOKENS, LABELS, strict=True):
        loss = nn.functional.cross_entropy(model(tokens), labels)
        loss.backward()
        trail.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
        optimizer.step()
        optimizer.zero_grad()
        if recorder:
            recorder.step()
        trail.append([b.clone() for b in model.buffers()])
        trail.append([model.plain_calls, *_streams()])
    if recorder:
        recorder.close()
    return {"trail": trail, "state": model.state_dict(), "model": model}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _check_unchanged(watch: Any) -> None:
    plain, watched = _train(), _train(watch)
    assert _same(plain["trail"], watched["trail"])
    assert _same(dict(plain["state"]), dict(watched["state"]))
    assert hooks_on(watched["model"]) == hooks_on(plain["model"])


@pytest.mark.parametrize("probe", [None, TOKENS[0]], ids=["captured", "given"])
def test_training_is_bit_identical_with_and_without_the_recorder(probe, tmp_path):
    """Hazard 8: losses, gradients, buffers, random streams."""
    memory = MemorySink()

    def watch(model: nn.Module) -> svdhooks.Recorder:
        return svdhooks.watch(
            model,
            tmp_path,
            every=2,
            probe=probe,
            max_overhead=None,
            alarms="ssl",
            sinks=[memory],
            on_error="raise",
        )

    _check_unchanged(watch)
    measured = {(r.layer, r.point) for r in memory.records if r.layer and r.ok}
    assert ("conv", "output") in measured
    assert ("attention.v_proj", "output") in measured
    assert ("spectral", "weight") in measured


def test_training_is_bit_identical_with_jacobians_and_ledger(tmp_path):
    """Hazard 8: derivatives on the side of it leave no gradient, graph or draw behind."""
    memory = MemorySink()

    def watch(model: nn.Module) -> svdhooks.Recorder:
        return svdhooks.watch(
            model,
            tmp_path,
            every=2,
            quantities=[
                svdhooks.JacobianSpectrum(schedule=None, max_samples=3),
                svdhooks.Ledger(),
            ],
            max_overhead=None,
            sinks=[memory],
            on_error="raise",
        )

    _check_unchanged(watch)
    measured = {(r.layer, r.point) for r in memory.records if r.layer and r.ok}
    assert {("conv", "jacobian"), ("head", "jacobian"), ("head", "ledger")} <= measured


@pytest.mark.parametrize("observe", ["probe", "training"])
def test_training_is_bit_identical_with_vectors_moments_and_drift(tmp_path, observe):
    """Hazard 8: what is stored is a copy, and reading biases changes nothing."""
    memory, every = MemorySink(), svdhooks.every(2)

    def watch(model: nn.Module) -> svdhooks.Recorder:
        return svdhooks.watch(
            model,
            tmp_path,
            every=2,
            quantities=[
                svdhooks.WeightVectors(k=None, schedule=every),
                svdhooks.PointMoments(schedule=every),
                svdhooks.SubspaceDrift(k=2),
            ],
            observe=observe,
            max_overhead=None,
            sinks=[memory],
            on_error="raise",
        )

    _check_unchanged(watch)
    measured = {(r.layer, r.point) for r in memory.records if r.layer and r.ok}
    assert {
        ("conv", "input_moments"),
        ("attention.v_proj", "output_moments"),
    } <= measured
    assert {("spectral", "weight"), ("conv", "subspace")} <= measured


def test_a_probe_without_isolation_would_have_changed_it(monkeypatch):
    """The companion: the same probe, unprotected, changes the training."""
    import contextlib

    from svdhooks.conductor import probing

    monkeypatch.setattr(
        probing, "probe_context", lambda model: contextlib.nullcontext()
    )

    def watch(model: nn.Module) -> svdhooks.Recorder:
        return svdhooks.watch(
            model, None, every=2, probe=TOKENS[0], sinks=[MemorySink()]
        )

    assert not _same(_train()["trail"], _train(watch)["trail"])


def test_the_model_copies_and_pickles_at_any_time(tmp_path):
    """Hazard 12: between records and before the first."""
    model = Everything()
    remove_parametrizations(model.spectral, "weight")  # torch cannot pickle those
    recorder = svdhooks.watch(model, tmp_path, every=1, max_overhead=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in range(3):
        twin = copy.deepcopy(model)
        revived = pickle.loads(pickle.dumps(model))
        shallow = copy.copy(model)
        for other in (twin, revived):
            other.train()
            other(TOKENS[1])  # a copy captures nothing
        assert next(iter(recorder._models)).reference.batch is None or step > 0
        assert shallow.state_dict().keys() == model.state_dict().keys()
        model(TOKENS[0]).sum().backward()
        optimizer.step()
        recorder.step()
    torch.testing.assert_close(
        next(iter(recorder._models)).reference.batch.args[0], TOKENS[0]
    )
    recorder.close()
    assert hooks_on(model) == 0


def test_hooks_are_gone_after_an_exception(tmp_path):
    model = Everything()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with svdhooks.watch(model, tmp_path, every=1, optimizer=optimizer):
            assert hooks_on(model) == 1
            assert len(optimizer._optimizer_step_post_hooks) == 1
            raise KeyboardInterrupt
    assert hooks_on(model) == 0
    assert len(optimizer._optimizer_step_post_hooks) == 0
