"""Operators that measure how rough a vector is, and their smoothest modes in order.

The roughness of p is ``‖D p‖²``. The vectors are periodic, so that the modes of the named
operators are the Fourier modes, and are written down instead of solved for: eigenvectors
of equal eigenvalues, cosine and sine of a frequency, would come out of a solver mixed.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from svdhooks.linalg import _solvers
from svdhooks.linalg.signal_models import oriented

Operator = str | Tensor
"""``"fourier2"``, ``"difference"``, or a square matrix D of the user."""

OPERATORS = ("fourier2", "difference")


def smoothness_operator(
    n: int, operator: Operator = "fourier2"
) -> Float64[Tensor, "n n"]:
    """The matrix D whose ``‖D p‖²`` says how rough a vector of n entries is.

    - ``"fourier2"``: the spectral second derivative on n points of ``[0, 2π)``; ``DᵀD``
      has the eigenvalues k⁴ of the frequencies k (`fourdif(n, 2)` of Reddy & Weideman,
      ACM TOMS 26, 2000), which is what descrambler groups were defined with (Amey et
      al., PNAS 118, 2021). Not scaled.
    - ``"difference"``: the first difference to the next entry, the last one's next being
      the first; eigenvalues ``4 sin²(πk/n)``.

    Args:
        n: Number of entries.
        operator: One of these names, or D itself, which is checked and returned in
            float64.

    Returns:
        D.

    Raises:
        ValueError: If there is no operator of that name, n is not positive, or a matrix
            is not n × n or not finite.
        TypeError: If it is neither a name nor a real matrix.
    """
    _check_size(n)
    if not isinstance(operator, str):
        return _of_user(n, operator)
    _check_name(operator)
    if operator == "difference":
        one = torch.eye(n, dtype=torch.float64)
        return one.roll(1, dims=1) - one
    index = torch.arange(n)
    return _fourier_row(n)[(index[:, None] - index).abs()]


def smooth_basis(
    n: int, operator: Operator = "fourier2"
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, "n n"]]:
    """Eigenvalues and eigenvectors of ``DᵀD``, from the smoothest mode on.

    Of the named operators they are constant, cos k, sin k, … and, for even n, the
    alternating mode; k = 1, 2, …. A cosine and its sine have one eigenvalue, so any
    rotation of the two would serve as well: this order is a convention.

    Args:
        n: Number of entries.
        operator: A name or D itself, as for `smoothness_operator`.

    Returns:
        The eigenvalues, ascending, and T, whose columns are the modes, orthonormal. Of a
        matrix of the user the largest entry of every column is positive.

    Raises:
        ValueError: As `smoothness_operator`.
        TypeError: As `smoothness_operator`.
        torch.linalg.LinAlgError: If the decomposition of a user's matrix does not
            converge.
    """
    _check_size(n)
    if not isinstance(operator, str):
        # of D and not of DᵀD, whose small eigenvalues would be lost
        _, sigma, Vh = _solvers.svd(_of_user(n, operator))
        return sigma.flip(0).square(), oriented(Vh.mT.flip(1))
    _check_name(operator)
    frequency = (torch.arange(n) + 1) // 2
    if operator == "difference":
        values = 4 * (math.pi * frequency.double() / n).sin().square()
    else:
        values = frequency.double() ** 4
    return values, _fourier_modes(n, frequency)


def _fourier_modes(n: int, frequency: Tensor) -> Tensor:
    """Orthonormal Fourier modes as columns."""
    # whole turns are taken off while the phases are integers, and exact
    turns = torch.outer(torch.arange(n), frequency) % n
    phase = turns.double() * (2 * math.pi / n)
    odd = torch.arange(n) % 2 == 1  # columns 1, 3, … are the cosines
    modes = torch.where(odd | (frequency == 0), phase.cos(), phase.sin())
    modes *= math.sqrt(2 / n)
    modes[:, 0] = math.sqrt(1 / n)
    if n % 2 == 0:
        alternating = 1.0 - 2.0 * (torch.arange(n) % 2).double()
        modes[:, -1] = alternating * math.sqrt(1 / n)
    return modes


def _fourier_row(n: int) -> Tensor:
    """First row of the second derivative, which is circulant and symmetric."""
    k = torch.arange(n)
    half = torch.minimum(k, n - k).double() * (math.pi / n)
    sign = 1.0 - 2.0 * (k % 2).double()
    step = 2 * math.pi / n
    row = torch.empty(n, dtype=torch.float64)
    if n % 2 == 0:
        row[1:] = -0.5 * sign[1:] / half[1:].sin().square()
        row[0] = -(math.pi**2) / (3 * step**2) - 1 / 6
    else:
        # cos changes its sign with the side from which the distance is counted
        side = torch.where(2 * k < n, 1.0, -1.0).double()
        row[1:] = (-0.5 * sign * side * half.cos())[1:] / half[1:].sin().square()
        row[0] = -(math.pi**2) / (3 * step**2) + 1 / 12
    return row


def _check_size(n: int) -> None:
    if n < 1:
        raise ValueError(f"Found n={n}, expected the number of entries, 1 or more.")


def _check_name(operator: str) -> None:
    if operator not in OPERATORS:
        raise ValueError(
            f"Found operator={operator!r}, expected one of {', '.join(OPERATORS)}, or a "
            "square matrix D."
        )


def _of_user(n: int, operator: Tensor) -> Tensor:
    """The user's D in float64, on the CPU."""
    if not isinstance(operator, Tensor) or not operator.is_floating_point():
        kind = getattr(operator, "dtype", type(operator).__name__)
        raise TypeError(
            f"Found an operator of {kind}, expected one of {', '.join(OPERATORS)}, or a "
            "real floating tensor."
        )
    if operator.shape != (n, n):
        raise ValueError(
            f"Found an operator of shape {tuple(operator.shape)}, expected ({n}, {n}): "
            "it acts on vectors with one entry per output of the layer. Rows can be "
            "filled up with zeros."
        )
    double = _solvers.double(operator).cpu()
    if not bool(double.isfinite().all()):
        raise ValueError("Found NaN or infinity in the operator, expected numbers.")
    return double
