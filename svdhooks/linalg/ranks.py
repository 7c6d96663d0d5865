"""How many singular values matter: the scalar measures of a spectrum.

Every function takes singular values σ along the last axis, descending, with any batch
axes; λ = σ². numpy (or plain numbers) in, numpy float64 out; torch in, torch float64
out on the same device, without synchronising. A covariance enters as the roots of its
eigenvalues. This module does not import torch.

Conventions: a spectrum that is empty or all zero has rank 0; NaN or infinity in, NaN
out; each measure of rank is invariant to scale, also at 1e±300; 0·log 0 = 0, and no
epsilon is added anywhere.
"""

from typing import Any

import numpy as np

from svdhooks.linalg._arrays import PerSpectrum, Spectrum, read, relative
from svdhooks.linalg.noise import noise_floor


def spectral_norm(sigma: Spectrum) -> PerSpectrum:
    """Largest singular value, ``σ₁``.

    Args:
        sigma: Singular values.

    Returns:
        0 … ∞, in units of sigma.
    """
    xp, values = read(sigma)
    return xp.amax(values, axis=-1)


def frobenius_norm(sigma: Spectrum) -> PerSpectrum:
    """Root of the sum of squares, ``√Σσᵢ²``: the norm of the matrix as a vector.

    Args:
        sigma: Singular values.

    Returns:
        0 … ∞, in units of sigma.
    """
    _, top, scaled = relative(sigma)
    return top * (scaled**2).sum(axis=-1) ** 0.5


def stable_rank(sigma: Spectrum) -> PerSpectrum:
    """``Σλ/λ₁ = ‖A‖_F²/‖A‖₂²`` (Rudelson & Vershynin 2007).

    Of centred features this is NESum (He & Ozay 2022). It changes continuously with
    the matrix and ignores small singular values; a single large one drives it to 1.

    Args:
        sigma: Singular values.

    Returns:
        1 … rank; 0 for an all-zero matrix.
    """
    _, _, scaled = relative(sigma)
    return (scaled**2).sum(axis=-1)


def effective_rank(sigma: Spectrum) -> PerSpectrum:
    """``exp(-Σ p log p)`` with ``p = σ/Σσ`` (Roy & Vetterli 2007): entropy of σ.

    Of uncentred embeddings this is RankMe (Garrido et al. 2023) without its epsilon,
    which would bias it by up to several per cent in float32.

    Args:
        sigma: Singular values.

    Returns:
        1 … number of non-zero values; 0 for an all-zero matrix.
    """
    xp, _, scaled = relative(sigma)
    return _exponential_entropy(xp, scaled)


def variance_effective_rank(sigma: Spectrum) -> PerSpectrum:
    """``exp(-Σ p log p)`` with ``p = λ/Σλ``: the effective rank with entropy of λ = σ².

    At most ``effective_rank``, often far less; the two are easily confused in papers.

    Args:
        sigma: Singular values.

    Returns:
        1 … number of non-zero values; 0 for an all-zero matrix.
    """
    xp, _, scaled = relative(sigma)
    return _exponential_entropy(xp, scaled**2)


def participation_ratio(sigma: Spectrum) -> PerSpectrum:
    """``(Σλ)²/Σλ²`` (Gao et al. 2017; Litwin-Kumar et al. 2017).

    At most ``variance_effective_rank``, at least ``stable_rank``.

    Args:
        sigma: Singular values.

    Returns:
        1 … number of non-zero values; 0 for an all-zero matrix.
    """
    xp, _, scaled = relative(sigma)
    total, squares = (scaled**2).sum(axis=-1), (scaled**4).sum(axis=-1)
    return total**2 / xp.where(total > 0, squares, 1.0)


def spectral_entropy(
    sigma: Spectrum, *, normalised: bool = True, size: int | None = None
) -> PerSpectrum:
    """Entropy of ``p = λ/Σλ``, by default in units of its maximum ``log n``.

    Args:
        sigma: Singular values.
        normalised: Divide by ``log n``; otherwise the entropy is in nats.
        size: The n of the maximum, by default the length of the spectrum. Pass the
            number of features for a spectrum that leaves out zeros.

    Returns:
        0 … 1, or 0 … log n. 0 for rank one, for an all-zero matrix, and for n = 1.
    """
    xp, _, scaled = relative(sigma)
    _, entropy = _entropy(xp, scaled**2)
    largest = np.log(max(size or scaled.shape[-1], 1)) if normalised else 1.0
    return entropy / largest if largest > 0 else entropy


def condition_number(sigma: Spectrum) -> PerSpectrum:
    """``σ₁/σ_n``, largest over smallest.

    Limit: smallest values at the noise floor make it a lower bound of the truth.

    Args:
        sigma: Singular values.

    Returns:
        1 … ∞; infinity for a singular matrix, NaN for an all-zero or empty one.
    """
    xp, _, scaled = relative(sigma)
    ones = xp.amax(scaled, axis=-1)  # 1; 0 if all zero, NaN if any is
    with np.errstate(all="ignore"):
        return ones / xp.amin(scaled, axis=-1)


def numerical_rank(
    sigma: Spectrum,
    *,
    tol: Any = None,
    rtol: float | None = None,
    shape: tuple[int, int] | None = None,
    dtype: Any = None,
) -> PerSpectrum:
    """Number of singular values strictly above a threshold.

    The threshold is ``tol``, or ``rtol · σ₁``, or the larger one where both are given.
    With neither it is ``noise_floor``: for float32 and float64 NumPy's
    ``σ₁ · max(m, n) · eps``, for fewer bits the edge of the rounding noise.

    Args:
        sigma: Singular values.
        tol: Absolute threshold, a number or one per spectrum.
        rtol: Threshold relative to the largest singular value.
        shape: Rows and columns of the matrix, for the default threshold.
        dtype: Precision in which the matrix was stored, for the default threshold.

    Returns:
        0 … n, as floating-point numbers so that NaN can stand for no answer.
    """
    xp, values = read(sigma)
    top = xp.amax(values, axis=-1)
    if tol is None and rtol is None:
        threshold = noise_floor(sigma, shape=shape, dtype=dtype)
    else:
        with np.errstate(invalid="ignore"):  # infinity has no rank: it becomes NaN
            threshold = 0.0 * top + (0.0 if tol is None else tol)
    if rtol is not None:
        threshold = xp.where(top * rtol > threshold, top * rtol, threshold)
    counted = xp.where(values > threshold[..., None], xp.ones_like(values), 0.0)
    return xp.where(xp.isfinite(values), counted, np.nan).sum(axis=-1)


def _exponential_entropy(xp: Any, weights: Any) -> Any:
    """The exponential of the entropy; 0 where all weights are 0."""
    total, entropy = _entropy(xp, weights)
    return xp.where(total > 0, xp.exp(entropy), total)[()]


def _entropy(xp: Any, weights: Any) -> tuple[Any, Any]:
    """Sum of non-negative weights, and the entropy of their shares in nats."""
    total = weights.sum(axis=-1)
    # where, not a mask: no value may decide the control flow of a device tensor
    logs = (weights * xp.log(xp.where(weights > 0, weights, 1.0))).sum(axis=-1)
    divisor = xp.where(total > 0, total, 1.0)
    return total, xp.log(divisor) - logs / divisor
