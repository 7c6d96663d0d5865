"""Snapshots of singular vectors, for what is to be computed from the log afterwards."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from svdhooks import linalg
from svdhooks.layers import Layer
from svdhooks.linalg import _solvers
from svdhooks.linalg.subspace import Leading, all_triplets
from svdhooks.quantities.values import NON_FINITE, check_positive
from svdhooks.record import OK, Record
from svdhooks.schedule import Schedule, log_spaced

ROUNDING = 2.0**-22
"""Up to this residual a weight is there to float32 rounding: rounding U, σ and V to it
changes U·diag(σ)·Vᵀ by at most 3 · 2⁻²⁴ of its Frobenius norm."""


@dataclass(frozen=True)
class WeightVectors:
    """The leading singular vectors of every weight, or all, at a coarser cadence.

    They go to safetensors files beside the event file, float32: ``U`` ``(out, k)``,
    ``sigma`` ``(k,)``, ``Vh`` ``(k, in)``. The largest entry of each column of ``U`` is
    positive. ``residual`` ``(1,)``, float64, is ``‖W - U·diag(σ)·Vᵀ‖_F / ‖W‖_F`` of what
    is stored. ``bias`` ``(out,)`` is what the layer adds; of a part of a fused projection
    its own entries. It is not there where a layer has none, nor of routers and bare
    parameters, nor where an adapter adds one of its own.

    ``RunLog.vectors(layer)`` reads them, `svdhooks.analysis.layer_snapshot` puts them
    together. Layers of several blocks (groups, experts) are left out.

    Attributes:
        k: How many; None: all, so that the weight can be had back from the log, to
            float32 rounding. Those of singular values below ``3e-8·√n·σ₁`` are left out
            where the weight is there without them.
        schedule: Its own schedule; three snapshots per factor of ten in steps.
    """

    k: int | None = 16
    schedule: Schedule | None = field(default_factory=lambda: log_spaced(3))

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            TypeError: If it is no whole number.
            ValueError: If it is not positive.
        """
        if self.k is not None:
            check_positive(self, "k")

    @property
    def name(self) -> str:
        """Under which its records are filed."""
        return "weight_vectors"

    @property
    def reads_bias(self) -> bool:
        """Where weights are sharded, biases are gathered for it."""
        return True

    def measure(self, layer: Layer, step: int) -> list[Record]:
        """Take a snapshot of one layer.

        Args:
            layer: The layer.
            step: Optimiser updates contained in the weights.

        Returns:
            One record; none of a layer of several blocks.
        """
        weight = layer.weight()
        if weight.ndim != 2:
            return []
        bias = layer.bias()
        finite = all(bool(x.isfinite().all()) for x in (weight, bias) if x is not None)
        if not finite:
            return [self.failed(layer, step, NON_FINITE)]
        values = self._stored(weight)
        if bias is not None:
            values["bias"] = _single(bias)
        return [self._record(layer, step, values, OK)]

    def _stored(self, weight: Tensor) -> dict[str, NDArray[Any]]:
        """Triplets and what they leave of the weight."""
        most = min(weight.shape)
        k = most if self.k is None else self.k
        values, residual = _measured(weight, linalg.leading_triplets(weight, k))
        if k >= most and residual > ROUNDING:
            # many small ones, none of which the Gram matrix resolves, add up
            values, residual = _measured(weight, all_triplets(weight))
        return {**values, "residual": np.array([residual])}

    def failed(self, layer: Layer, step: int, status: str) -> Record:
        """The record of a snapshot that failed; it has no vectors."""
        return self._record(layer, step, {}, status)

    def _record(
        self, layer: Layer, step: int, values: dict[str, np.ndarray], status: str
    ) -> Record:
        return Record(
            step,
            layer.name,
            self.name,
            values,
            status=status,
            method="gram",
            point="weight",
        )


def _measured(weight: Tensor, found: Leading) -> tuple[dict[str, NDArray[Any]], float]:
    """What is stored, and the share of the weight's norm that this leaves."""
    parts = (found.U, found.sigma, found.Vh)
    rounded = [
        x.to(torch.complex64 if x.is_complex() else torch.float32) for x in parts
    ]
    U, sigma, Vh = (x.to(found.U.dtype) for x in rounded)
    squares, start = torch.zeros(2, dtype=torch.float64, device=U.device), 0
    for block in _solvers.in_double(weight):  # no more copies of the weight's size
        scaled = U[start : start + len(block)] * sigma
        rest, start = block - _solvers.times(scaled, Vh), start + len(block)
        squares += torch.stack([x.abs().square().sum() for x in (rest, block)])
    left, whole = squares.sqrt().tolist()
    residual = left / whole if whole > 0 else 0.0
    names = ("U", "sigma", "Vh")
    return {n: _single(x) for n, x in zip(names, rounded, strict=True)}, residual


def _single(array: Tensor) -> NDArray[Any]:
    single = torch.complex64 if array.is_complex() else torch.float32
    # a copy: what is float32 already is the memory of the model, which is trained on
    return np.array(array.detach().to(single).cpu().numpy(), order="C")
