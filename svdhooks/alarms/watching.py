"""The rules of a choice at work in one run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from svdhooks.alarms.choosing import Alarms
from svdhooks.alarms.event import AlarmEvent
from svdhooks.alarms.reading import Reading
from svdhooks.record import Record


class Watcher:
    """Observes one run, record after record.

    The same readings give the same events, live or from a log. Nothing is called and
    nothing is written. After a restart the earlier readings of the log are observed
    again, and their events dropped.

    Args:
        alarms: The choice of rules.

    Attributes:
        raised: Name of a rule -> how many events it raised.
        measures: Names of those that the rules read; None: all.
        rules: Those at work.
    """

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms
        self._states = [(rule, rule.begin()) for rule in alarms.rules]
        self.raised: Counter[str] = Counter({rule.name: 0 for rule in alarms.rules})
        self.measures = alarms.measures
        self.rules = alarms.rules
        self._alarmed = False

    def observe(self, reading: Reading) -> tuple[AlarmEvent, ...]:
        """Take in one record.

        Args:
            reading: Later than those before.

        Returns:
            What is to be said now; mostly nothing.
        """
        events = [
            event for _, state in self._states for event in state.observe(reading)
        ]
        self.raised.update(event.alarm for event in events)
        self._alarmed |= any(event.severity == "alarm" for event in events)
        return tuple(events)

    def read(
        self,
        step: int,
        records: Sequence[Record],
        rows: Mapping[str, Mapping[str, Any]],
    ) -> tuple[AlarmEvent, ...]:
        """Take in the records of one step; only what the rules need is read of them.

        Args:
            step: Theirs.
            records: All that were made at this step.
            rows: Layer -> its row in the layer table.

        Returns:
            What is to be said now.
        """
        return self.observe(Reading.of(step, records, rows, self.measures))

    @property
    def open(self) -> tuple[AlarmEvent, ...]:
        """The events whose condition still holds."""
        return tuple(
            event for _, state in self._states for event in getattr(state, "open", ())
        )

    @property
    def should_stop(self) -> bool:
        """Whether the user wants to stop at an alarm, and there was one."""
        return self._alarms.stop and self._alarmed
