"""What a collapse is read from: ranks of points and weights, and how far samples differ."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from svdhooks.alarms.event import named
from svdhooks.alarms.grouping import number
from svdhooks.alarms.signals import Level
from svdhooks.alarms.spaces import possible

RANKS = {
    "output": "output_effective_rank",
    "input": "input_effective_rank",
    "weight": "weight_stable_rank",
}
"""Point -> its headline measure of rank."""
SPREADS = {
    "output": ("output_total_variance", "output_mean_norm"),
    "input": ("input_total_variance", "input_mean_norm"),
}
"""Point -> variance about the mean, and norm of the mean."""
MEASURES = frozenset({*RANKS.values(), *(m for pair in SPREADS.values() for m in pair)})
"""All that is read."""

_RANK_WORDS = {
    "output": "The effective rank of what leaves layer {}",
    "input": "The effective rank of what enters layer {}",
    "weight": "The stable rank of the weight of layer {}",
}
_SPREAD_WORDS = {
    "output": "The share of what leaves layer {} that differs between samples",
    "input": "The share of what enters layer {} that differs between samples",
}
_ONE_DIRECTION = 1.5
_SMALL = 8
"""Weights of a smaller side have stable ranks near 1 for no reason."""
_CONSTANT = 0.5
"""Ranks are 1 or more, but for a constant, whose rank is 0: always too low."""
_SPREAD_FALL = 0.1


@runtime_checkable
class Thresholds(Protocol):
    """The options of `Collapse` that are needed here."""

    @property
    def fall(self) -> float:
        """Share of the highest below which a rank fell."""
        ...

    @property
    def floor(self) -> float:
        """Share of the largest possible rank below which it is low."""
        ...

    @property
    def spread(self) -> float:
        """Share below which samples hardly differ."""
        ...


@dataclass(slots=True)
class Gauge:
    """One number of one layer, with the thresholds that hold for it.

    Attributes:
        point: Of the layer.
        words: What it is, for a message.
        names: The measure, or the two of a spread.
        most: The largest that it can be.
        fall: The share of its highest below which it fell.
        floor: Below is too low, if it fell and the loss gets worse.
        low: Below is too low, if another sign agrees.
        must_fall: Whether what was low from the start does not count.
        level: Its values so far.
        bound: From here on nothing is wrong.
    """

    point: str
    words: str
    names: tuple[str, ...]
    most: float
    fall: float
    floor: float
    low: float
    must_fall: bool
    level: Level = field(default_factory=Level)
    bound: float = field(init=False)

    def __post_init__(self) -> None:
        """Find the largest threshold."""
        self.bound = max(self.floor, self.low)

    @property
    def fell(self) -> bool:
        """Whether it is far below its highest."""
        return self.level.now < self.fall * self.level.highest

    def read(self, values: Mapping[str, float]) -> float | None:
        """Its value at a record.

        Args:
            values: Of the layer.

        Returns:
            None if it was not measured.
        """
        first = values.get(self.names[0])
        if first is None or len(self.names) == 1:
            return first
        mean = values.get(self.names[1])
        if mean is None:
            return None
        total = first + mean * mean
        return first / total if total > 0 else 0.0

    def told(self, layer: str, harm: str) -> str:
        """What is wrong, in words.

        Args:
            layer: Its name.
            harm: The sign that agrees; empty if there is none.

        Returns:
            The beginning of a sentence.
        """
        level = self.level
        told = self.words.format(named(layer))
        if level.now < 0.95 * level.highest:
            told += (
                f" fell from {number(level.highest)} (step {level.highest_step}) to "
            )
        else:
            told += " is "
        told += number(level.now)
        if 1 < self.most < math.inf:
            told += f" of at most {number(self.most)}"
        return f"{told}, and {harm}" if harm else told


def gauges(
    row: Mapping[str, Any], thresholds: Thresholds, needed: float
) -> tuple[Gauge, ...]:
    """What is read of one layer.

    Args:
        row: Of the layer table.
        thresholds: Options of the rule.
        needed: Directions that the model's answer needs, or that its data have if these
            are fewer; NaN if that is not known.

    Returns:
        Those of a layer of any kind; what is not measured is not read.
    """
    return (
        *(_rank(point, possible(row, point), thresholds, needed) for point in SPREADS),
        _weight(possible(row, "weight"), thresholds, needed),
        *(_spread(point, thresholds) for point in SPREADS),
    )


def _rank(point: str, most: float, thresholds: Thresholds, needed: float) -> Gauge:
    # without a layer table (a damaged log) only a constant is known to be too low
    floor = thresholds.floor * most if math.isfinite(most) else 0.0
    low = floor
    if not math.isnan(needed):
        floor, low = min(floor, needed), min(floor, needed / 2)
    floor, low = max(floor, _CONSTANT), max(low, _CONSTANT)
    words, names = _RANK_WORDS[point], (RANKS[point],)
    return Gauge(
        point, words, names, most, thresholds.fall, floor, low, must_fall=False
    )


def _weight(most: float, thresholds: Thresholds, needed: float) -> Gauge:
    floor = _ONE_DIRECTION if _SMALL <= most < math.inf else 0.0
    # one direction is enough for one answer, and for two classes
    low = 0.0 if needed <= 1 else floor
    words, names = _RANK_WORDS["weight"], (RANKS["weight"],)
    return Gauge(
        "weight", words, names, most, thresholds.fall, floor, low, must_fall=True
    )


def _spread(point: str, thresholds: Thresholds) -> Gauge:
    low = thresholds.spread
    words, names = _SPREAD_WORDS[point], SPREADS[point]
    return Gauge(point, words, names, 1.0, _SPREAD_FALL, low, low, must_fall=True)
