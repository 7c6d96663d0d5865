"""What alarms say about a run, beside what the truth says."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import svdhooks
from alarm_runs.kit import Run, Verdict, judge
from alarm_runs.naive import Halved
from svdhooks.alarms import (
    Alarm,
    AlarmEvent,
    Reading,
    Watcher,
    readings,
    resolve_alarms,
)

PRESETS = ("auto", "supervised", "ssl", "lm")
OWN = "own"
"""The preset that a user would choose for the run."""
NO_LOSS = "own, no loss"
SPARSE = {"own, every 2nd record": 2, "own, every 4th record": 4}
NAIVE = "a rank halved"
"""No rule of the package: the one that one would write first."""
CHOICES = (OWN, NO_LOSS, *SPARSE, *PRESETS, NAIVE)


@dataclass(frozen=True)
class Found:
    """A run and the events of each choice of alarms.

    Attributes:
        run: Which run.
        verdict: What the truth says.
        records: Steps of the records.
        events: Choice of `CHOICES` -> events.
    """

    run: Run
    verdict: Verdict
    records: tuple[int, ...]
    events: dict[str, tuple[AlarmEvent, ...]]

    def alarms(self, choice: str) -> list[AlarmEvent]:
        """What is no information."""
        return [e for e in self.events[choice] if e.severity == "alarm"]

    def lag(self, choice: str) -> int | None:
        """Records from the truth to the first alarm, negative if it came before.

        None without an alarm, or where the run was never well.
        """
        alarms, since = self.alarms(choice), self.verdict.since
        if not alarms or not since:
            return None
        places = np.searchsorted(self.records, (alarms[0].step, since))
        return int(places[0] - places[1])


def evaluate(run: Run, logs: Path) -> Found:
    """Go through the log of a run with each choice.

    Args:
        run: Which run; it is trained.
        logs: The directory of all logs.

    Returns:
        What was found.
    """
    folder = run.folder(logs)
    log = svdhooks.RunLog(folder)
    several = list(readings(log))
    silent = [replace(r, run={}) for r in several]
    events = {preset: observed(preset, several) for preset in PRESETS}
    events[OWN] = events[run.preset]
    events[NO_LOSS] = observed(run.preset, silent)
    events[NAIVE] = observed(Halved(), several)
    for name, stride in SPARSE.items():
        events[name] = observed(run.preset, several[::stride])
    return Found(run, judge(run, folder), tuple(log.steps.tolist()), events)


def observed(preset: str | Alarm, several: Sequence[Reading]) -> tuple[AlarmEvent, ...]:
    """The events of a preset, or of a rule."""
    chosen = resolve_alarms(preset)
    if chosen is None:
        raise ValueError(f"Found no rules for {preset!r}; expected a preset.")
    watcher = Watcher(chosen)
    return tuple(event for reading in several for event in watcher.observe(reading))
