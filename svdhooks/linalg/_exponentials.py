"""Two decays and a constant, fitted to a vector without starting values.

For given decay times the amplitudes are a linear problem, so only the two times are
searched: on a grid, then downhill from its best places (variable projection, Golub &
Pereyra 1973).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_DISTANCES = 8
_MEANS = 40
_FEW = 15
"""Evaluations after which the descents are compared, and the best two go on."""


@dataclass(frozen=True)
class Decays:
    """The best fit.

    Attributes:
        parameters: C1, T1, C2, T2, D with ``T1 ≥ T2``.
        fitted: The curve at the times.
    """

    parameters: Array
    fitted: Array


def fit(times: Array, values: Array) -> Decays:
    """Least squares over ``C1 exp(-t/T1) - C2 exp(-t/T2) + D``.

    Args:
        times: At least two different ones, in any order.
        values: As many, finite.

    Returns:
        The best of several descents.
    """
    from scipy.optimize import least_squares

    shifted = times - times.min()  # at late times every decay would underflow
    scale = float(np.abs(values).max()) or 1.0  # tolerances of the descent are absolute
    target = values / scale
    ends = decay_times(times)
    limits = _place(ends[0], ends[0]), _place(ends[1], ends[1])
    limits[1][1] = _place(ends[1], ends[0])[1]

    def residual(place: Array) -> Array:
        return _curve(shifted, place, target)[1] - target

    def descend(start: Array, evaluations: int | None) -> Any:
        options = {**TOLERANCES, "max_nfev": evaluations}
        return least_squares(
            residual, np.clip(start, *limits), bounds=limits, **options
        )

    places = _best_places(shifted, target, ends)
    first = sorted((descend(p, _FEW) for p in places), key=lambda found: found.cost)
    best = min((descend(f.x, None) for f in first[:2]), key=lambda found: found.cost).x
    (mean, slope, D), fitted = _curve(shifted, best, target)
    half = _half_distance(best)
    T = np.exp(best[0] + half * np.array([1, -1]))
    C = np.array([slope / half + mean, slope / half - mean]) / 2
    with np.errstate(over="ignore"):  # of a decay that began long before the times did
        C *= np.exp(times.min() / T)
    parameters = np.array([C[0], T[0], C[1], T[1], D])
    parameters[[0, 2, 4]] *= scale
    return Decays(parameters, fitted * scale)


TOLERANCES = {"ftol": 1e-12, "xtol": 1e-12, "gtol": 1e-12, "x_scale": "jac"}
"""Of descents by scipy, on values of unit size."""


def decay_times(times: Array) -> tuple[float, float]:
    """The shortest and longest decay that samples at these times can tell.

    Below a quarter of the closest spacing a decay is a spike, above a hundred times the
    range a straight line.

    Args:
        times: At least two different ones.

    Returns:
        Both, in the units of the times.
    """
    distinct = np.unique(times)
    return float(np.diff(distinct).min()) / 4, float(np.ptp(distinct)) * 100


def _place(T1: float, T2: float) -> Array:
    """Where the search is at two decay times: mean log, squared half distance of logs.

    The squared distance, because the curve is even in the distance itself, whose slope is
    zero wherever the two times meet.

    Args:
        T1: The longer decay time.
        T2: The shorter one.

    Returns:
        Both numbers.
    """
    return np.array([np.log(T1 * T2) / 2, (np.log(T1 / T2) / 2) ** 2])


def _half_distance(place: Array) -> float:
    return max(math.sqrt(place[1]), 1e-6)


def _curve(t: Array, place: Array, target: Array) -> tuple[Array, Array]:
    """Best amplitudes of mean decay, slope between the decays, constant; the curve.

    Args:
        t: Times, from 0.
        place: As of `_place`.
        target: What the curve should be.

    Returns:
        Amplitudes and curve.
    """
    rate, half = np.exp(-place[0]), _half_distance(place)
    slow, fast = (np.exp(-t * rate * np.exp(side * half)) for side in (-1, 1))
    # slow - fast, without cancellation where the two meet
    difference = -slow * np.expm1(-2 * t * rate * np.sinh(half))
    basis = np.stack([(slow + fast) / 2, difference / (2 * half), np.ones_like(t)], 1)
    amplitudes = np.linalg.lstsq(basis, target, rcond=None)[0]
    return amplitudes, basis @ amplitudes


def _best_places(t: Array, target: Array, ends: tuple[float, float]) -> list[Array]:
    """For each of several distances between the decay times, the best mean on a grid.

    Near the true times the error is a narrow valley, in which a grid alone finds nothing
    but the place where the two meet.

    Args:
        t: Times, from 0.
        target: What the curve should be.
        ends: Shortest and longest decay time.

    Returns:
        As of `_place`.
    """
    low, high = np.log(ends)
    halves = np.geomspace(0.05, (high - low) / 2, _DISTANCES)
    means = np.linspace(low, high, _MEANS)
    mean, half = (grid.ravel() for grid in np.meshgrid(means, halves))
    basis = np.stack(
        [np.exp(-t * np.exp(-(mean + side * half))[:, None]) for side in (1, -1)]
        + [np.ones((len(mean), len(t)))],
        -1,
    )
    Q = np.linalg.qr(basis).Q
    left = target - np.einsum("pnk,pmk,m->pn", Q, Q, target, optimize=True)
    error = np.square(left).sum(1).reshape(_DISTANCES, _MEANS)
    return [
        np.array([means[k], h**2]) for k, h in zip(error.argmin(1), halves, strict=True)
    ]
