"""The alarms of a run, live and read afterwards, and the verdict on it."""

from dataclasses import dataclass
from typing import Any

from svdhooks.alarms import AlarmEvent, Watcher, loss_source, readings, resolve_alarms
from svdhooks.alarms.choosing import Choice
from svdhooks.analysis.reporting.curves import JUDGED, falls, loss_of
from svdhooks.analysis.reporting.evidence import Evidence
from svdhooks.analysis.reporting.gathering import Gathering
from svdhooks.analysis.reporting.measures import Maxima
from svdhooks.analysis.reporting.reading import Remarks
from svdhooks.analysis.reporting.verdict import Verdict, verdict_of
from svdhooks.runlog import RunLog

LIVE, AFTERWARDS = "live", "read afterwards"


@dataclass(frozen=True)
class Alarmed:
    """The alarms of a run.

    Attributes:
        events: Each with its source.
        holding: Names of the rules whose condition held at the end.
        choice: The rules, as they were given.
    """

    events: tuple[tuple[AlarmEvent, str], ...]
    holding: frozenset[str]
    choice: Choice

    @property
    def named(self) -> list[str]:
        """The layers that they name, each once."""
        return list(dict.fromkeys(e.layer for e, _ in self.events if e.layer))

    @property
    def call(self) -> str | None:
        """What finds them again, where words can say it."""
        if isinstance(self.choice, str):
            return f"svdhooks.alarms.alarms_of(log, {self.choice!r})"
        return None


def alarmed(log: RunLog, choice: Choice) -> Alarmed:
    """Find the alarms of a run.

    Args:
        log: The run.
        choice: As `svdhooks.watch(alarms=)` takes it.

    Returns:
        Those that were raised live, and what the rules say of the log.

    Raises:
        TypeError: If something in ``choice`` is neither a name nor a rule.
        ValueError: If there is no such preset or rule.
    """
    live = [AlarmEvent.from_dict(told) for told in log.alarms()]
    chosen = resolve_alarms(choice)
    later: list[AlarmEvent] = []
    holding: set[str] = set()
    if chosen is not None:
        watcher = Watcher(chosen)
        several = readings(log, None, watcher.measures, watcher.rules)
        later = [event for each in several for event in watcher.observe(each)]
        holding = {event.alarm for event in watcher.open}
    # of rules that were not applied again it is not known whether they passed
    known = {rule.name for rule in chosen.rules} if chosen is not None else set()
    holding |= {event.alarm for event in live} - known
    said = {(event.alarm, event.layer, event.step) for event in live}
    events = [(event, LIVE) for event in live] + [
        (event, AFTERWARDS)
        for event in later
        if (event.alarm, event.layer, event.step) not in said
    ]
    events.sort(key=lambda pair: pair[0].step)
    return Alarmed(tuple(events), frozenset(holding), choice)


def judged(
    gathering: Gathering, found: Alarmed, bounds: Maxima, remarks: Remarks
) -> Verdict:
    """The verdict on a run.

    Args:
        gathering: The run.
        found: Its alarms.
        bounds: Layer -> point -> the largest rank that is possible.
        remarks: What is said of its measurements.

    Returns:
        The verdict.
    """
    log = gathering.log
    ranked = [metric for metric in JUDGED if metric in log.metrics]
    fell = falls(log, gathering.layers, bounds, remarks.limited)
    return verdict_of(
        Evidence(
            records=len(log.steps),
            layers=len(log.layers),
            judged=len(gathering.layers) if ranked else 0,
            events=[event for event, _ in found.events],
            holding=found.holding,
            falls=fell,
            loss=loss_of(log, loss_source(log)),
            failed=remarks.failed,
            broke=any(step > log.steps[0] for step in remarks.since.values()),
            first_failure=remarks.failures[0] if remarks.failures else None,
            limited=dict.fromkeys(remarks.sample_limited, 1.0),
            damage=sum(v for k, v in log.damage.items() if k in _DAMAGE),
            rules=found.choice is not None,
            of_checkpoints=log.settings.get("source") == "checkpoints",
        )
    )


_DAMAGE = frozenset({"bad", "truncated", "unreadable", "vectors"})
"""Counts that mean a loss; what a resumed run supersedes is none."""


def as_rows(found: Alarmed) -> list[dict[str, Any]]:
    """The alarms as the page has them."""
    return [event.as_dict() | {"source": source} for event, source in found.events]
