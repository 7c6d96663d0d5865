"""Rules about what grows without end: gains of weights, bounds of attention logits."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from svdhooks.alarms.checks import check_factors
from svdhooks.alarms.event import AlarmEvent, Severity, named
from svdhooks.alarms.grouping import Reporting, Sign, number
from svdhooks.alarms.loss import GETS_WORSE, LOSS_WORDS, LossLevel
from svdhooks.alarms.reading import Reading
from svdhooks.alarms.signals import Level, Patience

_NORM = "weight_spectral_norm"
_LOGITS = "attention_logits_scaled_max"


@dataclass(frozen=True)
class Exploding:
    """The spectral norm of a weight grew far beyond where it began.

    It is the largest gain of a layer, and gains multiply over layers. What began below 1
    (an adapter or a branch that starts at zero) is compared with 1, the gain that hands
    a signal on at its own size.

    Attributes:
        factor: So many times larger is too much when the loss gives back most of its
            gain or is not finite. Healthy small networks grow by 2 to 6.
        alone: So many times larger is too much whatever the loss does.
        patience: How long it must last.
    """

    factor: float = 10.0
    alone: float = 100.0
    patience: Patience = field(default_factory=Patience)
    name: str = "exploding"
    severity: Severity = "alarm"

    def __post_init__(self) -> None:
        """Check the options."""
        check_factors(self)

    @property
    def measures(self) -> frozenset[str]:
        """Those that it reads."""
        return frozenset({_NORM})

    def begin(self) -> "GrowthState":
        """Start to observe one run."""
        return GrowthState(
            self, _Growing(_NORM, "weight", 1.0, _NORM_WORDS, _NORM_ADVICE)
        )


@dataclass(frozen=True)
class AttentionLogits:
    """The bound of attention logits grew far beyond where it began.

    Large logits make a softmax pick one token, and then no gradient passes it: the
    entropy of attention collapses and training diverges (Zhai et al. 2023,
    arXiv:2303.06296). Healthy attention sharpens, too, by a factor of a hundred and more
    in long runs: so the bound alone alarms late, and with the loss early. Needs the
    quantity ``"attention_logits"``.

    Attributes:
        factor: So many times larger is too much when the loss gives back most of its
            gain or is not finite.
        alone: So many times larger is too much whatever the loss does.
        patience: How long it must last.
    """

    factor: float = 10.0
    alone: float = 1000.0
    patience: Patience = field(default_factory=Patience)
    name: str = "attention_logits"
    severity: Severity = "alarm"

    def __post_init__(self) -> None:
        """Check the options."""
        check_factors(self)

    @property
    def measures(self) -> frozenset[str]:
        """Those that it reads."""
        return frozenset({_LOGITS})

    def begin(self) -> "GrowthState":
        """Start to observe one run."""
        growing = _Growing(
            _LOGITS, "attention_logits", 0.0, _LOGIT_WORDS, _LOGIT_ADVICE
        )
        return GrowthState(self, growing)


_NORM_WORDS = "The spectral norm of the weight of layer {name} grew {by} times, from {low} (step {at}) to {now}"
_NORM_ADVICE = (
    "Look at the learning rate, its warm-up and gradient clipping, and at whether a "
    "normalisation is missing."
)
_LOGIT_WORDS = "The bound of the attention logits of {name} grew {by} times, from {low} (step {at}) to {now}"
_LOGIT_ADVICE = (
    "Attention may come to look at one token only. Look at the learning rate; a "
    "normalisation of queries and keys, or weight decay on them, bounds the logits."
)


@dataclass(frozen=True)
class _Growing:
    """What grows, from where on it counts, and how it is told."""

    measure: str
    point: str
    unit: float
    words: str
    advice: str


class GrowthState(Reporting):
    """See `Exploding` and `AttentionLogits`."""

    def __init__(self, rule: Exploding | AttentionLogits, growing: _Growing) -> None:
        self._rule = rule
        self._growing = growing
        super().__init__(rule, rule.patience)
        self._levels: dict[str, Level] = {}
        self._loss = LossLevel()

    def observe(self, reading: Reading) -> list[AlarmEvent]:
        """Take in one record."""
        self._loss.observe(reading.loss)
        signs = [
            sign
            for layer, values in reading.values.items()
            if (sign := self._sign(layer, reading.step, values)) is not None
        ]
        return self._reporter.report(reading.step, signs, self._growing.advice)

    def _sign(self, layer: str, step: int, values: Mapping[str, float]) -> Sign | None:
        value = values.get(self._growing.measure)
        if value is None:
            return None
        level = self._levels.get(layer)
        if level is None:
            if value == 0 and self._growing.unit == 0:
                return None  # nothing to compare with yet
            level = self._levels[layer] = Level()
        now = level.observe(step, min(value, _LARGEST))
        if max(level.lowest, self._growing.unit) == 0:
            del self._levels[layer]  # it was switched off: it begins anew
            return None
        low = max(level.lowest, self._growing.unit)
        key = layer, self._growing.point
        if now <= self._rule.factor * low and not self._reporter.known(key):
            return None
        grown = now / low
        bad = self._loss.state if self._loss.state in GETS_WORSE else ""
        on = grown > (self._rule.factor if bad else self._rule.alone)

        def words() -> str:
            told = self._growing.words.format(
                name=named(layer),
                by=number(grown),
                low=number(low),
                at=level.lowest_step,
                now=number(now),
            )
            return f"{told}, and {LOSS_WORDS[bad]}" if bad else told

        evidence = {"now": now, "lowest": low, "grown": grown}
        over = grown < 0.5 * self._rule.factor
        return Sign(key, on, over, grown, words, evidence)


_LARGEST = 3e38
"""Infinite counts as the largest float32, so that it can be compared."""
