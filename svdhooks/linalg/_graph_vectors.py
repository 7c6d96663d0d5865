"""Singular vectors for the spectral graph: of a layer that writes, of one that reads."""

import torch
from jaxtyping import Inexact, Shaped
from torch import Tensor

from svdhooks.linalg import _solvers
from svdhooks.linalg._kinds import tensor


def left_vectors(A: Shaped[Tensor, "m n"]) -> Inexact[Tensor, "m r"]:
    """All left singular vectors of a matrix, those of singular value 0 included.

    A wide matrix is reduced to its triangular factor first, which has the same left
    vectors, so that its long right vectors are never made.

    Args:
        A: A matrix of any floating or complex dtype.

    Returns:
        One column for each of the r = min(m, n) vectors, in the order of descending
        singular values; float64 or complex128.

    Raises:
        TypeError: If the entries are integers or booleans.
        ValueError: If an entry is not finite.
        torch.linalg.LinAlgError: If the decomposition does not converge.
    """
    double = checked(A)
    if double.shape[0] < double.shape[1]:
        double = torch.linalg.qr(double.mH, mode="r")[1].mH
    U: Tensor = torch.linalg.svd(double, full_matrices=False)[0]
    return U


def right_vectors(A: Shaped[Tensor, "m n"]) -> Inexact[Tensor, "r n"]:
    """All right singular vectors of a matrix, conjugated, as `left_vectors` has them.

    Args:
        A: A matrix of any floating or complex dtype.

    Returns:
        One row for each of the r = min(m, n) vectors; float64 or complex128.

    Raises:
        TypeError: If the entries are integers or booleans.
        ValueError: If an entry is not finite.
        torch.linalg.LinAlgError: If the decomposition does not converge.
    """
    double = checked(A)
    if double.shape[0] > double.shape[1]:
        double = torch.linalg.qr(double, mode="r")[1]
    Vh: Tensor = torch.linalg.svd(double, full_matrices=False)[2]
    return Vh


def checked(weight: Shaped[Tensor, "..."]) -> Inexact[Tensor, "..."]:
    """A weight in double precision.

    Args:
        weight: As torch holds it.

    Returns:
        float64 or complex128, without gradient.

    Raises:
        TypeError: If it is no tensor, or its entries are integers or booleans.
        ValueError: If an entry is not finite, or there are fewer than two axes.
    """
    tensor(weight, "a weight")
    if not (weight.is_floating_point() or weight.is_complex()):
        raise TypeError(
            f"Found a weight of {weight.dtype}, expected floating or complex numbers. "
            "Convert with weight.float(); dequantise quantised weights first."
        )
    if weight.ndim < 2:
        raise ValueError(
            f"Found a weight of shape {tuple(weight.shape)}, expected (out, in) or "
            "(out, in, *kernel), as torch holds it."
        )
    double = _solvers.double(weight)
    if not bool(torch.isfinite(double).all()):
        count = int((~torch.isfinite(double)).sum())
        raise ValueError(
            f"Found {count} entries of {double.numel()} that are NaN or infinite in a "
            f"weight of shape {tuple(weight.shape)}; such a matrix has no singular "
            "vectors."
        )
    return double


def as_readers(
    later: Shaped[Tensor, "out in *kernel"], features: int, writer_is_map: bool
) -> Shaped[Tensor, "out c z"]:
    """A later weight, with what it reads of each feature of the earlier layer.

    Args:
        later: ``(out, in)`` or ``(out, in, *kernel)``.
        features: c, the outputs of the earlier layer.
        writer_is_map: Whether the earlier layer is a convolution, whose map may have
            been flattened channel by channel before a fully connected layer.

    Returns:
        One matrix ``(c, z)`` for each output; z kernel or spatial positions.

    Raises:
        ValueError: If the later layer does not read that many features.
    """
    inputs = later.shape[1]
    if later.ndim == 2 and writer_is_map and features and inputs % features == 0:
        return later.reshape(len(later), features, -1)
    if inputs != features:
        several = " or, flattened channel by channel, a multiple" * (
            later.ndim == 2 and writer_is_map
        )
        raise ValueError(
            f"Found an earlier layer with {features} outputs and a later one with "
            f"{inputs} inputs (weights {tuple(later.shape)}); expected as many"
            f"{several}. Give layers that follow each other, the earlier one first."
        )
    return later.reshape(*later.shape[:2], later.shape[2:].numel())
