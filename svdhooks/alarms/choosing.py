"""Which rules watch a run."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from svdhooks.alarms.collapse import Collapse
from svdhooks.alarms.compression import Compression
from svdhooks.alarms.event import Alarm, AlarmEvent
from svdhooks.alarms.failing import AllZero, NonFinite
from svdhooks.alarms.growth import AttentionLogits, Exploding
from svdhooks.alarms.tokens import TokenCollapse
from svdhooks.alarms.units import DeadUnits

_ALWAYS: tuple[Alarm, ...] = (
    NonFinite(),
    AllZero(),
    Exploding(),
    AttentionLogits(),
    DeadUnits(),
    TokenCollapse(),
)

PRESETS: Mapping[str, tuple[Alarm, ...]] = MappingProxyType({
    "auto": (*_ALWAYS, Collapse()),
    "ssl": (*_ALWAYS, Collapse(alone=True)),
    "supervised": (*_ALWAYS, Collapse(), Compression()),
    "lm": (*_ALWAYS, Collapse()),
})
"""Name -> its rules.

``"auto"`` needs no knowledge of the task. ``"ssl"`` judges the rank of embeddings by
itself: a self-supervised loss looks better when they collapse. ``"supervised"`` also
tells, as information, of ranks that fall while the loss does.
"""

RULES: Mapping[str, Alarm] = MappingProxyType({
    rule.name: rule for rule in PRESETS["supervised"]
})
"""Name -> the rule with its defaults."""


@dataclass(frozen=True, init=False)
class Alarms:
    """Rules, and what happens when one is raised.

    Args:
        rules: A preset (``"auto"``, ``"ssl"``, ``"supervised"``, ``"lm"``), the name of a
            rule, a rule, or several of these.
        on_alarm: Called with each event.
        stop: Whether training is to stop at the first event of severity ``"alarm"``.

    Raises:
        TypeError: If something is neither a name nor a rule.
        ValueError: If there is no preset and no rule of a name, or two rules of one.
    """

    rules: tuple[Alarm, ...]
    on_alarm: Callable[[AlarmEvent], object] | None
    stop: bool

    def __init__(
        self,
        rules: "str | Alarm | Sequence[str | Alarm]" = "auto",
        on_alarm: Callable[[AlarmEvent], object] | None = None,
        stop: bool = False,
    ) -> None:
        if on_alarm is not None and not callable(on_alarm):
            raise TypeError(
                f"on_alarm={on_alarm!r}: expected a function that takes one event."
            )
        if not isinstance(stop, bool):
            raise TypeError(f"stop={stop!r}: expected True or False.")
        object.__setattr__(self, "rules", _rules(rules))
        object.__setattr__(self, "on_alarm", on_alarm)
        object.__setattr__(self, "stop", stop)

    @property
    def measures(self) -> frozenset[str] | None:
        """Those that the rules read; None: all, since one of the rules does not say."""
        found: set[str] = set()
        for rule in self.rules:
            named = getattr(rule, "measures", None)
            if named is None:
                return None
            found |= set(named)
        return frozenset(found)


Choice = None | str | Alarm | Sequence[str | Alarm] | Alarms
"""What ``alarms=`` takes."""


def resolve_alarms(choice: Choice) -> Alarms | None:
    """Turn what a user gave as ``alarms=`` into rules.

    Args:
        choice: A preset, the name of a rule, a rule, several of these, or `Alarms`.

    Returns:
        The rules; None if none are wanted.

    Raises:
        TypeError: If something is neither a name nor a rule.
        ValueError: If there is no preset and no rule of a name, or two rules of one.
    """
    if choice is None or isinstance(choice, Alarms):
        return choice
    return Alarms(choice)


def _rules(choice: Any) -> tuple[Alarm, ...]:
    several = [choice] if isinstance(choice, str) or _is_rule(choice) else choice
    if not isinstance(several, Sequence):
        raise TypeError(_wrong(choice))
    found: list[Alarm] = []
    for one in several:
        if isinstance(one, str):
            found.extend(_of_name(one))
        elif _is_rule(one):
            found.append(one)
        else:
            raise TypeError(_wrong(one))
    if not found:
        raise ValueError(
            f"alarms={choice!r} has no rule. Give alarms=None for none, or the name of a "
            f"preset: {', '.join(map(repr, PRESETS))}."
        )
    unique = [rule for i, rule in enumerate(found) if rule not in found[:i]]
    names = [rule.name for rule in unique]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"alarms: two different rules are called {twice[0]!r}. Give one of them "
            "another name=, or leave one out."
        )
    return tuple(unique)


def _is_rule(one: object) -> bool:
    return not isinstance(one, type) and isinstance(one, Alarm)


def _of_name(name: str) -> tuple[Alarm, ...]:
    if name in PRESETS:
        return PRESETS[name]
    if name in RULES:
        return (RULES[name],)
    known = [*PRESETS, *RULES]
    close = difflib.get_close_matches(name, known, n=2)
    hint = (
        f"Did you mean {' or '.join(map(repr, close))}?"
        if close
        else f"There are the presets {', '.join(map(repr, PRESETS))} and the rules "
        f"{', '.join(map(repr, RULES))}."
    )
    raise ValueError(f"alarms={name!r}: no such preset or rule. {hint}")


def _wrong(one: object) -> str:
    hint = ""
    if isinstance(one, type):
        hint = f" Give an instance: {one.__name__}()."
    return (
        f"alarms: found {one!r} of type {type(one).__name__}; expected the name of a "
        f"preset or of a rule, a rule such as Collapse(), or a list of these.{hint}"
    )
