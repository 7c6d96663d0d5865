"""The law of the singular values of pure noise, as far as thresholds need it.

Marchenko & Pastur 1967: an m × n matrix of independent entries of variance 1, with
β = min(m, n)/max(m, n), has eigenvalues x = σ²/max(m, n) between (1 - √β)² and
(1 + √β)². Plain numbers in, plain numbers out.
"""

import math


def median(beta: float) -> float:
    """Median of x: half of the noise eigenvalues, over max(m, n), lie below it.

    Args:
        beta: Smaller side over larger side, 0 … 1.

    Returns:
        0.653 (square) … 1 (β → 0).
    """
    if beta < 1e-8:  # the exact form would cancel
        return 1.0 - beta / 3.0
    low, high = 0.0, math.pi
    for _ in range(60):  # halvings: the angle is exact to rounding
        middle = (low + high) / 2
        if _share_below(middle, math.sqrt(beta)) < 0.5:
            low = middle
        else:
            high = middle
    return 1.0 + beta - 2.0 * math.sqrt(beta) * math.cos((low + high) / 2)


def _share_below(angle: float, root: float) -> float:
    """Share of the eigenvalues below x = 1 + β - 2√β·cos θ, with √β given."""
    # in θ the density is 2 sin²θ/(π x): no singular ends, an elementary integral
    sine = root * math.sin(angle)
    phase = math.atan2(sine, 1.0 - root * math.cos(angle))
    return (angle + sine - (1.0 / root**2 - 1.0) * (phase - sine)) / math.pi


def hard_threshold(beta: float) -> float:
    """``λ*(β) = √(2(β+1) + 8β/((β+1) + √(β²+14β+1)))`` (Gavish & Donoho 2014, eq. 11).

    Args:
        beta: Smaller side over larger side, 0 … 1.

    Returns:
        √2 … 4/√3, in units of √max(m, n) times the noise per entry.
    """
    root = math.sqrt(beta**2 + 14.0 * beta + 1.0)
    return math.sqrt(2.0 * (beta + 1.0) + 8.0 * beta / (beta + 1.0 + root))


def omega(beta: float) -> float:
    """``ω(β) = λ*(β)/√μ_β`` with the exact median μ_β, in units of the median σ.

    Args:
        beta: Smaller side over larger side, 0 … 1.

    Returns:
        √2 … 2.858.
    """
    return hard_threshold(beta) / math.sqrt(median(beta))


def edge_width(shape: tuple[int, int]) -> float:
    """Scale on which the largest noise eigenvalue σ² fluctuates (Johnstone 2001).

    Args:
        shape: Rows and columns.

    Returns:
        ``(√m + √n)·(1/√m + 1/√n)^⅓``, for noise of variance 1 per entry.
    """
    m, n = (math.sqrt(max(side, 1)) for side in shape)
    return (m + n) * math.cbrt(1.0 / m + 1.0 / n)
