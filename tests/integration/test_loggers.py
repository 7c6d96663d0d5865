"""Loggers of real Lightning trainers, beside the run log."""

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import svdhooks
from svdhooks.lightning import SpectrumMonitor
from svdhooks.reports import RecordingWarning
from tests.wandb_files import offline_history

X = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(
    root: Path,
    loggers: Any,
    per_layer: bool = False,
    model: type[Classifier] = Classifier,
) -> svdhooks.RunLog:
    """Train 12 steps with a record every 4, and read the run log."""
    monitor = SpectrumMonitor(
        every_n_steps=4,
        max_overhead=None,
        log_dir=root / "run",
        log_per_layer=per_layer,
    )
    pl.Trainer(
        callbacks=[monitor],
        logger=loggers,
        max_epochs=1,
        accelerator="cpu",
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    ).fit(model(), DataLoader(TensorDataset(X, Y), batch_size=4))
    return svdhooks.RunLog(root / "run")


def _median(log: svdhooks.RunLog, metric: str) -> list[float]:
    """The median over layers at each record, from the run log."""
    return np.median([log.series(la, metric)[1] for la in log.layers], axis=0).tolist()


MEDIAN = "svdhooks/output_effective_rank/median"


def _rows(logger: CSVLogger) -> list[dict[str, str]]:
    text = (Path(logger.log_dir) / "metrics.csv").read_text()
    return [row for row in csv.DictReader(text.splitlines()) if row[MEDIAN]]


@pytest.mark.parametrize("per_layer", [False, True])
def test_a_csv_file_has_the_run_logs_numbers_at_the_losses_steps(tmp_path, per_layer):
    logger = CSVLogger(tmp_path)
    log = _fit(tmp_path, logger, per_layer)
    rows = _rows(logger)
    assert [int(row["step"]) for row in rows] == [0, 3, 7, 11]
    medians = [float(row[MEDIAN]) for row in rows]
    np.testing.assert_allclose(
        medians, _median(log, "output_effective_rank"), rtol=1e-6
    )
    one = "svdhooks_layers/weight_spectral_norm/net.2"
    assert (one in rows[0]) == per_layer
    if per_layer:
        _, expected = log.series("net.2", "weight_spectral_norm")
        np.testing.assert_allclose(
            [float(row[one]) for row in rows], expected, rtol=1e-6
        )


def test_a_csv_file_is_there_before_lightning_would_write_it(tmp_path):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=10**6)
    seen: list[bool] = []

    class Looks(Classifier):
        def on_train_batch_end(self, *args: Any) -> None:
            seen.append((Path(logger.log_dir) / "metrics.csv").exists())

    _fit(tmp_path, logger, model=Looks)
    assert len(seen) == 12
    assert all(seen)


def test_the_event_file_of_a_tensorboard_logger_gets_nothing_twice(tmp_path):
    board = TensorBoardLogger(tmp_path, name="", version="board")
    log = _fit(tmp_path, [board, CSVLogger(tmp_path)])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = EventAccumulator(board.log_dir).Reload().Tags()["scalars"]
    assert "train_loss" in tags
    assert not [tag for tag in tags if tag.startswith("sv")]
    assert len(log.steps) == 4


def test_without_a_logger_there_is_only_the_run_log(tmp_path):
    assert _fit(tmp_path, False).steps.tolist() == [0, 4, 8, 12]


class Unreachable(Logger):
    """A server that is away when svdhooks talks to it."""

    name = version = "unreachable"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if MEDIAN in metrics:
            raise ConnectionError("no route to host")

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def test_a_logger_that_is_away_costs_one_warning_and_nobody_else_a_value(tmp_path):
    logger = CSVLogger(tmp_path)
    with pytest.warns(RecordingWarning, match="1 of 2 loggers failed: Unreach") as told:
        log = _fit(tmp_path, [Unreachable(), logger])
    assert len([w for w in told if w.category is RecordingWarning]) == 1
    assert len(_rows(logger)) == len(log.steps) == 4


@pytest.mark.slow
def test_weights_and_biases_offline_has_one_row_per_record(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_SILENT", "1")
    logger = WandbLogger(project="svdhooks", save_dir=tmp_path, offline=True)
    csv_logger = CSVLogger(tmp_path)
    log = _fit(tmp_path, [logger, csv_logger])
    logger.experiment.finish()
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows = [row for row in offline_history(path) if MEDIAN in row]
    assert [int(row["trainer/global_step"]) for row in rows] == [0, 3, 7, 11]
    medians = [float(row[MEDIAN]) for row in rows]
    np.testing.assert_allclose(
        medians, _median(log, "output_effective_rank"), rtol=1e-6
    )
    pictures = [row["svdhooks/weight_stable_rank/map/path"].strip('"') for row in rows]
    assert all((path.parent / "files" / p).stat().st_size for p in pictures)
    assert len(_rows(csv_logger)) == 4
