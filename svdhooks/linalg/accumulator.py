"""Eigenvalues of the covariance of a stream of samples, few or many."""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float64, Inexact, Shaped
from torch import Tensor

from svdhooks.linalg import _solvers, spectrum
from svdhooks.linalg.moments import Moments, check_samples


class CovarianceAccumulator:
    """Eigenvalues of the covariance of d features, in the memory of min(N, d) samples.

    While there are fewer samples than features, copies of the samples are kept in their
    own dtype, and the N × N Gram matrix of the centred samples is solved: it has the
    non-zero eigenvalues of the covariance. When N reaches d they become ``Moments``.
    """

    def __init__(self, d: int) -> None:
        self.d = d
        self._blocks: list[Tensor] = []
        self._moments: Moments | None = None

    @classmethod
    def of(cls, moments: Moments) -> "CovarianceAccumulator":
        """An accumulator of samples whose moments are known already.

        Args:
            moments: Not copied.

        Returns:
            The object.
        """
        known = cls(len(moments.mean))
        known._moments = moments
        return known

    @property
    def count(self) -> int:
        """Number of samples."""
        if self._moments is not None:
            return self._moments.count
        return sum(len(block) for block in self._blocks)

    @property
    def method(self) -> Literal["sample_gram", "scatter"]:
        """Which matrix is solved."""
        return "sample_gram" if self._moments is None else "scatter"

    @property
    def samples(self) -> Shaped[Tensor, "n d"] | None:
        """The samples, in order of arrival; None once they have become moments."""
        if self._moments is not None:
            return None
        return torch.cat(self._blocks) if self._blocks else torch.zeros(0, self.d)

    def update(self, samples: Shaped[Tensor, "n d"]) -> "CovarianceAccumulator":
        """Add samples.

        Args:
            samples: One per row, of any floating or complex dtype, on any device.

        Returns:
            This object.

        Raises:
            ValueError: If they are not rows of d features.
            TypeError: If they are integers, or complex after real ones.
        """
        check_samples(samples, self.d)
        if self._moments is not None:
            self._moments.update(samples)
        elif self.count + len(samples) >= self.d:
            self._moments = self.moments(samples.dtype).update(samples)
            self._blocks = []
        elif len(samples):
            device = (self._blocks or [samples])[0].device
            with torch.inference_mode(False):  # the copy may be used outside it
                self._blocks.append(samples.detach().to(device, copy=True))
        return self

    def merge(self, other: "CovarianceAccumulator") -> "CovarianceAccumulator":
        """The accumulator of the samples of both.

        Args:
            other: Accumulator of other samples with the same features.

        Returns:
            A new object.

        Raises:
            ValueError: If the numbers of features differ.
        """
        if self.d != other.d:
            raise ValueError(
                f"Found samples of {other.d} features, expected {self.d}. Merge only "
                "accumulators of the same point."
            )
        merged = CovarianceAccumulator(self.d)
        if self.count + other.count < self.d:  # blocks are never changed: share them
            merged._blocks = self._blocks + other._blocks
        else:
            merged._moments = self.moments().merge(other.moments())
        return merged

    def moments(self, dtype: torch.dtype = torch.float64) -> Moments:
        """Moments of the samples so far: a copy while these are kept.

        Args:
            dtype: A complex one, if complex samples are to be added.

        Returns:
            The moments, d × d in size.
        """
        if self._moments is not None:
            return self._moments
        is_complex = dtype.is_complex or any(x.is_complex() for x in self._blocks)
        moments = Moments.zeros(
            self.d, dtype=torch.complex128 if is_complex else torch.float64
        )
        for block in self._blocks:
            moments.update(block)
        return moments

    @property
    def mean(self) -> Inexact[Tensor, " d"]:
        """Mean of the samples, in double precision; zero without samples."""
        if self._moments is not None:
            return self._moments.mean
        if not self._blocks:
            return torch.zeros(self.d, dtype=torch.float64)
        return torch.stack([x.sum(0) for x in self._in_double()]).sum(0) / self.count

    @property
    def mean_norm(self) -> float:
        """Euclidean norm of the mean."""
        return float(torch.linalg.vector_norm(self.mean))

    @property
    def uncentred_norm(self) -> float:
        """Frobenius norm of the samples before centring, as of an N × d matrix."""
        if self._moments is not None:
            spread = float(self._moments.scatter.diagonal().real.sum())
            return math.sqrt(spread + self.count * self.mean_norm**2)
        norms = (float(torch.linalg.vector_norm(x)) for x in self._in_double())
        return math.hypot(*norms)

    def matrix(self) -> Inexact[Tensor, "k k"]:
        """A matrix of size min(N, d) with the non-zero eigenvalues of the covariance.

        Returns:
            The 1/N covariance, or the Gram matrix of the centred samples over N; a new
            tensor.
        """
        if self._moments is not None:
            return self._moments.covariance()
        count = self.count
        if count == 0:
            return torch.zeros(0, 0, dtype=torch.float64)
        # rows of the transpose are features: each is centred over the samples
        features = _solvers.in_double(torch.cat(self._blocks).mT)
        grams = (_solvers.product(x - x.mean(1, keepdim=True)) for x in features)
        return functools.reduce(torch.add, grams) / count

    def eigenvalues(self) -> Float64[Tensor, " k"]:
        """Eigenvalues of the 1/N covariance, descending.

        Returns:
            min(N, d) values; those that are left out are 0. One of min(N, d) = N
            values is 0 too, because the samples are centred.

        Raises:
            torch.linalg.LinAlgError: If the decomposition does not converge.
        """
        return spectrum.eigenvalues(self.matrix())

    def _in_double(self) -> Iterator[Tensor]:
        """The samples that are kept, in blocks of double precision."""
        return itertools.chain.from_iterable(map(_solvers.in_double, self._blocks))
