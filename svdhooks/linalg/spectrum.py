"""Singular values of matrices, and the Gram matrices that they are taken from.

Input of float32 or less goes through the Gram matrix of its smaller side, formed in
float64: some four times faster than an SVD, and exact to 1e-8·σ₁. Input of float64
takes the SVD. No gradient flows through these functions.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64, Inexact, Shaped
from torch import Tensor

from svdhooks.linalg import _solvers
from svdhooks.linalg._arrays import dtype_name
from svdhooks.linalg.noise import GRAM_RESOLUTION

_DOUBLE = ("float64", "complex128")


def singular_values(
    A: Shaped[Tensor, "*batch m n"], resolution: float | None = None
) -> Float[Tensor, "*batch k"]:
    """Singular values, descending.

    Args:
        A: Matrices of any floating or complex dtype.
        resolution: Smallest ratio σ/σ₁ that must come out right. Below
            ``3e-8·√min(m, n)`` the SVD is taken, in float64, whatever the dtype.

    Returns:
        min(m, n) values per matrix: float32 for input of float32 or less, otherwise
        float64. A matrix that holds NaN or infinity has NaN only. A value beyond
        float32 is infinite; ``spectrum_of_gram(gram(A))`` has it in float64.

    Raises:
        TypeError: If the entries are integers or booleans.
        ValueError: If there are fewer than two axes.
        torch.linalg.LinAlgError: If a decomposition does not converge.
    """
    _check(A)
    result = torch.float64 if dtype_name(A) in _DOUBLE else torch.float32
    if method_for(A.dtype, min(A.shape[-2:]), resolution) == "gram":
        return spectrum_of_gram(gram(A)).to(result)
    return _of_finite(_solvers.singular_values, _solvers.double(A)).to(result)


def method_for(
    dtype: Any, side: int = 1, resolution: float | None = None
) -> Literal["gram", "svd"]:
    """How ``singular_values`` finds the singular values of a matrix.

    Args:
        dtype: Dtype of the matrix, or its name.
        side: Smaller side of the matrix.
        resolution: Smallest ratio σ/σ₁ that must come out right.

    Returns:
        ``"gram"`` or ``"svd"``.
    """
    if dtype_name(dtype) in _DOUBLE:
        return "svd"
    too_fine = resolution is not None and resolution < GRAM_RESOLUTION * side**0.5
    return "svd" if too_fine else "gram"


def gram(A: Shaped[Tensor, "*batch m n"]) -> Inexact[Tensor, "*batch k k"]:
    """Gram matrix of the smaller side: ``AᴴA`` or ``AAᴴ``.

    Large matrices are converted in parts. Grams of row blocks of a tall matrix add up
    to the Gram of the whole.

    Args:
        A: Matrices of any floating or complex dtype.

    Returns:
        Full Hermitian matrices, float64 or complex128.

    Raises:
        TypeError: If the entries are integers or booleans.
        ValueError: If there are fewer than two axes.
    """
    _check(A)
    tall = A.detach() if A.shape[-2] >= A.shape[-1] else A.detach().mH
    if tall.ndim == 2:
        return _gram_of_columns(tall)
    flat = tall.flatten(0, -3)
    size = _solvers.COPY_BYTES // (16 * max(flat[:1].numel(), 1))
    parts = torch.split(flat, max(size, 1))  # many small matrices at once
    grams = torch.cat([_gram_of_columns(part) for part in parts])
    return grams.reshape(*tall.shape[:-2], *grams.shape[-2:])


def eigenvalues(
    G: Shaped[Tensor, "*batch n n"], *, semidefinite: bool = True
) -> Float64[Tensor, "*batch n"]:
    """Eigenvalues of Gram matrices, covariances and other Hermitian matrices.

    Args:
        G: Hermitian matrices of any floating or complex dtype; the lower triangles
            are read.
        semidefinite: Raise negative eigenvalues, which for these matrices are rounding
            errors, to 0.

    Returns:
        Descending, float64; NaN for a matrix that holds NaN or infinity.

    Raises:
        TypeError: If the entries are integers or booleans.
        ValueError: If the matrices are not square.
        torch.linalg.LinAlgError: If a decomposition does not converge.
    """
    _check(G)
    if G.shape[-1] != G.shape[-2]:
        raise ValueError(
            f"Found a matrix of shape {tuple(G.shape)}, expected a square one. For a "
            "general matrix take singular_values, or eigenvalues(gram(A))."
        )
    values = _of_finite(_solvers.eigenvalues, _solvers.double(G)).flip(-1)
    return values.clamp(min=0.0) if semidefinite else values


def spectrum_of_gram(G: Shaped[Tensor, "*batch n n"]) -> Float64[Tensor, "*batch n"]:
    """Singular values of the matrices whose Gram matrices are given.

    Args:
        G: Gram matrices, such as ``gram`` returns.

    Returns:
        Descending, float64; exact to ``3e-8·√n·σ₁``, below which they are noise.

    Raises:
        TypeError: If the entries are integers or booleans.
        ValueError: If the matrices are not square.
        torch.linalg.LinAlgError: If a decomposition does not converge.
    """
    return eigenvalues(G).sqrt()


def _gram_of_columns(tall: Tensor) -> Tensor:
    """``AᴴA``, summed over blocks of rows."""
    grams = (_solvers.product(rows) for rows in _solvers.in_double(tall))
    return functools.reduce(torch.Tensor.add_, grams)


def _of_finite(solve: Callable[[Tensor], Tensor], A: Tensor) -> Tensor:
    """Solve the matrices without NaN and infinity; the others get NaN."""
    if 0 in A.shape[-2:]:
        return A.new_empty((*A.shape[:-2], 0), dtype=torch.float64)
    # LAPACK would raise for the whole batch, or print to stderr
    finite = torch.isfinite(A).all(-1).all(-1)
    if finite.all():
        return solve(A)
    shape = (*A.shape[:-2], min(A.shape[-2:]))
    values = A.new_full(shape, torch.nan, dtype=torch.float64)
    if finite.any():
        values[finite] = solve(A[finite])
    return values


def _check(A: Tensor) -> None:
    """Refuse what is not a matrix of floating or complex numbers."""
    if not (A.is_floating_point() or A.is_complex()):
        raise TypeError(
            f"Found entries of {A.dtype}, expected floating or complex numbers. "
            "Convert with A.float(); dequantise quantised weights first."
        )
    if A.ndim < 2:
        raise ValueError(
            f"Found shape {tuple(A.shape)}, expected (*batch, m, n). Give a vector "
            "an axis: v[:, None]."
        )
