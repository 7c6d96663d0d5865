"""Pairs of layers of several processes: one traces, all know."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

import svdhooks
from svdhooks.reports import RecordingWarning
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


def say(rank: int, pairs: list[tuple[str, str]] | None) -> tuple[list[str], set[str]]:
    """What is said of a model that cannot be probed, and the edges of rank 0."""
    sink = svdhooks.MemorySink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FullyShardedDataParallel(model_of(""), device_id=torch.device("cpu"))
    edges = svdhooks.SpectralEdges(pairs=pairs, schedule=svdhooks.at(0))
    probe = torch.randn(4, 6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        svdhooks.watch(
            model, None, quantities=[edges], probe=probe, sinks=[sink]
        ).close()
    said = [str(x.message) for x in caught if issubclass(x.category, RecordingWarning)]
    return said, {record.layer for record in sink.of("spectral_edges") if record.ok}


@pytest.mark.slow
def test_of_what_cannot_be_probed_the_pairs_have_to_be_given(ranks: Ranks) -> None:
    (said, found), _ = ranks.run(2, say, None)
    assert "give SpectralEdges(pairs=" in said[0]
    assert not found
    (said, found), _ = ranks.run(2, say, [("0", "2")])
    assert (said, found) == ([], {"0->2"})
