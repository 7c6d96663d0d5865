"""HSDP and tensor parallelism: whole layers, whole points, each sample once."""

from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from svdhooks import linalg
from svdhooks.distributed import shards
from svdhooks.distributed.refusals import why_refused
from svdhooks.distributed.tensor_parallel import is_tensor_parallel
from svdhooks.hooks import observed
from svdhooks.isolation import probe_context
from svdhooks.layers import find_layers, samples_of
from tests.distributed.harness import Ranks
from tests.distributed.test_shards import agree, described


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(16, 8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 32)
        self.down = nn.Linear(32, 8)
        self.head = nn.Linear(8, 6)
        self.double()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.embed(tokens))
        x = x + self.down(torch.relu(self.up(x)))
        return torch.tanh(self.head(x))


def parallel(kind: str, mesh: DeviceMesh) -> Any:
    styles: dict[str, dict[str, Any]] = {
        "plain": {"up": ColwiseParallel(), "down": RowwiseParallel()},
        "embedding": {
            "embed": RowwiseParallel(input_layouts=Replicate()),
            "up": ColwiseParallel(),
            "down": RowwiseParallel(),
            "head": ColwiseParallel(output_layouts=Replicate()),
        },
        "sequence": {
            "embed": RowwiseParallel(
                input_layouts=Replicate(), output_layouts=Shard(1)
            ),
            "norm": SequenceParallel(use_local_output=True),
            "up": ColwiseParallel(input_layouts=Shard(1)),
            "down": RowwiseParallel(output_layouts=Shard(1)),
            "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
        },
    }
    return parallelize_module(Net(), mesh, styles[kind])


BATCH = torch.arange(24).reshape(4, 6) % 16


def see_points(model: nn.Module) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def receive(layer: Any, values: Any) -> None:
        for point, value in values.items():
            assert type(value.tensor) is Tensor
            seen[f"{layer.name} {point}"] = samples_of(value).clone()

    def fail(layer: Any, error: Exception) -> None:
        raise error

    with probe_context(model), observed(find_layers(model).layers, receive, fail):
        model(BATCH)
    return seen


def compare_points(found: dict[str, Tensor]) -> int:
    for name, expected in see_points(Net()).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-12)
    return len(found)


def tensor_parallel(rank: int, kind: str) -> int:
    model = parallel(kind, init_device_mesh("cpu", (2,), mesh_dim_names=("tp",)))
    assert is_tensor_parallel(model)
    return compare_points(see_points(model))


@pytest.mark.parametrize("kind", ["plain", "embedding", "sequence"])
@pytest.mark.slow
def test_points_are_whole(ranks: Ranks, kind: str) -> None:
    """Hazard 22: local slices and parts of sums are gathered."""
    assert ranks.run(2, tensor_parallel, kind) == [7, 7]


def losses(rank: int, kind: str, probes: bool) -> list[Tensor]:
    model = parallel(kind, init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=False)
    seen = []
    for _ in range(4):
        if probes:
            see_points(model)
        loss = model(BATCH).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.detach())
    return seen


def both(rank: int, kind: str) -> bool:
    pairs = zip(losses(rank, kind, False), losses(rank, kind, True), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("kind", ["plain", "embedding", "sequence"])
def test_training_is_the_same_with_probes(ranks: Ranks, kind: str) -> None:
    """Hazard 8 with tensor parallelism: an embedding's mask outlasts our reduction."""
    assert ranks.run(2, both, kind) == [True, True]


class Moving(nn.Linear):
    """Changes its own weight in its forward."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.mul_(0.5)
            self.weight.data.add_(1.0)
            self.weight.detach().add_(1.0)
        return super().forward(x)


def changed(rank: int) -> list[bool]:
    model = nn.Sequential(Moving(4, 4))
    mesh = init_device_mesh("cpu", (2,))
    parallelize_module(model, mesh, {"0": ColwiseParallel()})
    held: Any = model[0].weight
    before, version = held.to_local().clone(), held._version
    with probe_context(model):
        model(torch.ones(2, 4))
        inside = torch.equal(held.to_local(), before)
    return [inside, torch.equal(held.to_local(), before), held._version == version]


def test_shards_that_a_forward_changes_are_put_back(ranks: Ranks) -> None:
    """Hazard 8: also through ``.data`` and aliases."""
    assert ranks.run(2, changed) == [[False, True, True]] * 2


def late_hooks(rank: int) -> list[tuple[str, list[int]]]:
    model = parallel("plain", init_device_mesh("cpu", (2,)))
    seen = []

    def hook(_module: Any, _args: Any, output: Any) -> None:
        seen.append((type(output).__name__, list(output.shape)))

    for layer in (model.up, model.down):
        layer.register_forward_hook(hook)
    with torch.no_grad():
        model(BATCH)
    return seen


def test_a_plain_hook_sees_a_part(ranks: Ranks) -> None:
    """Hazard 22, the companion: 16 of 32 features, and nothing tells it."""
    first, second = ranks.run(2, late_hooks)[0]
    assert first == ("Tensor", [4, 6, 16])
    assert second == ("AsyncCollectiveTensor", [4, 6, 8])


# --- weights on meshes of two dimensions ---------------------------------------------


def weights_of(model: nn.Module) -> float:
    expected, found = find_layers(Net()), find_layers(model)
    assert described(found) == described(expected)
    worst = 0.0
    for layer, twin in zip(found.layers, expected.layers, strict=True):
        sigma = linalg.singular_values(twin.weight())
        with shards.gathered([layer], True, agree):
            again = linalg.singular_values(layer.weight())
        worst = max(worst, float((again / sigma - 1).abs().max()))
    return worst


def grams_of(model: nn.Module) -> list[str]:
    """The layers whose Grams were summed; all have to be right."""
    names = []
    model.float()
    twins = find_layers(Net().float()).layers
    for layer, twin in zip(find_layers(model).layers, twins, strict=True):
        if shards.gram_is_smaller(layer):
            gram = shards.summed_gram(layer, True, agree)
            torch.testing.assert_close(
                gram, linalg.gram(twin.weight()), rtol=1e-12, atol=1e-12
            )
            names.append(layer.name)
    return names


def hybrid(rank: int) -> tuple[float, int, list[str]]:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    model = Net()
    for layer in (model.up, model.down):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert not is_tensor_parallel(model)
    assert why_refused(model, "training") is None
    worst = weights_of(model)
    points = compare_points(see_points(model))
    return worst, points, grams_of(model)


@pytest.mark.slow
def test_hybrid_shards(ranks: Ranks) -> None:
    """Hazard 21: a sum over all processes would count each row twice."""
    for worst, points, grams in ranks.run(4, hybrid):
        assert worst < 1e-12
        assert points == 7
        assert grams == ["up"]


def two_dimensions(rank: int, kind: str) -> tuple[float, int, list[str]]:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    model = parallel(kind, mesh["tp"])
    fully_shard(model, mesh=mesh["dp"])
    assert is_tensor_parallel(model)
    assert why_refused(model) is None
    worst = weights_of(model)
    points = compare_points(see_points(model))
    points = compare_points(see_points(model))
    loss = model(BATCH).square().sum()
    loss.backward()  # the training is in order
    return worst, points, grams_of(model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "sequence"])
def test_sharded_and_tensor_parallel(ranks: Ranks, kind: str) -> None:
    """Hazards 21, 22: strided shards of rows, shards of both sides."""
    for worst, points, grams in ranks.run(4, two_dimensions, kind):
        assert worst < 1e-12
        assert points == 7
        assert "up" in grams  # rows over both dimensions of the mesh
        assert "down" not in grams  # rows over one, columns over the other


# --- what is refused -------------------------------------------------------------------


def refusals(rank: int) -> list[str | None]:
    whole = init_device_mesh("cpu", (4,))
    model = parallel("plain", whole)
    several = [distributed.new_group([0, 1]), distributed.new_group([2, 3])]
    half = DeviceMesh.from_group(several[rank // 2], "cpu")
    part = parallel("plain", half)
    return [
        why_refused(model),
        why_refused(model, "training"),
        why_refused(part),
        why_refused(Net(), "training"),
    ]


@pytest.mark.slow
def test_what_is_refused(ranks: Ranks) -> None:
    for whole, training, part, plain in ranks.run(4, refusals):
        assert whole is None
        assert plain is None
        assert "observe" in training
        assert "tensor parallelism" in training
        assert "a mesh of 2 of the 4 processes" in part
