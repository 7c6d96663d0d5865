"""What a verdict is made of: how far ranks fell, and what the loss did meanwhile."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.alarms.loss import LossLevel, LossState
from svdhooks.alarms.spaces import outputs_of
from svdhooks.analysis.reporting.meanings import meaning_of
from svdhooks.analysis.reporting.measures import maximum_of
from svdhooks.runlog import RunLog

JUDGED = (
    "output_effective_rank",
    "input_effective_rank",
    "weight_stable_rank",
    "tokens_effective_rank",
    "jacobian_relative_local_rank",
)
"""Measures whose fall is worth a word; the absolute local rank moves with scale alone."""

FELL = 0.5
"""A rank fell that ends below this share of its highest."""

_LOW = 1 / 16
"""Below this share of what is possible healthy embeddings were not seen; classifiers are
held against half of what their answer needs, outputs − 1, if that is less."""

_MEDIAN = 5


@dataclass(frozen=True)
class Fall:
    """A rank of a layer that ended far below its highest.

    Attributes:
        layer: Its name.
        metric: Which rank.
        start: Its first value.
        start_step: When that was.
        high: Its highest value.
        high_step: When that was.
        end: Its last value.
        end_step: When that was.
        half_step: The first step at which half of the way down was behind it.
        most_step: The same of nine tenths of the way.
        maximum: The largest that is possible; NaN if that is not known.
        deep: Whether it ended where no healthy representation was seen.
    """

    layer: str
    metric: str
    start: float
    start_step: int
    high: float
    high_step: int
    end: float
    end_step: int
    half_step: int
    most_step: int
    maximum: float
    deep: bool = False

    @property
    def share(self) -> float:
        """What is left of the highest value."""
        return self.end / self.high if self.high > 0 else 1.0

    @property
    def of_weight(self) -> bool:
        """Whether it is a rank of the weight: that falls in most healthy trainings."""
        return meaning_of(self.metric).point == "weight"

    @property
    def call(self) -> str:
        """What gives the curve."""
        return f"log.series({self.layer!r}, {self.metric!r})"


@dataclass(frozen=True)
class Loss:
    """What the training loss did.

    Attributes:
        state: As the rules of alarms judge it; empty: it fell, or nothing can be said.
        start: Its first finite value.
        start_step: When that was.
        best: The lowest running median.
        now: Median of its last five finite values.
        noise: Median absolute difference of successive values.
        broken_step: First step at which it was not finite; None if it always was.
        records: How many records it is known at.
        finite: At how many it is finite.
        stalled: Whether it does not fall any more, be it for it has converged.
        series: Expression that gives steps and values.
    """

    state: LossState
    start: float
    start_step: int
    best: float
    now: float
    noise: float
    broken_step: int | None
    records: int
    finite: int
    stalled: bool
    series: str

    @property
    def judged(self) -> bool:
        """Whether there are enough values to say whether it fell."""
        return self.records >= LossLevel.RECORDS or self.state == "diverged"

    @property
    def falls(self) -> bool:
        """Whether it fell, by more than its noise, and stayed low."""
        bad = self.state in {"worse", "diverged"}
        return (
            self.judged
            and not bad
            and self.start - self.now > LossLevel.GAIN * self.noise
        )


def falls(
    log: RunLog,
    layers: Iterable[str],
    bounds: Mapping[str, Mapping[str, float]],
    limited: Mapping[tuple[str, str], object],
) -> list[Fall]:
    """The ranks that fell, those of representations first, then the deepest first.

    Args:
        log: The run.
        layers: Which to look at.
        bounds: Layer -> point -> the largest rank that is possible.
        limited: What rests on too few samples, (layer, point): that is left out.

    Returns:
        One for each measure of each layer that ended below half of its highest.
    """
    there = [metric for metric in JUDGED if metric in log.metrics]
    low = (outputs_of(log.described) - 1) / 2
    found = []
    for layer in layers:
        for metric in there:
            meaning = meaning_of(metric)
            if (layer, meaning.point) in limited:
                continue
            most = maximum_of(meaning, bounds.get(layer, {}))
            fall = fall_of(layer, metric, *log.series(layer, metric), most)
            if fall is not None and fall.share <= FELL:
                sunk = fall.end < min(_LOW * most, low) and not fall.of_weight
                found.append(replace(fall, deep=sunk))
    return sorted(found, key=lambda fall: (fall.of_weight, fall.share))


def fall_of(
    layer: str,
    metric: str,
    steps: NDArray[np.int64],
    values: NDArray[np.float64],
    maximum: float = np.nan,
) -> Fall | None:
    """From its highest to its last value.

    Args:
        layer: Its name.
        metric: Which measure.
        steps: ``(T,)``.
        values: ``(T,)``; what is not finite is left out.
        maximum: The largest that is possible.

    Returns:
        The fall; None with fewer than two values.
    """
    there = np.isfinite(values)
    steps, values = steps[there], values[there]
    if len(values) < 2:
        return None
    high = int(np.argmax(values))
    way = values[high] - values[-1]
    half, most = (
        high + int(np.argmax(values[high:] <= values[high] - share * way))
        for share in (0.5, 0.9)
    )
    return Fall(
        layer,
        metric,
        float(values[0]),
        int(steps[0]),
        float(values[high]),
        int(steps[high]),
        float(values[-1]),
        int(steps[-1]),
        int(steps[half]),
        int(steps[most]),
        maximum,
    )


def loss_of(log: RunLog, source: str | None) -> Loss | None:
    """What the training loss did, at the records.

    Args:
        log: The run.
        source: ``"loss"`` among the run's values, or the tag of a scalar; None: none.

    Returns:
        None if there is none.
    """
    if source is None:
        return None
    own = source == "loss" and "loss" in log.run_metrics
    series = f"log.run_series({source!r})" if own else f"log.align({source!r})"
    steps, values = log.run_series(source) if own else log.align(source)
    begun = np.maximum.accumulate(~np.isnan(values)) if len(values) else values > 0
    if not own:  # before its first value it is not known
        steps, values = steps[begun], values[begun]
    if not len(values):
        return None
    level = LossLevel()
    for value in values.tolist():
        level.observe(value)
    finite = np.isfinite(values)
    told = values[finite]
    return Loss(
        level.state,
        float(told[0]) if len(told) else np.nan,
        int(steps[np.argmax(finite)]),
        level.best,
        float(np.median(told[-_MEDIAN:])) if len(told) else np.nan,
        float(np.median(np.abs(np.diff(told)))) if len(told) > 1 else 0.0,
        None if finite.all() else int(steps[np.argmin(finite)]),
        len(values),
        len(told),
        level.stalled,
        series,
    )


def loss_figures(loss: Loss) -> list[dict[str, Any]]:
    """What gives the first and the last level of a loss."""
    values = f"{loss.series}[1]"
    finite = f"{values}[numpy.isfinite({values})]"
    last = f"float(numpy.median({finite}[-{_MEDIAN}:]))"
    return [
        {"call": loss.series, "step": loss.start_step, "value": loss.start},
        {"call": last, "step": None, "value": loss.now},
    ]
