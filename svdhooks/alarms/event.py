"""What a rule says, and what a rule is."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from svdhooks.alarms.reading import Reading

Severity = Literal["alarm", "info"]
"""``"alarm"``: somebody should look; ``"info"``: worth knowing, nothing is wrong."""

# every dialect takes a backslash before these, Python's too, which TensorBoard uses
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!.-])")
_ENTITIES = str.maketrans({sign: f"&#{ord(sign)};" for sign in "|~$"})
_LONG = 120


@dataclass(frozen=True)
class AlarmEvent:
    """One event of a run: something went wrong, or is worth knowing.

    Attributes:
        step: At which record it was raised.
        layer: Where it shows most; empty: it concerns the whole run.
        alarm: Name of the rule, such as ``"collapse"``.
        severity: ``"alarm"`` or ``"info"``.
        message: What, since when, by how much, and what to look at; plain text, in which
            names of layers stand as they are.
        since: The first step at which the sign was there.
        evidence: The numbers behind it.
    """

    step: int
    layer: str
    alarm: str
    severity: Severity
    message: str
    since: int
    evidence: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it; numbers that are not finite become None.

        Returns:
            Keys as the attributes.
        """
        numbers = {k: float(v) for k, v in self.evidence.items()}
        return {
            "step": self.step,
            "layer": self.layer,
            "alarm": self.alarm,
            "severity": self.severity,
            "message": self.message,
            "since": self.since,
            "evidence": {
                k: v if math.isfinite(v) else None for k, v in numbers.items()
            },
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "AlarmEvent":
        """Read what `as_dict` wrote, of this or of a later version.

        Args:
            told: Further keys are ignored; missing ones have defaults, but for the step.

        Returns:
            The event. Numbers that were not finite are NaN.
        """
        evidence = told.get("evidence") or {}
        return cls(
            step=int(told["step"]),
            layer=str(told.get("layer", "")),
            alarm=str(told.get("alarm", "")),
            severity="info" if told.get("severity") == "info" else "alarm",
            message=str(told.get("message", "")),
            since=int(told.get("since", told["step"])),
            evidence={
                str(k): math.nan if v is None else float(v) for k, v in evidence.items()
            },
        )

    def markdown(self) -> str:
        """For TensorBoard's text dashboard and others that show Markdown.

        Returns:
            Two short paragraphs. Names and messages are escaped: they stay text.
        """
        where = f" · {escaped(shortened(self.layer))}" if self.layer else ""
        kind = "Alarm" if self.severity == "alarm" else "Information"
        head = f"**{kind}: {escaped(self.alarm)}**{where} · step {self.step}"
        return f"{head} (since step {self.since})\n\n{escaped(self.message)}"


@runtime_checkable
class Observing(Protocol):
    """A rule at work in one run.

    It may also have ``open``: the events whose condition still holds.
    """

    def observe(self, reading: Reading) -> Sequence[AlarmEvent]:
        """Take in one record; return what is to be said now, mostly nothing."""
        ...


@runtime_checkable
class Alarm(Protocol):
    """A rule over the records of a run: its options, which never change.

    It may also have ``measures``, the names of those it reads; a rule without it is given
    all of them.
    """

    @property
    def name(self) -> str:
        """What its events are called, such as ``"collapse"``."""
        ...

    @property
    def severity(self) -> Severity:
        """Of its events: ``"alarm"`` or ``"info"``."""
        ...

    def begin(self) -> Observing:
        """Start to observe one run, with a state of its own."""
        ...


def escaped(text: str) -> str:
    """Text as Markdown that shows it and nothing else.

    Args:
        text: Of anyone's making.

    Returns:
        One line; HTML and Markdown characters are escaped.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    plain = html.escape(line, quote=False)
    return _MARKUP.sub(r"\\\1", plain).translate(_ENTITIES)


def named(layer: str) -> str:
    """A layer's name in a message: quoted, on one line, and cut if it is very long."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in layer)
    return f"'{shortened(line)}'"


def shortened(name: str) -> str:
    """A name that fits into a message: both ends of a very long one."""
    return name if len(name) <= _LONG else f"{name[: _LONG - 20]} … {name[-15:]}"
