"""Few runs on each side: are two curves further apart than seeds are?

Everything is computed from one number for each run and point. Records of one run are no
replicates of each other, seeds are.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Gap:
    """How far two groups are apart, at each point.

    Attributes:
        difference: Mean of the second group minus that of the first, ``(T,)``.
        low: Lower end of its 95 % interval; NaN where no spread is known.
        high: Upper end.
        p: Two-sided; of no difference between the means.
        effect: Difference over the spread of single runs (Hedges' g: corrected for few
            runs).
    """

    difference: Floats
    low: Floats
    high: Floats
    p: Floats
    effect: Floats


def gap(first: Floats, second: Floats, floor: Floats) -> Gap:
    """Compare the means of two groups (Welch's t, 1947).

    Where one group is a single run, it is compared with the spread of the other, which
    is taken to be its own too. Two single runs have a difference and nothing else.

    Args:
        first: ``(n, T)``, one row for each run.
        second: ``(m, T)``.
        floor: The least variance over runs that is believed, ``(T,)``: what rounding
            alone makes. Runs that agree to the last digit would else differ from
            everything.

    Returns:
        Difference, interval, p and effect, at each point.
    """
    n, m = len(first), len(second)
    difference = second.mean(axis=0) - first.mean(axis=0)
    if n + m <= 2:
        unknown = np.full(difference.shape, np.nan)
        return Gap(difference, unknown, unknown, unknown, unknown)
    a, b = (_variance(runs, floor) for runs in (first, second))
    pooled = ((n - 1) * a + (m - 1) * b) / (n + m - 2)
    if min(n, m) == 1:
        error = np.sqrt(pooled * (1 / n + 1 / m))
        freedom = np.full(difference.shape, float(n + m - 2))
    else:
        error = np.sqrt(a / n + b / m)
        freedom = error**4 / ((a / n) ** 2 / (n - 1) + (b / m) ** 2 / (m - 1))
    t = difference / error
    half = special.stdtrit(freedom, (1 + CONFIDENCE) / 2) * error
    correction = 1 - 3 / (4 * (n + m - 2) - 1)
    return Gap(
        difference,
        difference - half,
        difference + half,
        2 * special.stdtr(freedom, -np.abs(t)),
        correction * difference / np.sqrt(pooled),
    )


def holm(p: Floats) -> Floats:
    """Correct for the number of tests (Holm, 1979).

    The chance that even one of those below α is there without a difference is at most
    α, however the tests depend on each other.

    Args:
        p: ``(N,)``; NaN: not tested, and not counted.

    Returns:
        Adjusted, ``(N,)``.
    """
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def detectable(n: int, m: int, tests: int, alpha: float) -> float:
    """The difference, in spreads of single runs, that is found half of the time.

    Args:
        n: Runs of one group.
        m: Of the other.
        tests: How many are corrected for.
        alpha: The chance of one false finding among all.

    Returns:
        Spreads; infinite if no spread is known.
    """
    if n + m <= 2:
        return np.inf
    critical = special.stdtrit(n + m - 2, 1 - alpha / (2 * max(tests, 1)))
    return float(critical * np.sqrt(1 / n + 1 / m))


_SHARE = 0.9
"""Of the points of a stretch, how many have to be apart: a few may fall back by chance."""


def stretch(apart: NDArray[np.bool_], *, to_end: bool) -> tuple[int, int] | None:
    """Since when, and until when, two groups are apart.

    Args:
        apart: At which points they are beyond the spread, ``(T,)``.
        to_end: Whether it has to last to the end; else it is the longest stretch
            without a break.

    Returns:
        First and last point. One that lasts to the end begins at the first point that
        is apart and from which on 9 of 10 are; None if there is none.
    """
    count = len(apart)
    if to_end:
        share = np.cumsum(apart[::-1])[::-1] / np.arange(count, 0, -1)
        found = np.flatnonzero(apart & (share >= _SHARE))
        return (int(found[0]), count - 1) if len(found) else None
    edges = np.flatnonzero(np.diff(np.concatenate([[False], apart, [False]])))
    if not len(edges):
        return None
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest]) - 1


def _variance(runs: Floats, floor: Floats) -> Floats:
    """Over runs; zero for a single one, which is given no weight."""
    if len(runs) == 1:
        return np.zeros(runs.shape[1])
    variance: Floats = np.maximum(runs.var(axis=0, ddof=1), floor)
    return variance
