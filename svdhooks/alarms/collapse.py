"""The rule that names the package: representations that lost their rank."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from svdhooks.alarms.checks import check_number, check_rule
from svdhooks.alarms.event import AlarmEvent, Severity, named
from svdhooks.alarms.grouping import Heading, Reporter, Sign, number
from svdhooks.alarms.loss import GETS_WORSE, LOSS_WORDS, LossLevel
from svdhooks.alarms.reading import Reading
from svdhooks.alarms.signals import Level, Patience
from svdhooks.alarms.spaces import outputs_of, possible
from svdhooks.alarms.tokens import RANK, TokenCollapse, same
from svdhooks.alarms.units import DEAD, DeadUnits, is_dead, off

RANKS = {
    "output": "output_effective_rank",
    "input": "input_effective_rank",
    "weight": "weight_stable_rank",
}
"""Point -> its headline measure of rank."""
SPREADS = {
    "output_spread": ("output_total_variance", "output_mean_norm"),
    "input_spread": ("input_total_variance", "input_mean_norm"),
}
"""How far samples differ at a point -> variance and norm of the mean."""

_WORDS = {
    "output": "The effective rank of what leaves layer {}",
    "input": "The effective rank of what enters layer {}",
    "weight": "The stable rank of the weight of layer {}",
    "output_spread": "The share of what leaves layer {} that differs between samples",
    "input_spread": "The share of what enters layer {} that differs between samples",
}
_HARM = (
    "Compare the spectra of this layer before and after. Look at the learning rate, at "
    "weight decay, at dead units, and at what changed in data or schedule at that step."
)
_ALONE = (
    "Embeddings of different samples become alike, however good the loss looks. Look at "
    "the stop-gradient and the predictor, or the terms for variance, at the temperature "
    "and at the learning rate."
)


@dataclass(frozen=True)
class Collapse:
    """Representations lost their rank, and another sign says that it does harm.

    A fall alone is no collapse: healthy digit classifiers end with effective ranks at
    0.10 to 0.28 of their start. So signs must agree, and last. Judged are what enters and
    what leaves each layer (effective rank of the covariance, and the share of it that
    differs between samples at all), and weights (stable rank). One of these must hold:

    ==============================================  ====================================
    the rank                                        and also
    ==============================================  ====================================
    fell below the floor                            the loss gives back most of its gain,
                                                    or is not finite
    is below the floor and half of what the answer  the loss does not fall; or half the
    needs; of a weight below 1.5: one direction     units before it died; or the tokens
    holds two thirds of it                          of a sequence are the same
    fell below the floor and half of what the       nothing, with ``alone``
    answer needs; not of a weight
    ==============================================  ====================================

    Attributes:
        fall: A rank fell if it is below this share of the highest that it was, with the
            start. Half: what noise and drift of ranks do is far less.
        floor: The floor as a share of the largest rank that is possible there. 1/16:
            healthy embeddings are at a fifth and more, collapsed ones go towards 1. What
            the answer needs is the model's outputs − 1.
        spread: What differs between samples is next to nothing below this share of the
            mean square, and below a tenth of the largest share that it was: 0.001, of
            which float16 keeps nothing behind a mean of 1.
        alone: A rank that fell below the floor is enough, with no further sign: for
            self-supervised embeddings, whose loss looks better when they collapse.
        patience: How long the signs must last.
    """

    fall: float = 0.5
    floor: float = 1 / 16
    spread: float = 1e-3
    alone: bool = False
    patience: Patience = field(default_factory=Patience)
    name: str = "collapse"
    severity: Severity = "alarm"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            TypeError: If one is of a wrong kind.
            ValueError: If one is out of its range.
        """
        check_rule(self)
        check_number(self, "fall", 0.0, 1.0)
        check_number(self, "floor", 0.0, 0.5)
        check_number(self, "spread", 0.0, 1.0)
        if not isinstance(self.alone, bool):
            raise TypeError(f"Collapse(alone={self.alone!r}): expected True or False.")

    @property
    def measures(self) -> frozenset[str]:
        """Those that it reads."""
        spreads = (name for pair in SPREADS.values() for name in pair)
        return frozenset({
            *RANKS.values(),
            *spreads,
            *DeadUnits().measures,
            *TokenCollapse().measures,
        })

    def begin(self) -> "CollapseState":
        """Start to observe one run.

        Returns:
            Its state.
        """
        return CollapseState(self)


_HALF_DIED = 0.5, 0.25
"""Share of dead units, and how much more than at the least, that agree with a fall."""


class CollapseState:
    """See `Collapse`."""

    def __init__(self, rule: Collapse) -> None:
        self._rule = rule
        self._reporter = Reporter(Heading(rule.name, rule.severity), rule.patience)
        self._points: dict[tuple[str, str], _Point] = {}
        self._dead: dict[str, Level] = {}
        self._loss = LossLevel()
        self._needed = math.nan

    @property
    def open(self) -> tuple[AlarmEvent, ...]:
        """Events whose condition holds."""
        return self._reporter.open

    def observe(self, reading: Reading) -> list[AlarmEvent]:
        """Take in one record."""
        self._loss.observe(reading.loss)
        if math.isnan(self._needed) and reading.rows:
            self._needed = (outputs_of(reading.rows) - 1) / 2
        signs: list[Sign] = []
        for layer, values in reading.values.items():
            if (share := values.get(DEAD)) is not None:
                self._level_of_dead(layer).observe(reading.step, share)
            for point, value in _gauged(values):
                sign = self._sign((layer, point), reading, value)
                if sign is not None:
                    signs.append(sign)
        advice = _ALONE if self._rule.alone else _HARM
        return self._reporter.report(reading.step, signs, advice)

    def _level_of_dead(self, layer: str) -> Level:
        level = self._dead.get(layer)
        if level is None:
            level = self._dead[layer] = Level()
        return level

    def _sign(
        self, key: tuple[str, str], reading: Reading, value: float
    ) -> Sign | None:
        layer, kind = key
        if reading.limited and (layer, kind.partition("_")[0]) in reading.limited:
            return None
        point = self._points.get(key)
        if point is None:
            row = reading.rows.get(layer, {})
            point = _Point.of(kind, row, self._rule, self._needed)
            self._points[key] = point
        level = point.level
        now = level.observe(reading.step, value)
        fell = now < point.fall * level.highest
        low = now < point.low
        if not (fell or low or self._reporter.known(key)):
            return None
        harm = self._harm(layer, reading)
        on = self._holds(point, now, fell, harm)
        over = now > 1.5 * min(max(point.low, point.floor), 0.5 * level.highest)
        return Sign(
            key,
            on,
            over,
            level.highest / max(now, 1e-6) if fell else 0.0,
            _told(key, level, point.most, harm),
            {"now": now, "highest": level.highest, "most": point.most},
        )

    def _holds(self, point: "_Point", now: float, fell: bool, harm: str) -> bool:
        """Whether the signs of a layer agree."""
        if fell and now < point.floor and self._loss.state in GETS_WORSE:
            return True
        if now >= point.low or (point.must_fall and not fell):
            return False
        return harm != "" or (self._rule.alone and fell and not point.weight)

    def _harm(self, layer: str, reading: Reading) -> str:
        """Another sign that something is wrong, in words; empty if there is none."""
        if self._loss.state:
            return LOSS_WORDS[self._loss.state]
        values, level = reading.values[layer], self._dead.get(layer)
        dead = level is not None and is_dead(level.now, level.lowest, *_HALF_DIED)
        if level and dead and off(level.now, reading.rows.get(layer, {}), values):
            return f"{level.now:.0%} of the units before it are dead"
        if RANK in values and same(values, TokenCollapse()):
            return "the tokens of a sequence are the same"
        return LOSS_WORDS["stuck"] if self._loss.stalled else ""


@dataclass(slots=True)
class _Point:
    """One gauge of one layer, with the thresholds that hold for it.

    Attributes:
        level: Its values.
        most: The largest that it can be.
        fall: The share of its highest below which it fell.
        floor: Below is too low, if it fell and the loss gets worse.
        low: Below is too low, if another sign agrees.
        must_fall: Whether what was low from the start does not count.
        weight: Whether it is a weight's.
    """

    level: Level
    most: float
    fall: float
    floor: float
    low: float
    must_fall: bool = False
    weight: bool = False

    @classmethod
    def of(
        cls, kind: str, row: Mapping[str, Any], rule: Collapse, needed: float
    ) -> "_Point":
        """Find the thresholds of a point."""
        if kind in SPREADS:
            return cls(Level(), 1.0, 0.1, rule.spread, rule.spread, must_fall=True)
        most = possible(row, kind)
        if kind == "weight":
            low = _ONE_DIRECTION if _SMALL <= most < math.inf else 0.0
            return cls(Level(), most, rule.fall, low, low, must_fall=True, weight=True)
        # without a layer table (a damaged log) only a constant is known to be too low
        floor = rule.floor * most if math.isfinite(most) else 0.0
        low = floor if math.isnan(needed) else min(floor, needed)
        return cls(Level(), most, rule.fall, floor, max(low, _CONSTANT))


_ONE_DIRECTION = 1.5
_SMALL = 8
"""Weights of a smaller side have stable ranks near 1 for no reason."""
_CONSTANT = 0.5
"""Ranks are 1 or more, but for a constant, whose rank is 0: always too low."""


def _gauged(values: Mapping[str, float]) -> list[tuple[str, float]]:
    """What is judged of a layer."""
    get = values.get
    found = [(p, v) for p, name in RANKS.items() if (v := get(name)) is not None]
    for kind, (variance, mean) in SPREADS.items():
        spread, size = get(variance), get(mean)
        if spread is not None and size is not None:
            total = spread + size * size
            found.append((kind, spread / total if total > 0 else 0.0))
    return found


def _told(key: tuple[str, str], level: Level, most: float, harm: str) -> str:
    """A sign in words."""
    layer, kind = key
    words = _WORDS[kind].format(named(layer))
    of = f" of at most {number(most)}" if math.isfinite(most) and most > 1 else ""
    if level.now < 0.95 * level.highest:
        words += f" fell from {number(level.highest)} (step {level.highest_step}) to "
    else:
        words += " is "
    words += f"{number(level.now)}{of}"
    return f"{words}, and {harm}" if harm else words
