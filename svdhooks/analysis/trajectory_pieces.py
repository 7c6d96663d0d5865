"""The piecewise linear curve that describes another one best."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# three numbers for each piece: where it begins, its level, its slope
_PARAMETERS = 3
_LEAST_NOISE = 0.01
_SHORTEST = 3


def noise(y: Floats) -> float:
    """The standard deviation of noise, by the median size of second differences.

    Args:
        y: ``(T,)``, of a curve that is smooth but for noise.

    Returns:
        It; 0 for three values or less.
    """
    if len(y) <= _SHORTEST:
        return 0.0
    return float(np.median(np.abs(np.diff(y, 2)))) / 0.6745 / math.sqrt(6)


def cuts(x: Floats, y: Floats, spread: float) -> Sequence[tuple[int, int]]:
    """Where the pieces of the best piecewise linear curve begin and end.

    The squared error, plus three parameters for each piece at log T times the variance
    of the noise, which is taken to be a hundredth of the range at least: a bend that no
    eye sees is no bend.

    Args:
        x: ``(T,)``, increasing, three points at least.
        y: ``(T,)``.
        spread: The standard deviation of noise.

    Returns:
        First and last index of each; neighbours share a point.
    """
    count = len(x)
    spread = max(spread, _LEAST_NOISE * float(np.ptp(y)), 1e-12)
    penalty = _PARAMETERS * math.log(count) * spread**2
    sums = [np.concatenate([[0.0], np.cumsum(v)]) for v in (x, y, x * x, x * y, y * y)]
    best = np.full(count, math.inf)
    best[0] = 0.0
    came = np.zeros(count, dtype=np.intp)
    for end in range(_SHORTEST - 1, count):
        starts = np.arange(end - _SHORTEST + 2)
        cost = best[starts] + _errors(sums, starts, end) + penalty
        came[end] = int(np.argmin(cost))
        best[end] = cost[came[end]]
    pieces = []
    end = count - 1
    while end > 0:
        pieces.append((int(came[end]), end))
        end = int(came[end])
    return pieces[::-1]


def _errors(sums: Sequence[Floats], starts: NDArray[np.intp], end: int) -> Floats:
    """The squared error of a line through the points from each start to the end."""
    n = end + 1.0 - starts
    sx, sy, sxx, sxy, syy = (total[end + 1] - total[starts] for total in sums)
    vx, vy, vxy = sxx - sx * sx / n, syy - sy * sy / n, sxy - sx * sy / n
    explained = np.where(vx > 0, vxy * vxy / np.maximum(vx, 1e-300), 0.0)
    found: Floats = np.maximum(vy - explained, 0.0)
    return found


def line(x: Floats, y: Floats, start: int, end: int) -> tuple[float, float]:
    """Both ends of the line through a piece.

    Args:
        x: ``(T,)``.
        y: ``(T,)``.
        start: First index.
        end: Last index.

    Returns:
        Its values there.
    """
    slope, level = np.polyfit(x[start : end + 1], y[start : end + 1], 1)
    return float(level + slope * x[start]), float(level + slope * x[end])
