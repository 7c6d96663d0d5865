"""Which singular values may be rounding noise, from the precision of the matrix."""

from typing import Any

import numpy as np

from svdhooks.linalg._arrays import PerSpectrum, Spectrum, dtype_name, relative

GRAM_RESOLUTION = 3e-8
"""Singular values below this times √n·σ₁ drown in a float64 Gram matrix.

An eigenvalue solver errs by a few unit roundoffs of λ₁ = σ₁², and σ feels the root.
Measured: singular values that are zero read at most 0.53e-8·√n·σ₁ (n = 16 … 1024,
flat and rank-one spectra, 1 to 16 times as many rows as columns).
"""

ROUNDED_ONCE = 3.0
"""Factor on the edge of the noise where each entry was rounded once.

Measured, planted rank 1 and 7 rounded to bfloat16, float16 and float32, sides
10 … 2048: the largest noise singular value is at most 1.1 edges for Gaussian factors
and 2.8 where rows and columns have unequal norms (log-normal; 2 % of the columns 20
times larger). Outputs of linear layers of 64 … 4096 inputs that accumulate in float32
and round to 16 bits: at most 2.4.
"""

ROUNDED_OFTEN = 16.0
"""The same for activations of float32 and float64, whose sums are rounded too.

Measured, planted rank 7 through float32 linear layers of 64 … 4096 inputs: at most 12.
"""

# name -> (distance from 1 to the next number, smallest subnormal number)
_PRECISION = {
    "float64": (2.0**-52, 2.0**-1074),
    "float32": (2.0**-23, 2.0**-149),
    "tf32": (2.0**-10, 2.0**-136),
    "float16": (2.0**-10, 2.0**-24),
    "bfloat16": (2.0**-7, 2.0**-133),
    "float8_e4m3fn": (2.0**-3, 2.0**-9),
    "float8_e5m2": (2.0**-2, 2.0**-16),
    "complex128": (2.0**-52, 2.0**-1074),
    "complex64": (2.0**-23, 2.0**-149),
}
_FULL = ("float64", "float32", "complex128", "complex64")


def noise_floor(
    sigma: Spectrum,
    *,
    shape: tuple[int, int] | None = None,
    dtype: Any = None,
    uncentred_norm: Any = None,
) -> PerSpectrum:
    """Size, in units of sigma, up to which a singular value may be rounding noise.

    - Weights of float32 and float64: ``σ₁ · max(m, n) · eps``, NumPy's convention.
    - Weights of fewer bits, for which that exceeds σ₁: the largest singular value of
      an m × n matrix of independent rounding errors, with a safety factor,
      ``c · (u · ‖A‖_F + s/2 · √(m·n)) · (1/√m + 1/√n)``, where u = eps/2 is the unit
      roundoff, s the spacing of the subnormal numbers and c = ``ROUNDED_ONCE``.
    - Activations (``uncentred_norm`` given), every dtype: the second form with the
      norm before centring, since rounding is relative to the uncentred values, and
      c = ``ROUNDED_OFTEN`` for float32 and float64; but never less than a float64
      Gram matrix resolves, ``3e-8 · √min(m, n) · σ₁``.

    Source of the edge: Marchenko & Pastur 1967. Limits: the formula sees one norm, so
    a matrix with nearly all of it in a few rows or columns can have more noise. A
    float32 product in TensorFloat-32 needs ``dtype="tf32"``; activations under
    autocast need the dtype of the product.

    Args:
        sigma: Singular values. Those of activations are the roots of the eigenvalues
            of their covariance.
        shape: Rows and columns of the matrix; samples and features of activations.
            By default both are the length of the spectrum.
        dtype: Precision in which the matrix was stored or computed: a numpy or torch
            dtype, or its name. By default that of ``sigma``.
        uncentred_norm: Activations only: root of the trace of the uncentred second
            moment, that is the Frobenius norm of the samples over √N.

    Returns:
        The floor; 0 for an all-zero matrix, NaN if ``sigma`` holds NaN.

    Raises:
        TypeError: If the precision of ``dtype`` is not known.
    """
    xp, top, scaled = relative(sigma)
    name = precision_of(sigma, dtype)
    norm = top * (scaled**2).sum(axis=-1) ** 0.5
    return floor_of(xp, top, norm, shape or 2 * scaled.shape[-1:], name, uncentred_norm)


def floor_of(
    xp: Any,
    top: Any,
    norm: Any,
    shape: tuple[int, int],
    name: str,
    uncentred_norm: Any = None,
) -> Any:
    """``noise_floor`` for those who have the norms already.

    Args:
        xp: ``numpy`` or ``torch``.
        top: Largest singular value.
        norm: Frobenius norm of the singular values.
        shape: Rows and columns.
        name: Name of the precision.
        uncentred_norm: As of ``noise_floor``.

    Returns:
        The floor.

    Raises:
        TypeError: If the precision is not known.
    """
    if name not in _PRECISION:
        raise TypeError(
            f"Found dtype {name}, expected one of {', '.join(_PRECISION)}. Pass as "
            "dtype= the precision in which the matrix was stored."
        )
    eps, spacing = _PRECISION[name]
    m, n = (max(side, 1) for side in shape)
    if name in _FULL and uncentred_norm is None:
        return top * (max(m, n) * eps) + 0.0 * norm  # NaN below the top counts too
    factor = ROUNDED_ONCE
    if uncentred_norm is not None:
        norm = 0.0 * norm + uncentred_norm
        factor = ROUNDED_OFTEN if name in _FULL else ROUNDED_ONCE
    # no error where there is no entry: zeros are exact
    coarse = xp.where(norm > 0, spacing / 2 * (m * n) ** 0.5, 0.0)
    floor = factor * (eps / 2 * norm + coarse) * (m**-0.5 + n**-0.5)
    if uncentred_norm is None:
        return floor
    resolution = GRAM_RESOLUTION * min(m, n) ** 0.5 * top
    return xp.where(resolution > floor, resolution, floor)[()]


def precision_of(sigma: Any, dtype: Any = None) -> str:
    """Name of a precision, by default that of the spectrum itself.

    Args:
        sigma: The spectrum; integers and plain numbers count as float64.
        dtype: The precision in which its matrix was stored, if that is known.

    Returns:
        The name, such as ``"bfloat16"``.
    """
    if dtype is not None:
        return dtype_name(dtype)
    name = dtype_name(getattr(sigma, "dtype", np.float64))
    return "float64" if name.startswith(("int", "uint", "bool")) else name
