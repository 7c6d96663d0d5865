"""Lightning's strategies and Fabric in several processes."""

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric import Fabric
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import svdhooks
from tests.distributed.harness import Ranks
from tests.distributed.test_ddp import check_same
from tests.distributed.training import (
    Net,
    Values,
    batches,
    make,
    shard,
    values_of,
    whole_run,
    written,
)

SIZE = 24


class Module(pl.LightningModule):
    """The same training as `train` does by hand."""

    def __init__(self, sharded: bool) -> None:
        super().__init__()
        self.sharded = sharded
        self.net: Any = make()

    def configure_model(self) -> None:
        if self.sharded and not isinstance(self.net, torch.distributed.fsdp.FSDPModule):
            mesh = self.device_mesh["data_parallel"]
            fully_shard(self.net.fc1, mesh=mesh)
            fully_shard(self.net, mesh=mesh)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        x = batch[0]
        return ((self(x) - x.sum(1, keepdim=True)) ** 2).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def strategy_of(kind: str) -> Any:
    if kind == "ddp":
        return DDPStrategy(process_group_backend="gloo")
    return ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo"
    )


def loader(rank: int) -> DataLoader[Any]:
    """Rank r gets rows r, r + 2 and so on."""
    data = TensorDataset(torch.cat(batches(6, SIZE)))
    sampler = DistributedSampler(data, 2, rank, shuffle=False)
    return DataLoader(data, batch_size=SIZE // 2, sampler=sampler)


def fit(
    rank: int,
    kind: str,
    log_dir: str,
    epochs: int,
    ckpt: str | None = None,
    callbacks: Any = (),
) -> tuple[Values, int]:
    sink = svdhooks.MemorySink()
    monitor = svdhooks.lightning.SpectrumMonitor(
        every_n_steps=2,
        sinks=[sink],
        max_overhead=None,
        log_dir=log_dir,
        monitor="output_effective_rank/net.fc1" if callbacks else (),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(workers|tensorboardX|barrier).*")
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*Checkpoint directory.*")
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=2,
            strategy=strategy_of(kind),
            max_epochs=epochs,
            logger=False,
            default_root_dir=log_dir,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[monitor, *callbacks],
        )
        trainer.fit(Module(kind != "ddp"), loader(rank), ckpt_path=ckpt)
        trainer.save_checkpoint(f"{log_dir}/last.ckpt")
    return values_of(sink.records), trainer.global_step


def as_one(epochs: int) -> Values:
    """The same training in one process; a batch of all is those of both ranks."""
    probe = batches(1, SIZE)[0]
    found = whole_run(probe, batches(6, SIZE) * epochs)
    return {(k[0], f"net.{k[1]}", *k[2:]): v for k, v in found.items()}


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.slow
def test_a_fit_reads_what_one_process_would(
    ranks: Ranks, tmp_path: Path, kind: str
) -> None:
    first, second = ranks.run(2, fit, kind, str(tmp_path), 1)
    assert first[1] == second[1] == 6
    check_same(first[0], as_one(1), rel=2e-5)
    assert second[0] == {}
    assert len(written(tmp_path)) == 1


@pytest.mark.slow
def test_a_fit_resumes_on_all_ranks(ranks: Ranks, tmp_path: Path) -> None:
    log_dir = str(tmp_path)
    for epochs in (1, 2, 3):
        ckpt = None if epochs == 1 else f"{log_dir}/last.ckpt"
        found = ranks.run(2, fit, "ddp", log_dir, epochs, ckpt)
        assert found[0][1] == 6 * epochs
    log = svdhooks.RunLog(log_dir)
    assert log.steps.tolist() == list(range(0, 19, 2))
    steps, sigma = log.spectra("net.fc1")
    expected = as_one(3)
    for step, values in zip(steps.tolist(), sigma, strict=True):
        wanted = expected[step, "net.fc1", "weight_spectrum", "weight"]["spectrum"]
        assert torch.allclose(torch.tensor(values), torch.tensor(wanted), rtol=1e-5)
    steps, eigenvalues = log.covariance_spectra("net.fc1")
    last = expected[18, "net.fc1", "covariance", "output"]["spectrum"]
    assert torch.allclose(  # each rank probes the batch that it stored
        torch.tensor(eigenvalues[-1, : len(last)]),
        torch.tensor(last),
        rtol=1e-4,
        atol=1e-5,
    )


def stop_early(rank: int, log_dir: str) -> int:
    stopping = EarlyStopping(
        "output_effective_rank/net.fc1", patience=1, mode="max", min_delta=100.0
    )
    return fit(rank, "ddp", log_dir, 20, None, [stopping])[1]


@pytest.mark.slow
def test_all_ranks_stop_early_together(ranks: Ranks, tmp_path: Path) -> None:
    first, second = ranks.run(2, stop_early, str(tmp_path))
    assert first == second < 120


def fit_fabric(rank: int, log_dir: str) -> tuple[list[float], Values]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
        fabric.launch()
        plain: nn.Module = make(Net)
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.01)
        model, wrapped = fabric.setup(plain, optimizer)
        sink, losses = svdhooks.MemorySink(), []
        data = [shard(x, rank, 2) for x in batches(6)]
        with svdhooks.watch(
            model,
            log_dir,
            every=2,
            sinks=[sink],
            probe=data[0],
            max_overhead=None,
            optimizer=wrapped,
        ):
            for x in data:
                loss = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
                wrapped.zero_grad()
                fabric.backward(loss)
                wrapped.step()
                losses.append(float(loss.detach()))
    return losses, values_of(sink.records)


@pytest.mark.slow
def test_fabric_reads_what_one_process_would(ranks: Ranks, tmp_path: Path) -> None:
    (_, records), (_, none) = ranks.run(2, fit_fabric, str(tmp_path))
    check_same(records, whole_run(batches(1)[0], batches(6)), rel=2e-5)
    assert none == {}


def stop_in_the_middle(rank: int, log_dir: str) -> str:
    class Stops(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            if rank == 1 and not self.done:
                self.done = True
                raise ZeroDivisionError

        done = False

    try:
        fit(rank, "ddp", log_dir, 1, None, [Stops()])
    except BaseException as error:  # noqa: BLE001
        return type(error).__name__
    return ""


@pytest.mark.slow
def test_an_exception_on_one_rank_closes_the_log(ranks: Ranks, tmp_path: Path) -> None:
    """Closing communicates with nobody; Lightning itself ends the other ranks."""
    found = ranks.run(2, stop_in_the_middle, str(tmp_path), may_die=True)
    assert found[1] == "ZeroDivisionError" or not isinstance(found[1], str)
    assert svdhooks.RunLog(tmp_path).steps.tolist() == [0]
