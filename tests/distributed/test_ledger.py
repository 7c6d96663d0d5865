"""The ledger of several processes is that of one process which sees everything."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import svdhooks
from svdhooks.quantities.ledger import Ledger
from svdhooks.reports import RecordingWarning
from tests.distributed.harness import Ranks
from tests.distributed.test_ddp import check_same
from tests.distributed.training import Values, values_of


class Images(nn.Module):
    """Convolutions, and layers narrower and wider than the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.again = nn.Conv2d(6, 5, 3, stride=2)
        self.up = nn.Linear(20, 34)
        self.down = nn.Linear(34, 7)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.relu(self.again(torch.relu(self.conv(x))))
        return self.down(torch.relu(self.up(maps.flatten(1))))


def images(seed: int, size: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 2, 6, 6, generator=generator)


def spread(model: nn.Module, kind: str, world: int) -> Any:
    if kind == "ddp":
        return DistributedDataParallel(model)
    if kind == "fsdp2":
        for part in (model.conv, model.up):
            fully_shard(part)
        return fully_shard(model)
    if kind == "tp":
        mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("tensor",))
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        return parallelize_module(model, mesh, plan)
    return model


def run(
    rank: int, world: int, kind: str, observe: str = "probe"
) -> tuple[Values, list[str], list[float]]:
    torch.manual_seed(0)
    model = spread(Images(), kind, world)
    if kind == "tp":
        rank, world = 0, 1  # all see the same data
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sink, losses = svdhooks.MemorySink(), []
    probe = images(9).tensor_split(world)[rank]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with svdhooks.watch(
            model,
            None,
            every=2,
            sinks=[sink],
            max_overhead=None,
            quantities=[Ledger(max_features=33)],
            observe=observe,
            probe=probe if observe == "probe" else None,
        ) as recorder:
            for seed in range(4):
                loss = model(images(seed).tensor_split(world)[rank]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
                recorder.step()
            assert recorder._team.broken is None
    told = [str(x.message) for x in caught if issubclass(x.category, RecordingWarning)]
    return values_of(sink.records), told, losses


@pytest.mark.parametrize(
    "kind", ["ddp", "fsdp2", pytest.param("tp", marks=pytest.mark.slow)]
)
def test_two_processes_read_what_one_does(ranks: Ranks, kind: str) -> None:
    found = ranks.run(2, run, 2, kind)
    expected, _, _ = run(0, 1, "plain")
    if kind == "tp":  # whose forward is another: what flows between shards is not seen
        forget_flow(expected, "up")
    check_same(found[0][0], expected, rel=1e-4)
    assert found[1][0] == {}
    assert [told for _, told, _ in found] == [[], []]
    for record in expected.values():
        assert record["count"] > 0
        assert record["input_null_dimension"] >= 0
    removed = [x["nonlinearity_removed_share"] for x in expected.values()]
    assert (
        sum(x == x for x in removed) == (2 if kind != "tp" else 1) * 3
    )  # of three steps


def forget_flow(values: Values, layer: str) -> None:
    for key, fields in values.items():
        if key[1] == layer:
            fields["nonlinearity_removed_share"] = float("nan")


def test_a_training_observed_by_two_processes(ranks: Ranks) -> None:
    found = ranks.run(2, run, 2, "ddp", "training")
    expected, _, _ = run(0, 1, "plain", "training")
    check_same(found[0][0], expected, rel=1e-4)
    assert any(key[0] == 4 for key in expected)


def test_one_rank_without_a_batch(ranks: Ranks) -> None:
    """The other's is all there is; the flow is known to it alone."""
    found = ranks.run(2, only_one, 1)
    expected = only_one(0, 0)
    check_same(found[0], expected, rel=1e-4)


def only_one(rank: int, keeper: int) -> Values:
    torch.manual_seed(0)
    sink = svdhooks.MemorySink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        with svdhooks.watch(
            Images(),
            None,
            every=1,
            quantities=[Ledger(max_features=33)],
            sinks=[sink],
            forward=lambda model, batch: model(batch),
        ) as recorder:
            recorder.step(batch=images(9) if rank == keeper else None)
    return values_of(sink.records)


class Allergic(Images):
    """Cannot run under a mode, on one rank."""

    refuses = False

    def forward(self, x: Tensor) -> Tensor:
        if self.refuses and torch.overrides._get_current_function_mode() is not None:
            raise RuntimeError("not under a mode")
        return super().forward(x)


def untraced(rank: int) -> tuple[Values, str | None]:
    torch.manual_seed(0)
    model = fully_shard(Allergic())
    model.refuses = rank == 1
    sink = svdhooks.MemorySink()
    with svdhooks.watch(
        model, None, quantities=[Ledger()], sinks=[sink], probe=images(9)[rank::2]
    ) as recorder:
        broken = recorder._team.broken
    return values_of(sink.records), broken


def test_what_cannot_be_traced_on_one_rank_is_run_again_by_all(ranks: Ranks) -> None:
    (records, broken), (none, _) = ranks.run(2, untraced)
    assert none == {}
    assert broken is None
    assert len(records) == 4
    for fields in records.values():
        assert fields["status"] == "ok"
        assert fields["count"] > 0
