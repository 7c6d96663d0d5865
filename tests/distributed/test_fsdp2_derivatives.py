"""FSDP2 with compiled blocks, and under derivatives on the side of the training."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svdhooks.isolation import probe_context
from tests.distributed.harness import Ranks
from tests.distributed.test_fsdp2 import Block, build, careful_probe, shard, unchanged


def train(rank: int, compiled: bool, probe: Any) -> list[Tensor]:
    """Three micro-batches per step; the gradients of two are not reduced yet."""
    model = build()
    for block in model:
        if compiled and isinstance(block, Block):
            block.compile(backend="aot_eager")
    sharded = shard("plain", model)
    optimizer = torch.optim.AdamW(sharded.parameters(), lr=0.1)
    torch.manual_seed(1 + rank)
    seen = []
    for step in range(3):
        for part in range(3):
            sharded.set_requires_gradient_sync(part == 2)
            if probe:
                probe(sharded, step)
            loss = sharded(torch.randn(4, 5)).square().mean()
            loss.backward()
            seen.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
    return seen


def backwards(model: nn.Module, _step: int) -> None:
    x = torch.ones(2, 5, requires_grad=True)
    with unchanged(model), probe_context(model, derivatives=True):
        (gradient,) = torch.autograd.grad(model(x).square().sum(), x)
    assert gradient.any()


def forwards(model: nn.Module, _step: int) -> None:
    x, several = torch.ones(2, 5), torch.ones(3, 2, 5)

    def along(v: Tensor) -> Tensor:
        derivative: Tensor = torch.func.jvp(model, (x,), (v,))[1]
        return derivative

    with unchanged(model), probe_context(model, derivatives=True), torch.no_grad():
        assert torch.vmap(along)(several).any()


PROBES = {"backwards": backwards, "forwards": forwards, "compiled": careful_probe}


def compare(rank: int, how: str) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what it imports then
        compiled = how == "compiled"
        without = train(rank, compiled, None)
        probed = train(rank, compiled, PROBES[how])
    assert all(torch.equal(a, b) for a, b in zip(without, probed, strict=True))
    return len(probed)


@pytest.mark.parametrize(
    "how",
    [
        "backwards",
        pytest.param("forwards", marks=pytest.mark.slow),
        pytest.param("compiled", marks=pytest.mark.slow),
    ],
)
def test_training_is_the_same(ranks: Ranks, how: str) -> None:
    """Hazards 1, 8, 17: gradients that FSDP2 has not reduced yet stay as they are."""
    assert ranks.run(2, compare, how) == [9, 9]
