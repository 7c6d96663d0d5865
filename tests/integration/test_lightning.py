"""The callback in real Lightning trainers."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import svdhooks
from svdhooks.lightning import SpectrumMonitor
from svdhooks.reports import RecordingWarning
from svdhooks.sinks.memory import MemorySink
from tests.plain import hooks_on

X = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


class Classifier(pl.LightningModule):
    """A small classifier with dropout, so that random streams matter."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Validated(Classifier):
    """The same with a validation step."""

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))


def _loader(batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=batch_size)


def _trainer(root: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    defaults = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
        "logger": TensorBoardLogger(root, name="", version="run"),
    }
    return pl.Trainer(callbacks=list(callbacks), **(defaults | options))


def _monitor(**options: Any) -> SpectrumMonitor:
    defaults = {"every_n_steps": 4, "max_overhead": None, "on_error": "raise"}
    return SpectrumMonitor(**(defaults | options))


def test_one_line_records_weights_and_covariances(tmp_path):
    monitor = _monitor()
    _trainer(tmp_path, monitor).fit(Classifier(), _loader())
    log = svdhooks.RunLog(tmp_path / "run")
    assert log.steps.tolist() == [0, 4, 8, 12]
    assert log.layers == ("net.0", "net.3")
    assert log.spectra("net.0")[1].shape == (4, 6)
    for point, features in (("input", 6), ("output", 8)):
        steps, eigenvalues = log.covariance_spectra("net.0", point=point)
        assert steps.tolist() == [0, 4, 8, 12]  # the first batch is known at step 0
        assert eigenvalues.shape == (4, features)
    assert monitor.recorder is None


def test_the_probe_is_the_first_training_batch(tmp_path):
    _trainer(tmp_path, _monitor()).fit(Classifier(), _loader())
    _, eigenvalues = svdhooks.RunLog(tmp_path / "run").covariance_spectra(
        "net.0", "input"
    )
    expected = np.linalg.eigvalsh(np.cov(X[:4].double().numpy().T, bias=True))[::-1]
    np.testing.assert_allclose(eigenvalues[-1][:3], expected[:3], rtol=1e-5)


def test_curves_line_up_with_the_loss(tmp_path):
    _trainer(tmp_path, _monitor()).fit(Classifier(), _loader())
    log = svdhooks.RunLog(tmp_path / "run")
    loss_steps, _ = log.scalars("train_loss")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "svdhooks")).Reload()
    ours = [e.step for e in events.Scalars("svd_weight_stable_rank/net.0")]
    # after the update of batch i the logger's x is i, and so is the loss of batch i
    assert ours == [0, 3, 7, 11]
    assert set(ours) <= set(loss_steps.tolist())
    assert np.isfinite(log.align("train_loss")[1:]).all()


def test_training_is_bit_identical_with_and_without_the_callback(tmp_path):
    def fit(*callbacks: pl.Callback) -> dict[str, Tensor]:
        pl.seed_everything(1, verbose=False)
        module = Classifier()
        trainer = _trainer(tmp_path, *callbacks, logger=False, max_epochs=2)
        trainer.fit(module, DataLoader(TensorDataset(X, Y), 4, shuffle=True))
        return module.state_dict() | {"loss": trainer.callback_metrics["train_loss"]}

    plain, watched = fit(), fit(_monitor(every_n_steps=1, log_dir=tmp_path / "w"))
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


def test_accumulated_batches_count_updates(tmp_path):
    """Hazard 25: accumulation."""
    monitor = _monitor(every_n_steps=2)
    trainer = _trainer(tmp_path, monitor, accumulate_grad_batches=3)
    trainer.fit(Classifier(), _loader())
    assert svdhooks.RunLog(tmp_path / "run").steps.tolist() == [0, 2, 4]


class Manual(Classifier):
    """Two optimisers by hand; ``raw`` bypasses Lightning's wrappers."""

    def __init__(self, raw: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.raw = raw

    def training_step(self, batch: list[Tensor], index: int) -> None:
        for optimizer in self.optimizers():
            optimizer = optimizer.optimizer if self.raw else optimizer
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.log("train_loss", loss)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.SGD(self.net[0].parameters(), lr=0.1),
            torch.optim.SGD(self.net[3].parameters(), lr=0.1),
        ]


@pytest.mark.parametrize("raw", [False, True])
def test_several_optimisers_follow_the_first(tmp_path, raw):
    """Hazard 25: several optimisers, also past Lightning's wrappers."""
    _trainer(tmp_path, _monitor(every_n_steps=3)).fit(Manual(raw), _loader())
    assert svdhooks.RunLog(tmp_path / "run").steps.tolist() == [0, 3, 6, 9, 12]


def test_an_optimiser_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="1 optimiser"):
        _trainer(tmp_path, _monitor(optimizer=2)).fit(Classifier(), _loader())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_keeps_what_was_recorded_and_leaves_no_hook(tmp_path, error):
    """Hazard 26: in the middle of a fit."""

    class Fails(Classifier):
        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            if index == 6:
                raise error("stop")
            return super().training_step(batch, index)

    module = Fails()
    trainer = _trainer(tmp_path, _monitor(every_n_steps=2))
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
        trainer.fit(module, _loader())
    assert svdhooks.RunLog(tmp_path / "run").steps.tolist() == [0, 2, 4, 6]
    assert hooks_on(module) == 0
    assert not any(o._optimizer_step_post_hooks for o in trainer.optimizers)


def _resume(tmp_path: Path, epochs: int, checkpoint: Path | None, log: str) -> Path:
    saver = ModelCheckpoint(tmp_path / "checkpoints", filename=f"e{epochs}")
    trainer = _trainer(
        tmp_path,
        _monitor(every_n_steps=5),
        saver,
        max_epochs=epochs,
        enable_checkpointing=True,
        logger=TensorBoardLogger(tmp_path, name="", version=log),
    )
    # our own plain numbers load in the safe way; so does everything else
    trainer.fit(Classifier(), _loader(), ckpt_path=checkpoint)
    return Path(saver.best_model_path)


@pytest.mark.filterwarnings("ignore:.*The dirpath has changed.*")
@pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*exists.*")
def test_resuming_three_times_leaves_no_gap_and_no_duplicate(tmp_path):
    checkpoint = None
    for epochs in (1, 2, 3):
        checkpoint = _resume(tmp_path, epochs, checkpoint, "run")
    log = svdhooks.RunLog(tmp_path / "run")
    assert log.steps.tolist() == list(range(0, 37, 5))
    assert log.damage["bad"] == 0
    # one reference batch for all three
    _, first = log.covariance_spectra("net.0", "input")
    np.testing.assert_array_equal(first[0], first[-1])


@pytest.mark.filterwarnings("ignore:.*The dirpath has changed.*")
@pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*exists.*")
def test_resuming_into_a_new_directory_continues_the_steps(tmp_path):
    checkpoint = _resume(tmp_path, 1, None, "first")
    _resume(tmp_path, 2, checkpoint, "second")
    assert svdhooks.RunLog(tmp_path / "second").steps.tolist() == [15, 20]


def test_a_used_directory_is_refused_before_training(tmp_path):
    _trainer(tmp_path, _monitor()).fit(Classifier(), _loader())
    # in words that fit somebody with a trainer, who has no start_step to give
    with pytest.raises(FileExistsError, match=r"ckpt_path=.*log_dir=") as refused:
        _trainer(tmp_path, _monitor()).fit(Classifier(), _loader())
    assert "start_step" not in str(refused.value)


def test_two_monitors_do_not_write_one_log(tmp_path):
    monitors = [_monitor(), _monitor(every_n_steps=6)]
    with pytest.raises(ValueError, match=r"Two SpectrumMonitors.*log_dir="):
        _trainer(tmp_path, *monitors).fit(Classifier(), _loader())


def test_a_directory_that_is_not_local_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="local file system"):
        _trainer(tmp_path, _monitor(log_dir="s3://bucket/run")).fit(
            Classifier(), _loader()
        )
    assert not (tmp_path / "s3:").exists()


def test_fitting_again_goes_on_where_the_first_fit_ended(tmp_path):
    trainer = _trainer(tmp_path, _monitor())
    module = Classifier()
    trainer.fit(module, _loader())
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, _loader())
    assert svdhooks.RunLog(tmp_path / "run").steps.tolist() == list(range(0, 25, 4))


@pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*exists.*")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`.*")
def test_a_checkpoint_without_the_callback_counts_from_the_trainers_step(tmp_path):
    saver = ModelCheckpoint(tmp_path / "checkpoints")
    _trainer(tmp_path, saver, enable_checkpointing=True, logger=False).fit(
        Classifier(), _loader()
    )
    monitor = _monitor(log_dir=tmp_path / "first")
    # it has counted another fit, of 24 updates, before
    _trainer(tmp_path, monitor, max_epochs=2, logger=False).fit(Classifier(), _loader())
    monitor._log_dir = str(tmp_path / "second")
    _trainer(tmp_path, monitor, max_epochs=2, logger=False).fit(
        Classifier(), _loader(), ckpt_path=saver.best_model_path
    )
    assert svdhooks.RunLog(tmp_path / "second").steps.tolist() == [12, 16, 20, 24]


def test_a_failed_measure_does_not_stop_a_training_that_monitors_it(tmp_path):
    """Hazard 27: NaN, which a stopping rule checks."""

    class Broken(Classifier):
        """One weight that takes no part in the loss turns NaN."""

        def __init__(self) -> None:
            super().__init__()
            self.aside = nn.Linear(6, 3)

        def on_train_batch_start(self, batch: list[Tensor], index: int) -> None:
            if self.global_step == 2:
                self.aside.weight.data[0, 0] = float("nan")

    name = "weight_stable_rank/aside"
    monitor = _monitor(monitor=name, on_error="warn")
    stopping = EarlyStopping(name, mode="max", patience=100, check_finite=True)
    trainer = _trainer(tmp_path, monitor, stopping, max_epochs=3)
    with pytest.warns(RecordingWarning, match="aside"):
        trainer.fit(Broken(), _loader())
    assert trainer.current_epoch == 3


def test_monitored_measures_are_found_by_early_stopping_and_checkpoints(tmp_path):
    """Hazard 31: at the first check, strictly."""
    name = "output_effective_rank/net.0"
    monitor = _monitor(monitor=[name, "weight_stable_rank/median"])
    stopping = EarlyStopping(name, mode="min", patience=100, strict=True)
    saver = ModelCheckpoint(
        tmp_path / "best", monitor="weight_stable_rank/median", filename="best"
    )
    trainer = _trainer(
        tmp_path, monitor, stopping, saver, max_epochs=3, enable_checkpointing=True
    )
    trainer.fit(Validated(), _loader(), _loader())
    log = svdhooks.RunLog(tmp_path / "run")
    recorded = log.series("net.0", "output_effective_rank")[1][-1]
    assert float(stopping.best_score) > 0
    torch.testing.assert_close(
        float(trainer.callback_metrics[name]), float(recorded), rtol=1e-6, atol=0
    )
    assert Path(saver.best_model_path).exists()


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("weight_stabel_rank/net.0", "weight_stable_rank"),
        ("weight_stable_rank/net.1", "net.0"),
        ("weight_stable_rank", "median"),
        ("weight_stable_rank/net.0 ", "net.0"),
    ],
)
def test_a_misspelt_monitor_is_refused_with_a_hint(tmp_path, wrong, hint):
    with pytest.raises(ValueError, match=hint):
        _trainer(tmp_path, _monitor(monitor=[wrong])).fit(Classifier(), _loader())


def test_without_a_logger_the_log_goes_to_the_root_directory(tmp_path):
    trainer = _trainer(tmp_path, _monitor(), logger=False, default_root_dir=tmp_path)
    trainer.fit(Classifier(), _loader())
    assert len(svdhooks.RunLog(tmp_path).steps) == 4


def test_beside_a_csv_logger_the_log_lies_in_its_directory(tmp_path):
    logger = CSVLogger(tmp_path, name="csv", version=0)
    _trainer(tmp_path, _monitor(), logger=logger).fit(Classifier(), _loader())
    assert len(svdhooks.RunLog(logger.log_dir).steps) == 4


def test_a_fast_dev_run_writes_nothing_and_still_measures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    memory = MemorySink()
    trainer = _trainer(
        tmp_path, _monitor(sinks=[memory]), fast_dev_run=True, logger=None
    )
    trainer.fit(Classifier(), _loader())
    assert any(r.point == "output" for r in memory.records)
    assert not list(tmp_path.rglob("events.out*"))


class NoForward(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 2)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_module_without_forward_records_weights_and_says_why(tmp_path):
    monitor = _monitor(on_error="warn")
    with pytest.warns(RecordingWarning, match=r"defines no forward\(\).*forward="):
        _trainer(tmp_path, monitor).fit(NoForward(), _loader())
    log = svdhooks.RunLog(tmp_path / "run")
    assert len(log.spectra("net")[0]) == 4


def test_forward_serves_a_module_without_one(tmp_path):
    monitor = _monitor(forward=lambda module, batch: module.net(batch[0]))
    _trainer(tmp_path, monitor).fit(NoForward(), _loader())
    log = svdhooks.RunLog(tmp_path / "run")
    assert log.covariance_spectra("net", "output")[0].tolist() == [0, 4, 8, 12]


def test_two_monitors_live_in_one_trainer_and_its_checkpoint(tmp_path):
    """Hazard 28: each with its own state."""
    monitors = [
        _monitor(log_dir=tmp_path / "a"),
        _monitor(log_dir=tmp_path / "b", layers="net.3", every_n_steps=6),
    ]
    saver = ModelCheckpoint(tmp_path / "checkpoints")
    trainer = _trainer(tmp_path, *monitors, saver, enable_checkpointing=True)
    trainer.fit(Classifier(), _loader())
    assert svdhooks.RunLog(tmp_path / "a").steps.tolist() == [0, 4, 8, 12]
    assert svdhooks.RunLog(tmp_path / "b").layers == ("net.3",)
    state = torch.load(saver.best_model_path, weights_only=True)
    counts = [v["step"] for k, v in state["callbacks"].items() if "Spectrum" in k]
    assert counts == [12, 12]


def test_validation_and_sanity_checks_record_nothing(tmp_path):
    trainer = _trainer(tmp_path, _monitor(), num_sanity_val_steps=2)
    trainer.fit(Validated(), _loader(), _loader())
    assert svdhooks.RunLog(tmp_path / "run").steps.tolist() == [0, 4, 8, 12]


def test_a_wrong_argument_is_told_when_the_callback_is_made():
    with pytest.raises(ValueError, match="Unknown quantity"):
        SpectrumMonitor(quantities="spectrum")
    with pytest.raises(ValueError, match="give one"):
        SpectrumMonitor(10, schedule=svdhooks.every(3))


_PROGRAM = """
import importlib, sys, warnings
warnings.simplefilter("ignore")
first, second = sys.argv[1].split(",")
import torch
importlib.import_module(first)
from svdhooks.lightning import SpectrumMonitor
pl = importlib.import_module(second)
class M(pl.LightningModule):
    def __init__(self):
        super().__init__(); self.net = torch.nn.Linear(3, 3)
    def forward(self, x): return self.net(x)
    def training_step(self, batch, i): return self(batch[0]).pow(2).mean()
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 0.1)
data = torch.utils.data.TensorDataset(torch.randn(8, 3))
monitor = SpectrumMonitor(every_n_steps=2, log_dir=sys.argv[2], on_error="raise")
assert isinstance(monitor, importlib.import_module(first).Callback)
pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
           enable_checkpointing=False, callbacks=[monitor]).fit(
    M(), torch.utils.data.DataLoader(data, batch_size=2))
import svdhooks
assert svdhooks.RunLog(sys.argv[2]).steps.tolist() == [0, 2, 4]
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", ["lightning.pytorch", "pytorch_lightning"])
@pytest.mark.parametrize("second", ["lightning.pytorch", "pytorch_lightning"])
def test_either_import_root_works_with_either_trainer(tmp_path, first, second):
    """Hazard 29: each root, imported in either order."""
    command = [sys.executable, "-c", _PROGRAM, f"{first},{second}", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def _no_lightning_logs() -> Iterator[None]:
    import logging

    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)
