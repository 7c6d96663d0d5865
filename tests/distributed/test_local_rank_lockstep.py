"""Local rank of a model that FSDP2 shards is that of one process."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from svdhooks.jacobians.front import local_rank
from tests.distributed.harness import Ranks
from tests.distributed.test_fsdp2 import build, shard, unchanged


class Twice(torch.autograd.Function):
    """No forward mode passes it."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class Once(torch.autograd.Function):
    """Nor does double backward."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class Passing(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.function.apply(x)
        return found


PASSED = {"reverse": Once, "double_backward": Twice}


def model_of(kind: str) -> nn.Sequential:
    model = build()
    if kind in PASSED:
        model.insert(3, Passing(PASSED[kind]))
    return model


def measured(rank: int, kind: str) -> list[str]:
    """Ranks have batches of different sizes, each its own part of one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what it imports then
        torch.manual_seed(7)
        x = torch.randn(7, 5)
        own = x[:5] if rank == 0 else x[5:]
        sharded = shard("plain", model_of(kind))
        bound = 3 * 4 * 5 * 100 if kind == "chunks" else 2**28
        with unchanged(sharded):
            found = local_rank(sharded, own, max_bytes=bound)
        alone = local_rank(model_of(kind), own)
    assert list(found) == list(alone)
    for name, each in found.items():
        assert each.status == "ok", each
        assert each.samples == len(own)
        assert not each.lower_bound
        torch.testing.assert_close(
            each.spectra, alone[name].spectra, rtol=1e-4, atol=1e-5
        )
    return sorted({each.method for each in found.values()})


@pytest.mark.parametrize(
    ("kind", "methods"),
    [
        ("plain", ["forward"]),
        ("chunks", ["forward"]),
        # layers before the operation are served by an earlier method
        ("reverse", ["double_backward", "reverse"]),
        ("double_backward", ["double_backward"]),
    ],
)
def test_it_reads_what_one_process_would(ranks: Ranks, kind, methods) -> None:
    """Hazard 17: forward mode, or reverse, which gathers again in the backward."""
    both = ranks.run(2, measured, kind)
    assert both[0] == both[1]
    assert both[0] == methods


def failing(rank: int) -> str:
    from tests.distributed.test_fsdp2 import Block

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sharded = shard("plain", build())
        Block.failing = rank == 1
        try:
            local_rank(sharded, torch.randn(3, 5))
        except ValueError as error:
            return str(error)
        finally:
            Block.failing = False
    return "no error"


def test_a_rank_that_fails_leaves_nobody_waiting(ranks: Ranks) -> None:
    both = ranks.run(2, failing)
    assert all("out of memory" in each and "rank 1" in each for each in both)
