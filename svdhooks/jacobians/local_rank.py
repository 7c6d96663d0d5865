"""The local rank of one layer."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from svdhooks.jacobians.options import LayerJacobian
from svdhooks.linalg.jacobian import local_ranks


@dataclass(frozen=True, eq=False, repr=False)
class LocalRank:
    """Local rank of one layer: the rank of its output's Jacobian, sample by sample.

    Attributes:
        mean: Over the samples; NaN, as the next three, if there are no numbers.
        std: Standard deviation over the samples (1/N).
        min: Smallest of the samples.
        max: Largest of the samples.
        per_sample: Of each sample.
        spectra: Singular values of the Jacobians, descending, on the CPU.
        eps: Singular values above it are counted.
        relative: Whether it is a share of the largest singular value.
        samples: How many were measured.
        status: ``"ok"``, or why there are no numbers.
        method: How the Jacobians were taken: ``"forward"``, ``"double_backward"`` or
            ``"reverse"``, with ``"first_layer "`` before it where the basis was that of
            the first layer.
        complete: Whether the spectra are those of whole Jacobians. Otherwise only some
            directions were taken, and all singular values are lower bounds.
        lower_bound: Whether the ranks are lower bounds: absolute ones that are not of
            whole Jacobians. Relative ones are an estimate there, too small or too large,
            since σ₁, to which they are relative, is a lower bound itself.
        directions: How many were taken.
        inputs: Dimension of the input point, of one sample.
        outputs: Dimension of the layer's output, of one sample.
    """

    mean: float
    std: float
    min: float
    max: float
    per_sample: Int[Tensor, " samples"]
    spectra: Float[Tensor, "samples r"]
    eps: float
    relative: bool
    samples: int
    status: str
    method: str
    complete: bool
    lower_bound: bool
    directions: int
    inputs: int
    outputs: int

    @classmethod
    def of(cls, found: LayerJacobian, eps: float, relative: bool) -> "LocalRank":
        """Count singular values above a threshold.

        Args:
            found: The singular values.
            eps: The threshold.
            relative: Whether it is a share of the largest one.

        Returns:
            The local rank.
        """
        ranks = local_ranks(found.spectra, eps, relative)
        values = ranks.to(torch.float64)
        if not (found.ok and len(ranks)):
            values = torch.full((1,), torch.nan, dtype=torch.float64)
        return cls(
            float(values.mean().item()),
            float(values.std(correction=0).item()),
            float(values.min().item()),
            float(values.max().item()),
            ranks,
            found.spectra,
            float(eps),
            relative,
            len(ranks),
            found.status,
            found.method,
            found.complete,
            found.ok and not found.complete and not relative,
            found.directions,
            found.inputs,
            found.outputs,
        )

    def __repr__(self) -> str:
        """One line for people."""
        if self.status != "ok":
            return f"LocalRank({self.status})"
        least = "about " if not self.complete else ""
        least = "at least " if self.lower_bound else least
        limit = f"{self.eps:g}·σ₁" if self.relative else f"{self.eps:g}"
        sketch = "" if self.complete else f", {self.directions} directions"
        return (
            f"LocalRank({least}{self.mean:.4g} ± {self.std:.2g} "
            f"({self.min:g} to {self.max:g}) of {min(self.inputs, self.outputs)}, "
            f"σ > {limit}, {self.samples} samples, {self.method}{sketch})"
        )
