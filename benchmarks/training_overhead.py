"""What training costs more with the recorder, seen from outside and by its own account.

Two identical models train in turns, block by block, one of them watched at the
defaults of ``svdhooks.watch``; the recorder's clock stands still while the other one
trains. The credit of 10 s is set to what the record before the first update takes, so
that a minute of training shows what hours do; ``--credit 10`` leaves it.

Usage: python benchmarks/training_overhead.py [--seconds 90] [--credit 10] [task ...]
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from _bench import show
from models import TASKS, Task
from numpy.typing import NDArray

from svdhooks import overhead
from svdhooks.record import Record
from svdhooks.recorder import Recorder
from svdhooks.settings import Settings
from svdhooks.sinks.memory import MemorySink

BLOCK_SECONDS = 0.5
AFTER = 3
"""How many steps after a record are looked at for what its clock did not see."""


class Now(NamedTuple):
    """The time on the wall and the CPU time of all threads, in seconds."""

    wall: float
    cpu: float

    @classmethod
    def read(cls) -> "Now":
        """The two clocks."""
        return cls(time.perf_counter(), time.process_time())

    def until(self, later: "Now") -> "Now":
        """What has passed."""
        return Now(later.wall - self.wall, later.cpu - self.cpu)


class WatchedTime:
    """A clock that stands still while the plain model trains."""

    def __init__(self) -> None:
        self.left_out = 0.0

    def __call__(self) -> float:
        return time.perf_counter() - self.left_out


class Slim(MemorySink):
    """Keeps what is said of the records, without spectra."""

    def write(self, records: Sequence[Record]) -> None:
        """Keep the names and the values of the run."""
        self.records += [
            r if r.quantity == "run" else Record(r.step, r.layer, r.quantity)
            for r in records
            if r.quantity != "meta"
        ]


@dataclass
class Side:
    """One of the two models, and what its steps took.

    Attributes:
        task: What is trained.
        recorder: None for the plain one.
        steps: Of each step, without the recorder.
        extra: Of each call of ``recorder.step``.
        recorded: Steps at which a record was made.
        blocks: Of each block, with everything.
    """

    task: Task
    seed: int
    recorder: Recorder | None = None
    steps: list[Now] = field(default_factory=list)
    extra: list[Now] = field(default_factory=list)
    recorded: list[int] = field(default_factory=list)
    blocks: list[Now] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.model = self.task.build()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.batches = [self.task.batch() for _ in range(4)]

    def train(self, steps: int) -> None:
        """Train for a block of steps."""
        begun = Now.read()
        for _ in range(steps):
            self._step()
        self.blocks.append(begun.until(Now.read()))

    def _step(self) -> None:
        begun = Now.read()
        batch = self.batches[len(self.steps) % len(self.batches)]
        self.task.loss(self.model, batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        trained = Now.read()
        if self.recorder is not None:
            if self.recorder.step():
                self.recorded.append(len(self.steps))
            self.extra.append(trained.until(Now.read()))
        self.steps.append(begun.until(trained))


@dataclass
class Run:
    """A finished run of both models."""

    plain: Side
    watched: Side
    sink: Slim
    credit: float


def run(task: Task, seconds: float, credit: float | None) -> Run:
    """Train both models in turns for ``seconds`` altogether."""
    plain, watched = Side(task, 0), Side(task, 0)
    for side in (plain, watched, plain, watched):  # and the first calls of kernels
        side.train(3)
    block = max(1, min(50, round(3 * BLOCK_SECONDS / plain.blocks[-1].wall)))
    plain, watched = Side(task, 0), Side(task, 0)
    clock, sink = WatchedTime(), Slim()
    with tempfile.TemporaryDirectory() as directory:
        recorder = Recorder(
            watched.model, directory, Settings(), sinks=[sink], begin=False, clock=clock
        )
        overhead.CREDIT_SECONDS = 0.0 if credit is None else credit
        begun = time.perf_counter()
        recorder.begin()
        if credit is None:
            overhead.CREDIT_SECONDS = time.perf_counter() - begun
        watched.recorder = recorder
        until = time.perf_counter() + seconds
        with recorder:
            while time.perf_counter() < until:
                # in turns also within the pairs: a drift cancels
                for side in (plain, watched, watched, plain):
                    if side is watched:
                        side.train(block)
                    else:
                        begun = time.perf_counter()
                        side.train(block)
                        clock.left_out += time.perf_counter() - begun
    return Run(plain, watched, sink, overhead.CREDIT_SECONDS)


# --- what it says -----------------------------------------------------------------


def total(spans: Sequence[Now]) -> NDArray[np.float64]:
    """Sum of wall and CPU seconds."""
    return np.array(spans).reshape(-1, 2).sum(0)


def ratio(done: Run) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Time with over time without, on the wall and CPU, and its standard error."""
    with_, without = (np.array(s.blocks) for s in (done.watched, done.plain))
    pick = np.random.default_rng(0).integers(len(with_), size=(500, len(with_)))
    samples = with_[pick].sum(1) / without[pick].sum(1)
    return with_.sum(0) / without.sum(0), samples.std(0)


def after_effect(done: Run) -> str:
    """How much longer the steps after a record take than the others, in ms per record."""
    wall = np.array(done.watched.steps)[:, 1]
    late = np.zeros(len(wall), dtype=bool)
    for first in done.watched.recorded:
        late[first + 1 : first + 1 + AFTER] = True
    if not late.any():
        return "-"
    more = (wall[late].mean() - np.median(wall[~late])) * AFTER
    usual = (wall[~late].mean() - np.median(wall[~late])) * AFTER
    return f"{1e3 * (more - usual):+.1f}"


def report(done: Run) -> tuple[str, ...]:
    """A row of the table."""
    watched = done.watched
    (wall, cpu), (wall_error, cpu_error) = ratio(done)
    trained, extra = total(watched.steps), total(watched.extra)
    last = done.sink.of("run")[-1].measures
    # the last record speaks of what was before it
    made = watched.recorded[-1] if watched.recorded else 0
    seen = total(watched.extra[:made])[0]
    times = Counter((r.quantity, r.layer) for r in done.sink.records if r.layer)
    return (
        watched.task.name,
        f"{len(watched.steps)}",
        f"{1e3 * trained[0] / len(watched.steps):.1f}",
        f"{1e3 * trained[1] / len(watched.steps):.1f}",
        f"{wall:.4f} ± {wall_error:.4f}",
        f"{cpu:.4f} ± {cpu_error:.4f}",
        f"{extra[0] / trained[0]:.4f}",
        f"{extra[1] / trained[1]:.4f}",
        f"{last['overhead']:.4f}",
        f"{last['spent'] - done.credit:.2f}",
        f"{seen:.2f}",
        after_effect(done),
        f"{len(watched.recorded)}",
        f"{min(times.values())} … {max(times.values())}",
    )


HEAD = (
    "task", "steps", "ms wall", "ms CPU", "ratio wall", "ratio CPU", "in step() wall",
    "in step() CPU", "own overhead", "own spent", "seen", "after, ms", "records",
    "per part",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", choices=[[], *TASKS], default=[*TASKS])
    parser.add_argument("--seconds", type=float, default=90.0, help="per task")
    parser.add_argument("--credit", type=float, help="seconds")
    parser.add_argument("--threads", type=int, help="of torch")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = [
        report(run(TASKS[name], options.seconds, options.credit))
        for name in options.tasks
    ]
    show(f"Training with and without, {torch.get_num_threads()} threads", rows, HEAD)


if __name__ == "__main__":
    main()
