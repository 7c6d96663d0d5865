"""Rules about what needs no history: numbers that are no numbers, and layers of zeros."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from svdhooks.alarms.checks import check_rule
from svdhooks.alarms.event import AlarmEvent, Severity, named
from svdhooks.alarms.grouping import Reporting, Sign
from svdhooks.alarms.reading import Reading
from svdhooks.alarms.signals import Patience

_AT_ONCE = Patience(records=1, steps=0)
_LOSS = ("", "loss")
_NON_FINITE = "non-finite"
"""How the status of a record says that its matrix holds NaN or Inf."""


@dataclass(frozen=True)
class NonFinite:
    """NaN or infinite values in a weight, in activations, or in the loss.

    Raised at once: a weight that is NaN stays so. A loss must not be finite at two
    records in a row, for with loss scaling single ones are made good. Measurements that
    failed for another reason, such as memory, are none of it.
    """

    name: str = "non_finite"
    severity: Severity = "alarm"

    def __post_init__(self) -> None:
        """Check the options."""
        check_rule(self)

    @property
    def measures(self) -> frozenset[str]:
        """By which it sees that values are finite again; the rest the status says."""
        return frozenset({
            "weight_spectral_norm",
            "input_total_variance",
            "output_total_variance",
        })

    def begin(self) -> "NonFiniteState":
        """Start to observe one run."""
        return NonFiniteState(self)


_WEIGHTS = (
    "Training cannot recover from NaN in a weight: go back to a checkpoint from before "
    "this step, and look at the learning rate, at the loss scale, and at the batch of "
    "this step."
)
_ACTIVATIONS = (
    "No weight is known to hold any yet: look at the batch of this step, at divisions and "
    "logarithms before this point, and at what overflows in 16 bits."
)


class NonFiniteState(Reporting):
    """See `NonFinite`."""

    def __init__(self, rule: NonFinite) -> None:
        super().__init__(rule, _AT_ONCE)
        self._was_bad = False

    def observe(self, reading: Reading) -> list[AlarmEvent]:
        """Take in one record."""
        signs = list(self._signs(reading))
        lost = any(sign.on and sign.key[1] == "weight" for sign in signs)
        advice = _WEIGHTS if lost else _ACTIVATIONS
        return self._reporter.report(reading.step, signs, advice)

    def _signs(self, reading: Reading) -> Iterator[Sign]:
        bad = {key for key, status in reading.failed.items() if _NON_FINITE in status}
        place = {layer: i for i, layer in enumerate(reading.rows)}
        for key in sorted(bad, key=lambda k: (place.get(k[0], len(place)), k)):
            words = partial("{} holds NaN or Inf".format, _what(*key))
            yield Sign(key, True, False, float(key[1] == "weight"), words)
        for layer, point in tuple(self._reporter.known_keys):
            if (
                layer
                and (layer, point) not in bad
                and self._measured(layer, point, reading)
            ):
                yield Sign((layer, point), on=False, over=True)
        if reading.loss is not None:
            bad_loss = not math.isfinite(reading.loss)
            on = bad_loss and self._was_bad
            yield Sign(_LOSS, on, not bad_loss, 0.0, lambda: "The loss is NaN or Inf")
            self._was_bad = bad_loss

    @staticmethod
    def _measured(layer: str, point: str, reading: Reading) -> bool:
        """Whether a point was measured at this record, as far as that can be seen."""
        values = reading.values.get(layer, {})
        if point in _BASIC:
            return any(name.startswith(f"{point}_") for name in values)
        return bool(values)


_BASIC = frozenset({"weight", "input", "output"})


def _what(layer: str, point: str) -> str:
    """A point of a layer in words."""
    words = {
        "weight": "The weight of layer {}",
        "input": "What enters layer {}",
        "output": "What leaves layer {}",
    }
    return words.get(point, f"What is measured as {named(point)} of {{}}").replace(
        "{}", named(layer)
    )


@dataclass(frozen=True)
class AllZero:
    """A weight, or what leaves a layer, that became exactly zero.

    What was zero from the start, such as the second factor of a LoRA adapter or the last
    layer of a residual branch, is none: there was nothing to lose.
    """

    name: str = "all_zero"
    severity: Severity = "alarm"

    def __post_init__(self) -> None:
        """Check the options."""
        check_rule(self)

    @property
    def measures(self) -> frozenset[str]:
        """Those that it reads."""
        return frozenset({
            "weight_spectral_norm",
            "output_total_variance",
            "output_mean_norm",
        })

    def begin(self) -> "AllZeroState":
        """Start to observe one run."""
        return AllZeroState(self)


class AllZeroState(Reporting):
    """See `AllZero`."""

    def __init__(self, rule: AllZero) -> None:
        super().__init__(rule, _AT_ONCE)
        self._alive: set[tuple[str, str]] = set()

    def observe(self, reading: Reading) -> list[AlarmEvent]:
        """Take in one record."""
        signs = []
        for layer, values in reading.values.items():
            norm = values.get("weight_spectral_norm")
            if norm is not None:
                signs.append(self._sign((layer, "weight"), norm != 0))
            spread = values.get("output_total_variance")
            if spread is not None:
                size = values.get("output_mean_norm", 0.0)
                signs.append(self._sign((layer, "output"), spread != 0 or size != 0))
        return self._reporter.report(
            reading.step,
            filter(None, signs),
            "Nothing passes it any more. Look at weight decay, pruning and the learning "
            "rate, and at the layers before it.",
        )

    def _sign(self, key: tuple[str, str], alive: bool) -> Sign | None:
        if alive:
            self._alive.add(key)
            return Sign(key, False, True) if self._reporter.known(key) else None
        if key not in self._alive:
            return None
        what = "weight" if key[1] == "weight" else "output"
        words = partial(
            "The {} of layer {} became exactly zero".format, what, named(key[0])
        )
        return Sign(key, True, False, float(what == "weight"), words)
