"""The search of Clauset et al. 2009 for where a power law begins, made fast.

All slopes come from one cumulative sum. The distances need every pair of a candidate
and a larger value, n²/2 exponentials; but a subset of the values bounds a distance
from below, so that few candidates need all of them. The result is that of the full
search.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_PROBES = (64, 512)
_BLOCK = 2**16  # numbers per array: fits in the cache, and bounds the memory


@dataclass(frozen=True)
class PowerLawFit:
    """A power law ``p(x) ~ x^-α`` for the eigenvalues ``x = σ² ≥ x_min``."""

    alpha: float
    """Exponent of the density. The decay of sorted eigenvalues is 1/(α - 1)."""
    x_min: float
    """Smallest eigenvalue of the tail, in units of σ²."""
    ks_distance: float
    """Largest distance between the distributions of the tail and of the law."""
    tail_size: int
    """Number of eigenvalues in the tail; 0 where nothing was fitted."""
    standard_error: float
    """``(α - 1)/√tail_size``, as if x_min had been known."""


def best_start(
    logs: Float[np.ndarray, " n"],
) -> tuple[int, float, float] | None:
    """Find the tail that is nearest to a power law.

    Args:
        logs: Ascending finite logarithms of the values.

    Returns:
        Index of the first value of the tail, its rate α - 1, and the distance of
        Kolmogorov and Smirnov; None where fewer than two values are distinct. The
        longest tail wins ties.
    """
    if len(logs) < 2:
        return None
    rates = _rates(logs)
    # a tail holds all ties of its first value, and at least two distinct values
    first_of_ties = np.concatenate(([True], logs[1:] > logs[:-1]))
    starts = np.flatnonzero(first_of_ties & np.isfinite(rates))
    if len(starts) == 0:
        return None
    for probes in _PROBES:
        stride = len(logs) // probes
        if stride > 1:
            bounds = _distances(logs, rates, starts, stride)
            promising = starts[[np.argmin(bounds)]]
            best = _distances(logs, rates, promising, 1)[0]
            # slack: two roundings of one number must not lose the winner
            starts = starts[bounds <= best * (1 + 1e-9)]
    distances = _distances(logs, rates, starts, 1)
    winner = np.argmin(distances)
    start = int(starts[winner])
    return start, float(rates[start]), float(distances[winner])


def _rates(logs: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Maximum likelihood of α - 1 for the tail from each value on."""
    n = len(logs)
    sizes = np.arange(n, 0, -1.0)
    # Σ_{j>i}(log x_j - log x_i) from the gaps: positive terms, nothing cancels
    gaps = np.diff(logs) * sizes[1:]
    sums = np.concatenate((np.cumsum(gaps[::-1])[::-1], [0.0]))
    with np.errstate(divide="ignore"):
        rates: Float[np.ndarray, " n"] = sizes / sums
    return rates


def _distances(
    logs: Float[np.ndarray, " n"],
    rates: Float[np.ndarray, " n"],
    starts: Int[np.ndarray, " c"],
    stride: int,
) -> Float[np.ndarray, " c"]:
    """Largest deviation of each tail from its law, over every stride-th value."""
    n = len(logs)
    positions = np.arange(0, n, stride)
    rows = max(1, _BLOCK // len(positions))
    found = [
        _block(logs, rates, starts[i : i + rows], positions)
        for i in range(0, len(starts), rows)
    ]
    # the law begins at 0 where the sample already holds its first value
    least = 1.0 / (n - starts)
    distances: Float[np.ndarray, " c"] = np.maximum(np.concatenate(found), least)
    return distances


def _block(
    logs: Float[np.ndarray, " n"],
    rates: Float[np.ndarray, " n"],
    starts: Int[np.ndarray, " c"],
    positions: Int[np.ndarray, " p"],
) -> Float[np.ndarray, " c"]:
    """The deviations at some values, of several tails at once."""
    positions = positions[positions >= starts[0]]  # starts ascend
    column = starts[:, None]
    step = 1.0 / (len(logs) - column)
    share = (positions - column) * step  # of the sample that is smaller
    law = -np.expm1(-rates[column] * np.maximum(logs[positions] - logs[column], 0.0))
    # the sample jumps at each value: the law is compared with both sides of the jump
    deviation = np.maximum(law - share, share + step - law)
    inside = positions >= column
    found: Float[np.ndarray, " c"] = deviation.max(-1, initial=0.0, where=inside)
    return found
