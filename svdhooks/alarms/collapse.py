"""The rule that names the package: representations that lost their rank."""

import math
from dataclasses import dataclass, field
from functools import partial

from svdhooks.alarms.checks import check_number, check_rule
from svdhooks.alarms.event import AlarmEvent, Severity
from svdhooks.alarms.gauges import MEASURES, Gauge, gauges
from svdhooks.alarms.grouping import Reporting, Sign
from svdhooks.alarms.loss import GETS_WORSE, LOSS_WORDS, LossLevel
from svdhooks.alarms.reading import Reading
from svdhooks.alarms.signals import Level, Patience
from svdhooks.alarms.spaces import entering, outputs_of
from svdhooks.alarms.tokens import RANK, TokenCollapse, same
from svdhooks.alarms.units import DEAD, DeadUnits, is_dead, off

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
    fell below the floor and what the answer needs  the loss gives back most of its gain,
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
            the answer needs is the model's outputs − 1, or the effective rank of what
            entered the model at first, if that is less.
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
        return MEASURES | DeadUnits().measures | TokenCollapse().measures

    def begin(self) -> "CollapseState":
        """Start to observe one run.

        Returns:
            Its state.
        """
        return CollapseState(self)


_HALF_DIED = 0.5, 0.25
"""Share of dead units, and how much more than at the least, that agree with a fall."""


class CollapseState(Reporting):
    """See `Collapse`."""

    def __init__(self, rule: Collapse) -> None:
        self._rule = rule
        super().__init__(rule, rule.patience)
        self._gauges: dict[str, tuple[Gauge, ...]] = {}
        self._dead: dict[str, Level] = {}
        self._loss = LossLevel()
        self._needed = math.nan

    def observe(self, reading: Reading) -> list[AlarmEvent]:
        """Take in one record."""
        self._loss.observe(reading.loss)
        if math.isnan(self._needed) and reading.rows:
            answer, data = outputs_of(reading.rows) - 1, entering(reading)
            self._needed = answer if math.isnan(data) else min(answer, data)
        suspects: list[tuple[str, Gauge]] = []
        step, limited, known = reading.step, reading.limited, self._reporter.known_keys
        for layer, values in reading.values.items():
            several = self._gauges.get(layer)
            if several is None:
                several = self._meet(layer, reading)
            if (share := values.get(DEAD)) is not None:
                self._dead[layer].observe(reading.step, share)
            for gauge in several:
                # the largest threshold first: this runs for every layer at every record
                value = gauge.read(values)
                if value is None or (limited and (layer, gauge.point) in limited):
                    continue
                now = gauge.level.observe(step, value)
                if now < gauge.bound or (known and (layer, gauge.words) in known):
                    suspects.append((layer, gauge))
        judged = (self._sign(layer, gauge, reading) for layer, gauge in suspects)
        signs = [sign for sign in judged if sign is not None]
        return self._reporter.report(reading.step, signs, self._advice)

    @property
    def _advice(self) -> str:
        return _ALONE if self._rule.alone else _HARM

    def _meet(self, layer: str, reading: Reading) -> tuple[Gauge, ...]:
        """Find what is to be read of a layer that is new."""
        self._dead[layer] = Level()
        row = reading.rows.get(layer, {})
        self._gauges[layer] = gauges(row, self._rule, self._needed)
        return self._gauges[layer]

    def _sign(self, layer: str, gauge: Gauge, reading: Reading) -> Sign | None:
        level, harm, key = gauge.level, self._harm(layer, reading), (layer, gauge.words)
        on = self._holds(gauge, harm)
        if not on and key not in self._reporter.known_keys:
            return None
        return Sign(
            key,
            on=on,
            over=level.now > 1.5 * gauge.bound,
            weight=level.highest / max(level.now, 1e-6) if gauge.fell else 0.0,
            words=partial(gauge.told, layer, harm),
            evidence={"now": level.now, "highest": level.highest, "most": gauge.most},
        )

    def _holds(self, gauge: Gauge, harm: str) -> bool:
        """Whether the signs of a layer agree."""
        now, fell = gauge.level.now, gauge.fell
        if fell and now < gauge.floor and self._loss.state in GETS_WORSE:
            return True
        if now >= gauge.low or (gauge.must_fall and not fell):
            return False
        return harm != "" or (self._rule.alone and fell and gauge.point != "weight")

    def _harm(self, layer: str, reading: Reading) -> str:
        """Another sign that something is wrong, in words; empty if there is none."""
        if self._loss.state:
            return LOSS_WORDS[self._loss.state]
        values, level = reading.values[layer], self._dead[layer]
        dead = is_dead(level.now, level.lowest, *_HALF_DIED)
        if dead and off(level.now, reading.rows.get(layer, {}), values):
            return f"{level.now:.0%} of the units before it are dead"
        if RANK in values and same(values, TokenCollapse()):
            return "the tokens of a sequence are the same"
        return LOSS_WORDS["stuck"] if self._loss.stalled else ""
