"""Mean and covariance of a stream of samples, exactly as of all samples at once.

Sums are float64 (complex128 for complex samples) and centred before they are squared:
``E[xxᵀ] - μμᵀ`` in float32 has a relative error of 0.8 at mean 1,000 and deviation 1.
Batches are merged by the rule of Chan, Golub & LeVeque (1979).
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Inexact, Shaped
from torch import Tensor

from svdhooks.linalg import _solvers


@dataclass(eq=False)
class Moments:
    """Count, mean and centred scatter of samples with d features.

    ``update`` changes the object and returns it; ``merge`` returns a new one. Up to
    rounding, neither order nor grouping matters. NaN in a feature stays in its row and
    column. The object pickles and copies.
    """

    count: int
    """Number of samples."""
    mean: Inexact[Tensor, " d"]
    """Mean of the samples; zero without samples."""
    scatter: Inexact[Tensor, "d d"]
    """``Σ (x - mean)(x - mean)ᴴ``, in full."""
    follows: bool = field(default=False, repr=False)
    """Whether the sums move to the device of the first samples."""

    @classmethod
    def zeros(
        cls,
        d: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> "Moments":
        """Moments of no samples.

        Args:
            d: Number of features.
            device: Where the sums are kept; by default with the first samples.
            dtype: float64, or complex128 for complex samples.

        Returns:
            An empty accumulator.

        Raises:
            ValueError: If ``dtype`` is neither.
        """
        if dtype not in {torch.float64, torch.complex128}:
            raise ValueError(
                f"Found dtype {dtype}, expected torch.float64 or torch.complex128. "
                "Samples of any dtype are summed in double precision."
            )
        # tensors born in inference mode could not be changed in place outside it
        with torch.inference_mode(False):
            mean = torch.zeros(d, dtype=dtype, device=device)
            scatter = torch.zeros(d, d, dtype=dtype, device=device)
        return cls(0, mean, scatter, follows=device is None)

    def update(self, samples: Shaped[Tensor, "n d"]) -> "Moments":
        """Add samples.

        Large batches are converted in parts.

        Args:
            samples: One per row, of any floating or complex dtype, on any device.

        Returns:
            This object.

        Raises:
            ValueError: If they are not rows of d features.
            TypeError: If they are integers, or complex while the sums are real.
        """
        check_samples(samples, len(self.mean))
        if samples.is_complex() and not self.mean.is_complex():
            raise TypeError(
                f"Found samples of {samples.dtype}, expected real ones. Start with "
                "Moments.zeros(d, dtype=torch.complex128)."
            )
        with torch.inference_mode(False):
            for block in _solvers.in_double(samples):
                self._add(block)
        return self

    def _add(self, block: Tensor) -> None:
        """Add samples in double precision."""
        if len(block) == 0:
            return
        if self.follows and self.count == 0:
            self.mean = self.mean.to(block.device)
            self.scatter = self.scatter.to(block.device)
        block = block.to(self.mean)
        mean = block.mean(0)
        shift = mean - self.mean
        total = self.count + len(block)
        # the shift between the means is one more row: no second pass over d × d
        weight = (self.count * len(block) / total) ** 0.5
        rows = torch.cat([block - mean, weight * shift[None]])
        self.scatter += _solvers.product(rows).conj()
        self.mean = self.mean + shift * (len(block) / total)
        self.count = total

    def merge(self, other: "Moments") -> "Moments":
        """Moments of the samples of both.

        Args:
            other: Moments of other samples with the same features.

        Returns:
            A new object, on the device of this one.

        Raises:
            ValueError: If the numbers of features differ.
        """
        if len(self.mean) != len(other.mean):
            raise ValueError(
                f"Found moments of {len(other.mean)} features, expected "
                f"{len(self.mean)}. Merge only moments of the same point."
            )
        placed = other if self.follows and not self.count else self
        device = placed.mean.device
        with torch.inference_mode(False):
            total = max(self.count + other.count, 1)
            shift = other.mean.to(device) - self.mean.to(device)
            weight = self.count * other.count / total
            scatter = self.scatter.to(device) + other.scatter.to(device)
            if weight:  # 0 times a NaN mean is not 0
                scatter += weight * torch.outer(shift, shift.conj())
            mean = self.mean.to(device) + shift * (other.count / total)
        return Moments(self.count + other.count, mean, scatter, follows=self.follows)

    def covariance(self) -> Inexact[Tensor, "d d"]:
        """``E[(x - μ)(x - μ)ᴴ]``, with 1/N; NaN without samples."""
        return self.scatter / self.count

    def second_moment(self) -> Inexact[Tensor, "d d"]:
        """``E[xxᴴ]``, uncentred, with 1/N; NaN without samples."""
        return self.covariance() + torch.outer(self.mean, self.mean.conj())


def check_samples(samples: Tensor, d: int) -> None:
    """Refuse what is not a row of d floating or complex numbers per sample.

    Args:
        samples: What was given as samples.
        d: Number of features.

    Raises:
        ValueError: If they are not rows of d features.
        TypeError: If they are integers or booleans.
    """
    if samples.ndim != 2 or samples.shape[1] != d:
        raise ValueError(
            f"Found samples of shape {tuple(samples.shape)}, expected (n, {d}). "
            "Flatten the axes of batch and position: samples.reshape(-1, d)."
        )
    if not (samples.is_floating_point() or samples.is_complex()):
        raise TypeError(
            f"Found samples of {samples.dtype}, expected floating or complex numbers. "
            "Convert with samples.float()."
        )
