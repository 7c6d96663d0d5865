"""How far two subspaces are from each other: principal angles, and the share in common."""

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from svdhooks.linalg import _solvers
from svdhooks.linalg._kinds import tensor


def principal_angles(
    A: Inexact[Tensor, "n j"], B: Inexact[Tensor, "n k"]
) -> Float[Tensor, " r"]:
    """Principal angles between the column spans of two matrices.

    Cosines lose all digits below 1e-8, so small angles come from their sines (Björck &
    Golub 1973; Knyazev & Argentati 2002).

    Args:
        A: Linearly independent columns; need not be orthonormal.
        B: The same, of vectors as long.

    Returns:
        min(j, k) angles in radians, 0 … π/2, ascending, float64.

    Raises:
        TypeError: If one is no tensor.
        ValueError: If the vectors are not of one length.
    """
    Qa, Qb = _bases(A, B)
    if Qa.shape[1] < Qb.shape[1]:
        Qa, Qb = Qb, Qa
    inner = _solvers.times(Qa.mH, Qb)
    cosines = _solvers.singular_values(inner).clamp(max=1.0)
    # what is left of the smaller span outside the larger one: its singular values ascend
    # as the cosines descend
    sines = (
        _solvers.singular_values(Qb - _solvers.times(Qa, inner)).flip(-1).clamp(max=1.0)
    )
    return torch.where(cosines**2 < 0.5, torch.acos(cosines), torch.asin(sines))


def subspace_overlap(A: Inexact[Tensor, "n j"], B: Inexact[Tensor, "n k"]) -> float:
    """Share of the smaller span that lies in the larger one: the mean squared cosine.

    Of two spans of k dimensions that know nothing of each other it is ``k/n`` on average.

    Args:
        A: Linearly independent columns; need not be orthonormal.
        B: The same, of vectors as long.

    Returns:
        ``‖Q_AᵀQ_B‖²_F / min(j, k)``, 0 … 1; NaN where one has no columns.

    Raises:
        TypeError: If one is no tensor.
        ValueError: If the vectors are not of one length.
    """
    Qa, Qb = _bases(A, B)
    k = min(Qa.shape[1], Qb.shape[1])
    if not k:
        return float("nan")
    return min(1.0, float(_solvers.times(Qa.mH, Qb).abs().square().sum()) / k)


def _bases(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal bases of both, in double precision."""
    if tensor(A, "vectors").shape[0] != tensor(B, "vectors").shape[0]:
        raise ValueError(
            f"Found vectors of {A.shape[0]} and of {B.shape[0]} entries, expected the "
            "same number: one column for each vector."
        )
    complex_ = A.is_complex() or B.is_complex()
    wide = torch.complex128 if complex_ else torch.float64
    Qa, Qb = (_solvers.orthonormal(_solvers.double(x).to(wide)) for x in (A, B))
    return Qa, Qb
