"""Training loops that several processes run, and what one process would do."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import svdhooks
from svdhooks.record import Record

Values = dict[tuple[int, str, str, str], dict[str, Any]]


class Net(nn.Module):
    """Layers of different sizes; the first is wider than the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(20, 33)
        self.fc2 = nn.Linear(33, 16)
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


def make(build: Callable[[], nn.Module] = Net, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build()


def batches(count: int, size: int = 24, features: int = 20) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(size, features, generator=generator) for _ in range(count)]


def shard(batch: Tensor, rank: int, world: int) -> Tensor:
    return batch.tensor_split(world)[rank]


def train(
    model: nn.Module,
    data: Sequence[Tensor],
    recorder: Any = None,
    after: Callable[[int], None] = lambda _: None,
) -> list[float]:
    """A plain loop; the target is the sum of the features."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for number, x in enumerate(data):
        loss = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        after(number)
        if recorder is not None:
            recorder.step()
    return losses


def values_of(records: Sequence[Record]) -> Values:
    """What was recorded, by what it is of; run and meta left out."""
    return {
        (r.step, r.layer, r.quantity, r.point): {
            **{name: value.tolist() for name, value in r.values.items()},
            "status": r.status,
            "method": r.method,
            "marks": r.marks,
        }
        for r in records
        if r.quantity not in {"run", "meta"}
    }


def whole_run(
    probe: Tensor,
    data: Sequence[Tensor],
    build: Callable[[], nn.Module] = Net,
    **options: Any,
) -> Values:
    """What one process reads that sees everything."""
    sink = svdhooks.MemorySink()
    model = make(build)
    with svdhooks.watch(
        model, None, every=2, probe=probe, sinks=[sink], max_overhead=None, **options
    ) as recorder:
        train(model, data, recorder)
    return values_of(sink.records)


def written(log_dir: str | Path) -> list[str]:
    """The event files of a run."""
    return sorted(p.name for p in Path(log_dir).rglob("*.svdhooks"))
