"""Plain loops with Hugging Face's Accelerate: `watch` needs nothing of its own for it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import svdhooks
from svdhooks.sinks.memory import MemorySink
from tests.hugging import assert_same_logs, assert_same_records
from tests.models import mlp
from tests.plain import hooks_on

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


@pytest.fixture(autouse=True)
def _fresh_state() -> Any:
    """Accelerate remembers the precision of the first accelerator of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def _model() -> nn.Sequential:
    torch.manual_seed(3)
    return mlp(6, 8, 2)


def _prepared(**options: Any) -> tuple[Any, Any, Any, Any]:
    accelerator = Accelerator(cpu=True, **options)
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    return accelerator, *accelerator.prepare(model, optimizer, loader)


def _watch(model: Any, sink: MemorySink, **options: Any) -> svdhooks.Recorder:
    defaults = {"every": 1, "max_overhead": None, "on_error": "raise", "probe": X}
    return svdhooks.watch(model, None, sinks=[sink], **(defaults | options))


def _steps(sink: MemorySink) -> list[int]:
    return [record.step for record in sink.of("weight_spectrum", "0")]


def _loss(model: Any, batch: list[Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_accumulated_batches_are_one_update():
    """Hazard 25: `accumulate` calls `step` of the wrapper for every batch."""
    accelerator, model, optimizer, loader = _prepared(gradient_accumulation_steps=3)
    sink, calls = MemorySink(), 0
    with _watch(model, sink, optimizer=optimizer):
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(_loss(model, batch))
                optimizer.step()
                calls += 1  # the companion: what counts calls counts these
                optimizer.zero_grad()
    assert calls == 8
    assert _steps(sink) == [0, 1, 2, 3]  # 3 + 3 + the last 2


def test_the_records_are_those_of_a_loop_without_it():
    ours, theirs = MemorySink(), MemorySink()
    accelerator, model, optimizer, loader = _prepared()
    with _watch(model, ours, optimizer=optimizer):
        for batch in loader:
            accelerator.backward(_loss(model, batch))
            optimizer.step()
            optimizer.zero_grad()
    plain = _model()
    plain_optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    with _watch(plain, theirs, optimizer=plain_optimizer):
        for batch in DataLoader(TensorDataset(X, Y), batch_size=4):
            _loss(plain, batch).backward()
            plain_optimizer.step()
            plain_optimizer.zero_grad()
    assert_same_records(ours, theirs)


def test_mixed_precision_is_left_to_the_training():
    """Hazard 6: Accelerate puts autocast into the model's forward."""
    ours, theirs = MemorySink(), MemorySink()
    accelerator, model, optimizer, loader = _prepared(mixed_precision="bf16")
    seen: list[torch.dtype] = []
    with _watch(model, ours, optimizer=optimizer, schedule=svdhooks.at(0), every=None):
        pass
    with _watch(_model(), theirs, schedule=svdhooks.at(0), every=None):
        pass
    assert_same_records(ours, theirs)
    # the companion: a hook in the training's forward sees bfloat16
    model[0].register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    accelerator.backward(_loss(model, next(iter(loader))))
    optimizer.step()
    assert seen == [torch.bfloat16]


def test_training_in_mixed_precision_is_not_changed():
    def run(watched: bool) -> list[Tensor]:
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator, model, optimizer, loader = _prepared(mixed_precision="bf16")
        forward = model.forward
        if watched:
            recorder = _watch(model, MemorySink(), optimizer=optimizer)
        losses = []
        for batch in loader:
            loss = _loss(model, batch)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        if watched:
            recorder.close()
        assert model.forward == forward
        assert hooks_on(model) == 0
        return [*losses, *accelerator.unwrap_model(model).state_dict().values()]

    for found, expected in zip(run(True), run(False), strict=True):
        assert torch.equal(found, expected)


def test_names_are_those_of_the_model_inside():
    accelerator, model, _, _ = _prepared(mixed_precision="bf16")
    with _watch(model, MemorySink()) as recorder:
        names = [layer.name for layer in recorder.layers]
    inside = accelerator.unwrap_model(model)
    assert names == ["0", "2"]
    assert all(name in dict(inside.named_modules()) for name in names)


def _part(directory: Path, until: int, save_at: int | None = None) -> None:
    """One process's part of a run, with Accelerate's own checkpoints."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator, model, optimizer, loader = _prepared()
    saved, begin = directory / "saved", None
    if saved.exists():
        accelerator.load_state(saved)
        begin = int((saved / "step.txt").read_text())
    recorder = svdhooks.watch(
        model,
        directory / "run",
        every=3,
        optimizer=optimizer,
        start_step=begin,
        max_overhead=None,
        on_error="raise",
    )
    batches = list(loader)
    for step in range((begin or 0) + 1, until + 1):
        accelerator.backward(_loss(model, batches[step % len(batches)]))
        optimizer.step()
        optimizer.zero_grad()
        if step == save_at:
            accelerator.save_state(saved)
            (saved / "step.txt").write_text(str(recorder.steps))
    # and never closed: a crash closes nothing


def test_three_restarts_read_as_one_run(tmp_path):
    for until, save_at in ((7, 5), (13, 11), (19, 17), (24, None)):
        _part(tmp_path / "resumed", until, save_at)
    _part(tmp_path / "whole", 24)
    log = svdhooks.RunLog(tmp_path / "resumed" / "run")
    assert log.steps.tolist() == list(range(0, 25, 3))
    assert_same_logs(log, svdhooks.RunLog(tmp_path / "whole" / "run"))
