"""Setting up: the parts of a recorder, step by step, on all processes at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from svdhooks import advice, schema
from svdhooks.conductor.bases import BaseKeeper
from svdhooks.conductor.journal import check_sinks
from svdhooks.conductor.models import Models
from svdhooks.conductor.overhead import OverheadGuard
from svdhooks.conductor.recording import Recording
from svdhooks.conductor.settings import Settings
from svdhooks.conductor.timetable import Timetable
from svdhooks.distributed.setup import together
from svdhooks.distributed.team import Team
from svdhooks.quantities import Quantity
from svdhooks.reports import Reporter
from svdhooks.sinks import Sink


@dataclass(frozen=True)
class Tools:
    """What all parts of a recorder share.

    Attributes:
        settings: When and what to record.
        reporter: Where problems go.
        guard: Says what a record may cost.
        clock: Seconds.
        team: The processes that record together.
    """

    settings: Settings
    reporter: Reporter
    guard: OverheadGuard
    clock: Callable[[], float]
    team: Team


@dataclass(frozen=True)
class Assembly:
    """The parts of a recorder.

    Attributes:
        models: What is watched.
        quantities: What is measured, for this run alone.
        bases: The weights that the run began with.
        timetable: When what is due.
        recording: Makes the records.
    """

    models: Models
    quantities: list[Quantity]
    bases: BaseKeeper
    timetable: Timetable
    recording: Recording


def assemble(
    model: nn.Module | Mapping[str, nn.Module],
    log_dir: str | None,
    sinks: Sequence[Sink],
    tools: Tools,
    follow: Callable[[], None],
) -> Assembly:
    """Set up the parts; what is wrong on one process is raised on all; collective.

    Args:
        model: What to watch.
        log_dir: The run's directory; None: no log file.
        sinks: Where records go besides.
        tools: What the parts share.
        follow: Begins to count updates.

    Returns:
        The parts.

    Raises:
        Exception: Whatever is wrong with the arguments, here or on another process.
    """
    settings, reporter, team = tools.settings, tools.reporter, tools.team
    directory = None if log_dir is None else Path(log_dir) / schema.SUBDIRECTORY
    with together(team, reporter, lambda: _facts(settings, models)):
        models = Models(model, settings, directory, reporter, tools.guard, team)
        quantities = [_fresh(quantity) for quantity in settings.quantities]
        # one process keeps them, and measures what needs them
        own = directory if team.writes else None
        bases = BaseKeeper(quantities, own, settings.start_step, reporter)
        bases.restore()
        timetable = Timetable(quantities, settings.schedule)
        check_sinks(sinks)
    with together(team, reporter):
        models.check_probes()
    with together(team, reporter):
        follow()
        # last: what is wrong with the rest must leave no directory behind
        receiving = [*_log_sinks(log_dir, settings), *sinks] if team.writes else []
        recording = Recording(
            models, tools.guard, settings, receiving, reporter, tools.clock, team
        )
        if log_dir is not None and settings.start_step is not None:
            recording.alarming.resume(log_dir, settings.start_step)
    for name, reason in models.idle(quantities).items() if team.writes else ():
        advice.nothing_to_measure(reporter, name, reason)
    return Assembly(models, quantities, bases, timetable, recording)


def _facts(settings: Settings, models: Models) -> dict[str, Any]:
    """What has to be the same on all processes."""
    described = settings.describe()
    names = ("schedule", "observe", "quantities", "max_overhead", "start_step")
    layers = [(x.name, list(getattr(x, "shape", ()))) for x in models.watched]
    return {"the layers": layers, **{name: str(described[name]) for name in names}}


def _fresh(quantity: Quantity) -> Quantity:
    """A quantity that remembers something begins anew in every run."""
    begin: Callable[[], Quantity] | None = getattr(quantity, "fresh", None)
    return quantity if begin is None else begin()


def _log_sinks(log_dir: str | None, settings: Settings) -> list[Sink]:
    if log_dir is None:
        return []
    from svdhooks.sinks.tensorboard import TensorBoardSink

    start, most = settings.start_step, settings.max_log_gb
    return [TensorBoardSink(log_dir, start_step=start, max_log_gb=most)]
