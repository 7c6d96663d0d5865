"""Every layer and measure of a group against the reference: what is told of it."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from svdhooks.analysis.comparison.curves import Curve
from svdhooks.analysis.comparison.runs import Group
from svdhooks.analysis.comparison.statistics import Gap, gap, holm, stretch

ALPHA = 0.05
_LATE = 4
"""One over the share of the records that are the end of a run."""


@dataclass(frozen=True)
class Difference:
    """One measure of one layer: a group against the reference.

    Attributes:
        layer: Its name.
        metric: The measure.
        group: Which is compared.
        reference: With which.
        runs: How many runs the group has.
        reference_runs: How many the reference has.
        scale: ``"ratio"``: ``change``, ``low``, ``high`` are group over reference;
            ``"difference"``: group minus reference.
        value: Mean of the group over the last quarter of the records; of ratios the
            geometric mean.
        reference_value: The same of the reference.
        change: How far the two are apart there.
        low: Lower end of its 95 % interval, for this row alone; NaN without a spread.
        high: Upper end.
        effect: The difference over the spread of single runs (Hedges' g); NaN without.
        p: Of both tests, at the end and over the whole, corrected for these two.
        p_adjusted: Corrected for all rows of the comparison (Holm).
        differs: Whether ``p_adjusted`` is at most 0.05; None where no spread is known.
        when: ``"end"``: different in the last quarter; ``"way"``: over the whole, but
            not at the end; empty: neither.
        since: Where the two part, for good if ``when`` is ``"end"``: from there on 9 of
            10 points are beyond the spread (pointwise 95 %); NaN: not beyond.
        until: Where the longest stretch ends, if it does; NaN: it lasts to the end.
    """

    layer: str
    metric: str
    group: str
    reference: str
    runs: int
    reference_runs: int
    scale: str
    value: float
    reference_value: float
    change: float
    low: float
    high: float
    effect: float
    p: float
    p_adjusted: float
    differs: bool | None
    when: str
    since: float
    until: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON: NaN is None."""
        return {
            name: None if isinstance(v, float) and not math.isfinite(v) else v
            for name, v in asdict(self).items()
        }

    @property
    def size(self) -> float:
        """How large the change is, whatever its sign; of ratios the logarithm."""
        if self.scale == "ratio":
            return abs(math.log(self.change)) if self.change > 0 else math.inf
        return abs(self.change)


def differences(
    curves: Sequence[Curve], groups: Sequence[Group], reference: str
) -> tuple[Difference, ...]:
    """Compare every group with the reference.

    Args:
        curves: Of every layer and measure.
        groups: All groups.
        reference: Name of one of them.

    Returns:
        The surest first; those of which no spread is known by size.
    """
    base = next(group for group in groups if group.name == reference)
    tested = [
        _tested(curve, base, group)
        for group in groups
        if group is not base
        for curve in curves
        if len(curve.of(base)) and len(curve.of(group))
    ]
    adjusted = holm(np.array([row.p for row, _, _ in tested], dtype=np.float64))
    rows = [
        _judged(row, float(p), whole, curve)
        for (row, whole, curve), p in zip(tested, adjusted, strict=True)
    ]
    return tuple(sorted(rows, key=_surest))


def _tested(
    curve: Curve, base: Group, group: Group
) -> tuple[Difference, tuple[Gap, Gap], Curve]:
    """A row before it is known how many there are."""
    first, second = curve.of(base), curve.of(group)
    floor = curve.floor()
    late = slice(len(curve.x) - max(len(curve.x) // _LATE, 1), None)
    # each run is one number, at the end and over the whole
    spans = (late, slice(None))
    ends, others = (
        np.stack([runs[:, span].mean(axis=1) for span in spans], axis=1)
        for runs in (first, second)
    )
    told = gap(ends, others, np.array([floor[span].mean() for span in spans]))
    back = np.exp if curve.ratio else np.asarray
    p = float(np.minimum(2 * told.p.min(), 1.0))  # NaN stays
    row = Difference(
        curve.layer,
        curve.metric,
        group.name,
        base.name,
        len(second),
        len(first),
        "ratio" if curve.ratio else "difference",
        float(back(others[:, 0].mean())),
        float(back(ends[:, 0].mean())),
        float(back(told.difference[0])),
        float(back(told.low[0])),
        float(back(told.high[0])),
        float(told.effect[0]),
        p,
        math.nan,
        None,
        "",
        math.nan,
        math.nan,
    )
    return row, (told, gap(first, second, floor)), curve


def _judged(
    row: Difference, adjusted: float, gaps: tuple[Gap, Gap], curve: Curve
) -> Difference:
    """The row, corrected, with where the two part."""
    if math.isnan(adjusted):
        return row
    told, along = gaps
    differs = adjusted <= ALPHA
    # which of the two made it different; both: the end counts
    late = differs and 2 * float(told.p[0]) <= max(ALPHA, row.p)
    found = _parted(along, late)
    since = until = math.nan
    if found is not None:
        since = float(curve.x[found[0]])
        until = math.nan if found[1] == len(curve.x) - 1 else float(curve.x[found[1]])
    when = "end" if late else "way" if differs else ""
    return replace(
        row, p_adjusted=adjusted, differs=differs, when=when, since=since, until=until
    )


def _parted(along: Gap, late: bool) -> tuple[int, int] | None:
    """First and last point of the stretch in which the interval leaves out zero."""
    with np.errstate(invalid="ignore"):
        apart = (along.low > 0) | (along.high < 0)
    # a difference at the end that no point by itself shows has no beginning
    return stretch(apart, to_end=late)


def _surest(row: Difference) -> tuple[float, float, str, str]:
    p = row.p_adjusted
    return (2.0 if math.isnan(p) else p, -row.size, row.metric, row.layer)
