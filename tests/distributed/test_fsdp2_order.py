"""In which order a process that failed takes part in the remaining all-gathers."""

from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard

from svdhooks.distributed.fsdp import _one_forward, _remaining, shards_kept
from svdhooks.layers.sharding import parameter_groups
from tests.distributed.harness import Ranks
from tests.distributed.test_fsdp2 import build, compare, run_probe, shard

A = [("unshard", 0), ("unshard", 1), ("reshard", 1), ("reshard", 0)]


def test_what_repeats_is_one_forward() -> None:
    assert _one_forward(A, []) == A
    assert _one_forward(A * 3, A) == A
    assert _one_forward(A[:2], A) == A[:2]  # the model changed
    assert _one_forward(A + A[:1], A) == A + A[:1]


def test_what_remains() -> None:
    error = ValueError()
    assert _remaining(A, [], error) == A
    assert _remaining(A, A[:1], error) == A[1:]
    assert _remaining(A, A, error) == []
    assert _remaining(A, A + A[:3], error) == A[3:]
    assert _remaining([], [], error) == []
    assert not hasattr(error, "__notes__")


def test_an_order_that_is_not_known_is_told() -> None:
    error = ValueError()
    assert _remaining(A, A[1:2], error) == []
    assert "may wait for this one" in error.__notes__[0]


class Backwards(nn.Module):
    """Calls its parts from the last to the first, one of them twice."""

    failing = -1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList(nn.Linear(5, 5) for _ in range(3))
        self.unused = nn.Linear(5, 7)

    def forward(self, x: Tensor) -> Tensor:
        for position, index in enumerate((2, 1, 2, 0)):
            if position == self.failing:
                raise ValueError("in the middle")
            x = self.parts[index](x).tanh()
        return x


def sharded(root: bool) -> Backwards:
    model = Backwards()
    for part in (*model.parts, model.unused):
        fully_shard(part)
    if root:
        fully_shard(model)
    return model


def fail_at(rank: int, root: bool, first: int, places: list[int]) -> list[Any]:
    """From some forward on, each process fails at another place, or not at all."""
    model = sharded(root)
    found = []
    for step in range(4):
        model.failing = places[rank] if step >= first else -1
        with torch.no_grad():
            try:
                with shards_kept(model):
                    found.append(model(torch.ones(2, 5)))
            except ValueError:
                found.append(None)
        distributed.barrier()
        assert all(group.is_sharded for group in parameter_groups(model))
    model.failing = -1
    model(torch.ones(2, 5)).sum().backward()
    return found


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("places", [[-1, 1], [3, 0], [2, 2]])
def test_all_follow_one_order(
    ranks: Ranks, root: bool, first: int, places: list[int]
) -> None:
    """Hazard 19: whatever the order of registration, and without a root of FSDP2."""
    for found, place in zip(
        ranks.run(2, fail_at, root, first, places), places, strict=True
    ):
        ran = 4 if place < 0 else first
        assert all(torch.equal(x, found[0]) for x in found[:ran])
        assert found[ran:] == [None] * (4 - ran)


def fail_before(rank: int) -> str:
    """One process cannot even begin, and has never run a forward."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    for part in model:
        fully_shard(part)
    fully_shard(model)
    try:
        with torch.no_grad(), shards_kept(model):
            if rank == 1:
                raise ValueError("no batch")
            model(torch.ones(2, 5))
    except ValueError as error:
        return str(error)
    return "done"


def test_a_process_that_cannot_begin(ranks: Ranks) -> None:
    assert ranks.run(2, fail_before) == ["done", "no batch"]


def fail_out_of_memory(rank: int) -> list[str]:
    """The all-gather itself does not find memory at first."""
    model = sharded(True)
    batch = torch.ones(2, 5)
    with torch.no_grad(), shards_kept(model):
        model(batch)
    group: Any = parameter_groups(model)[2]
    told: list[str] = []
    kind, unshard = type(group), type(group).unshard

    def once(self: Any, async_op: bool = False) -> Any:
        if self is group and rank == 1 and not told:
            told.append("failed")
            raise torch.OutOfMemoryError("no room to gather")
        return unshard(self, async_op)

    kind.unshard = once
    try:
        with torch.no_grad(), shards_kept(model):
            model(batch)
    except torch.OutOfMemoryError as error:
        told.append(str(error))
    finally:
        kind.unshard = unshard
    model(batch).sum().backward()
    return told


def test_an_all_gather_that_fails_is_tried_again(ranks: Ranks) -> None:
    """Hazard 19: by then the frames of the forward hold no memory any more."""
    assert ranks.run(2, fail_out_of_memory) == [[], ["failed", "no room to gather"]]


def fewer(rank: int) -> int:
    """After a validation each pair of processes holds all of what it ran."""
    model = shard("resharded to 2", build())
    batch = torch.ones(2, 5)
    with torch.no_grad():
        model(batch)
    groups = parameter_groups(model)
    assert not any(group.is_sharded for group in groups)
    run_probe(model, 0)
    assert not any(group.is_sharded for group in groups)
    model(batch).sum().backward()
    return compare(rank, "resharded to 2", 2)


@pytest.mark.slow
def test_shards_over_fewer_processes_meanwhile(ranks: Ranks) -> None:
    """Hazard 8 with ``reshard_after_forward=2`` on four processes."""
    assert ranks.run(4, fewer) == [32] * 4
