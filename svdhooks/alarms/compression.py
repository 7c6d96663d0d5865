"""The rule about ranks that fall while learning goes well."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from svdhooks.alarms.checks import check_number, check_rule
from svdhooks.alarms.event import AlarmEvent, Severity, named
from svdhooks.alarms.grouping import Reporting, Sign, number
from svdhooks.alarms.loss import LossLevel
from svdhooks.alarms.reading import Reading
from svdhooks.alarms.signals import Level, Patience
from svdhooks.alarms.spaces import possible

_FLOOR = 1 / 32
"""Below this share of the largest possible rank a fall is no good news."""
_ONE = 1.5
"""Nor where one direction is left."""

WORDS = {
    "output_effective_rank": "The effective rank of what leaves layer {}",
    "input_effective_rank": "The effective rank of what enters layer {}",
    "jacobian_relative_local_rank": "The local rank of layer {}",
}


@dataclass(frozen=True)
class Compression:
    """A rank fell while the loss fell, too: the network drops what it does not need.

    Information, no alarm. Supervised networks do so: the answer needs as many directions
    as there are classes, less one. A rank that is too low even for that is left to
    `Collapse`.

    Attributes:
        fall: A rank fell if it is below this share of the highest that it was.
        patience: How long it must last.
    """

    fall: float = 0.5
    patience: Patience = field(default_factory=Patience)
    name: str = "compression"
    severity: Severity = "info"

    def __post_init__(self) -> None:
        """Check the options."""
        check_rule(self)
        check_number(self, "fall", 0.0, 1.0)

    @property
    def measures(self) -> frozenset[str]:
        """Those that it reads."""
        return frozenset(WORDS)

    def begin(self) -> "CompressionState":
        """Start to observe one run."""
        return CompressionState(self)


class CompressionState(Reporting):
    """See `Compression`."""

    def __init__(self, rule: Compression) -> None:
        self._rule = rule
        super().__init__(rule, rule.patience)
        self._levels: dict[tuple[str, str], Level] = {}
        self._loss = LossLevel()

    def observe(self, reading: Reading) -> list[AlarmEvent]:
        """Take in one record."""
        self._loss.observe(reading.loss)
        signs = [
            sign
            for layer, values in reading.values.items()
            for measure in WORDS
            if measure in values
            and (sign := self._sign((layer, measure), reading, values)) is not None
        ]
        return self._reporter.report(
            reading.step,
            signs,
            "The loss fell, too: so do healthy classifiers. See that the loss on data "
            "kept apart falls as well.",
        )

    def _sign(
        self, key: tuple[str, str], reading: Reading, values: Mapping[str, float]
    ) -> Sign | None:
        layer, measure = key
        if (layer, measure.partition("_")[0]) in reading.limited:
            return None
        level = self._levels.get(key)
        if level is None:
            level = self._levels[key] = Level()
        now = level.observe(reading.step, values[measure])
        if now >= self._rule.fall * level.highest and not self._reporter.known(key):
            return None
        fell = now < self._rule.fall * level.highest
        width = possible(reading.rows.get(layer, {}), measure.partition("_")[0])
        enough = now >= max(_FLOOR * width if math.isfinite(width) else 0.0, _ONE)
        on = fell and enough and self._loss.improved
        over = now > 1.5 * self._rule.fall * level.highest or bool(self._loss.state)

        def words() -> str:
            return (
                f"{WORDS[measure].format(named(layer))} fell from "
                f"{number(level.highest)} (step {level.highest_step}) to {number(now)}"
            )

        evidence = {"now": now, "highest": level.highest}
        return Sign(key, on, over, level.highest / max(now, 1e-3), words, evidence)
