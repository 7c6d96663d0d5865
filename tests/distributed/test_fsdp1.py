"""FSDP1: the same layers and weights as without it; no probes."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from svdhooks import linalg
from svdhooks.distributed import shards
from svdhooks.distributed.refusals import why_not_probed, why_refused
from svdhooks.layers import find_layers
from tests.distributed.harness import Ranks
from tests.distributed.test_shards import agree, described


class Block(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, rows), nn.Linear(rows, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(torch.relu(self.up(x)))
        return out


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(13, 6)
        self.blocks = nn.ModuleList([Block(1), Block(33)])
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 13, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.attention(x, x, x)[0])
        return out


def wrapped(original: bool) -> FullyShardedDataParallel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FullyShardedDataParallel(
            Net(),
            auto_wrap_policy=ModuleWrapPolicy({Block}),
            use_orig_params=original,
            device_id=torch.device("cpu"),
        )


def train(model: nn.Module, read: Any) -> list[Tensor]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    losses = []
    for step in range(3):
        read(step)
        loss = model(torch.arange(6).reshape(2, 3) + step).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return losses


def read_while_training(rank: int, original: bool) -> list[float]:
    without = train(wrapped(original), lambda _: None)
    model, whole = wrapped(original), Net()
    table = find_layers(model)
    expected = find_layers(whole)
    assert described(table) == described(expected)
    worst: list[float] = []

    def read(step: int) -> None:
        assert described(table) == described(expected)
        for layer, twin in zip(table.layers, expected.layers, strict=True):
            assert shards.is_sharded(layer)
            keep = rank == 1
            with shards.gathered([layer], keep, agree):
                if keep and step == 0:
                    sigma = linalg.singular_values(twin.weight())
                    again = linalg.singular_values(layer.weight())
                    worst.append(float((again / sigma - 1).abs().max()))
                elif keep:
                    assert layer.weight().isfinite().all()

    probed = train(model, read)
    assert all(torch.equal(a, b) for a, b in zip(without, probed, strict=True))
    with shards.gathered(table.layers, True, agree):  # several units at once
        assert all(x.weight().shape[-2:] == x.shape for x in table.layers)
    return worst


@pytest.mark.parametrize("original", [True, False])
def test_layers_are_those_of_one_process(ranks: Ranks, original: bool) -> None:
    """Hazards 23, 39: same names, shapes, ties and spectra; training is not changed."""
    first, second = ranks.run(2, read_while_training, original)
    assert not first
    assert len(second) == 10
    assert max(second) == 0.0


def naive(rank: int) -> list[int]:
    model = wrapped(True)
    return [p.ndim for p in model.parameters() if p.ndim > 1]


def test_no_parameter_is_a_matrix(ranks: Ranks) -> None:
    """Hazard 23, the companion: outside of its forward all parameters are flat."""
    assert ranks.run(2, naive) == [[], []]


def reasons(rank: int) -> list[str | None]:
    model = wrapped(True)
    return [why_refused(model), why_not_probed(model), why_not_probed(Net())]


def test_probes_are_refused(ranks: Ranks) -> None:
    """Hazard 16: there a batched forward-mode pass ends the process."""
    refused, probed, plain = ranks.run(2, reasons)[0]
    assert refused is None
    assert plain is None
    assert "fully_shard" in probed


def fail_on_one(rank: int) -> str:
    model = wrapped(True)
    table = find_layers(model)
    kept = shards._reserve
    if rank == 1:
        shards._reserve = _no_room  # type: ignore[assignment]
    try:
        with shards.gathered(table.layers, True, agree):
            return "entered"
    except shards.ShardError as error:
        train(model, lambda _: None)  # all are in order
        return str(error)
    finally:
        shards._reserve = kept


def _no_room(*_: Any) -> None:
    raise MemoryError("no room")


def test_a_process_without_memory_stops_all(ranks: Ranks) -> None:
    """Hazard 19."""
    first, second = ranks.run(2, fail_on_one)
    assert "another process" in first
    assert "no room" in second
