"""What a matrix throws away of its inputs: its near-null space, and what falls into it."""

import functools
import operator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from svdhooks.linalg import _solvers
from svdhooks.linalg.spectrum import gram

GRAM_RESOLVES = 1e-6
"""Thresholds relative to σ₁ below which the singular vectors take an SVD."""


@dataclass(frozen=True)
class NearNull:
    """The right singular directions of a matrix with ``σ ≤ null·σ₁``, kernel included.

    Attributes:
        basis: Orthonormal rows, float64: those directions, or all others, whichever are
            fewer where that is known.
        holds_null: Whether the rows are those directions.
        dimension: How many there are of them.
    """

    basis: Float[Tensor, "k d"]
    holds_null: bool
    dimension: int


def near_null_space(weight: Shaped[Tensor, "m d"], null: float) -> NearNull:
    """Split the inputs of a matrix into what it passes on and what it drops.

    Args:
        weight: Real, of any floating dtype.
        null: Threshold on ``σ/σ₁``, above 0; a matrix of zeros drops everything.

    Returns:
        The split, on the device of the weight (from MPS on the CPU).

    Raises:
        ValueError: If the weight has NaN or infinite entries, or is complex.
    """
    if weight.is_complex():
        raise ValueError("found a complex weight, expected a real one")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("found a weight with NaN or infinite entries")
    m, d = weight.shape
    W = _solvers.double(weight)
    if min(m, d) == 0 or not bool(W.any()):
        return NearNull(W.new_zeros(0, d), False, d)
    exact = null < GRAM_RESOLVES or weight.dtype == torch.float64
    sigma, right = _by_svd(W) if exact else _by_gram(W)
    kept = sigma > null * sigma.max()
    count = int(kept.sum())
    if len(right) == d and d - count < count:
        return NearNull(right[~kept], True, d - count)
    return NearNull(right[kept], False, d - count)


def _by_svd(W: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and right vectors as rows: all d of them where m ≥ d."""
    if W.device.type != "cpu":
        _, sigma, Vh = torch.linalg.svd(W, full_matrices=False)
        return sigma, Vh
    with _solvers.one_thread():
        _, values, vectors = np.linalg.svd(W.numpy(), full_matrices=False)
    return torch.from_numpy(values), torch.from_numpy(vectors)


def _by_gram(W: Tensor) -> tuple[Tensor, Tensor]:
    """The same from the smaller side; rows of vanishing σ are left 0 where m < d."""
    G = gram(W)
    if G.device.type == "cpu":
        with _solvers.one_thread():
            found = np.linalg.eigh(G.numpy())
        values, U = torch.from_numpy(found[0]), torch.from_numpy(found[1])
    else:
        values, U = torch.linalg.eigh(G)
    sigma = values.clamp(min=0).sqrt()
    if W.shape[0] >= W.shape[1]:
        return sigma, U.mT.contiguous()
    # only those well above the threshold are used: no division by a small number
    scale = torch.where(sigma > 0, sigma, 1.0)
    return sigma, (U.mT @ W) / scale[:, None]


@dataclass(frozen=True)
class SampleSums:
    """Sums over samples, from which their variance follows; those of two parts add up.

    Those of what a near-null space holds of x do not depend on its basis, so that each
    process may have its own.

    Attributes:
        count: Number of samples.
        total: ``Σx``, float64.
        squares: ``Σ‖x‖²``.
        total_null: The part of ``Σx`` that lies in a near-null space.
        squares_null: ``Σ`` of the squared lengths of what lies there.
    """

    count: int
    total: Float[Tensor, " d"]
    squares: Float[Tensor, ""]
    total_null: Float[Tensor, " d"] | None = None
    squares_null: Float[Tensor, ""] | None = None

    def __add__(self, other: "SampleSums") -> "SampleSums":
        inside = squares = None
        if self.total_null is not None and other.total_null is not None:
            inside = self.total_null + other.total_null
        if self.squares_null is not None and other.squares_null is not None:
            squares = self.squares_null + other.squares_null
        return SampleSums(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            inside,
            squares,
        )

    def cpu(self) -> "SampleSums":
        """The same on the CPU."""
        inside, squares = self.total_null, self.squares_null
        return SampleSums(
            self.count,
            self.total.cpu(),
            self.squares.cpu(),
            None if inside is None else inside.cpu(),
            None if squares is None else squares.cpu(),
        )

    @property
    def variance(self) -> float:
        """Trace of the 1/N covariance; NaN without samples."""
        return _variance(self.count, self.total, self.squares)

    @property
    def null_share(self) -> float:
        """The share of the variance that lies in the near-null space.

        0 … 1; NaN where there is no such space, or no variance.
        """
        whole = self.variance
        if self.total_null is None or self.squares_null is None or not whole > 0:
            return float("nan")
        return min(
            _variance(self.count, self.total_null, self.squares_null) / whole, 1.0
        )

    def within(self, split: NearNull, squares_inside: Tensor) -> "SampleSums":
        """The same with what lies in a near-null space.

        Args:
            split: The space.
            squares_inside: ``Σ‖Bx‖²`` with its basis B.

        Returns:
            New sums.
        """
        basis = split.basis.to(self.total)
        total, squares = (basis @ self.total) @ basis, squares_inside
        if not split.holds_null:  # the rest of x
            total, squares = self.total - total, self.squares - squares
        return replace(self, total_null=total, squares_null=squares)


def sample_sums(
    samples: Shaped[Tensor, "n d"], split: NearNull | None = None
) -> SampleSums:
    """Sums of samples, in double precision.

    Args:
        samples: One per row, real, of any floating dtype.
        split: Whose near-null space to look at; None: none.

    Returns:
        The sums, on the device of the samples (from MPS on the CPU).

    Raises:
        TypeError: If the samples are no real floating-point numbers.
    """
    if not samples.is_floating_point():
        raise TypeError(f"found samples of {samples.dtype}, expected real numbers")
    parts = (_sums(block, split) for block in _solvers.in_double(samples))
    return functools.reduce(operator.add, parts)


def _sums(block: Tensor, split: NearNull | None) -> SampleSums:
    """Those of some samples in double precision."""
    found = SampleSums(len(block), block.sum(0), block.square().sum())
    if split is None:
        return found
    inside = block @ split.basis.to(block).mT
    return found.within(split, inside.square().sum())


def _variance(count: int, total: Tensor, squares: Tensor) -> float:
    if not count:
        return float("nan")
    mean = total / count
    return max(float(squares / count - mean @ mean), 0.0)
