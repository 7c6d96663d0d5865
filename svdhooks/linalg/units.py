"""What each unit does over a stream of samples: dead, always on, or dormant."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from svdhooks.linalg.moments import check_samples

DORMANT_TAU = 0.025
"""The τ of Sokar et al. 2023 that they use most."""

_CACHED = 2**18  # numbers: |x| of a block stays in the cache, seven times faster


@dataclass(frozen=True)
class UnitFractions:
    """Shares of the units, 0 … 1; NaN without samples, or where one holds NaN."""

    dead_fraction: float
    """Units that are at most 0 on all samples."""
    always_on_fraction: float
    """Units that are above 0 on all samples."""
    dormant_fraction: float
    """Units whose mean size is at most τ of the layer's mean size."""


class UnitStatistics:
    """Smallest, largest and mean absolute value of each of d units.

    ``update`` changes the object and returns it; ``merge`` returns a new one. Neither
    order nor grouping matters, up to rounding of the mean. Nothing is copied to the
    host before a result is asked for.

    What the fractions mean depends on the point:

    - *Pre-activation* (the ``output`` of a layer): a dead unit would be 0 behind a ReLU
      on every sample, and gets no gradient through it; an always-on unit passes the
      ReLU unchanged, so the ReLU does nothing for it. Behind GELU, SiLU or a leaky
      ReLU dead units still pass something. The bias is part of the value.
    - *Post-activation* (the ``input`` of the next layer): behind a ReLU a dead unit is
      0 on every sample and carries nothing, and always-on means what it meant before.
      Behind tanh or a normalisation the sign says little; read the dormant fraction.
    - *Data* (the ``input`` of the first layer): a pixel that is always 0 is dead.

    Dormant is by size and needs no sign. It is defined for post-activations (Sokar et
    al. 2023): read it at ``input``. A pre-activation that is large and negative is
    dead, but not dormant. Complex values have no order: dead and always-on are NaN.

    Args:
        d: Number of units.
    """

    def __init__(self, d: int) -> None:
        self.d = d
        self.count = 0
        """Number of samples."""
        with torch.inference_mode(False):
            self.minimum: Float[Tensor, " d"] = torch.full((d,), torch.inf)
            """Smallest value of each unit, in the dtype of the samples."""
            self.maximum: Float[Tensor, " d"] = torch.full((d,), -torch.inf)
            """Largest value of each unit, in the dtype of the samples."""
            self._total: Float[Tensor, " d"] = torch.zeros(d)

    def __repr__(self) -> str:
        return f"UnitStatistics({self.d}): {self.count} samples"

    def update(self, samples: Shaped[Tensor, "n d"]) -> "UnitStatistics":
        """Add samples.

        Args:
            samples: One per row, of any floating or complex dtype, on any device. The
                first decide the device of the statistics.

        Returns:
            This object.

        Raises:
            ValueError: If they are not rows of d units.
            TypeError: If they are integers.
        """
        check_samples(samples, self.d)
        if len(samples) == 0:  # which has no smallest value
            return self
        device = self._total.device if self.count else samples.device
        # tensors born in inference mode could not be used outside it
        with torch.inference_mode(False), torch.no_grad():
            for block in _blocks(samples.detach().to(device)):
                self._add(block)
        return self

    def merge(self, other: "UnitStatistics") -> "UnitStatistics":
        """Statistics of the samples of both.

        Args:
            other: Statistics of other samples of the same units.

        Returns:
            A new object, on the device of this one if it has samples.

        Raises:
            ValueError: If the numbers of units differ.
        """
        if self.d != other.d:
            raise ValueError(
                f"Found statistics of {other.d} units, expected {self.d}. Merge only "
                "those of the same point."
            )
        merged = UnitStatistics(self.d)
        merged.count = self.count + other.count
        one, two = (self, other) if self.count else (other, self)
        device = one._total.device
        with torch.inference_mode(False), torch.no_grad():
            # NaN in either stays: minimum and maximum of torch propagate it
            merged.minimum = torch.minimum(one.minimum, two.minimum.to(device))
            merged.maximum = torch.maximum(one.maximum, two.maximum.to(device))
            merged._total = one._total + two._total.to(device)
        return merged

    @property
    def total_absolute(self) -> Float[Tensor, " d"]:
        """``Σ|h|`` of each unit, float64 (float32 on MPS)."""
        return self._total

    @classmethod
    def of(
        cls,
        count: int,
        minimum: Float[Tensor, " d"],
        maximum: Float[Tensor, " d"],
        total: Float[Tensor, " d"],
    ) -> "UnitStatistics":
        """Statistics that are known already, say by adding up those of others.

        Args:
            count: Number of samples.
            minimum: Smallest value of each unit.
            maximum: Largest value of each unit.
            total: ``Σ|h|`` of each unit.

        Returns:
            The object.
        """
        known = cls(len(total))
        known.count, known._total = count, total
        known.minimum, known.maximum = minimum, maximum
        return known

    @property
    def mean_absolute(self) -> Float[Tensor, " d"]:
        """``E|h|`` of each unit, float64 (float32 on MPS); NaN without samples."""
        # 0/0 on purpose: no samples have no mean
        return self._total / self.count if self.count else self._total * torch.nan

    @property
    def dead(self) -> Bool[Tensor, " d"]:
        """Units that are at most 0 on all samples; False where NaN."""
        return self.maximum <= 0

    @property
    def always_on(self) -> Bool[Tensor, " d"]:
        """Units that are above 0 on all samples; False where NaN."""
        return self.minimum > 0

    def dormant(self, tau: float | int = DORMANT_TAU) -> Bool[Tensor, " d"]:
        """Units with ``E|hᵢ| ≤ τ · mean_j E|hⱼ|`` (Sokar et al. 2023).

        Where all units are zero all are dormant.

        Args:
            tau: 0 leaves those that are exactly 0 on all samples.

        Returns:
            One per unit; False where NaN.

        Raises:
            ValueError: If ``tau`` is negative.
        """
        if not tau >= 0:
            raise ValueError(f"Found tau={tau}, expected 0 or more, such as 0.025.")
        mean = self.mean_absolute
        # a product and not a ratio: a layer of zeros is 0 <= 0
        return mean <= tau * mean.mean()

    def fractions(self, tau: float | int = DORMANT_TAU) -> UnitFractions:
        """The shares of dead, always-on and dormant units; one copy to the host.

        Args:
            tau: Of the dormant units.

        Returns:
            The shares.

        Raises:
            ValueError: If ``tau`` is negative.
        """
        masks = torch.stack([self.dead, self.always_on, self.dormant(tau)])
        shares = masks.to(torch.float32).mean(1)
        # NaN compares as False, which would read as a healthy unit
        extremes = (self.minimum + self.maximum).isnan().any()
        unknown = torch.stack([extremes, extremes, self._total.isnan().any()])
        shares = torch.where(unknown, torch.nan, shares)
        # exact: a share is a count over d, and float32 may round it
        dead, on, dormant = (
            round(share * self.d) / self.d if share == share else share
            for share in shares.tolist()
        )
        if not self.count:
            dead = on = dormant = float("nan")
        return UnitFractions(dead, on, dormant)

    def _add(self, block: Tensor) -> None:
        """Take in some samples, with nothing but reductions."""
        total = _absolute_sum(block)
        if block.is_complex():
            low = high = torch.full_like(total, torch.nan)
        else:  # eight times faster on the CPU than aminmax
            low, high = block.amin(0), block.amax(0)
        first = self.count == 0
        # minimum and maximum of torch, and sums, keep NaN
        self.minimum = low if first else torch.minimum(self.minimum, low)
        self.maximum = high if first else torch.maximum(self.maximum, high)
        self._total = total if first else self._total + total
        self.count += len(block)


def _absolute_sum(block: Tensor) -> Tensor:
    """``Σ|x|`` per unit: each block in float32 at least, the blocks in float64."""
    exact = block.dtype in {torch.float64, torch.complex128}
    total = block.abs().sum(0, dtype=torch.float64 if exact else torch.float32)
    return total if total.is_mps else total.to(torch.float64)  # MPS has no float64


def _blocks(samples: Tensor) -> Iterable[Tensor]:
    """Parts that fit into the cache of a CPU; all at once elsewhere."""
    if samples.device.type != "cpu":
        return (samples,)
    rows = max(_CACHED // max(samples.shape[1], 1), 1)
    return torch.split(samples, rows)
