"""A small network, the ways to compile it, and one training run of each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch._dynamo.utils
from torch import Tensor, fx, nn

import svdhooks
from svdhooks.record import Record
from svdhooks.sinks.memory import MemorySink

LAYERS = ["first", "body.0", "body.3", "head"]
BATCHES = torch.randn(24, 12, 6, generator=torch.Generator().manual_seed(7))


class Body(nn.Sequential):
    """Has a forward of its own: dynamo skips those of torch when compiled in place."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class Net(nn.Module):
    """Batch norm, an in-place successor and dropout; branches on the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.body = Body(
            nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 5)
        )
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.body(torch.tanh(self.first(x)))))


class Counting:
    """A backend that computes eagerly and counts the graphs it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: fx.GraphModule, _inputs: Any) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


Shape = Callable[[nn.Module, Any], Any]


def outer(model: nn.Module, backend: Any) -> Any:
    return torch.compile(model, backend=backend)


def fullgraph(model: nn.Module, backend: Any) -> Any:
    return torch.compile(model, backend=backend, fullgraph=True)


def in_place(model: nn.Module, backend: Any) -> Any:
    model.compile(backend=backend)
    return model


def in_place_fullgraph(model: nn.Module, backend: Any) -> Any:
    model.compile(backend=backend, fullgraph=True)
    return model


def inner(model: Any, backend: Any) -> Any:
    model.body = torch.compile(model.body, backend=backend)
    return model


def inner_in_place(model: Any, backend: Any) -> Any:
    model.body.compile(backend=backend)
    return model


def leaf(model: Any, backend: Any) -> Any:
    model.head = torch.compile(model.head, backend=backend)
    return model


SHAPES: list[Shape] = [
    outer,
    fullgraph,
    in_place,
    in_place_fullgraph,
    inner,
    inner_in_place,
    leaf,
]


def eager(model: nn.Module, _backend: Any) -> Any:
    return model


@dataclass
class Run:
    """What one training run came to.

    Attributes:
        records: (step, layer, point, quantity) -> record.
        graphs: Compiled, by the backend's count.
        attempts: What dynamo began to compile, whether a graph came of it or not.
        state: The weights and buffers at the end.
    """

    records: dict[tuple[int, str, str, str], Record] = field(default_factory=dict)
    graphs: int = 0
    attempts: int = 0
    state: list[Tensor] = field(default_factory=list)


@contextmanager
def fresh_dynamo() -> Iterator[Counting]:
    """Nothing is compiled before and after; what is compiled inside is counted."""
    torch._dynamo.reset()
    torch._dynamo.utils.clear_compilation_metrics()
    try:
        yield Counting()
    finally:
        torch._dynamo.reset()


def attempts() -> int:
    return len(torch._dynamo.utils.get_compilation_metrics())


def as_records(sink: MemorySink) -> dict[tuple[int, str, str, str], Record]:
    return {(r.step, r.layer, r.point, r.quantity): r for r in sink.records if r.layer}


def train_run(
    shape: Shape,
    attach: str = "before",
    *,
    watched: bool = True,
    steps: int = 3,
    batches: Sequence[Tensor] | Tensor = BATCHES,
    net: Callable[[], nn.Module] = Net,
    backend: Any = None,
    **options: Any,
) -> Run:
    """Compile a network, train it and record every step.

    Args:
        shape: How it is compiled.
        attach: When the recorder comes: ``"first"`` before it is compiled, ``"before"``
            or ``"after"`` the first compiled call, after a compiled ``"validation"``.
        watched: Whether there is a recorder at all.
        steps: Updates after the recorder came.
        batches: The first of them is the one of the call before the recorder.
        net: Makes the network.
        backend: Instead of the counting one.
        options: Of `svdhooks.watch`.

    Returns:
        What came of it.
    """
    sink, recorder = MemorySink(), None

    def watch(called: nn.Module) -> None:
        nonlocal recorder
        given = {"every": 1, "max_overhead": None, "on_error": "raise", **options}
        if watched:
            recorder = svdhooks.watch(called, None, sinks=[sink], **given)

    with fresh_dynamo() as counting:
        torch.manual_seed(0)
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if attach == "first":
            watch(model)
        called = shape(model, backend or counting)
        if attach == "after":
            called(batches[0]).square().mean().backward()
        if attach == "validation":
            with torch.no_grad():
                called.eval()(batches[0])
            called.train()
        if attach != "first":
            watch(called)
        for x in batches[1 : steps + 1]:
            optimizer.zero_grad()
            called(x).square().mean().backward()
            optimizer.step()
            if recorder is not None:
                recorder.step()
        if recorder is not None:
            recorder.close()
        state = [value.clone() for value in model.state_dict().values()]
        return Run(as_records(sink), counting.graphs, attempts(), state)


def assert_same_records(found: Run, expected: Run, rtol: float = 1e-5) -> None:
    """Assert that two runs recorded the same, and something."""
    assert {name for _, name, _, _ in found.records} == set(LAYERS)
    assert found.records.keys() == expected.records.keys()
    for key, record in expected.records.items():
        twin = found.records[key]
        assert record.ok, record.status
        assert (twin.status, twin.marks) == (record.status, record.marks)
        assert twin.values.keys() == record.values.keys()
        for name, value in record.values.items():
            np.testing.assert_allclose(
                twin.values[name], value, rtol=rtol, atol=1e-7, err_msg=f"{key} {name}"
            )
