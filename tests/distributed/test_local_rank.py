"""Local rank over several processes: what one process reads that sees everything."""

import warnings
from collections.abc import Callable, Sequence
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
from svdhooks.isolation import probe_context
from svdhooks.quantities import JacobianSpectrum
from svdhooks.reports import RecordingWarning
from tests.distributed.harness import Ranks
from tests.distributed.test_ddp import check_same
from tests.distributed.training import Net, Values, batches, train, values_of, whole_run


class _Cube(torch.autograd.Function):
    """Differentiable backwards, and twice, but not forwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class Cubic(Net):
    """Has an operation without a forward-mode derivative in the middle."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = _Cube.apply(self.fc1(x))
        return self.head(torch.relu(self.fc2(hidden)))


class Even(nn.Module):
    """Its widths can be divided among two processes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(20, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


class Fragile(Net):
    """Cannot be run on the side of the training by one of the processes."""

    broken = False

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.fc1(x))
        if self.broken and not self.training:
            raise MemoryError("no memory left in the middle of the model")
        return self.head(torch.relu(self.fc2(hidden)))


NETS: dict[str, Callable[[], nn.Module]] = {
    "net": Net,
    "cubic": Cubic,
    "even": Even,
    "fragile": Fragile,
}


def spread(kind: str, model: nn.Module, world: int) -> nn.Module:
    if kind == "ddp":
        return DistributedDataParallel(model)
    if kind == "fsdp2":
        fully_shard(model.fc1)
        fully_shard(model.fc2)
        fully_shard(model)
    if kind == "hsdp":
        mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("copy", "part"))
        fully_shard(model.fc2, mesh=mesh)
        fully_shard(model, mesh=mesh)
    if kind == "tp":
        mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("tensor",))
        plan = {"fc1": ColwiseParallel(), "fc2": RowwiseParallel()}
        parallelize_module(model, mesh, plan)
    return model


def run(
    rank: int,
    world: int,
    kind: str,
    net: str,
    probes: Sequence[Tensor] | None,
    options: dict[str, Any],
    broken: int | None = None,
) -> tuple[list[float], Values, list[str]]:
    """Train with or without local rank; what was lost, recorded and said."""
    torch.manual_seed(0)
    plain: Any = NETS[net]()
    model = spread(kind, plain, world)
    data = [x.tensor_split(world)[rank] for x in batches(4)]
    sink = svdhooks.MemorySink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", RecordingWarning)
        if probes is None:
            return train(model, data), {}, []
        with svdhooks.watch(
            model,
            None,
            quantities=JacobianSpectrum(schedule=svdhooks.every(2), **options),
            probe=probes[rank],
            sinks=[sink],
            max_overhead=None,
        ) as recorder:

            def after(number: int) -> None:
                plain.broken = broken == rank

            losses = train(model, data, recorder, after)
    return losses, values_of(sink.records), [str(w.message) for w in caught]


def expected(net: str, probe: Tensor, options: dict[str, Any], world: int) -> Values:
    quantity = JacobianSpectrum(schedule=svdhooks.every(2), **options)
    return whole_run(probe, batches(4), NETS[net], quantities=quantity)


EXACT: dict[str, Any] = {"max_samples": None}
SKETCH = {"max_samples": None, "directions": 6, "max_directions": 8}


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    "sizes", [pytest.param([12, 12], marks=pytest.mark.slow), [9, 4]]
)
def test_two_processes_read_what_one_would(
    ranks: Ranks, kind: str, sizes: list[int]
) -> None:
    """Training is bit for bit the same; equal and unequal numbers of samples."""
    probe = batches(1, sum(sizes))[0]
    probes = list(torch.split(probe, sizes))
    found = ranks.run(2, run, 2, kind, "net", probes, EXACT)
    without = ranks.run(2, run, 2, kind, "net", None, {})
    assert [losses for losses, *_ in found] == [losses for losses, *_ in without]
    (_, records, said), (_, none, _) = found
    assert none == {}
    assert said == []
    check_same(records, expected("net", probe, EXACT, 2), rel=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"), [("fsdp2", SKETCH), ("ddp", SKETCH), ("hsdp", EXACT)]
)
def test_sketches_and_replicas_too(
    ranks: Ranks, kind: str, options: dict[str, Any]
) -> None:
    probe = batches(1, 10)[0]
    probes = list(torch.split(probe, [5, 5]))
    (_, records, said), _ = ranks.run(2, run, 2, kind, "net", probes, options)
    # six directions of twenty say no more than six
    assert all("number of random directions" in text for text in said)
    assert len(said) == (options == SKETCH)
    check_same(records, expected("net", probe, options, 2), rel=2e-5)


def test_what_has_no_forward_derivative_is_right_under_fsdp(ranks: Ranks) -> None:
    """Hazard 17: another method serves it, and equals an unsharded copy."""
    probe = batches(1, 8)[0]
    probes = list(torch.split(probe, [5, 3]))
    (_, records, said), _ = ranks.run(2, run, 2, "fsdp2", "cubic", probes, EXACT)
    assert said == []
    whole = expected("cubic", probe, EXACT, 2)
    assert {values["method"] for values in records.values()} == {"double_backward"}
    # how an unsharded copy was differentiated is another matter
    for values in (*records.values(), *whole.values()):
        del values["method"], values["directions"]
    check_same(records, whole, rel=2e-5)


def double_backward(rank: int) -> str:
    """The naive way: differentiate the gradient in a model of FSDP2."""
    torch.manual_seed(0)
    model = spread("fsdp2", Cubic(), 2)
    x = torch.ones(2, 20, requires_grad=True)
    try:
        with probe_context(model, derivatives=True):
            z = model(x)
            u = torch.ones_like(z, requires_grad=True)
            (g,) = torch.autograd.grad(z, x, u, create_graph=True)
            torch.autograd.grad(g.sum(), u)
    except RuntimeError as error:
        return str(error)
    return ""


def test_a_naive_double_backward_fails_under_fsdp(ranks: Ranks) -> None:
    """The companion of hazard 17: the parameters are gone by then."""
    assert all("storage" in said for said in ranks.run(2, double_backward))


def test_tensor_parallelism_is_told_and_weights_go_on(ranks: Ranks) -> None:
    probe = batches(1, 6)[0]
    (_, records, said), _ = ranks.run(2, run, 2, "tp", "even", [probe, probe], EXACT)
    assert records == {}
    assert any("tensor parallelism" in text for text in said)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_one_process_that_fails_leaves_nobody_waiting(ranks: Ranks, kind: str) -> None:
    """It has no memory for the second record: which has that status, and training goes on."""
    probe = batches(1, 8)[0]
    probes = list(torch.split(probe, [4, 4]))
    without = ranks.run(2, run, 2, kind, "fragile", None, {})
    found = ranks.run(2, run, 2, kind, "fragile", probes, EXACT, 1)
    assert [losses for losses, *_ in found] == [losses for losses, *_ in without]
    (_, records, said), _ = found
    statuses = {(step, values["status"]) for (step, *_), values in records.items()}
    assert (0, "ok") in statuses
    assert all("out of memory" in status for step, status in statuses if step >= 2)
    assert {step for step, _ in statuses} == {0, 2, 4}
    assert len(said) > 0
