"""The rule that names the package: ranks that fell and do not come back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from svdhooks.alarms.event import AlarmEvent, Severity, named
from svdhooks.alarms.grouping import Heading, Reporter, Sign, number
from svdhooks.alarms.reading import Reading
from svdhooks.alarms.signals import Latch, Level, LossLevel, Patience

POINTS = {
    "output": "output_effective_rank",
    "input": "input_effective_rank",
    "weight": "weight_stable_rank",
}
"""Point -> its headline measure of rank."""


@dataclass(frozen=True)
class Collapse:
    """Representations lost their rank, and another sign says that it does harm.

    A fall alone is no collapse: healthy digit classifiers end with effective ranks at
    0.10 to 0.28 of their start. So signs must agree, and last.

    Attributes:
        fall: A rank fell if it is below this share of the highest that it was.
        floor: A rank is low if it is below this share of the largest that is possible
            there, and below half of what the model's answer needs, its outputs − 1.
            1/16: healthy embeddings of 128 features were at 0.24 of 128, collapsed ones
            below 0.05.
        alone: A rank that fell and is low is enough, with no further sign: for
            self-supervised embeddings, whose loss looks better when they collapse.
        patience: How long the signs must last.
    """

    fall: float = 0.5
    floor: float = 1 / 16
    alone: bool = False
    patience: Patience = field(default_factory=Patience)
    name: str = "collapse"
    severity: Severity = "alarm"

    @property
    def measures(self) -> frozenset[str]:
        """Those that it reads."""
        return frozenset({*POINTS.values(), "input_dead_fraction"})

    def begin(self) -> "CollapseState":
        """Start to observe one run."""
        return CollapseState(self)


class CollapseState:
    """See `Collapse`."""

    def __init__(self, rule: Collapse) -> None:
        self._rule = rule
        self._reporter = Reporter(Heading(rule.name, rule.severity), rule.patience)
        self._levels: dict[tuple[str, str], Level] = {}
        self._dead: dict[str, Level] = {}
        self._loss = LossLevel()
        self._worse = Latch()
        self._most: dict[tuple[str, str], float] = {}
        self._answer = math.inf

    @property
    def open(self) -> tuple[AlarmEvent, ...]:
        """Events whose condition holds."""
        return self._reporter.open

    def observe(self, reading: Reading) -> list[AlarmEvent]:
        """Take in one record."""
        self._loss.observe(reading.loss)
        if reading.rows and self._answer == math.inf:
            self._answer = outputs_of(reading.rows)
        signs = []
        for layer, values in reading.values.items():
            dead = self._dead_units(layer, reading.step, values)
            for point, measure in POINTS.items():
                value = values.get(measure)
                if value is None or (layer, point) in reading.limited:
                    continue
                sign = self._sign((layer, point), reading, value, dead)
                if sign is not None:
                    signs.append(sign)
        return self._reporter.report(reading.step, signs, "")

    def _dead_units(self, layer: str, step: int, values: Mapping[str, float]) -> bool:
        value = values.get("input_dead_fraction")
        if value is None:
            return False
        level = self._dead.get(layer)
        if level is None:
            level = self._dead[layer] = Level()
        now = level.observe(step, value)
        return now >= 0.5 and now - level.lowest >= 0.25 or now == 1.0

    def _sign(
        self, key: tuple[str, str], reading: Reading, value: float, dead: bool
    ) -> Sign | None:
        level = self._levels.get(key)
        if level is None:
            level = self._levels[key] = Level()
        now = level.observe(reading.step, value)
        if not now < self._rule.fall * level.highest and not self._reporter.known(key):
            if now != 0.0:
                return None
        most = self._most.get(key)
        if most is None:
            most = self._most[key] = possible(reading.rows.get(key[0], {}), key[1])
        fell = now < self._rule.fall * level.highest
        low = now < min(self._rule.floor * most, (self._answer - 1) / 2)
        if key[1] == "weight":
            low = now < 1.5 <= most / 8
        bad = self._loss.state
        on = (
            (
                fell
                and now < 2 * self._rule.floor * most
                and bad in {"worse", "diverged"}
            )
            or (low and (bad != "" or dead))
            or (self._rule.alone and fell and low)
        )
        over = not now < 1.5 * self._rule.fall * level.highest
        if not on and not self._reporter.known(key):
            return None
        words = (
            f"The rank of the {key[1]} of layer {named(key[0])} fell from "
            f"{number(level.highest)} (step {level.highest_step}) to {number(now)} of at "
            f"most {number(most)}"
        )
        if bad:
            words += f", and the loss is {bad}"
        if dead:
            words += ", and units die"
        return Sign(
            key,
            on,
            over,
            level.highest / max(now, 1e-3),
            words,
            {"now": now, "highest": level.highest},
        )


def outputs_of(rows: Mapping[str, Mapping[str, Any]]) -> float:
    """Features that leave the model's last layer; infinite if that is not known."""
    widths = [
        row["points"]["output"]
        for row in rows.values()
        if row.get("shape") and "output" in row.get("points", {})
    ]
    return float(widths[-1]) if widths else math.inf


def possible(row: Mapping[str, Any], point: str) -> float:
    """The largest rank that a point can have; infinite if that is not known."""
    limit = float(row.get("rank_limit") or math.inf)
    width = float(row.get("points", {}).get(point, math.inf))
    if point == "weight":
        return limit
    return min(limit, width) if point == "output" else width
