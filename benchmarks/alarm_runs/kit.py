"""What a run of the collection is, and how one is trained, logged and judged.

A run is trained as a user would train it: a plain loop, `svdhooks.watch` with the
quantities of its kind of task, the loss given to `Recorder.step`. Beside the log stands
the truth: a number that has nothing to do with ranks (accuracy, loss, neighbours), and a
level of it. Whether a run is healthy and since when it is not follows from that alone.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import svdhooks

TRUTH = "truth"
"""Tag of the truth beside the log."""


@dataclass
class Course:
    """A training that can be asked for step after step.

    Attributes:
        model: What is watched, changed in place by ``losses``.
        losses: The loss of each step, once its update is in the weights.
        truth: The number that tells how well the model does, now.
        every: Interval of records in steps.
        options: Further arguments of `svdhooks.watch`.
    """

    model: nn.Module
    losses: Iterator[float]
    truth: Callable[[], float]
    every: int
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One training of the collection.

    Attributes:
        name: Its folder.
        what: One line about it.
        preset: The alarms that a user would choose for it.
        healthy: What it is meant to be; the truth has to agree.
        truth: What the truth is.
        level: The truth has to end beyond this level to be healthy.
        make: Prepares the training.
        below: Whether good is below the level (an error), not above (an accuracy).
        held_out: Whether no rule and no threshold was made on it.
    """

    name: str
    what: str
    preset: str
    healthy: bool
    truth: str
    level: float
    make: Callable[[], Course]
    below: bool = False
    held_out: bool = False

    def good(self, value: float) -> bool:
        """Whether a value of the truth is beyond the level; NaN is not."""
        return value < self.level if self.below else value > self.level

    def folder(self, logs: Path) -> Path:
        """Where its log lies: runs that are held out have a directory of their own."""
        parent = logs.with_name(f"{logs.name}-held-out") if self.held_out else logs
        return parent / self.name


@dataclass(frozen=True)
class Verdict:
    """What the truth says about a run.

    Attributes:
        healthy: Whether it ended beyond the level.
        since: From this step on it stays on the wrong side; None where healthy. 0: it
            never got beyond.
        last: The last value.
        best: The best value.
    """

    healthy: bool
    since: int | None
    last: float
    best: float


def judge(run: Run, folder: Path) -> Verdict:
    """Read the truth beside a log.

    Args:
        run: Which run.
        folder: Its folder.

    Returns:
        What it says.
    """
    steps, values = svdhooks.RunLog(folder).scalars(TRUTH)
    good = np.array([run.good(float(value)) for value in values])
    best = np.nanmin(values) if run.below else np.nanmax(values)
    since = None
    if not good[-1]:
        seen = np.flatnonzero(good)
        since = int(steps[seen[-1] + 1]) if len(seen) else 0
    return Verdict(bool(good[-1]), since, float(values[-1]), float(best))


def train(run: Run, logs: Path) -> Path:
    """Train and log a run, unless its folder is there.

    A folder appears only when it is complete.

    Args:
        run: Which run.
        logs: The directory of all logs.

    Returns:
        The run's folder.
    """
    folder = run.folder(logs)
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    begun = time.process_time()
    torch.manual_seed(0)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        record(run.make(), partial)
        about = {"what": run.what, "preset": run.preset, "truth": run.truth}
        about["seconds"] = f"{time.process_time() - begun:.1f}"
        (partial / "run.json").write_text(json.dumps(about, indent=1))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def record(course: Course, folder: Path) -> None:
    """Train a course and log it as a user would.

    Args:
        course: What to train.
        folder: Where the log and the truth go.
    """
    options = {"max_overhead": None, **course.options}
    with (
        SummaryWriter(str(folder)) as writer,
        svdhooks.watch(course.model, folder, every=course.every, **options) as recorder,
    ):
        writer.add_scalar(TRUTH, course.truth(), 0)
        for step, loss in enumerate(course.losses, start=1):
            recorder.step(loss=loss)
            if step % course.every == 0:
                writer.add_scalar(TRUTH, course.truth(), step)
