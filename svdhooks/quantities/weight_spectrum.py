"""Singular values and ranks of each layer's weight."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor

from svdhooks import derived, linalg
from svdhooks.layers import Layer
from svdhooks.linalg.problems import SingularValues
from svdhooks.quantities.pending import Pending, Unfinished
from svdhooks.quantities.values import NON_FINITE, pack, unknown, with_measures
from svdhooks.record import OK, Record
from svdhooks.schedule import Schedule
from svdhooks.solving import INLINE, Solution, Solver, current_solver

ADAPTER_MEASURES = ("rank_bound", "rank_used")


@dataclass(frozen=True)
class WeightSpectrum:
    """The singular values of every weight and the ranks that follow from them.

    - A convolution's spectrum is that of its flattened kernel ``out × in·positions``,
      not of the convolution operator. A grouped convolution is block diagonal: its
      spectrum is the union of the blocks' spectra.
    - Many experts are one record: the spectrum is the median over the experts, value
      by value; each measure is their median, and ``<measure>_min`` and
      ``<measure>_max`` are those of the extreme experts.
    - An adapter's product B @ A of rank at most r has r values, ``rank_bound`` = r, and
      ``rank_used``, its numerical rank over r.

    Attributes:
        schedule: Its own schedule; None: the recorder's.
        heads: Whether layers of attention get another record, of point ``"heads"``:
            the spectra of the blocks that belong to one head each, told like those of
            experts.
        measures: Further measures to record, out of ``svdhooks.derived.FIELDS``, such
            as ``("power_law_alpha",)``. A log yields them afterwards, too.
    """

    schedule: Schedule | None = None
    heads: bool = False
    measures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the choice of measures.

        Raises:
            ValueError: If one of them is unknown.
        """
        derived.check(self.measures, ("weight",))

    @property
    def name(self) -> str:
        """Under which its records are filed."""
        return "weight_spectrum"

    def measure(self, layer: Layer, step: int) -> Record | list[Record]:
        """Measure one layer.

        Args:
            layer: The layer.
            step: Optimiser updates contained in the weights.

        Returns:
            The record: spectrum, ranks, noise floor; two with those of the heads.
        """
        solver = current_solver()
        several = [(_of_layer(layer, solver), "weight")]
        if self.heads and layer.heads:
            heads = SingularValues(layer.head_weights())
            of_heads = _of_many(solver.submit(heads), heads, layer.dtype)
            several.append((of_heads, "heads"))
        make = self._later if solver.deferred else self._record
        records = [make(layer, step, solve, point) for solve, point in several]
        return records if len(records) > 1 else records[0]

    def failed(self, layer: Layer, step: int, status: str) -> Record:
        """The record of a measurement that failed: NaN values of the right shape."""
        fields: tuple[str, ...] = linalg.MEASURES
        if layer.experts:
            fields = _names_of_many(fields)
        elif layer.factors is not None:
            fields += ADAPTER_MEASURES
        values = unknown(layer.rank_limit, fields)
        return Record(
            step, layer.name, self.name, values, status=status, point="weight"
        )

    def _later(self, layer: Layer, step: int, solve: "Solve", point: str) -> Record:
        def finish() -> Record:
            return self._record(layer, step, solve, point)

        def failed(status: str) -> Record:
            return self.failed(layer, step, status)

        return Pending(
            step,
            layer.name,
            self.name,
            point=point,
            unfinished=Unfinished(finish, failed),
        )

    def _record(self, layer: Layer, step: int, solve: "Solve", point: str) -> Record:
        solved = solve()
        finite = bool(np.isfinite(solved.sigma).all())
        record = Record(
            step,
            layer.name,
            self.name,
            pack(solved.sigma, solved.measures),
            status=OK if finite else NON_FINITE,
            method=solved.method,
            point=point,
            marks=("below_noise",) if finite and solved.below_noise else (),
        )
        if not self.measures or record.point != "weight":
            return record
        return with_measures(
            record, derived.live(self.measures, ("weight",))(record, layer.shape)
        )


@dataclass(frozen=True)
class Solved:
    """A spectrum with what follows from it."""

    sigma: NDArray[Any]
    measures: dict[str, float]
    below_noise: bool
    method: str


Solve = Callable[[], Solved]
"""Waits for a spectrum, and gives what follows from it."""


def _of_layer(layer: Layer, solver: Solver) -> Solve:
    if layer.gram is not None:
        sigma = linalg.spectrum_of_gram(layer.gram).to(torch.float32)
        return _of_one(layer, Solution(sigma.cpu().numpy()), "gram")
    if layer.factors is not None:  # thin: not worth a thread
        solved = _of_product(layer, *layer.factors())
        return lambda: solved
    return _of_blocks(layer, layer.weight(), None, solver)


def singular_values_of(layer: Layer) -> NDArray[Any]:
    """Solve the weight of a layer at once.

    Args:
        layer: The layer, whose weight can be read.

    Returns:
        Singular values, descending; of many experts the medians.
    """
    return _of_layer(layer, INLINE)().sigma


def spectrum_and_measures(
    layer: Layer, weight: Shaped[Tensor, "*blocks out in"], norm: float | None = None
) -> Solved:
    """Solve a weight of a layer, or a matrix of its form.

    Args:
        layer: Says what its blocks are, and the precision.
        weight: The matrix, or the blocks.
        norm: Frobenius norm of what the matrix is a difference of, whose rounding
            errors it has; None: it is no difference.

    Returns:
        The spectrum with what follows from it.
    """
    return _of_blocks(layer, weight, norm, INLINE)()


def _of_blocks(
    layer: Layer, weight: Tensor, norm: float | None, solver: Solver
) -> Solve:
    asked = SingularValues(weight)
    solution = solver.submit(asked)
    if layer.experts:
        return _of_many(solution, asked, layer.dtype, norm)
    return _of_one(layer, solution, linalg.method_for(weight.dtype), norm)


def _of_one(
    layer: Layer, solution: Solution, method: str, norm: float | None = None
) -> Solve:
    shape, dtype = layer.shape, layer.dtype

    def solve() -> Solved:
        sigma = solution.get()
        if sigma.ndim > 1:  # the blocks of a block-diagonal map
            sigma = np.sort(sigma, axis=None)[::-1]
        measures = linalg.measures(sigma, shape=shape, dtype=dtype, uncentred_norm=norm)
        below = bool((sigma < measures["noise_floor"]).any())
        return Solved(sigma, measures, below, method)

    return solve


def _of_product(layer: Layer, left: Tensor, right: Tensor) -> Solved:
    sigma = linalg.product_singular_values(left, right).cpu().numpy()
    bound = left.shape[1]
    # the rounding errors are those of the thin factors
    shape = (max(layer.shape), bound)
    measures = linalg.measures(sigma, shape=shape, dtype=layer.dtype)
    below = bool((sigma < measures["noise_floor"]).any())
    used = measures["numerical_rank"] / bound
    measures |= dict(zip(ADAPTER_MEASURES, (float(bound), used), strict=True))
    return Solved(sigma, measures, below, "factors")


def _of_many(
    solution: Solution, asked: SingularValues, dtype: str, norm: float | None = None
) -> Solve:
    """Many matrices of one shape."""
    many, *sides = asked.matrix.shape
    method = linalg.method_for(asked.matrix.dtype)
    shape = (sides[0], sides[1])
    each = None if norm is None else norm / many**0.5

    def solve() -> Solved:
        sigma = solution.get()
        several = [
            linalg.measures(s, shape=shape, dtype=dtype, uncentred_norm=each)
            for s in sigma
        ]
        table = {m: np.array([one[m] for one in several]) for m in linalg.MEASURES}
        measures = {m: float(np.median(values)) for m, values in table.items()}
        measures |= {f"{m}_min": float(v.min()) for m, v in table.items()}
        measures |= {f"{m}_max": float(v.max()) for m, v in table.items()}
        below = bool((sigma < table["noise_floor"][:, None]).any())
        median = np.median(sigma, axis=0).astype(sigma.dtype)
        return Solved(median, measures, below, method)

    return solve


def _names_of_many(measures: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the measures of many matrices."""
    return (
        *measures,
        *(f"{name}_min" for name in measures),
        *(f"{name}_max" for name in measures),
    )
