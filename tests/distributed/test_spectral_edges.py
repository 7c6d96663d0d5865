"""Pairs of layers of several processes: one traces, all know."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import svdhooks
from tests.distributed.harness import Ranks

PAIRS = ["0->2", "2->5"]


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8),
        nn.ReLU(),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )
    if kind == "ddp":
        return DistributedDataParallel(model)
    if kind == "fsdp2":
        for place in (0, 2, 5):
            fully_shard(model[place])
        fully_shard(model)
    return model


def record(
    rank: int, kind: str, log_dir: str | None, batches: tuple[bool, ...]
) -> tuple[list[str], dict[tuple[str, int], dict[str, float]]]:
    """What each process has of the edges after three updates."""
    model, sink = model_of(kind), svdhooks.MemorySink()
    data = torch.randn(16, 6, generator=torch.Generator().manual_seed(rank))
    quantity = svdhooks.SpectralEdges(schedule=svdhooks.every(1))
    with svdhooks.watch(
        model,
        log_dir,
        every=1,
        quantities=[quantity, "covariance"],
        sinks=[sink],
        max_overhead=None,
        forward=lambda model, batch: model(batch),
    ) as recorder:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            model(data).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.step(batch=data if batches[rank] else None)
        broken = recorder._team.broken
    assert broken is None
    found = sink.of("spectral_edges")
    assert all(x.ok for x in found)
    return [p["name"] for p in sink.pairs], {
        (x.layer, x.step): x.measures for x in found
    }


@pytest.mark.parametrize(
    ("kind", "batches"),
    [
        ("ddp", (True, True)),
        ("ddp", (False, True)),
        ("fsdp2", (True, True)),
    ],
)
@pytest.mark.slow
def test_one_process_traces_and_all_measure(
    ranks: Ranks, tmp_path: Path, kind: str, batches: tuple[bool, ...]
) -> None:
    (pairs, found), (_, others) = ranks.run(2, record, kind, str(tmp_path), batches)
    assert pairs == PAIRS
    assert set(found) == {(pair, step) for pair in PAIRS for step in (1, 2, 3)}
    assert others == {}
    assert [p["name"] for p in svdhooks.RunLog(tmp_path).pairs] == PAIRS
    alone = svdhooks.layer_pairs(model_of(""), torch.randn(4, 6))
    top = svdhooks.SpectralEdges().measure_edge(alone.pairs[0], 0)
    assert 0 < found[PAIRS[0], 1]["top"] <= 1
    assert found[PAIRS[0], 1]["rows"] == top.measures["rows"]


def store(rank: int, log_dir: str) -> None:
    """Vectors and covariances of three updates; nobody asks for edges."""
    model = model_of("ddp")
    data = torch.randn(16, 6, generator=torch.Generator().manual_seed(rank))
    vectors = svdhooks.WeightVectors(schedule=svdhooks.every(1))
    with svdhooks.watch(
        model, log_dir, every=1, quantities=[vectors, "covariance"], probe=data
    ) as recorder:
        recorder.step()
        assert recorder._team.broken is None


@pytest.mark.slow
def test_the_log_of_several_processes_knows_the_pairs_beside_vectors(
    ranks: Ranks, tmp_path: Path
) -> None:
    ranks.run(2, store, str(tmp_path))
    assert [p["name"] for p in svdhooks.RunLog(tmp_path).pairs] == PAIRS
