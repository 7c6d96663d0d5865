"""What a record costs in two processes, beside one that holds and sees everything.

Weights are shared out, so they take about half as long; covariances are merged, and all
results exchanged, which one process need not. Each rank probes half of the batch. Wall
time of a record of weight spectra and covariances on every rank, median over records.

Usage: OMP_NUM_THREADS=1 python benchmarks/ranks.py [--records 9]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _bench import show
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import svdhooks


def narrow() -> tuple[nn.Module, Tensor]:
    """100 layers of 64: many small matrices."""
    parts = [x for _ in range(100) for x in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*parts), torch.randn(256, 64)


def wide() -> tuple[nn.Module, Tensor]:
    """6 layers of 768: few large ones."""
    parts = [x for _ in range(6) for x in (nn.Linear(768, 768), nn.ReLU())]
    return nn.Sequential(*parts), torch.randn(2048, 768)


MODELS = {"100 × 64": narrow, "6 × 768": wide}


def wrapped(kind: str, model: Any) -> Any:
    if kind == "DDP":
        return DistributedDataParallel(model)
    if kind == "FSDP2":
        for layer in model:
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
        return fully_shard(model)
    return model


def seconds(kind: str, name: str, rank: int, size: int, records: int) -> float:
    """Median seconds of a record."""
    torch.manual_seed(0)
    model, batch = MODELS[name]()
    model = wrapped(kind, model)
    probe = batch.tensor_split(size)[rank]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    found = []
    sink = svdhooks.MemorySink(max_records=1000)
    with svdhooks.watch(
        model,
        None,
        every=1,
        probe=probe,
        probe_options=svdhooks.ProbeOptions(compute="inline"),
        sinks=[sink],
        max_overhead=None,
    ) as recorder:
        for _ in range(records):
            optimizer.zero_grad()
            model(probe).square().mean().backward()
            optimizer.step()
            begun = time.perf_counter()
            recorder.step()
            found.append(time.perf_counter() - begun)
    return statistics.median(found)


def run_rank(rank: int, store: str, kind: str, records: int, results: Any) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    found = {name: seconds(kind, name, rank, 2, records) for name in MODELS}
    if rank == 0:
        results.put(found)
    distributed.destroy_process_group()


def in_two(kind: str, records: int) -> dict[str, float]:
    """The same in two processes."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (str(Path(folder) / "store"), kind, records, results)
        multiprocessing.spawn(run_rank, arguments, nprocs=2)
    found: dict[str, float] = results.get()
    return found


def main() -> None:
    """Print one row per model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=9)
    records = parser.parse_args().records
    torch.set_num_threads(1)
    one = {name: seconds("", name, 0, 1, records) for name in MODELS}
    several = {kind: in_two(kind, records) for kind in ("DDP", "FSDP2")}
    rows = [
        (
            name,
            f"{1000 * one[name]:.0f}",
            *(f"{1000 * s[name]:.0f}" for s in several.values()),
            *(f"{s[name] / one[name]:.2f}" for s in several.values()),
        )
        for name in MODELS
    ]
    head = ("model", "one process, ms", "DDP", "FSDP2", "DDP / one", "FSDP2 / one")
    show("A record in two processes", rows, head)


if __name__ == "__main__":
    main()
