"""What the demos have in common: two trainings that differ in one thing."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdhooks.runlog import RunLog
from svdhooks.sinks import Sink

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.tensorboard import SummaryWriter

    from svdhooks.recorder import Recorder

HALF = 0.5
"""What has fallen below this share is told."""


def halved(trail: Sequence[float]) -> bool:
    """Whether the last value is less than half of the first."""
    return trail[-1] < HALF * trail[0]


@dataclass(frozen=True)
class Column:
    """A measure that the live table shows for every layer.

    Attributes:
        point: Of its records.
        field: Of their values.
        title: Two lines.
        alarming: Whether its values so far are to be noticed.
    """

    point: str
    field: str
    title: str
    alarming: Callable[[Sequence[float]], bool] = halved


@dataclass(frozen=True)
class Run:
    """One of a demo's two trainings.

    Attributes:
        name: Of its directory.
        healthy: Whether it is the one that nothing happens to.
        log_dir: Where its log goes.
        steps: Optimiser steps.
        seed: Random seed.
        sink: Receives its records too.
        tell: To be called with the step and the loss or accuracy, now and then; with
            step 0 when the training begins.
    """

    name: str
    healthy: bool
    log_dir: Path
    steps: int
    seed: int
    sink: Sink
    tell: Callable[[int, float], None]


@dataclass(frozen=True)
class Findings:
    """What a demo read from the logs of its two runs.

    Attributes:
        rows: What is compared, and its value in the healthy and in the other run.
        verdict: What these numbers show.
    """

    rows: Sequence[tuple[str, str, str]]
    verdict: str


@dataclass(frozen=True)
class Demo:
    """Two trainings side by side, and what is to be seen of them.

    Attributes:
        runs: Directory of the healthy run and of the other one.
        steps: Optimiser steps of each, if the user does not say.
        introduction: What is going to happen, from the number of images and of steps.
        number: What the progress bars show beside the steps, a format.
        columns: Of the live table.
        marked: The layer to look at.
        caption: Why.
        train: Trains one run on the images and their digits.
        conclude: Reads the logs of both runs.
        alarms: Which rules are applied to these.
        title: Of the live table.
        since: The step of its first values.
    """

    runs: tuple[str, str]
    steps: int
    introduction: Callable[[int, int], str]
    number: str
    columns: tuple[Column, ...]
    marked: str
    caption: str
    train: "Callable[[Tensor, Tensor, Run], None]"
    conclude: Callable[[RunLog, RunLog], Findings]
    alarms: str = "auto"
    title: str = "ranks of every layer, first → now"
    since: int = 0


@contextmanager
def watched(
    model: "nn.Module", run: Run, **options: Any
) -> "Iterator[tuple[Recorder, SummaryWriter]]":
    """Watch a plain training loop, and write scalars beside its records.

    Args:
        model: What is trained.
        run: Where the records go.
        **options: Further arguments of ``svdhooks.watch``.

    Yields:
        The recorder, and a writer of scalars into the same log directory.
    """
    from torch.utils.tensorboard import SummaryWriter

    import svdhooks

    with (
        SummaryWriter(str(run.log_dir)) as scalars,
        svdhooks.watch(
            model,
            run.log_dir,
            max_overhead=None,
            on_error="raise",
            sinks=[run.sink],
            **options,
        ) as recorder,
    ):
        yield recorder, scalars
