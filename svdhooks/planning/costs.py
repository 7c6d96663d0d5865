"""What one measurement of a layer costs, from the same measurement of a smaller one."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from svdhooks import linalg
from svdhooks.distributed.shards import is_sharded
from svdhooks.layers import Layer
from svdhooks.linalg.units import UnitStatistics
from svdhooks.quantities import (
    EdgeQuantity,
    SpectralEdges,
    WeightQuantity,
    WeightVectors,
)
from svdhooks.quantities.drift import SubspaceDrift
from svdhooks.quantities.update import UpdateSpectrum

_SIDE = 384
"""Matrices whose smaller side is longer are timed on a part of that size."""
_LONG = 8 * _SIDE
_REPEATS = 2


@dataclass(frozen=True)
class Costs:
    """What a layer costs, at one record or for good.

    Attributes:
        seconds: On the training thread, at each record; NaN if not known.
        working_bytes: Needed while it is measured, and freed then.
        kept_bytes: Kept in memory between records.
    """

    seconds: float = 0.0
    working_bytes: int = 0
    kept_bytes: int = 0

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(
            self.seconds + other.seconds,
            max(self.working_bytes, other.working_bytes),
            self.kept_bytes + other.kept_bytes,
        )


class Timer:
    """Times measurements on this machine; what was timed once is remembered."""

    def __init__(self) -> None:
        self._known: dict[object, float] = {}

    def of_weight(self, quantity: WeightQuantity, layer: Layer) -> Costs:
        """Estimate the cost of one layer's weight.

        Args:
            quantity: What is measured.
            layer: The layer; of a large one a corner is measured, and the time scaled
                as that of a product and of a decomposition of its smaller side.

        Returns:
            The costs.
        """
        small, factor = _corner(layer)
        key = (quantity.name, small.shape, layer.groups, layer.experts, layer.dtype)
        fresh = getattr(quantity, "fresh", lambda: quantity)()
        if isinstance(quantity, (UpdateSpectrum, SubspaceDrift)):
            fresh.measure(small, 0)  # the first only keeps the weights
        seconds = factor * self._time(key, lambda: fresh.measure(small, 1))
        blocks = max(layer.groups, layer.experts, 1)
        entries = blocks * math.prod(layer.shape)
        side = min(layer.shape)
        itemsize = torch.empty(0, dtype=getattr(torch, layer.dtype)).itemsize
        # one block at a time, or many small ones: converted in parts of that size
        converted = min(8 * entries, 2**26)
        kept = 2 * entries * itemsize if isinstance(quantity, UpdateSpectrum) else 0
        if isinstance(quantity, SubspaceDrift):
            kept = 2 * 8 * min(quantity.k, side) * sum(layer.shape)
        # the sum of products, the next one, and what the solver works with
        return Costs(seconds, converted + 3 * 8 * side * side, kept)

    def of_edge(self, quantity: EdgeQuantity, edge: Any) -> Costs:
        """Measure the cost of an edge, once for all edges between such shapes."""
        held = [x for x in vars(edge).values() if isinstance(x, Layer)]
        if isinstance(quantity, SpectralEdges):  # which decomposes its two weights
            vectors = WeightVectors(quantity.k or 2**31)
            return sum((self.of_weight(vectors, layer) for layer in held), Costs())
        key, whole = (quantity.name, *(x.shape for x in held)), _whole_edge(edge)
        return Costs(self._time(key, lambda: quantity.measure_edge(whole, 0)))

    def of_covariance(self, samples: int, features: int) -> Costs:
        """Estimate the cost of one point.

        Args:
            samples: How many samples pass it.
            features: Of each.

        Returns:
            The costs.
        """
        side = max(min(samples, features), 1)
        (n, d), factor = _smaller((samples, features))

        def once() -> None:
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(n, d, generator=generator)
            UnitStatistics(d).update(x).fractions()
            accumulator = linalg.CovarianceAccumulator(d).update(x)
            linalg.measures(accumulator.eigenvalues().numpy() ** 0.5)

        seconds = factor * self._time(("covariance", n, d), once)
        kept_samples = 4 * samples * features if samples < features else 0
        return Costs(seconds, 3 * 8 * side * side + kept_samples)

    def _time(self, key: object, once: Callable[[], Any]) -> float:
        """The shortest of a few trials; the first warms up."""
        if key not in self._known:
            once()
            self._known[key] = min(_seconds(once) for _ in range(_REPEATS))
        return self._known[key]


def _seconds(once: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    once()
    return time.perf_counter() - begun


def _corner(layer: Layer) -> tuple[Layer, float]:
    """A layer of at most that size, and how many times as long the whole takes."""
    (rows, columns), factor = _smaller(layer.shape)
    if is_sharded(layer):  # no process has it whole, and time depends on sizes alone
        return _stand_in(layer, (rows, columns)), max(factor, 1.0)
    if factor <= 1 or layer.factors is not None:
        return layer, 1.0
    view = layer.view

    def corner(weight: torch.Tensor) -> torch.Tensor:
        return view(weight)[..., :rows, :columns]

    return replace(layer, view=corner, shape=(rows, columns)), factor


@dataclass(frozen=True)
class _Numbers:
    """In place of a weight."""

    numbers: torch.Tensor

    def value(self) -> torch.Tensor:
        return self.numbers

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.numbers,)


def _stand_in(layer: Layer, shape: tuple[int, int]) -> Layer:
    """A layer of the same kind with any weight of that shape."""
    blocks = [layer.experts or layer.groups] * (max(layer.experts, layer.groups) > 1)
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, layer.dtype)
    numbers = torch.randn(*blocks, *shape, generator=generator).to(dtype)
    return replace(
        layer,
        source=_Numbers(numbers),
        view=lambda weight: weight,
        shape=shape,
        factors=None,
        flat=(),
        bias_source=None,
    )


def _whole_edge(edge: Any) -> Any:
    """An edge with weights that this process holds whole."""
    held = {n: x for n, x in vars(edge).items() if isinstance(x, Layer)}
    parts = {n: _stand_in(x, x.shape) for n, x in held.items() if is_sharded(x)}
    return replace(edge, **parts) if parts else edge


def _smaller(shape: tuple[int, int]) -> tuple[tuple[int, int], float]:
    """A shape of at most that size, and how many times as long the whole takes."""
    short, long = sorted(shape)
    small_short, small_long = min(short, _SIDE), min(long, _LONG)
    across, along = short / max(small_short, 1), long / max(small_long, 1)
    # the product takes short²·long, the decomposition short³
    factor = across**2 * max(across, along)
    if shape[0] <= shape[1]:
        return (small_short, small_long), factor
    return (small_long, small_short), factor
