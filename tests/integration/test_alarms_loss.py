"""The loss that alarms read is that of the training, however the training is told of."""

import gc
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import svdhooks
from svdhooks.alarms import AlarmEvent, Alarms, Reading, Watcher
from svdhooks.reports import RecordingWarning
from tests.fits import Fitted, loader, monitor, network, trainer

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))


def _updates(model: nn.Module, count: int) -> Any:
    """An optimiser, and losses after each of its updates."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def losses() -> Any:
        for _ in range(count):
            loss = model(X).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss

    return optimizer, losses()


def test_a_loss_told_beside_a_followed_optimizer_is_in_the_next_record() -> None:
    model, sink = network(), svdhooks.MemorySink()
    optimizer, losses = _updates(model, 12)
    told = {}
    with svdhooks.watch(
        model, None, every=3, probe=X, optimizer=optimizer, sinks=[sink]
    ) as recorder:
        for number, loss in enumerate(losses, 1):
            told[number] = loss.item()
            assert recorder.step(loss=loss) is False  # the update was recorded already
    steps, values = sink.run_series("loss")
    assert steps.tolist() == [3, 6, 9, 12]
    assert values.tolist() == pytest.approx([told[step - 1] for step in steps.tolist()])


def test_a_loss_is_told_once(tmp_path: Path) -> None:
    model, sink = network(), svdhooks.MemorySink()
    optimizer, losses = _updates(model, 12)
    with svdhooks.watch(
        model, None, every=3, probe=X, optimizer=optimizer, sinks=[sink]
    ) as recorder:
        for number, loss in enumerate(losses, 1):
            if number == 4:
                recorder.step(loss=loss)
    assert sink.run_series("loss")[0].tolist() == [6]


def test_a_loss_that_is_kept_keeps_no_activations() -> None:
    model = network()
    optimizer, losses = _updates(model, 1)
    with svdhooks.watch(
        model,
        None,
        every=100,
        probe=X,
        optimizer=optimizer,
        sinks=[svdhooks.MemorySink()],
    ) as recorder:
        next(losses)
        kept = torch.ones(3, requires_grad=True)
        graph = kept * 2
        gone = weakref.ref(graph)
        recorder.step(loss=(graph * graph).sum())
        del graph
        gc.collect()
        assert gone() is None


def test_a_resumed_run_reads_no_loss_that_the_run_itself_did_not_have(
    tmp_path: Path,
) -> None:
    def train(start: int | None) -> None:
        with (
            SummaryWriter(str(tmp_path)) as others,
            svdhooks.watch(
                network(), tmp_path, every=1, probe=X, start_step=start, alarms="auto"
            ) as recorder,
        ):
            for step in range((start or 0) + 1, (start or 0) + 13):
                others.add_scalar("train_loss", float(step > 9), step)
                recorder.step()

    train(None)
    events = svdhooks.RunLog(tmp_path)
    assert "train_loss" in events.scalar_tags  # with which it would go up at step 9
    seen: list[float | None] = []
    with pytest.MonkeyPatch.context() as patch:
        observe = Watcher.observe

        def look(watcher: Watcher, reading: Reading) -> tuple[AlarmEvent, ...]:
            seen.append(reading.loss)
            return observe(watcher, reading)

        patch.setattr(Watcher, "observe", look)
        train(12)
    assert len(seen) > 12
    assert set(seen) == {None}


class _Failing:
    """A rule of a user's that fails at the fourth record."""

    name = "failing"
    severity = "alarm"

    def begin(self) -> "_Failing":
        self.records = 0
        return self

    def observe(self, reading: Any) -> list[Any]:
        self.records += 1
        if self.records == 4:
            raise RuntimeError("cannot judge")
        return []


def test_rules_that_fail_take_no_metric_from_early_stopping(tmp_path: Path) -> None:
    watching, _ = monitor(
        tmp_path,
        alarms=[_Failing()],
        monitor="alarms/healthy_steps",
        on_error="warn",
    )
    stopping = EarlyStopping("alarms/healthy_steps", mode="max", patience=1)
    fit = trainer(watching, stopping, max_epochs=4)
    with pytest.warns(RecordingWarning, match="alarms failed and are off"):
        fit.fit(Fitted(), loader())
    assert fit.current_epoch == 4
    assert fit.callback_metrics["alarms/healthy_steps"] == 48


def test_lightning_tells_the_loss_of_a_batch_not_its_share_of_an_update(
    tmp_path: Path,
) -> None:
    watching, memory = monitor(tmp_path)
    module = Fitted()
    trainer(watching, accumulate_grad_batches=3).fit(module, loader())
    steps, values = memory.run_series("loss")
    assert steps.tolist() == [1, 2, 3, 4]
    expected = torch.stack(module.losses)[2::3].double()
    torch.testing.assert_close(torch.tensor(values), expected)


def test_what_a_step_by_hand_returns_is_no_loss_if_it_is_no_number(
    tmp_path: Path,
) -> None:
    class ByHand(Fitted):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, index: int) -> Any:
            optimizer: Any = self.optimizers()
            each = self.net(batch[0]).square().mean(1)
            optimizer.zero_grad()
            self.manual_backward(each.mean())
            optimizer.step()
            return each.detach()

    watching, memory = monitor(tmp_path)
    trainer(watching).fit(ByHand(), loader())  # warnings are errors here
    assert "loss" not in memory.run_metrics


class _Breaking(Fitted):
    """A weight becomes infinite at the second batch; steps take their time."""

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        time.sleep(0.05)  # what is solved beside the training is ready by the next
        if index == 1:
            with torch.no_grad():
                next(self.net.parameters())[0, 0] = float("inf")


def test_an_alarm_of_a_record_that_comes_late_stops_lightning_before_the_next(
    tmp_path: Path,
) -> None:
    watching, memory = monitor(
        tmp_path,
        every_n_steps=5,
        alarms=Alarms("auto", stop=True),
        on_error="warn",
        probe_options=svdhooks.ProbeOptions(compute="thread"),
    )
    fit = trainer(watching)
    with pytest.warns(RecordingWarning):
        fit.fit(_Breaking(), loader())
    assert memory.alarms()[0]["step"] == 5
    assert 5 < fit.global_step < 10
