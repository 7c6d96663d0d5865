"""Alarms while a model trains: said, logged, called, monitored, and able to stop."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn

import svdhooks
from svdhooks import schema
from svdhooks.alarms import AlarmEvent, Alarms, alarms_of
from svdhooks.reports import RecordingWarning
from svdhooks.runlog.tagstore import TagStore
from tests.fits import Fitted, loader, monitor, network, trainer

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))


def train(
    log_dir: Path | None,
    break_at: int,
    steps: int = 8,
    poison: float = float("nan"),
    **options: Any,
) -> tuple[svdhooks.MemorySink, list[bool]]:
    """A plain loop; at one step the weights of the first layer are poisoned."""
    model, sink = network(), svdhooks.MemorySink()
    stops = []
    start = options.get("start_step") or 0
    with svdhooks.watch(
        model, log_dir, every=1, probe=X, max_overhead=None, sinks=[sink], **options
    ) as recorder:
        for step in range(start + 1, start + steps + 1):
            loss = model(X).square().mean()
            if step == break_at:
                with torch.no_grad():
                    model[0].weight[0, 0] = poison
            recorder.step(loss=loss)
            stops.append(recorder.should_stop)
    return sink, stops


def test_an_alarm_is_said_once_logged_and_called(tmp_path: Path) -> None:
    called: list[AlarmEvent] = []
    alarms = Alarms("auto", on_alarm=called.append)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sink, stops = train(tmp_path, break_at=4, alarms=alarms)
    events = [event for event in called if event.alarm == "non_finite"]
    assert events
    assert {event.step for event in events} == {4}
    told = [str(w.message) for w in said if events[0].message in str(w.message)]
    assert len(told) == 1
    log = svdhooks.RunLog(tmp_path)
    assert [e["alarm"] for e in log.alarms()] == [e.alarm for e in called]
    assert sink.alarms() == log.alarms() == [event.as_dict() for event in called]
    assert not any(stops)


def test_alarms_afterwards_equal_those_while_it_ran(tmp_path: Path) -> None:
    with pytest.warns(RecordingWarning):
        sink, _ = train(tmp_path, break_at=4, alarms="auto")
    afterwards = [e.as_dict() for e in alarms_of(svdhooks.RunLog(tmp_path), "auto")]
    assert afterwards == sink.alarms()
    assert afterwards == [e.as_dict() for e in alarms_of(sink, "auto")]
    assert svdhooks.RunLog(tmp_path).alarms("auto") == afterwards


def test_tensorboard_has_text_and_counts(tmp_path: Path) -> None:
    with pytest.warns(RecordingWarning):
        train(tmp_path, break_at=4, alarms="auto")
    store = TagStore(tmp_path / schema.SUBDIRECTORY)
    store.refresh()
    column = store.column(schema.ALARM_TEXT_TAG)
    assert column is not None
    assert column.steps.tolist() == [4]
    log = svdhooks.RunLog(tmp_path)
    raised = log.run_series("alarms_raised")[1]
    assert raised[0] == 0
    assert raised[-1] == len([e for e in log.alarms() if e["severity"] == "alarm"])
    assert np.array_equal(log.scalars("svd_summary/alarms_raised")[1], raised)


def test_nothing_is_logged_of_alarms_without_them(tmp_path: Path) -> None:
    with pytest.warns(RecordingWarning):  # of the weights that are not finite
        sink, _ = train(tmp_path, break_at=4)
    log = svdhooks.RunLog(tmp_path)
    assert log.alarms() == sink.alarms() == []
    assert not [name for name in log.run_metrics if name.startswith("alarms")]


def test_the_loss_is_in_the_log_at_records_only(tmp_path: Path) -> None:
    model = network()
    seen = []

    class Loss:
        """Counts how often it is read."""

        def __float__(self) -> float:
            seen.append(1)
            return 0.5

    with svdhooks.watch(model, tmp_path, every=4, probe=X) as recorder:
        for _ in range(8):
            recorder.step(loss=Loss())
    assert len(seen) == 2
    steps, losses = svdhooks.RunLog(tmp_path).run_series("loss")
    assert steps.tolist() == [4, 8]
    assert losses.tolist() == [0.5, 0.5]


def test_a_loss_that_is_no_number_costs_nothing_else(tmp_path: Path) -> None:
    with (
        pytest.warns(RecordingWarning, match="loss= is not stored"),
        svdhooks.watch(network(), tmp_path, every=1, probe=X) as recorder,
    ):
        assert recorder.step(loss=torch.zeros(2))
    assert svdhooks.RunLog(tmp_path).steps.tolist() == [0, 1]


def test_a_loss_with_a_graph_is_read_without_a_warning(tmp_path: Path) -> None:
    model = network()
    with svdhooks.watch(model, tmp_path, every=1, probe=X) as recorder:
        recorder.step(loss=model(X).square().mean())  # warnings are errors here
    assert np.isfinite(svdhooks.RunLog(tmp_path).run_series("loss")[1]).all()


def test_an_alarm_stops_where_that_was_asked_for() -> None:
    with pytest.warns(RecordingWarning):
        _, stops = train(None, break_at=4, alarms=Alarms("auto", stop=True))
    assert stops == [False] * 3 + [True] * 5


def test_what_on_alarm_raises_does_not_stop_the_training() -> None:
    def fail(event: AlarmEvent) -> None:
        raise RuntimeError("the pager is broken")

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sink, _ = train(None, break_at=4, alarms=Alarms("auto", on_alarm=fail))
    assert len([w for w in said if "the pager is broken" in str(w.message)]) == 1
    assert sink.steps[-1] == 8


def test_a_rule_that_fails_switches_the_alarms_off_and_no_more() -> None:
    class Broken:
        name = "broken"
        severity = "alarm"

        def begin(self) -> "Broken":
            return self

        def observe(self, reading: Any) -> list[AlarmEvent]:
            raise RuntimeError("cannot judge")

    with pytest.warns(
        RecordingWarning, match=r"alarms failed and are off.*cannot judge"
    ):
        sink, _ = train(None, break_at=0, alarms=Alarms([Broken()]))
    assert sink.steps.tolist() == list(range(9))


def test_a_resumed_run_does_not_raise_again_what_it_raised(tmp_path: Path) -> None:
    with pytest.warns(RecordingWarning):
        train(tmp_path, break_at=4, alarms="auto")
    before = svdhooks.RunLog(tmp_path).alarms()
    called: list[AlarmEvent] = []
    alarms = Alarms("auto", on_alarm=called.append, stop=True)
    with pytest.warns(
        RecordingWarning
    ):  # its weights are poisoned from the first step on
        train(tmp_path, break_at=9, start_step=8, steps=4, alarms=alarms)
    log = svdhooks.RunLog(tmp_path)
    assert log.steps[-1] == 12
    known = {(e["alarm"], e["layer"]) for e in before if e["alarm"] == "non_finite"}
    assert known
    # the new model is sound at step 8, so the state has passed before it breaks again
    assert log.alarms()[: len(before)] == before


def test_hparams_are_in_the_log(tmp_path: Path) -> None:
    given = {
        "lr": 0.1,
        "seed": 3,
        "model": {"width": 8, "name": "<b>"},
        "kind": nn.ReLU,
    }
    with svdhooks.watch(network(), tmp_path, every=1, probe=X, hparams=given):
        pass
    told = svdhooks.RunLog(tmp_path).settings["hparams"]
    assert told["lr"] == 0.1
    assert told["model.width"] == 8
    assert told["model.name"] == "<b>"
    assert "ReLU" in told["kind"]


@pytest.mark.usefixtures("as_a_user_calls")
def test_hparams_that_are_no_mapping_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"hparams=; expected a mapping"):
        svdhooks.watch(network(), tmp_path, hparams=["lr"])
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("as_a_user_calls")
def test_an_unknown_preset_is_refused_before_anything_is_touched(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="ssl"):
        svdhooks.watch(network(), tmp_path, alarms="sssl")
    assert not list(tmp_path.iterdir())


# --- Lightning ---------------------------------------------------------------------


class Poisoned(Fitted):
    """Its first layer breaks after some batches."""

    def __init__(self, at: int, **options: Any) -> None:
        super().__init__(**options)
        self.at = at

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        if index == self.at:
            with torch.no_grad():
                self.net[0].weight[0, 0] = float("inf")


def test_lightning_stops_at_an_alarm(tmp_path: Path) -> None:
    watching, memory = monitor(
        tmp_path, alarms=Alarms("auto", stop=True), on_error="warn"
    )
    fit = trainer(watching)
    with pytest.warns(RecordingWarning):
        fit.fit(Poisoned(5), loader())
    assert memory.alarms()
    assert fit.global_step < 12
    assert memory.steps[-1] == memory.alarms()[0]["step"]


def test_early_stopping_follows_the_healthy_steps(tmp_path: Path) -> None:
    watching, _ = monitor(
        tmp_path, alarms="auto", monitor="alarms/healthy_steps", on_error="warn"
    )
    stopping = EarlyStopping("alarms/healthy_steps", mode="max", patience=1)
    fit = trainer(watching, stopping, max_epochs=6)
    with pytest.warns(RecordingWarning):
        fit.fit(_breaking_in_epoch(2), loader())
    assert 3 <= fit.current_epoch < 6


def _breaking_in_epoch(epoch: int) -> Fitted:
    class Breaking(Fitted):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == epoch:
                with torch.no_grad():
                    self.net[0].weight[0, 0] = float("inf")

    return Breaking()


def test_lightning_records_the_loss_and_the_hparams(tmp_path: Path) -> None:
    class Known(Fitted):
        def __init__(self, lr: float = 0.1) -> None:
            super().__init__(lr=lr)
            self.save_hyperparameters()

    watching, memory = monitor(tmp_path)
    module = Known(lr=0.05)
    trainer(watching).fit(module, loader())
    steps, losses = memory.run_series("loss")
    assert steps.tolist() == list(range(1, 13))
    torch.testing.assert_close(
        torch.tensor(losses), torch.stack(module.losses).double()
    )
    assert svdhooks.RunLog(tmp_path).settings["hparams"] == {"lr": 0.05}


def test_monitoring_alarms_without_any_is_refused(tmp_path: Path) -> None:
    watching, _ = monitor(tmp_path, monitor="alarms/open")
    with pytest.raises(ValueError, match=r"there are no alarms.*alarms='auto'"):
        trainer(watching).fit(Fitted(), loader())


def test_an_unknown_value_of_alarms_is_refused(tmp_path: Path) -> None:
    watching, _ = monitor(tmp_path, monitor="alarms/healthy", alarms="auto")
    with pytest.raises(ValueError, match="healthy_steps"):
        trainer(watching).fit(Fitted(), loader())


# --- others ------------------------------------------------------------------------


def test_the_trainer_of_hugging_face_stops_and_tells_its_loss(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import TrainerCallback

    from tests.hugging import Texts, Trainer, arguments, callback, llama, padded

    class Break(TrainerCallback):
        def on_step_begin(
            self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
        ) -> None:
            if state.global_step == 4:
                with torch.no_grad():
                    model.lm_head.weight[0, 0] = float("inf")

    memory = svdhooks.MemorySink()
    stopping = Alarms("auto", stop=True)
    watching = callback(memory, alarms=stopping, every_n_steps=1, on_error="warn")
    options = arguments(tmp_path, logging_strategy="steps", logging_steps=2)
    trainer = Trainer(
        llama(),
        options,
        train_dataset=Texts(),
        data_collator=padded,
        callbacks=[Break(), watching],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        trainer.train()
    assert memory.alarms()[0]["step"] == trainer.state.global_step == 5
    steps, losses = memory.run_series("loss")
    logged = {x["step"]: x["loss"] for x in trainer.state.log_history if "loss" in x}
    # each is told once, at the record after it
    assert steps.tolist() == [step + 1 for step in logged]
    assert losses.tolist() == pytest.approx(list(logged.values()))
    told = svdhooks.RunLog(tmp_path).settings["hparams"]
    assert told["learning_rate"] == options.learning_rate


def test_weights_and_biases_is_alerted() -> None:
    class Run:
        """As a run of Weights & Biases; its package is not needed."""

        def __init__(self) -> None:
            self.alerts: list[dict[str, str]] = []
            self.step = 0

        def log(self, values: Any, commit: bool | None = None) -> None:
            self.step += bool(commit)

        def define_metric(self, name: str, step_metric: str | None = None) -> None:
            """Accepted."""

        def alert(self, title: str, text: str) -> None:
            self.alerts.append({"title": title, "text": text})

    Run.__module__ = "wandb.sdk"
    run, model = Run(), network()
    alarms = Alarms("auto")
    sink = svdhooks.LoggerSink(run, images=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        with svdhooks.watch(
            model, None, every=1, probe=X, alarms=alarms, sinks=[sink]
        ) as recorder:
            with torch.no_grad():
                model[0].weight.fill_(float("nan"))
            recorder.step()
    assert run.alerts
    assert run.alerts[0]["title"] == "svdhooks: non_finite"
