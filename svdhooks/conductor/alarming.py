"""Applies the alarms to each record, and does what was asked for when one is raised."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from svdhooks.alarms import AlarmEvent, Alarms, Watcher, readings
from svdhooks.distributed.team import Team
from svdhooks.layers.tap import Watched
from svdhooks.record import Record
from svdhooks.reports import Reporter, status_of

_logger = logging.getLogger(__name__)

OPEN, RAISED, HEALTHY = "open", "raised", "healthy_steps"
"""What is told of alarms; ``alarms_open`` … among the values of the run."""


class Alarming:
    """The alarms of one run. Every process sees the same records, and so the same events.

    Args:
        alarms: The rules; None: none.
        reporter: Says what was raised.
        team: The processes that record together.
    """

    def __init__(
        self, alarms: Alarms | None, reporter: Reporter, team: Team | None = None
    ) -> None:
        self._wanted = alarms is not None
        self._call = None if alarms is None else alarms.on_alarm
        # the call is the user's, and may not be copied to other processes
        quiet = None if alarms is None else replace(alarms, on_alarm=None)
        self._watcher = None if quiet is None else Watcher(quiet)
        self._reporter = reporter
        self._team = team or Team()
        self._stops = alarms is not None and alarms.stop
        self._raised = 0
        self._healthy = 0
        self._before: int | None = None
        self._now = False  # what was raised before a restart stops nothing

    @property
    def on(self) -> bool:
        """Whether there are rules."""
        return self._watcher is not None

    @property
    def should_stop(self) -> bool:
        """Whether an alarm was raised that is to stop the training."""
        return self._stops and self._now

    @property
    def values(self) -> dict[str, int]:
        """What callbacks can monitor: open, raised, and updates without an open one.

        They go on where the rules failed: a callback that misses its metric, or sees it
        stand still, would end the training.
        """
        if not self._wanted:
            return {}
        return {
            OPEN: len(self._open),
            RAISED: self._raised,
            HEALTHY: self._healthy,
        }

    def resume(self, log_dir: str | Path, step: int) -> None:
        """Learn from the log what came before, without raising it again; collective.

        Args:
            log_dir: The run's directory.
            step: Records from here on are superseded.
        """
        if not self.on:
            return
        if self._team.writes:  # the others may not see its directory
            self._replay(log_dir, step)
        if self._team.alone:
            return
        state = self._watcher, self._raised, self._healthy, self._before
        if not self._team.writes:
            state = None, 0, 0, None
        try:
            theirs = self._team.exchange(state)[0]
        except ValueError as error:  # on all: a rule of the user's cannot be copied
            self._switch_off(error)
        else:
            self._watcher, self._raised, self._healthy, self._before = theirs

    def _replay(self, log_dir: str | Path, step: int) -> None:
        if self._watcher is None:
            return
        from svdhooks.runlog import RunLog  # which loads tensorboard

        try:
            # no scalar of others as loss: what follows has none either
            measures = self._watcher.measures
            for reading in readings(RunLog(log_dir), loss="", measures=measures):
                if reading.step < step:
                    self._learn(self._watcher.observe(reading), reading.step)
        except FileNotFoundError:
            return  # nothing was recorded there yet
        except Exception as error:  # noqa: BLE001  # alarms must not stop a training
            self._switch_off(error)

    def observe(
        self,
        step: int,
        records: Sequence[Record],
        run: Mapping[str, float | int],
        watched: Iterable[Watched],
    ) -> list[Record]:
        """Apply the rules to what one step measured.

        Args:
            step: Optimiser updates contained in the weights.
            records: Of layers.
            run: Of the whole run, with the loss if it is known.
            watched: Layers and taps.

        Returns:
            A record of quantity ``"alarm"`` if something was raised.
        """
        if self._watcher is None:
            self._learn((), step)
            return []
        values = {name: np.asarray(value) for name, value in run.items()}
        told = [Record(step, "", "run", values), *records]
        rows = {x.name: x.describe() for x in watched}
        try:
            events = self._watcher.read(step, told, rows)
            self._learn(events, step)
        except Exception as error:  # noqa: BLE001  # alarms must not stop a training
            self._switch_off(error)
            self._learn((), step)
            return []
        self._now = self._now or bool(_grave(events))
        if self._team.writes:
            for event in events:
                self._say(event)
        return [alarm_record(step, events)] if events else []

    def _learn(self, events: Sequence[AlarmEvent], step: int) -> None:
        """Count what was raised at a step, and what is open after it."""
        self._raised += len(_grave(events))
        since = 0 if self._before is None else step - self._before
        self._healthy += 0 if self._open else since
        self._before = step

    @property
    def _open(self) -> list[AlarmEvent]:
        return [] if self._watcher is None else _grave(self._watcher.open)

    def _say(self, event: AlarmEvent) -> None:
        """Warn of an event, and call whom the user named."""
        if event.severity == "alarm":
            subject = f"alarm {event.alarm} {event.layer} {event.step}"
            self._reporter.note(subject, f"svdhooks: {event.message}")
        else:
            _logger.info("%s", event.message)
        if self._call is None:
            return
        try:
            self._call(event)
        except Exception as error:  # noqa: BLE001  # the user's own, and training goes on
            self._reporter.note(
                "on_alarm", f"svdhooks: on_alarm failed: {status_of(error)}"
            )

    def _switch_off(self, error: Exception) -> None:
        self._reporter.note(
            "alarms",
            f"svdhooks: the alarms failed and are off from now on: {status_of(error)}. "
            "Records go on.",
        )
        self._watcher = None


def alarm_record(step: int, events: Sequence[AlarmEvent]) -> Record:
    """What was raised at a step, for the sinks.

    Args:
        step: The step.
        events: What was raised.

    Returns:
        A record of quantity ``"alarm"`` with a JSON text, a list.
    """
    text = json.dumps([event.as_dict() for event in events])
    markdown = "\n\n".join(event.markdown() for event in events)
    values: dict[str, Any] = {"json": np.array(text), "markdown": np.array(markdown)}
    return Record(step, "", "alarm", values)


def _grave(events: Iterable[AlarmEvent]) -> list[AlarmEvent]:
    """Those that are more than information."""
    return [event for event in events if event.severity == "alarm"]
