"""Many layers, one event."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from svdhooks.alarms.event import Alarm, AlarmEvent, Severity, named
from svdhooks.alarms.signals import Key, Latches, Patience


@dataclass(frozen=True)
class Sign:
    """What a rule sees of one layer at one record.

    Attributes:
        key: Layer and point.
        on: Whether the sign is there.
        over: Whether it is clearly gone.
        weight: How bad it is; the layer with the largest is named first.
        words: Says what is wrong there, for the message; called for the worst layer alone.
        evidence: The numbers.
    """

    key: Key
    on: bool
    over: bool
    weight: float = 0.0
    words: Callable[[], str] = str
    evidence: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Heading:
    """What the events of a rule have in common."""

    alarm: str
    severity: Severity


class Reporter:
    """Turns the signs of layers into events: one where several show at one record.

    Args:
        heading: Of the events.
        patience: How long a sign must last.
    """

    def __init__(self, heading: Heading, patience: Patience) -> None:
        self._heading = heading
        self._latches = Latches(patience)
        self._events: list[AlarmEvent] = []

    @property
    def open(self) -> tuple[AlarmEvent, ...]:
        """The events whose condition still holds of some layer."""
        return tuple(self._events) if self._latches.holding else ()

    @property
    def known_keys(self) -> Collection[Key]:
        """All that ever had a sign."""
        return self._latches.known_keys

    def known(self, key: Key) -> bool:
        """Whether there ever was a sign of a layer."""
        return self._latches.known(key)

    def report(self, step: int, signs: Iterable[Sign], advice: str) -> list[AlarmEvent]:
        """Take in the signs of one record.

        Args:
            step: Of the record.
            signs: Of the layers that were measured; those that never had one may be
                left out.
            advice: What to look at next.

        Returns:
            Nothing, or one event.
        """
        new = [
            sign
            for sign in signs
            if self._latches.update(sign.key, step, sign.on, sign.over)
        ]
        if not self._latches.holding:
            self._events = []
        if not self._latches.worth_saying(len(new)):
            return []
        worst = max(new, key=lambda sign: sign.weight)
        since = min(self._latches.since(sign.key) for sign in new)
        layers = list(dict.fromkeys(k[0] for k in self._latches.holding if k[0]))
        also = _also(worst.key[0], layers)
        event = AlarmEvent(
            step=step,
            layer=worst.key[0],
            alarm=self._heading.alarm,
            severity=self._heading.severity,
            message=f"{worst.words()}, since step {since}.{also} {advice}".strip(),
            since=since,
            evidence={**(worst.evidence or {}), "layers": float(len(layers))},
        )
        self._events.append(event)
        return [event]


class Reporting:
    """What the state of every rule has: a reporter, and the events that are open.

    Args:
        rule: Whose state it is.
        patience: How long a sign must last.
    """

    def __init__(self, rule: Alarm, patience: Patience) -> None:
        self._reporter = Reporter(Heading(rule.name, rule.severity), patience)

    @property
    def open(self) -> tuple[AlarmEvent, ...]:
        """Events whose condition holds."""
        return self._reporter.open


def _also(layer: str, layers: Sequence[str]) -> str:
    """The other layers in words."""
    others = [name for name in layers if name != layer]
    if not others:
        return ""
    shown = ", ".join(map(named, others[:3]))
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return (
        f" Also in {len(others)} other layer{'s' * (len(others) > 1)}: {shown}{more}."
    )


def number(value: float) -> str:
    """A number for a message: three digits."""
    return f"{value:.3g}"
