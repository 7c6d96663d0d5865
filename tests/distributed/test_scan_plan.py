"""What is asked of a sharded model without training it."""

from typing import Any

import torch
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import svdhooks
from tests.distributed.harness import Ranks
from tests.distributed.training import batches, make, shard, values_of


def sharded() -> Any:
    model: Any = make()
    fully_shard(model.fc1)
    return fully_shard(model)


def scan(rank: int) -> Any:
    return values_of(svdhooks.scan(sharded()))


def test_all_ranks_get_the_whole_scan(ranks: Ranks) -> None:
    first, second = ranks.run(2, scan)
    expected = values_of(svdhooks.scan(make()))
    assert first == second
    assert first.keys() == expected.keys()
    for key, values in expected.items():
        found = torch.tensor(first[key]["spectrum"])
        assert torch.allclose(found, torch.tensor(values["spectrum"]), rtol=1e-6)


def scan_one(rank: int) -> Any:
    """Whole weights are scanned by whoever asks, without the others."""
    model = DistributedDataParallel(make())
    return values_of(svdhooks.scan(model)) if rank == 0 else None


def test_whole_weights_are_scanned_by_one_rank(ranks: Ranks) -> None:
    found, _ = ranks.run(2, scan_one)
    assert found == values_of(svdhooks.scan(make()))


def plan(rank: int) -> Any:
    found = svdhooks.plan(sharded(), probe=shard(batches(1)[0], rank, 2))
    return [(row.name, row.shape) for row in found.layers], len(found.skipped)


def test_a_plan_has_global_shapes(ranks: Ranks) -> None:
    whole = svdhooks.plan(make(), probe=batches(1)[0])
    expected = [(row.name, row.shape) for row in whole.layers], len(whole.skipped)
    assert ranks.run(2, plan) == [expected, expected]
