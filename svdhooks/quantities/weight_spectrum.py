"""Singular values and ranks of each layer's weight."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor

from svdhooks import derived, linalg
from svdhooks.layers import Layer
from svdhooks.quantities.values import NON_FINITE, pack, unknown, with_measures
from svdhooks.record import OK, Record
from svdhooks.schedule import Schedule

ADAPTER_MEASURES = ("rank_bound", "rank_used")

_AT_ONCE = 2**23  # entries of the Gram matrices of experts or heads: 64 MiB


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
        return self.begin(layer, step, INLINE)()

    def begin(
        self, layer: Layer, step: int, solver: Solver
    ) -> Callable[[], Record | list[Record]]:
        """Read the weight now and measure it later.

        Args:
            layer: The layer.
            step: Optimiser updates contained in the weights.
            solver: Finds the singular values.

        Returns:
            Gives what `measure` gives, of the weight as it is now.
        """
        found = [_of_layer(layer, solver)]
        if self.heads and layer.heads:
            heads = SingularValues(layer.head_weights())
            found.append(_of_many(solver.submit(heads), heads, layer.dtype, "heads"))

        def finish() -> Record | list[Record]:
            records = [self._record(layer, step, solved()) for solved in found]
            return records if len(records) > 1 else records[0]

        return finish

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

    def _record(self, layer: Layer, step: int, solved: "Solved") -> Record:
        finite = bool(np.isfinite(solved.sigma).all())
        record = Record(
            step,
            layer.name,
            self.name,
            pack(solved.sigma, solved.measures),
            status=OK if finite else NON_FINITE,
            method=solved.method,
            point=solved.point,
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
    point: str = "weight"


_Finish = Callable[[], Solved]


def _of_layer(layer: Layer, solver: Solver) -> _Finish:
    if layer.factors is not None:  # thin: not worth a thread
        solved = _of_product(layer, *layer.factors())
        return lambda: solved
    return _of_weight(layer, layer.weight(), None, solver)


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
    return _of_weight(layer, weight, norm, INLINE)()


def _of_weight(
    layer: Layer, weight: Tensor, norm: float | None, solver: Solver
) -> _Finish:
    asked, shape, dtype = SingularValues(weight), layer.shape, layer.dtype
    method, solution = linalg.method_for(weight.dtype), solver.submit(asked)
    if layer.experts:
        return _of_many(solution, asked, dtype, "weight", norm)

    def finish() -> Solved:
        sigma = solution.get()
        if sigma.ndim > 1:  # the blocks of a block-diagonal map
            sigma = np.sort(sigma, axis=None)[::-1]
        measures = linalg.measures(sigma, shape=shape, dtype=dtype, uncentred_norm=norm)
        below = bool((sigma < measures["noise_floor"]).any())
        return Solved(sigma, measures, below, method)

    return finish


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
    solution: Solution,
    asked: SingularValues,
    dtype: str,
    point: str,
    norm: float | None = None,
) -> _Finish:
    """Many matrices of one shape."""
    many, *sides = asked.matrix.shape
    method = linalg.method_for(asked.matrix.dtype)

    def finish() -> Solved:
        return _summary(solution.get(), (sides[0], sides[1]), dtype, method, point, ...)

    return finish


def _names_of_many(measures: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the measures of many matrices."""
    return (
        *measures,
        *(f"{name}_min" for name in measures),
        *(f"{name}_max" for name in measures),
    )
