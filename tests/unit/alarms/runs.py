"""Simulated runs for rules: readings with given curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from svdhooks.alarms import Alarm, AlarmEvent, Reading, Watcher, resolve_alarms

Curves = Mapping[str, Mapping[str, Sequence[float | None]]]


def row(name: str, width: int = 128, outputs: int | None = None) -> dict[str, Any]:
    out = width if outputs is None else outputs
    return {
        "name": name,
        "kind": "linear",
        "shape": [out, width],
        "rank_limit": min(out, width),
        "points": {"input": width, "output": out},
    }


def rows(*names: str, width: int = 128, outputs: int = 10) -> dict[str, Any]:
    """A chain of layers of one width, and a head."""
    table = {name: row(name, width) for name in names}
    return {**table, "head": row("head", width, outputs)}


def readings_of(
    curves: Curves,
    *,
    every: int = 20,
    loss: Sequence[float | None] | None = None,
    table: Mapping[str, Any] | None = None,
    limited: frozenset[tuple[str, str]] = frozenset(),
) -> list[Reading]:
    """Layer -> measure -> its values at steps 0, every, 2·every …; None: not measured."""
    series = [s for of in curves.values() for s in of.values()]
    length = len(series[0]) if series else len(loss or ())
    table = rows(*curves) if table is None else table
    found = []
    for i in range(length):
        values = {
            layer: {m: float(s[i]) for m, s in of.items() if s[i] is not None}
            for layer, of in curves.items()
        }
        value = None if loss is None else loss[i]
        run = {} if value is None else {"loss": float(value)}
        found.append(Reading(every * i, values, {}, limited, run, table))
    return found


def watch(rules: Any, readings: Sequence[Reading]) -> list[AlarmEvent]:
    chosen = resolve_alarms(rules)
    if chosen is None:
        return []
    watcher = Watcher(chosen)
    return [event for reading in readings for event in watcher.observe(reading)]


def names(events: Sequence[AlarmEvent]) -> list[str]:
    return [event.alarm for event in events]


def rule_of(preset: str, name: str) -> Alarm:
    chosen = resolve_alarms(preset)
    if chosen is None:
        raise AssertionError(preset)
    return next(rule for rule in chosen.rules if rule.name == name)


def falling(start: float, end: float, length: int, at: int = 5) -> list[float]:
    """Constant, then halved at each record down to the end."""
    curve = [start] * length
    for i in range(at, length):
        curve[i] = max(curve[i - 1] / 2, end)
    return curve


def learning(length: int, start: float = 2.3, end: float = 0.05) -> list[float]:
    return [max(start * 0.8**i, end) for i in range(length)]


def flat(value: float, length: int) -> list[float]:
    return [value + 0.01 * (-1) ** i for i in range(length)]
