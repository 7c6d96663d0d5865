"""What is given as a second moment, its mean or a weight: checked, and in float64."""

import math
from typing import Any

import torch
from torch import Tensor

from svdhooks.linalg import _solvers
from svdhooks.linalg._kinds import tensor


def rounding(dtype: torch.dtype) -> float:
    """How far sums of products of this dtype may be off, relative to the largest."""
    eps: float = torch.finfo(dtype).eps
    return math.sqrt(eps)


def symmetric(matrix: Any, what: str) -> Tensor:
    """The matrix in float64, exactly symmetric."""
    double = real(matrix, f"a {what}")
    if double.ndim != 2 or double.shape[0] != double.shape[1]:
        raise ValueError(
            f"Found a {what} of shape {tuple(double.shape)}, expected (n, n). Of "
            "samples as rows it is S.T @ S / len(S)."
        )
    if not bool(double.isfinite().all()):
        raise ValueError(f"Found NaN or infinity in the {what}, expected numbers.")
    if not double.numel():
        return double
    off = float((double - double.mT).abs().max())
    if off > rounding(matrix.dtype) * float(double.abs().max()):
        raise ValueError(
            f"Found a {what} that differs from its transpose by {off:.3g}, expected a "
            "symmetric one. Pass the moment of the samples, not the weight."
        )
    return (double + double.mT) / 2


def vector(values: Any, what: str, n: int) -> Tensor:
    """As many finite numbers, in float64."""
    double = real(values, f"a {what}")
    if double.shape != (n,):
        raise ValueError(
            f"Found a {what} of shape {tuple(double.shape)}, expected ({n},), one entry "
            "per feature of the covariance."
        )
    if not bool(double.isfinite().all()):
        raise ValueError(f"Found NaN or infinity in the {what}, expected numbers.")
    return double


def real(values: Any, what: str) -> Tensor:
    """Real floating numbers in float64."""
    if not tensor(values, what).is_floating_point():
        raise TypeError(
            f"Found {what} of {values.dtype}, expected a tensor of real floating numbers. "
            "Descramble real and imaginary parts of complex layers on their own."
        )
    return _solvers.double(values)
