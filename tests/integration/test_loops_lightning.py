"""From fit to fit, and what Lightning does to callbacks."""

import pickle
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import Tensor

import svdhooks
from svdhooks.eventfile.writer import event_files
from svdhooks.layers import Layer
from svdhooks.record import Record
from svdhooks.reports import RecordingWarning
from svdhooks.schema import SUBDIRECTORY
from tests import fits

# --- from fit to fit --------------------------------------------------------------------


def _saved(directory: Path, module: fits.Fitted, *monitors: Any) -> Path:
    trainer = fits.trainer(*monitors)
    trainer.fit(module, fits.loader())
    path = directory / "end.ckpt"
    trainer.save_checkpoint(path)
    return path


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`.*")
def test_validating_a_checkpoint_does_not_make_the_next_fit_a_resumed_one(tmp_path):
    """Hazard 25: a trainer restores its callbacks for whatever it loads."""
    path = _saved(tmp_path, fits.Fitted(), fits.monitor(tmp_path / "first")[0])
    monitor, memory = fits.monitor(tmp_path / "second")

    class Validated(fits.Fitted):
        def validation_step(self, batch: list[Tensor], index: int) -> None:
            pass

    trainer, module = fits.trainer(monitor), Validated()
    trainer.validate(module, fits.loader(), ckpt_path=path, verbose=False)
    assert monitor._count == 12  # the companion: the number was taken over
    trainer.fit(module, fits.loader(), fits.loader())
    steps = [r.step for r in memory.of("weight_spectrum", "net.0")]
    assert steps == list(range(13))


def test_two_monitors_are_resumed_each_with_its_own_count(tmp_path):
    """Hazard 28: of two optimisers, one of which makes half of the updates."""

    def monitors() -> list[Any]:
        return [
            fits.monitor(tmp_path / name, optimizer=i, every_n_steps=2 + i)[0]
            for i, name in enumerate("ab")
        ]

    path = _saved(tmp_path, fits.ByHand(), *monitors())
    state = torch.load(path, weights_only=True)["callbacks"]
    counts = [v["step"] for k, v in state.items() if "SpectrumMonitor" in k]
    assert counts == [12, 6]
    fits.trainer(*monitors(), max_epochs=2).fit(
        fits.ByHand(), fits.loader(), ckpt_path=path
    )
    assert svdhooks.RunLog(tmp_path / "a").steps.tolist() == list(range(0, 25, 2))
    assert svdhooks.RunLog(tmp_path / "b").steps.tolist() == list(range(0, 13, 3))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`.*")
def test_a_resumed_fit_counts_on_whatever_the_options_are_now(tmp_path):
    """Hazard 25: raw steps, which the trainer does not count; another interval."""
    path = _saved(tmp_path, fits.ByHand(raw=True), fits.monitor(tmp_path / "a")[0])
    # the companion: there is no other number to go by
    assert torch.load(path, weights_only=True)["global_step"] == 0
    for i, steps in ((0, [12, 15, 18, 21, 24]), (1, [0, 3, 6])):
        monitor, memory = fits.monitor(tmp_path / f"b{i}", every_n_steps=3, optimizer=i)
        trainer = fits.trainer(monitor, max_epochs=2)
        trainer.fit(fits.ByHand(raw=True), fits.loader(), ckpt_path=path)
        # nobody has counted the second optimiser before
        assert [r.step for r in memory.of("weight_spectrum", "net.0")] == steps


def test_two_callbacks_of_one_key_cannot_be_saved():
    """The companion: what Lightning does with two that keep a state."""

    class Naive(pl.Callback):
        def state_dict(self) -> dict[str, int]:
            return {"step": 1}

    with pytest.raises(RuntimeError, match="more than one stateful callback"):
        fits.trainer(Naive(), Naive())


def test_steps_never_go_back_in_the_file(tmp_path):
    """Hazard 35: per tag, as they are written one after the other."""
    monitor, _ = fits.monitor(tmp_path, every_n_steps=2)
    fits.trainer(monitor, accumulate_grad_batches=2, max_epochs=3).fit(
        fits.Fitted(), fits.loader()
    )
    (path,) = event_files(tmp_path / SUBDIRECTORY)
    steps: dict[str, list[int]] = {}
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            steps.setdefault(value.tag, []).append(event.step)
    per_record = [s for s in steps.values() if len(s) > 1]
    assert len(per_record) > 4
    for several in per_record:
        assert several == sorted(set(several))


# --- what Lightning does to callbacks ---------------------------------------------------


def test_a_copy_made_in_a_fit_records_nothing(tmp_path):
    """Hazard 12: as with a trainer that is spawned, or copied to be tuned."""
    monitor, _ = fits.monitor(tmp_path / "one")
    copies = []

    class Copies(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            copies.extend([deepcopy(monitor), pickle.loads(pickle.dumps(monitor))])

    fits.trainer(monitor, Copies()).fit(fits.Fitted(), fits.loader())
    assert all(copy.recorder is None for copy in copies)
    copies[-1]._log_dir = str(tmp_path / "two")
    fits.trainer(copies[-1]).fit(fits.Fitted(), fits.loader())
    assert svdhooks.RunLog(tmp_path / "two").steps.tolist() == list(range(13))


class _Failing:
    """A user's weight quantity that always fails."""

    schedule, name = None, "mine"

    def measure(self, layer: Layer, step: int) -> Record:
        raise ZeroDivisionError("always")

    def failed(self, layer: Layer, step: int, status: str) -> Record:
        return Record(step, layer.name, self.name, {}, status=status)


def test_a_measure_that_always_fails_stops_no_fit(tmp_path):
    """Hazard 27: said once per layer; everything else is recorded."""
    quantities = ["weight_spectrum", _Failing()]
    monitor, memory = fits.monitor(tmp_path, quantities=quantities, on_error="warn")
    trainer = fits.trainer(monitor)
    with pytest.warns(RecordingWarning, match="always") as told:
        trainer.fit(fits.Fitted(), fits.loader())
    assert sum(issubclass(w.category, RecordingWarning) for w in told) == 2
    assert trainer.global_step == 12
    assert {r.ok for r in memory.of("mine")} == {False}
    assert sum(r.ok for r in memory.of("weight_spectrum")) == 2 * 13


def test_an_error_in_a_callback_ends_the_fit():
    """The companion."""

    class Naive(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise ZeroDivisionError("always")

    trainer = fits.trainer(Naive())
    with pytest.raises(ZeroDivisionError):
        trainer.fit(fits.Fitted(), fits.loader())
    assert trainer.global_step == 1


def test_a_bare_object_is_no_callback():
    """The companion of the two import roots: methods that a base class has are called."""

    class Bare:
        def on_train_batch_end(self, *_: Any) -> None:
            pass

    with pytest.raises(AttributeError):
        fits.trainer(Bare()).fit(fits.Fitted(), fits.loader())


NAME = "weight_stable_rank/net.0"


@pytest.mark.parametrize("monitored", [(), (NAME,)])
def test_only_what_is_monitored_goes_through_lightnings_log(monitored, tmp_path):
    """Hazard 30: 400 values cost 126 ms there and 18 ms in an event file."""
    logged = []

    class Listening(fits.Fitted):
        def log(self, name: str, *args: Any, **kwargs: Any) -> None:
            logged.append(name)
            super().log(name, *args, **kwargs)

    monitor, memory = fits.monitor(tmp_path, every_n_steps=4, monitor=monitored)
    trainer = fits.trainer(monitor)
    trainer.fit(Listening(), fits.loader())
    assert logged == list(monitored) * 4
    assert set(trainer.callback_metrics) == set(monitored)
    # the companion: what there would be to log
    assert sum(len(r.values) for r in memory.records if r.step == 4) > 50


@pytest.mark.parametrize("early", [True, False])
def test_what_is_monitored_is_there_at_the_first_check(early, tmp_path):
    """Hazard 31: because step 0 is recorded; without that a strict rule would raise."""
    options = {} if early else {"schedule": svdhooks.at(100), "every_n_steps": None}
    monitor, _ = fits.monitor(tmp_path, monitor=NAME, **options)
    stopping = EarlyStopping(NAME, mode="max", patience=9, strict=True)
    trainer = fits.trainer(monitor, stopping)
    if early:
        trainer.fit(fits.Fitted(), fits.loader())
        assert float(stopping.best_score) > 0
    else:
        with pytest.raises(RuntimeError, match="not available"):
            trainer.fit(fits.Fitted(), fits.loader())


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("logging.Logger.info", lambda *_args, **_kwargs: None)
        yield
