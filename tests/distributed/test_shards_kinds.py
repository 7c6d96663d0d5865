"""Wrappers that are looked through, weights of other kinds, what is refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage
from torch.distributed.tensor import Replicate, distribute_module, distribute_tensor

import svdhooks
from svdhooks import linalg
from svdhooks.distributed import shards
from svdhooks.distributed.refusals import why_refused
from svdhooks.layers import find_layers, unwrap
from svdhooks.layers.sharding import as_stored
from tests.distributed.harness import Ranks
from tests.distributed.test_shards import agree, described

# --- weights that are computed from several parameters -------------------------------


def adapted() -> nn.Module:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Conv2d(4, 6, 3), nn.Embedding(7, 5))
    config = peft.LoraConfig(r=3, target_modules=["0", "1", "2"], use_dora=False)
    model = peft.get_peft_model(model, config).base_model.model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    adapted_model: nn.Module = model.double()
    return adapted_model


def read_adapted(rank: int) -> float:
    whole, sharded = adapted(), adapted()
    fully_shard(sharded)
    expected, found = find_layers(whole), find_layers(sharded)
    assert described(found) == described(expected)
    worst = 0.0
    for layer, twin in zip(found.layers, expected.layers, strict=True):
        assert not shards.gram_is_smaller(layer)
        with shards.gathered([layer], True, agree):
            worst = max(worst, float((layer.weight() - twin.weight()).abs().max()))
            if layer.factors and twin.factors:
                pairs = zip(layer.factors(), twin.factors(), strict=True)
                worst = max(worst, *(float((a - b).abs().max()) for a, b in pairs))
    return worst


@pytest.mark.slow  # the processes import peft
def test_adapters_are_gathered_with_their_bases(ranks: Ranks) -> None:
    assert ranks.run(2, read_adapted) == [0.0, 0.0]


class Fused(nn.Module):
    """Scores by a matrix that is used transposed, and one that is the view of none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2)
        self.back = nn.ConvTranspose1d(60, 4, 3)
        self.grouped = nn.Conv1d(40, 40, 3, groups=4)


def grams_of_parts(rank: int) -> list[str]:
    model = Fused()
    fully_shard(model)
    layers = find_layers(model).layers
    with pytest.raises(RuntimeError, match="found a weight sharded as"):
        layers[0].weight()
    for layer in layers:
        if not shards.gram_is_smaller(layer):
            with pytest.raises(ValueError, match="not summed"):
                shards.summed_gram(layer, True, agree)
    return [layer.name for layer in layers if shards.gram_is_smaller(layer)]


def test_parts_of_a_weight_are_gathered(ranks: Ranks) -> None:
    """Rows of q, k and v are no whole shards; those of a transposed kernel neither."""
    assert ranks.run(2, grams_of_parts) == [[], []]


def replicated(rank: int) -> list[bool]:
    model, mesh = nn.Linear(4, 3), init_device_mesh("cpu", (2,))
    weight = model.weight.detach().clone()
    distribute_module(model, mesh)
    (layer,) = find_layers(model).layers
    asked = []

    def never(mine: bool) -> bool:
        asked.append(mine)
        return mine

    with shards.gathered([layer], True, never):
        inside = torch.equal(layer.weight(), weight)
    outside = torch.equal(layer.weight(), weight)
    return [shards.is_sharded(layer), bool(asked), inside, outside]


def test_what_all_hold_is_read_without_communication(ranks: Ranks) -> None:
    assert ranks.run(2, replicated) == [[False, False, True, True]] * 2


def alone(rank: int) -> list[bool]:
    model = nn.Linear(4, 3)
    weight = model.weight.detach().clone()
    fully_shard(model)
    (layer,) = find_layers(model).layers
    return [shards.is_sharded(layer), torch.equal(layer.weight(), weight)]


def test_a_process_alone_holds_all(ranks: Ranks) -> None:
    assert ranks.run(1, alone) == [[False, True]]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight


def ties(rank: int) -> list[str | None]:
    model = Tied()
    fully_shard(model)
    found = [layer.tied_to for layer in find_layers(model).layers]
    mesh = init_device_mesh("cpu", (2,))
    one = nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Replicate()]))
    two = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    two[0].weight = two[1].weight = one
    return found + [layer.tied_to for layer in find_layers(two).layers]


def test_ties_are_known_by_the_parameter(ranks: Ranks) -> None:
    assert ranks.run(2, ties)[0] == [None, "embed", None, "0"]


def trained_on(rank: int) -> list[float]:
    """What is read after an update, and while FSDP2 has gathered what it was before."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
    fully_shard(model)
    model.set_reshard_after_backward(False)  # type: ignore[operator]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.ones(2, 4)).sum().backward()
    table = find_layers(model)
    with as_stored(model), shards.gathered(table.layers, True, agree):
        before = table.layers[0].weight().clone()
    with torch.no_grad():
        model.reshard()  # type: ignore[operator]
        model.unshard()  # type: ignore[operator]
    with as_stored(model):
        optimizer.step()
    stale = table.layers[0].weight()
    with as_stored(model), shards.gathered(table.layers, True, agree):
        now = table.layers[0].weight()
        return [float((x - before).abs().max()) for x in (stale, now)]


def test_gathered_copies_are_not_taken_for_the_weights(ranks: Ranks) -> None:
    for stale, now in ranks.run(2, trained_on):
        assert stale == 0.0
        assert now > 0.1


def recorded(rank: int, log_dir: str) -> list[Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 7), nn.Linear(7, 5))
    expected = [linalg.singular_values(x.weight()) for x in find_layers(model).layers]
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
    fully_shard(model, mp_policy=policy)
    with torch.no_grad():
        model(torch.ones(2, 9))  # a validation
    sink, quantities = svdhooks.MemorySink(), ["weight_spectrum"]
    with svdhooks.watch(model, log_dir, sinks=[sink], quantities=quantities):
        pass
    records = [r for r in sink.records if r.quantity == "weight_spectrum"]
    found = {r.layer: r.values["spectrum"] for r in records}
    return [
        float(abs(found[str(i)] / sigma.numpy() - 1).max())
        for i, sigma in enumerate(expected)
        if found
    ]


def test_a_record_is_of_what_the_optimiser_updates(
    ranks: Ranks, tmp_path: Path
) -> None:
    """And not of the copy in half precision that a validation left gathered."""
    first, second = ranks.run(2, recorded, str(tmp_path))
    assert len(first) == 2
    assert max(first) < 1e-6
    assert second == []


# --- wrappers ---------------------------------------------------------------------------


def test_fabric_is_looked_through() -> None:
    """Hazard 39."""
    fabric = pytest.importorskip("lightning.fabric")
    model = nn.Sequential(nn.Linear(3, 2))
    wrapped = fabric.Fabric(accelerator="cpu", devices=1).setup_module(model)
    assert unwrap(wrapped) is model
    assert [layer.name for layer in find_layers(wrapped).layers] == ["0"]


def test_deepspeed_is_looked_through() -> None:
    class DeepSpeedEngine(nn.Module):
        __module__ = "deepspeed.runtime.engine"

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    model = nn.Sequential(nn.Linear(3, 2))
    assert unwrap(DeepSpeedEngine(model)) is model


# --- what is refused --------------------------------------------------------------------


def partitioned(model: nn.Module) -> nn.Module:
    """As ZeRO-3 leaves the parameters between forward passes."""
    for index, parameter in enumerate(model.parameters()):
        held: Any = parameter
        held.ds_id, held.ds_shape = index, parameter.shape
        parameter.data = torch.empty(0)
    return model


def test_zero_3_is_refused() -> None:
    """Hazard 23 for DeepSpeed: each matrix is listed, with what to do."""
    model = partitioned(nn.Sequential(nn.Linear(3, 2), nn.MultiheadAttention(4, 2)))
    with pytest.raises(ValueError, match=r"0\.weight: partitioned by DeepSpeed ZeRO-3"):
        find_layers(model)
    reason = why_refused(model) or ""
    assert "DeepSpeed ZeRO-3" in reason
    assert "fully_shard" in reason
    mixed = nn.Sequential(partitioned(nn.Bilinear(2, 2, 3)), nn.Linear(3, 2))
    table = find_layers(mixed)
    assert [layer.name for layer in table.layers] == ["1"]
    assert [skipped.name for skipped in table.skipped] == ["0.weight"]


def test_pipelines_are_refused() -> None:
    stage = PipelineStage.__new__(PipelineStage)
    assert "pipeline parallelism" in (why_refused(stage) or "")
    assert why_refused(SimpleNamespace()) is None
    assert why_refused(nn.Linear(2, 2)) is None


def test_what_cannot_be_gathered_is_skipped() -> None:
    class Apart(nn.Parameter):
        """Looks as a DTensor does."""

        device_mesh = placements = ()

    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    model[0].weight = Apart(torch.ones(2, 3))
    (skipped,) = find_layers(model).skipped
    assert "torch.distributed is not initialised" in skipped.reason
