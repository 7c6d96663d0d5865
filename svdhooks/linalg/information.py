"""Gaussian information: of noisy channels, and the Gaussian information bottleneck.

A deterministic map of a continuous variable carries infinite or undefined information.
What is finite is the information through a channel with noise; every value here is of
one with a stated noise, and says nothing of another. All in nats.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

from svdhooks.linalg._arrays import PerSpectrum, Spectrum, read


def gaussian_information(eigenvalues: Spectrum, noise: float | int) -> PerSpectrum:
    """``I(z; z + σξ) = ½ Σ log(1 + λᵢ/σ²)`` of a Gaussian z, in nats.

    For z of any other law with this covariance, and for any x of which z is a function,
    it is an upper bound on ``I(x; z + σξ)``: the Gaussian has the largest entropy
    (Cover & Thomas, theorem 8.6.5). It grows as ``r log(1/σ)`` as σ falls.

    Args:
        eigenvalues: Of the covariance of z, ``(*batch, n)``. Small negative ones, which
            are rounding errors, count as 0.
        noise: σ, standard deviation of the white noise, in the units of z.

    Returns:
        0 … ∞; NaN for NaN.

    Raises:
        ValueError: If the noise is not positive and finite.
    """
    xp, ratio = _signal_to_noise(eigenvalues, noise)
    return xp.log1p(ratio).sum(axis=-1) / 2


def information_slope(eigenvalues: Spectrum, noise: float | int) -> PerSpectrum:
    """``dI/d log(1/σ) = Σ λᵢ/(λᵢ + σ²)``: how many directions stand out of the noise.

    Tends to the rank as σ → 0, without the divergence of the information itself.

    Args:
        eigenvalues: Of the covariance, ``(*batch, n)``.
        noise: σ, in the units of the variable.

    Returns:
        0 … n, in nats per unit of ``log(1/σ)``; NaN for NaN.

    Raises:
        ValueError: If the noise is not positive and finite.
    """
    _, ratio = _signal_to_noise(eigenvalues, noise)
    # not ratio / (1 + ratio), which is NaN where the ratio overflows; NaN stays NaN
    return (1 - 1 / (1 + ratio)).sum(axis=-1)


def channel_information(
    jacobian: Shaped[Any, "m n"], covariance: Shaped[Any, "n n"], noise: float | int
) -> float:
    """``I(x; Jx + σξ) = ½ log det(I + J Σ Jᵀ/σ²)`` of a Gaussian x, in nats.

    Args:
        jacobian: J, ``(m, n)``; numpy, or torch on the CPU.
        covariance: Σ, that of x, ``(n, n)``.
        noise: σ, in the units of Jx.

    Returns:
        0 … ∞.

    Raises:
        ValueError: If the noise is not positive and finite, or the shapes do not fit.
    """
    J, sigma = _matrix(jacobian), _symmetric(covariance)
    if J.shape[1] != len(sigma):
        raise ValueError(
            f"Found a Jacobian of shape {J.shape} and a covariance of {sigma.shape}; "
            "expected (m, n) and (n, n)."
        )
    values, vectors = np.linalg.eigh(sigma)
    # not the eigenvalues of JΣJᵀ: their rounding errors stand out of a small noise
    through = np.linalg.svd(
        J @ (vectors * np.sqrt(np.maximum(values, 0))), compute_uv=False
    )
    return float(gaussian_information(through**2, noise))


def _signal_to_noise(eigenvalues: Spectrum, noise: float | int) -> tuple[Any, Any]:
    """``λ/σ²``, in float64."""
    if not 0 < noise < math.inf:
        raise ValueError(
            f"Found noise={noise}, expected a positive standard deviation: without "
            "noise the information of a continuous variable is not finite."
        )
    xp, values = read(eigenvalues)
    # where and not maximum: NaN stays
    values = xp.where(values < 0, 0.0, values)
    with np.errstate(over="ignore"):
        # divided twice: σ² may underflow
        return xp, values / noise / noise


@dataclass(frozen=True)
class GaussianBottleneck:
    """The information bottleneck of jointly Gaussian x and y, in closed form.

    ``min I(T;X) - β I(T;Y)`` over all T is reached by ``T = A x + ξ`` with white noise
    ξ of variance 1 and the rows ``αᵢ vᵢᵀ`` of A, ``αᵢ² = max(0, (β(1-λᵢ) - 1)/λᵢ)``
    (Chechik, Globerson, Tishby & Weiss, JMLR 6, 2005, theorem 3.1). Row i appears at
    its critical ``βᵢ = 1/(1-λᵢ)``: the rank of the best encoder grows in steps.

    Attributes:
        eigenvalues: λ of ``Σ_x|y Σ_x⁻¹``, ascending, in 0 … 1, ``(n,)``: the share of
            each direction of x that y does not tell.
        directions: Its left eigenvectors vᵢ as rows, scaled to ``vᵢᵀ Σ_x vᵢ = 1``.
    """

    eigenvalues: Float[NDArray[Any], " n"]
    directions: Float[NDArray[Any], "n n"]

    @classmethod
    def of(cls, joint: Shaped[Any, "k k"], inputs: int) -> "GaussianBottleneck":
        """That of a joint covariance.

        Args:
            joint: Covariance of (x, y), ``(n + m, n + m)``, positive definite.
            inputs: n, how many of its rows are those of x.

        Returns:
            The solution for every β.

        Raises:
            ValueError: If there are not both x and y, or the covariance is not
                positive definite: then some direction of x tells y without error, or
                has no variance.
        """
        C, n = _symmetric(joint), inputs
        if not 0 < n < len(C):
            raise ValueError(
                f"Found inputs={n} of {len(C)} variables, expected some of them to be "
                "x and some to be y."
            )
        try:
            L = np.linalg.cholesky(C[:n, :n])
            M = np.linalg.cholesky(C[n:, n:])
        except np.linalg.LinAlgError as error:
            raise ValueError(_SINGULAR) from error
        # whitened: I - K Kᵀ with the canonical correlations as singular values of K
        K = np.linalg.solve(M, np.linalg.solve(L, C[:n, n:]).T).T
        U, rho, _ = np.linalg.svd(K)
        missed = np.ones(n)
        missed[: len(rho)] = (1 - rho) * (1 + rho)
        if not (missed > 0).all():
            raise ValueError(_SINGULAR)
        return cls(missed, np.linalg.solve(L.T, U).T)

    @property
    def critical_betas(self) -> Float[NDArray[Any], " n"]:
        """β at which each direction enters the encoder, ascending; ∞ if it never does."""
        with np.errstate(divide="ignore"):
            return 1 / (1 - self.eigenvalues)

    @property
    def total_information(self) -> float:
        """``I(X;Y) = -½ Σ log λᵢ``, in nats: x and y are noisy channels of each other."""
        return float(-np.log(self.eigenvalues).sum() / 2)

    def rank(self, beta: float | int) -> int:
        """Rank of the best encoder: the number of critical β below this one.

        Args:
            beta: The price of ``I(T;Y)``, 0 … ∞.

        Returns:
            0 … n.
        """
        return int((self.critical_betas < beta).sum())

    def encoder(self, beta: float | int) -> Float[NDArray[Any], "n n"]:
        """A of ``T = A x + ξ``, ``ξ ~ N(0, I)``, up to a rotation of T.

        Args:
            beta: The price of ``I(T;Y)``, 0 … ∞.

        Returns:
            ``αᵢ vᵢᵀ`` as rows; those that are not in use are 0.
        """
        missed = self.eigenvalues
        squares = np.maximum(beta * (1 - missed) - 1, 0) / missed
        scaled: NDArray[Any] = np.sqrt(squares)[:, None] * self.directions
        return scaled

    def input_information(self, beta: float | int) -> float:
        """``I(T;X) = ½ Σ log((β-1)(1-λᵢ)/λᵢ)`` of the best encoder, in nats.

        The noise that it refers to is the encoder's own, of variance 1.

        Args:
            beta: The price of ``I(T;Y)``, 0 … ∞.

        Returns:
            0 … ∞.
        """
        used = self.eigenvalues[: self.rank(beta)]
        return float(np.log((beta - 1) * (1 - used) / used).sum() / 2)

    def output_information(self, beta: float | int) -> float:
        """``I(T;Y) = I(T;X) - ½ Σ log(β(1-λᵢ))`` of the best encoder, in nats.

        Args:
            beta: The price of ``I(T;Y)``, 0 … ∞.

        Returns:
            0 … ``total_information``.
        """
        used = self.eigenvalues[: self.rank(beta)]
        return self.input_information(beta) - float(np.log(beta * (1 - used)).sum() / 2)

    def curve(self, input_information: float | int) -> float:
        """The most that a T with that much of x can tell of y: the information curve.

        ``I(T;Y) = I - (k/2) log(Π(1-λᵢ)^(1/k) + e^(2I/k) Πλᵢ^(1/k))`` over the k
        directions in use at I.

        Args:
            input_information: ``I = I(T;X)``, 0 … ∞, in nats.

        Returns:
            ``I(T;Y)``, in nats.

        Raises:
            ValueError: If it is negative.
        """
        if not input_information >= 0:
            raise ValueError(f"Found I(T;X)={input_information}, expected 0 or more.")
        told = self.eigenvalues[self.eigenvalues < 1]
        log_odds = np.log(told) - np.log1p(-told)
        # I(T;X) at the critical β of each direction, where it enters with nothing
        entered = np.arange(len(told)) * log_odds / 2 - (
            np.concatenate([[0.0], np.cumsum(log_odds)[:-1]]) / 2 if len(told) else 0.0
        )
        k = int((entered < input_information).sum())
        if not k:
            return 0.0
        both = np.logaddexp(
            np.log1p(-told[:k]).mean(),
            2 * input_information / k + np.log(told[:k]).mean(),
        )
        return float(input_information - k / 2 * both)


_SINGULAR = (
    "The joint covariance is not positive definite: the information between x and y is "
    "not finite. Add the variance of a noise to its diagonal."
)


def _matrix(value: Any) -> NDArray[Any]:
    found: NDArray[Any] = np.asarray(value, np.float64)
    if found.ndim != 2:
        raise ValueError(f"Found an array of shape {found.shape}, expected a matrix.")
    return found


def _symmetric(value: Any) -> NDArray[Any]:
    found = _matrix(value)
    if found.shape[0] != found.shape[1]:
        raise ValueError(f"Found a covariance of shape {found.shape}, expected (n, n).")
    symmetric: NDArray[Any] = (found + found.T) / 2
    return symmetric
