"""What follows from the eigenvalues of a covariance."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from svdhooks import linalg
from svdhooks.linalg.problems import Eigenvalues
from svdhooks.linalg.units import UnitStatistics
from svdhooks.quantities.values import NON_FINITE, pack
from svdhooks.record import OK, Record
from svdhooks.solving import Solver

COVARIANCE_MEASURES = (
    "total_variance",
    "largest_eigenvalue",
    "mean_norm",
    "effective_rank",
    "variance_effective_rank",
    "participation_ratio",
    "stable_rank",
    "numerical_rank",
    "spectral_entropy",
    "count",
    "rank_limit",
    "noise_floor",
    "dead_fraction",
    "always_on_fraction",
    "dormant_fraction",
)


def as_measured(
    eigenvalues: NDArray[np.float64], dtype: torch.dtype
) -> NDArray[np.floating]:
    """float32 unless the samples were of more; what is too large becomes infinite."""
    if dtype in {torch.float64, torch.complex128}:
        return eigenvalues
    with np.errstate(over="ignore"):  # squares of what float32 still holds
        return eigenvalues.astype(np.float32)


def marks_of(
    eigenvalues: NDArray[np.float64], measures: Mapping[str, float], features: int
) -> tuple[str, ...]:
    """Reservations about a covariance spectrum."""
    # centring makes one eigenvalue of N samples zero: that is no noise
    possible = eigenvalues[: int(measures["rank_limit"])]
    marks = []
    if (possible < measures["noise_floor"]).any():
        marks.append("below_noise")
    if measures["count"] < 2 * features:
        marks.append("sample_limited")
    return tuple(marks)


class SeenPoint:
    """What was seen of one point: everything but the spectrum, which may come later.

    Args:
        accumulator: What passed the point.
        units: The same, unit by unit.
        dtype: Of the samples as the model computed them.
        solver: Finds the eigenvalues.

    Attributes:
        method: Which matrix is solved.
        shape: Samples and features.
    """

    def __init__(
        self,
        accumulator: linalg.CovarianceAccumulator,
        units: UnitStatistics,
        dtype: torch.dtype,
        solver: Solver,
    ) -> None:
        self.method = accumulator.method
        self.shape = (accumulator.count, accumulator.d)
        self._dtype = dtype
        self._solution = solver.submit(Eigenvalues(accumulator.matrix()))
        # now, and not later: on a GPU it would have to be waited for
        self._mean_norm = accumulator.mean_norm
        self._fractions = vars(units.fractions())

    def record(self, step: int, layer: str, quantity: str, point: str) -> Record:
        """Put together what was seen; waits for the spectrum.

        Args:
            step: Optimiser updates contained in the weights.
            layer: Name of the layer or tap.
            quantity: Under which it is filed.
            point: Name of the point.

        Returns:
            The record.
        """
        eigenvalues = self._solution.get()
        count, features = self.shape
        measures = self._measures(eigenvalues) | self._fractions
        finite = bool(np.isfinite(eigenvalues).all())
        return Record(
            step,
            layer,
            quantity,
            pack(as_measured(eigenvalues, self._dtype), measures),
            status=OK if finite and count else (NON_FINITE if count else "no samples"),
            method=self.method,
            point=point,
            marks=marks_of(eigenvalues, measures, features),
        )

    def _measures(self, eigenvalues: NDArray[np.float64]) -> dict[str, float]:
        """Scalar measures; ranks are of the centred samples' spectrum."""
        count, features = self.shape
        variance = float(eigenvalues.sum())
        ranks = linalg.measures(
            # of the centred samples over √N, as rounding errors are of the samples
            np.sqrt(eigenvalues),
            shape=self.shape,
            dtype=self._dtype,
            # the trace of E[xxᴴ]; from the samples it would take another pass over them
            uncentred_norm=(variance + self._mean_norm**2) ** 0.5,
        )
        own = {
            "total_variance": variance,
            "largest_eigenvalue": float(eigenvalues[0]) if eigenvalues.size else 0.0,
            "mean_norm": self._mean_norm,
            "count": float(count),
            "rank_limit": float(max(min(count - 1, features), 0)),
            # in units of the eigenvalues
            "noise_floor": ranks["noise_floor"] ** 2,
        }
        return {
            name: own.get(name, ranks.get(name, np.nan))
            for name in COVARIANCE_MEASURES
            if not name.endswith("_fraction")
        }
