"""Weights of which each process holds a part: FSDP2, Grams, failures of one process."""

from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from svdhooks import linalg
from svdhooks.distributed import shards
from svdhooks.layers import find_layers
from tests.distributed.harness import Ranks


def agree(mine: bool) -> bool:
    votes = torch.tensor([int(mine)])
    distributed.all_reduce(votes, op=distributed.ReduceOp.MIN)
    return bool(votes)


class Net(nn.Module):
    """33 rows make shards of 17 and 16; one row leaves the second process nothing."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(80, 8)
        self.conv = nn.Conv1d(3, 70, 4)
        self.tall = nn.Linear(7, 33)
        self.wide = nn.Linear(50, 5)
        self.one = nn.Linear(9, 1)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 11))
        self.old = nn.utils.spectral_norm(nn.Linear(6, 7))
        self.attention = nn.MultiheadAttention(12, 3)
        self.head = nn.Linear(8, 80, bias=False)
        self.head.weight = self.embed.weight
        self.to(dtype)
        self.eval()


def described(table: Any) -> list[dict[str, Any]]:
    return [layer.describe() for layer in table.layers]


def read_gathered(rank: int, dtype: torch.dtype, owner: int | None) -> dict[str, Any]:
    whole, sharded = Net(dtype), Net(dtype)
    fully_shard([sharded.embed, sharded.head])
    fully_shard(sharded)
    expected, found = find_layers(whole), find_layers(sharded)
    assert described(found) == described(expected)
    assert not found.skipped
    before = [p for m in sharded.modules() for p in m._parameters.values()]
    worst, grams = 0.0, []
    for layer, twin in zip(found.layers, expected.layers, strict=True):
        assert shards.is_sharded(layer)
        assert not shards.is_sharded(twin)
        sigma = linalg.singular_values(twin.weight())
        keep = owner is None or rank == owner
        with shards.gathered([layer], keep, agree):
            if keep:
                assert type(layer.weight()) is Tensor
                again = linalg.singular_values(layer.weight())
                worst = max(worst, float((again / sigma - 1).abs().max()))
        if shards.gram_is_smaller(layer):
            gram = shards.summed_gram(layer, keep, agree)
            assert (gram is not None) is keep
            if gram is not None:
                again = linalg.spectrum_of_gram(gram)
                worst = max(worst, float((again / sigma - 1).abs().max()))
            grams.append(layer.name)
    after = [p for m in sharded.modules() for p in m._parameters.values()]
    assert all(x is y for x, y in zip(before, after, strict=True))
    return {"worst": worst, "grams": grams}


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.slow
def test_gathered_weights_are_those_of_one_process(ranks: Ranks, world: int) -> None:
    """Hazards 22, 24, 39: uneven and empty shards, names and shapes as without."""
    for found in ranks.run(world, read_gathered, torch.float64, None):
        assert found["worst"] < 1e-12
        assert not found["grams"]  # float64: their squares would lose half the digits


def test_grams_of_float32_are_those_of_one_process(ranks: Ranks) -> None:
    """Hazard 24: rows 17 and 16; and embeddings, convolutions by their rows."""
    for found in ranks.run(2, read_gathered, torch.float32, 1):
        assert found["worst"] < 1e-6
        assert found["grams"] == ["embed", "conv", "tall", "head"]


# --- a process that cannot take part ------------------------------------------------


def fail_on_one(rank: int, where: str) -> str:
    model = Net(torch.float32)
    fully_shard(model)
    by_name = {layer.name: layer for layer in find_layers(model).layers}
    asked = []

    def counted(mine: bool) -> bool:
        asked.append(mine)
        return agree(mine)

    def broken(*_: Any) -> None:
        raise MemoryError("no room on this process")

    if rank == 1:
        shards._reserve = shards._own_gram = broken  # type: ignore[assignment]
    try:
        if where == "gathered":
            with shards.gathered([by_name["wide"]], rank == 0, counted):
                return "entered"
        shards.summed_gram(by_name["tall"], True, counted)
    except shards.ShardError as error:
        assert asked == [rank == 0]
        total = torch.ones(1)
        distributed.all_reduce(total)  # the group is in order
        return str(error)
    finally:
        for name, value in KEPT.items():
            setattr(shards, name, value)
    return "no error"


KEPT: dict[str, Any] = {
    name: getattr(shards, name) for name in ("_reserve", "_own_gram")
}


@pytest.mark.parametrize("where", ["gathered", "gram"])
def test_a_process_without_memory_stops_all(ranks: Ranks, where: str) -> None:
    """Hazard 19: no process communicates, all raise the same."""
    first, second = ranks.run(2, fail_on_one, where)
    assert "not every process could (another process)" in first
    assert "not every process could (MemoryError: no room on this process)" in second


def gather_on_one_only(rank: int) -> None:
    weight = distribute_tensor(
        torch.ones(4, 2), init_device_mesh("cpu", (2,)), [Shard(0)]
    )
    if rank == 0:
        weight.full_tensor()
    distributed.barrier()


@pytest.mark.slow
def test_gathering_on_one_process_alone_hangs(ranks: Ranks) -> None:
    """Hazard 19, the companion: what one process does alone waits for ever."""
    with pytest.raises(AssertionError, match=r"(?s)did not answer|failed"):
        ranks.run(2, gather_on_one_only, seconds=5)


def not_finite(rank: int) -> bool:
    model = nn.Linear(3, 40)
    fully_shard(model)
    if rank == 1:
        with torch.no_grad():
            held: Any = model.weight
            held.to_local()[0, 0] = torch.nan
    (layer,) = find_layers(model).layers
    gram = shards.summed_gram(layer, True, agree)
    assert gram is not None
    return bool(linalg.spectrum_of_gram(gram).isnan().all())


def test_nan_on_one_process_is_seen_by_all(ranks: Ranks) -> None:
    """Hazard 20."""
    assert ranks.run(2, not_finite) == [True, True]


# --- meshes of two dimensions -----------------------------------------------------------


def gram_on_mesh(rank: int, placements: list[Any], shape: tuple[int, int]) -> Any:
    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))
    model = nn.Linear(shape[1], shape[0])
    weight = model.weight.detach().clone()
    model.weight = nn.Parameter(distribute_tensor(weight, mesh, placements))
    (layer,) = find_layers(model).layers
    assert shards.gram_is_smaller(layer)
    gram = shards.summed_gram(layer, True, agree)
    held: Any = model.weight
    part = held.to_local().detach().double()
    naive = part.T @ part if shape[0] > shape[1] else part @ part.T
    distributed.all_reduce(naive)
    return gram, naive, linalg.gram(weight)


@pytest.mark.parametrize(
    ("placements", "shape"),
    [
        pytest.param([Replicate(), Shard(0)], (33, 5), marks=pytest.mark.slow),
        pytest.param([Shard(0), Replicate()], (33, 5), marks=pytest.mark.slow),
        pytest.param([Replicate(), Shard(1)], (5, 33), marks=pytest.mark.slow),
        ([Shard(0), Shard(0)], (33, 5)),
        ([Shard(1), Shard(1)], (5, 33)),
        ([Shard(0), Shard(0)], (3, 1)),
    ],
)
def test_grams_sum_over_the_dimensions_that_shard(
    ranks: Ranks, placements: list[Any], shape: tuple[int, int]
) -> None:
    """Hazards 21, 24; the companion: a sum over all counts replicas twice."""
    for gram, naive, expected in ranks.run(4, gram_on_mesh, placements, shape):
        torch.testing.assert_close(gram, expected, rtol=1e-12, atol=1e-12)
        replicated = any(isinstance(p, Replicate) for p in placements)
        assert torch.allclose(naive, expected) is not replicated
