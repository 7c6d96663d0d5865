"""The rule about units that no sample switches on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from svdhooks.alarms.checks import check_number, check_rule
from svdhooks.alarms.event import AlarmEvent, Severity, named
from svdhooks.alarms.grouping import Reporting, Sign
from svdhooks.alarms.reading import Reading
from svdhooks.alarms.signals import Level, Patience

DEAD = "input_dead_fraction"
_RANK = "input_numerical_rank"


@dataclass(frozen=True)
class DeadUnits:
    """Almost all units before a layer are off on every sample, and it got worse.

    Read behind the activation, at what enters the next layer. A unit that is off for all
    samples of the probe gets no gradient through a ReLU. Behind other activations a unit
    that is never positive may pass something: so the numerical rank of what enters must
    agree, which n live units keep at n or below. Codes that are sparse from the start do not
    count, unless no unit is left at all.

    Attributes:
        share: From this share of dead units on. 0.9: a tenth of a layer is left.
        rise: And so much more than at the least, as a share of all units.
        patience: How long it must last.
    """

    share: float = 0.9
    rise: float = 0.25
    patience: Patience = field(default_factory=Patience)
    name: str = "dead_units"
    severity: Severity = "alarm"

    def __post_init__(self) -> None:
        """Check the options."""
        check_rule(self)
        check_number(self, "share", 0.0, 1.0)
        check_number(self, "rise", 0.0, 1.0)

    @property
    def measures(self) -> frozenset[str]:
        """Those that it reads."""
        return frozenset({DEAD, _RANK})

    def begin(self) -> "DeadUnitsState":
        """Start to observe one run."""
        return DeadUnitsState(self)


class DeadUnitsState(Reporting):
    """See `DeadUnits`."""

    def __init__(self, rule: DeadUnits) -> None:
        self._rule = rule
        super().__init__(rule, rule.patience)
        self._levels: dict[str, Level] = {}

    def observe(self, reading: Reading) -> list[AlarmEvent]:
        """Take in one record."""
        signs = [
            sign
            for layer, values in reading.values.items()
            if (sign := self._sign(layer, reading, values)) is not None
        ]
        advice = (
            "They get no gradient and do not come back by themselves. Look at the "
            "learning rate and at the biases; a leaky activation keeps units alive."
        )
        return self._reporter.report(reading.step, signs, advice)

    def _sign(
        self, layer: str, reading: Reading, values: Mapping[str, float]
    ) -> Sign | None:
        value = values.get(DEAD)
        if value is None:
            return None
        level = self._levels.get(layer)
        if level is None:
            level = self._levels[layer] = Level()
        now = level.observe(reading.step, value)
        key = layer, "input"
        if now < self._rule.share and not self._reporter.known(key):
            return None
        on = is_dead(now, level.lowest, self._rule.share, self._rule.rise) and off(
            now, reading.rows.get(layer, {}), values
        )
        over = now < self._rule.share - 0.5 * self._rule.rise

        def words() -> str:
            found = f"{now:.0%} of the units before layer {named(layer)} are dead: off "
            if level.lowest >= self._rule.share:
                return f"{found}on every sample"
            least = f"{level.lowest:.0%} at step {level.lowest_step}"
            return f"{found}on every sample; it was {least}"

        return Sign(key, on, over, now, words, {"now": now, "lowest": level.lowest})


def is_dead(now: float, lowest: float, share: float, rise: float) -> bool:
    """Whether units died: many are dead, and they were not from the start; or all are.

    Args:
        now: Share of dead units.
        lowest: The least that it was.
        share: From which on they are many.
        rise: How much more than at the least.

    Returns:
        Whether it is so.
    """
    return now >= 1.0 or (now >= share and now - lowest >= rise)


def off(dead: float, row: Mapping[str, object], values: Mapping[str, float]) -> bool:
    """Whether units that are never positive pass nothing, by the rank of what they pass.

    Args:
        dead: Share of units that are never positive.
        row: Of the layer table.
        values: Of this record.

    Returns:
        True as well if it cannot be known.
    """
    points = row.get("points")
    width = points.get("input") if isinstance(points, Mapping) else None
    rank = values.get(_RANK)
    if width is None or rank is None:
        return True
    return rank <= (1.0 - dead) * float(width) + 0.5  # a share in float32
