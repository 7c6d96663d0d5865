"""FSDP2: a probe leaves no trace in it, and a process that fails leaves nobody waiting."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    fully_shard,
)

from svdhooks import isolation
from svdhooks.hooks import observed
from svdhooks.isolation import probe_context
from svdhooks.layers import find_layers, samples_of
from svdhooks.layers.sharding import as_stored, parameter_groups, shard_states
from tests.distributed.harness import Ranks


class Block(nn.Module):
    failing = False

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 11), nn.Linear(11, 6)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.up(x))
        if self.failing and not self.training:
            raise MemoryError("out of memory in the middle of the model")
        out: Tensor = x + self.down(hidden)
        return out


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 6), *(Block() for _ in range(4)), nn.Dropout(0.3), nn.Linear(6, 3)
    )


def shard(kind: str, model: nn.Sequential) -> Any:
    kinds: dict[str, dict[str, Any]] = {
        "bf16": {"mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32)},
        "offload": {"offload_policy": CPUOffloadPolicy(pin_memory=False)},
        "kept gathered": {"reshard_after_forward": False},
        "resharded to 2": {"reshard_after_forward": 2},
    }
    options = kinds.get(kind, {})
    blocks: list[Any] = [m for m in model if isinstance(m, Block)]
    if kind == "grouped":
        fully_shard(blocks[:2])
        blocks = blocks[2:]
    for block in blocks:
        fully_shard(block, **options)
    fully_shard(model, **options)
    if kind == "prefetch":
        for block, following in pairwise(blocks):
            block.set_modules_to_forward_prefetch([following])
    return model


Probe = Callable[[nn.Module, int], None]


def train(rank: int, kind: str, probe: Probe | None, parts: int = 1) -> list[Tensor]:
    """Losses of six steps, then the parameters."""
    model = shard(kind, build())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    torch.manual_seed(1 + rank)
    seen = []
    for step in range(6):
        if probe:
            probe(model, step)
        for part in range(parts):
            last = part == parts - 1
            model.set_requires_gradient_sync(last)
            model.set_reshard_after_backward(last)
            loss = model(torch.randn(4, 5)).square().mean()
            loss.backward()
            seen.append(loss.detach())
            if probe and not last:
                probe(model, step)
        optimizer.step()
        optimizer.zero_grad()
    seen += [p.detach().full_tensor() for p in model.parameters()]
    return seen


def run_probe(model: nn.Module, _step: int) -> None:
    table = find_layers(model)
    read: dict[str, int] = {}

    def receive(layer: Any, values: Any) -> None:
        for point, value in values.items():
            seen = samples_of(value).shape[-1]
            read[f"{layer.name} {point}"] = seen - layer.points[point]

    def fail(layer: Any, error: Exception) -> None:
        raise error

    with probe_context(model), observed(table.layers, receive, fail):
        model(torch.ones(3, 5))
    assert len(read) == 20
    assert not any(read.values())


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    before = picture(model)
    yield
    assert picture(model) == before


def picture(model: nn.Module) -> list[Any]:
    """What FSDP2 knows of the model, and what its modules hold."""
    seen: list[Any] = [id(p) for m in model.modules() for p in m._parameters.values()]
    for state in shard_states(model):
        seen += [state._is_root, state._training_state, id(state._state_ctx)]
        seen += [state._state_ctx.iter_forward_root, len(state._state_ctx.all_states)]
        seen += [len(state._modules_to_run_forward), id(state._comm_ctx)]
    for group in parameter_groups(model):
        seen += [group._sharded_state, group._training_state, group._all_gather_result]
        seen += [
            id(group.comm_ctx),
            len(vars(group.comm_ctx).get("post_forward_order", ())),
        ]
        seen += [list(group._post_forward_indices), group.post_forward_mesh_info]
        seen += [sorted(vars(group))]
        seen += [len(m._state_dict_pre_hooks) for m in group.modules]
    return seen


def careful_probe(model: nn.Module, step: int) -> None:
    with unchanged(model):
        run_probe(model, step)


def compare(rank: int, kind: str, parts: int) -> int:
    without = train(rank, kind, None, parts)
    probed = train(rank, kind, careful_probe, parts)
    assert all(torch.equal(a, b) for a, b in zip(without, probed, strict=True))
    return len(probed)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("plain", 1),
        ("plain", 3),
        ("bf16", 2),
        ("offload", 1),
        ("kept gathered", 1),
        ("prefetch", 1),
        ("grouped", 2),
    ],
)
def test_training_is_the_same_with_probes(ranks: Ranks, kind: str, parts: int) -> None:
    """Hazard 8 with FSDP2; also before the first forward and between micro-batches."""
    assert ranks.run(2, compare, kind, parts) == [6 * parts + 20] * 2


def without_care(rank: int) -> str:
    careless: Any = isolation
    kept, careless.shards_kept = careless.shards_kept, lambda *_: nullcontext()
    try:
        train(rank, "plain", run_probe)
    except Exception as error:  # noqa: BLE001  # of whatever kind
        return str(error)
    finally:
        careless.shards_kept = kept
    return ""


def test_a_careless_probe_breaks_the_training(ranks: Ranks) -> None:
    """Hazard 8, the companion: FSDP2 takes the root for gathered, it holds shards."""
    assert all(ranks.run(2, without_care))


# --- a process fails in the middle of its probe ----------------------------------------


def probe_failing(at: int, fails: bool) -> Probe:
    def probe(model: Any, step: int) -> None:
        Block.failing = False
        model[at].failing = fails and step in (0, 3)
        with unchanged(model):
            try:
                run_probe(model, step)
            except MemoryError:
                assert fails
            else:
                assert not model[at].failing

    return probe


def fail_on_one(rank: int, kind: str, at: int) -> int:
    without = train(rank, kind, None)
    probed = train(rank, kind, probe_failing(at, rank == 1))
    assert all(torch.equal(a, b) for a, b in zip(without, probed, strict=True))
    return len(probed)


@pytest.mark.parametrize(
    ("kind", "at"), [("plain", 2), ("prefetch", 2), ("grouped", 4), ("bf16", 4)]
)
def test_a_process_that_fails_leaves_nobody_waiting(
    ranks: Ranks, kind: str, at: int
) -> None:
    """Hazard 19: it fails in the first probe and in a later one; the training goes on."""
    assert ranks.run(2, fail_on_one, kind, at) == [26, 26]


def fail_without_making_up(rank: int) -> None:
    from svdhooks.distributed import fsdp

    kept, fsdp._make_up = fsdp._make_up, lambda *_: None
    try:
        train(rank, "plain", probe_failing(2, rank == 1))
    finally:
        fsdp._make_up = kept


@pytest.mark.slow
def test_a_process_that_stays_away_stops_the_others(ranks: Ranks) -> None:
    """Hazard 19, the companion."""
    with pytest.raises(AssertionError, match=r"(?s)did not answer|rank \d"):
        ranks.run(2, fail_without_making_up, seconds=8)


# --- what the probe sees ---------------------------------------------------------------


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lift = nn.Linear(5, 12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.out = nn.Conv1d(12, 7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        mixed: Tensor = self.out(self.attention(x, x, x)[0].mT)
        return mixed


def see_points(model: nn.Module) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def receive(layer: Any, values: Any) -> None:
        for point, value in values.items():
            seen[f"{layer.name} {point}"] = samples_of(value).clone()

    def fail(layer: Any, error: Exception) -> None:
        raise error

    batch = torch.arange(60.0).reshape(2, 6, 5).sin()
    with probe_context(model), observed(find_layers(model).layers, receive, fail):
        model(batch)
    return seen


def points_of_both(rank: int) -> int:
    whole, sharded = see_points(Attending()), Attending()
    fully_shard(sharded.attention)
    fully_shard(sharded.out)  # a layer that is a unit itself
    fully_shard(sharded)
    found = see_points(sharded)
    assert all(torch.equal(found[name], value) for name, value in whole.items())
    return len(found)


def test_points_are_those_of_one_process(ranks: Ranks) -> None:
    """Hazard 22: also of a layer that is resharded by a hook before ours."""
    assert ranks.run(2, points_of_both) == [11, 11]


def read_while_gathered(rank: int) -> list[str]:
    model = shard("bf16", build())
    with torch.no_grad():
        model(torch.ones(1, 5))  # a validation: the root's are left gathered
    (group, *_) = parameter_groups(model)
    assert group.is_unsharded
    first, *_ = find_layers(model).layers
    outside = first.dtype
    with as_stored(model):
        inside = first.dtype
    assert group.is_unsharded
    return [outside, inside]


def test_weights_are_those_that_the_optimiser_updates(ranks: Ranks) -> None:
    assert ranks.run(2, read_while_gathered) == [["bfloat16", "float32"]] * 2
