"""What training costs more with the recorder, seen from outside and by its own account.

Two identical models train in turns, block by block, one of them watched at the
defaults of ``svdhooks.watch``; the recorder's clock stands still while the other one
trains. So that minutes show what hours do, the credit of 10 s is what the record before
the first update takes, and the slow models are to be recorded every 10 steps, which the
overhead guard then stretches; ``--credit 10 --every 100`` are the defaults of users.

Usage: python benchmarks/training_overhead.py [--seconds 90] [--tasks mlp gpt]
"""

import argparse
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from _bench import show
from models import TASKS, Task
from numpy.typing import NDArray

from svdhooks.conductor import overhead
from svdhooks.conductor.settings import Settings
from svdhooks.record import Record
from svdhooks.recorder import Recorder
from svdhooks.schedule import every
from svdhooks.sinks.memory import MemorySink

BLOCK_SECONDS = 0.5
INTERVALS = {"mlp": 100, "resnet": 10, "gpt": 10}
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
        extra: Of each call of ``recorder.step``; of the plain one, of looking twice at
            the clocks.
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
        if self.recorder is not None and self.recorder.step():
            self.recorded.append(len(self.steps))
        self.extra.append(trained.until(Now.read()))
        self.steps.append(begun.until(trained))


@dataclass
class Run:
    """A finished run of both models."""

    plain: Side
    watched: Side
    sink: Slim
    begin: float
    interval: int


def run(task: Task, seconds: float, credit: float | None, interval: int) -> Run:
    """Train both models in turns for ``seconds`` altogether."""
    plain, watched = Side(task, 0), Side(task, 0)
    for side in (plain, watched, plain, watched):  # and the first calls of kernels
        side.train(3)
    block = max(1, min(50, round(3 * BLOCK_SECONDS / plain.blocks[-1].wall)))
    plain, watched = Side(task, 0), Side(task, 0)
    sink, settings = Slim(), Settings(schedule=every(interval))
    with tempfile.TemporaryDirectory() as directory:
        recorder = Recorder(
            watched.model, directory, settings, sinks=[sink], begin=False
        )
        overhead.CREDIT_SECONDS = 0.0 if credit is None else credit
        begun = time.perf_counter()
        # with a batch, so that the first record is whole and the guard knows all costs
        recorder.begin(batch=watched.batches[0])
        begin = time.perf_counter() - begun
        overhead.CREDIT_SECONDS = begin if credit is None else credit
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
                        # what the plain model takes is no time of the watched one
                        recorder._guard._started += time.perf_counter() - begun
    return Run(plain, watched, sink, begin, interval)


# --- what it says -----------------------------------------------------------------


def mean(spans: Sequence[Now]) -> NDArray[np.float64]:
    """Mean wall and CPU seconds."""
    return np.array(spans).reshape(-1, 2).mean(0)


def ratio(done: Run) -> tuple[str, str]:
    """Time with over time without, on the wall and CPU, with its standard error."""
    with_, without = (np.array(s.blocks) for s in (done.watched, done.plain))
    pick = np.random.default_rng(0).integers(len(with_), size=(500, len(with_)))
    errors = (with_[pick].sum(1) / without[pick].sum(1)).std(0)
    ratios = with_.sum(0) / without.sum(0)
    wall, cpu = (f"{r:.4f} ± {e:.4f}" for r, e in zip(ratios, errors, strict=True))
    return wall, cpu


def after_effect(done: Run) -> str:
    """How much longer the steps after a record take than the others, CPU ms a record."""
    cpu = np.array(done.watched.steps)[:, 1]
    late = np.zeros(len(cpu), dtype=bool)
    for first in done.watched.recorded:
        late[first + 1 : first + 1 + AFTER] = True
    if not late.any():
        return "-"
    error = cpu[late].std() / late.sum() ** 0.5
    return f"{1e3 * AFTER * (cpu[late].mean() - cpu[~late].mean()):+.1f} ± {1e3 * AFTER * error:.1f}"


def report(done: Run) -> dict[str, str]:
    """What is said of a run."""
    watched, plain = done.watched, done.plain
    trained, idle = mean(watched.steps), mean(plain.extra)
    extra = (mean(watched.extra) - idle) / trained
    made = np.zeros(len(watched.extra), dtype=bool)
    made[watched.recorded] = True
    calls = np.array(watched.extra)
    between = calls[~made].mean(0) - idle
    last = done.sink.of("run")[-1].measures
    spent = last["spent"] - done.begin
    own = spent / max(last["elapsed"], 1e-9)
    times = Counter((r.quantity, r.layer) for r in done.sink.records if r.layer)
    stretches = [r.measures["interval_stretch"] for r in done.sink.of("run")]
    wall, cpu = ratio(done)
    return {
        "steps of each": f"{len(watched.steps)}",
        "a step, wall and CPU ms": f"{1e3 * trained[0]:.1f}  {1e3 * trained[1]:.1f}",
        "with / without, wall": wall,
        "with / without, CPU": cpu,
        "in step() / in training, wall": f"{extra[0]:.4f}",
        "in step() / in training, CPU": f"{extra[1]:.4f}",
        "the same by its own account": f"{own:.4f}",
        "seconds before the first step": f"{done.begin:.2f}",
        "seconds in step(), wall": f"{extra[0] * trained[0] * len(calls):.2f}",
        "seconds by its own account": f"{spent:.2f}",
        "step() without record, CPU µs": f"{1e6 * between[1]:.1f}",
        f"next {AFTER} steps, CPU ms more": after_effect(done),
        "credit, s": f"{overhead.CREDIT_SECONDS:.2f}",
        "interval, steps": f"{done.interval}",
        "records": f"{len(watched.recorded)} + 1",
        "stretch, median": f"{np.median(stretches):.0f}",
        "of each part": f"{min(times.values())} … {max(times.values())}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seconds", type=float, default=90.0, help="per task")
    parser.add_argument("--credit", type=float, help="seconds")
    parser.add_argument("--every", type=int, help="steps")
    parser.add_argument("--threads", type=int, help="of torch")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # that records become rarer
    if options.threads:
        torch.set_num_threads(options.threads)
    reports = {}
    for name in options.tasks:
        interval = options.every or INTERVALS[name]
        done = run(TASKS[name], options.seconds, options.credit, interval)
        reports[TASKS[name].name] = report(done)
    facts = next(iter(reports.values()))
    show(
        f"Training with and without, torch on {torch.get_num_threads()} threads",
        [(fact, *(said[fact] for said in reports.values())) for fact in facts],
        ("", *reports),
    )


if __name__ == "__main__":
    main()
