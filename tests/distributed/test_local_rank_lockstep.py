"""Local rank of a model that FSDP2 shards is that of one process."""

import warnings
from typing import Any

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


OPTIONS: dict[str, dict[str, int]] = {
    "chunks": {"max_bytes": 3 * 4 * 5 * 100},
    "sketch": {"directions": 4, "max_directions": 4},
}
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
        options = OPTIONS.get(kind, {})
        with unchanged(sharded):
            found = local_rank(sharded, own, **options)
        alone = local_rank(model_of(kind), own, **options)
    assert list(found) == list(alone)
    for name, each in found.items():
        assert each.status == "ok", each
        assert each.samples == len(own)
        assert each.complete == alone[name].complete
        assert each.complete == (kind != "sketch" or name == "6")
        torch.testing.assert_close(
            each.spectra, alone[name].spectra, rtol=1e-4, atol=1e-5
        )
    return sorted({each.method for each in found.values()})


@pytest.mark.parametrize(
    ("kind", "methods"),
    [
        ("plain", ["forward"]),
        ("chunks", ["forward"]),
        # the last layer is exact by its three rows
        ("sketch", ["forward", "reverse"]),
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

    Block.failing = rank == 1
    try:
        return refused(torch.randn(3, 5))
    finally:
        Block.failing = False


def refused(batch: object, **options: Any) -> str:
    """What is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sharded = shard("plain", build())
        try:
            local_rank(sharded, batch, **options)
        except (ValueError, TypeError, RuntimeError, MemoryError) as error:
            return f"{type(error).__name__}: {error}"
    return "no error"


def test_a_rank_that_fails_leaves_nobody_waiting(ranks: Ranks) -> None:
    both = ranks.run(2, failing)
    assert all("out of memory" in each and "rank 1" in each for each in both)


def failing_outside_of_passes(rank: int, what: str) -> tuple[str, str]:
    from svdhooks.jacobians import measurement

    x: Any = torch.randn(3, 5)
    options: dict[str, Any] = {}
    original = measurement.joined
    if what == "batch_axis":  # the same for both, whose batches are not alike
        options["batch_axis"] = 2
        x = x if rank == 1 else x[None]
    elif what == "batch" and rank == 1:
        x = ["no tensor"]
    elif what == "merging" and rank == 1:
        measurement.joined = _no_memory
    try:
        first = refused(x, **options)
    finally:
        measurement.joined = original
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = local_rank(shard("plain", build()), torch.randn(3, 5))
    return first, found["6"].status


def _no_memory(*_args: object) -> None:
    raise MemoryError("out of memory while merging")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("batch_axis", "batch_axis=2"),
        ("batch", "without any tensor"),
        ("merging", "out of memory"),
    ],
)
def test_an_error_outside_of_a_pass_is_one_of_all_at_once(ranks, what, words) -> None:
    both = ranks.run(2, failing_outside_of_passes, what, seconds=30.0)
    assert all(words in first for first, _ in both), both
    assert "(rank 1)" in both[0][0]
    assert all(after == "ok" for _, after in both)
