"""Layers of which a rule could speak, by the extremes of their curves.

Of a whole log most layers can be told beforehand to be well: a rule that needs a spectral
norm ten times its lowest needs nothing of a layer whose highest is nine times that. Rules
see the others, record after record. What is left out here would have changed nothing: each
condition is necessary for a sign of its rule, and what is not sure is kept.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.alarms.collapse import Collapse
from svdhooks.alarms.compression import WORDS, Compression
from svdhooks.alarms.event import Alarm
from svdhooks.alarms.failing import AllZero, NonFinite
from svdhooks.alarms.gauges import Gauge, gauges
from svdhooks.alarms.growth import AttentionLogits, Exploding
from svdhooks.alarms.spaces import first_of, outputs_of
from svdhooks.alarms.tokens import RANK, TokenCollapse
from svdhooks.alarms.units import DEAD, DeadUnits

Row = Mapping[str, Any]
Column = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Steps and values."""


class Curves:
    """The measures of one layer.

    Args:
        row: Of the layer table.
        columns: Measure -> its values.
        needed: Directions that the model's answer needs; NaN if that is not known.
    """

    def __init__(
        self, row: Row, columns: Mapping[str, Column], needed: float = math.nan
    ) -> None:
        self.row = row
        self.columns = columns
        self.needed = needed
        self.finite = all(bool(np.isfinite(v).all()) for _, v in columns.values())

    def ends(self, measure: str) -> tuple[float, float] | None:
        """The lowest and the highest value; None if it was not measured."""
        column = self.columns.get(measure)
        if column is None or not len(column[1]):
            return None
        return float(column[1].min()), float(column[1].max())

    def ends_of(self, gauge: Gauge) -> tuple[float, float] | None:
        """The same of a gauge; None if it was not read."""
        if len(gauge.names) == 1:
            return self.ends(gauge.names[0])
        found = [self.columns.get(name) for name in gauge.names]
        if found[0] is None or found[1] is None:
            return None
        (steps, first), (others, mean) = found[0], found[1]
        if not np.array_equal(steps, others):
            return -math.inf, math.inf  # not known without joining them: kept
        spread, size = first.astype(np.float64), mean.astype(np.float64)
        total = spread + size * size
        share = np.divide(spread, total, out=np.zeros_like(total), where=total > 0)
        return float(share.min()), float(share.max())


def suspects(
    rules: Iterable[Alarm],
    layers: Mapping[str, Mapping[str, Column]],
    rows: Mapping[str, Row],
    failed: Collection[str],
) -> set[str]:
    """The layers that any of the rules must see.

    Args:
        rules: Those at work.
        layers: Name -> measure -> its values, none of which is NaN.
        rows: The layer table.
        failed: Layers of which a measurement failed.

    Returns:
        Names. All, if a rule is not one of this package.
    """
    several = list(rules)
    if any(type(rule) not in _ASKED for rule in several):
        return set(layers)
    needed = outputs_of(rows) - 1
    found = set(failed)
    for layer, columns in layers.items():
        curves = Curves(rows.get(layer, {}), columns, needed)
        if not curves.finite or any(_ASKED[type(r)](r, curves) for r in several):
            found.add(layer)
    first = first_of(rows)
    if found and first is not None and first in layers:
        found.add(first)  # what enters the model is what others are judged by
    return found


def _collapse(rule: Any, curves: Curves) -> bool:
    for gauge in gauges(curves.row, rule, curves.needed):
        ends = curves.ends_of(gauge)
        if ends is None:
            continue
        low, high = ends
        fell = low < gauge.fall * high
        deep = fell and low < gauge.floor
        if deep or (low < gauge.low and (fell or not gauge.must_fall)):
            return True
    return False


def _growth(measure: str, unit: float) -> Callable[[Any, Curves], bool]:
    def asked(rule: Any, curves: Curves) -> bool:
        ends = curves.ends(measure)
        if ends is None:
            return False
        low, high = ends
        return high > float(rule.factor) * max(low, unit)  # alone is no smaller

    return asked


def _dead_units(rule: Any, curves: Curves) -> bool:
    return any(high >= rule.share for _, high in _all_ends((DEAD,), curves))


def _all_zero(rule: Any, curves: Curves) -> bool:
    return any(low <= 0 for low, _ in _all_ends(rule.measures, curves))


def _tokens(_rule: Any, curves: Curves) -> bool:
    return RANK in curves.columns  # it counts the others, too


def _compression(rule: Any, curves: Curves) -> bool:
    return any(low < rule.fall * high for low, high in _all_ends(WORDS, curves))


def _non_finite(_rule: Any, _curves: Curves) -> bool:
    return False  # it looks at what failed


def _all_ends(measures: Iterable[str], curves: Curves) -> Sequence[tuple[float, float]]:
    return [ends for name in measures if (ends := curves.ends(name)) is not None]


_ASKED: Mapping[type, Callable[[Any, Curves], bool]] = {
    Collapse: _collapse,
    Exploding: _growth("weight_spectral_norm", 1.0),
    AttentionLogits: _growth("attention_logits_scaled_max", 0.0),
    DeadUnits: _dead_units,
    AllZero: _all_zero,
    TokenCollapse: _tokens,
    Compression: _compression,
    NonFinite: _non_finite,
}
