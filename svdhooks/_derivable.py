"""Which measure follows from the spectrum of which point, how, and why from no other.

Does not import torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from svdhooks.linalg import _marchenko_pastur as law
from svdhooks.linalg import ranks, tail

MATRIX = ("weight", "update", "drift", "heads")
"""Points whose spectra are singular values."""

COVARIANCE = ("input", "output")
"""Points whose spectra are eigenvalues of a centred covariance; taps have one too."""

_BOTH = MATRIX + COVARIANCE

_NOISE = (
    "marchenko_pastur_edge",
    "outlier_count",
    "gavish_donoho_rank",
    "mp_soft_rank",
)

Rows = Float[np.ndarray, "rows n"]
Values = Float[np.ndarray, " rows"]


@dataclass(frozen=True)
class Spectra:
    """Finite spectra of one matrix: singular values, and what else is known.

    Attributes:
        sigma: As rows, descending; of a covariance √λ of all features.
        shape: Rows and columns of the matrix, (samples, features) of a covariance.
        count: Number of samples; None for a weight.
        resolution: Values up to this times σ₁ may be errors of the solver.
    """

    sigma: Rows
    shape: tuple[int, int] | None
    count: int | None = None
    resolution: float = 0.0

    def resolved(self) -> Rows:
        """``sigma`` with zeros for what may be an error of the solver."""
        # those follow no law of noise, and many of them move the median and the tail
        floor = self.resolution * self.sigma.max(axis=-1, keepdims=True, initial=0.0)
        return np.where(self.sigma > floor, self.sigma, 0.0)


@dataclass(frozen=True)
class Measure:
    """Fields that are computed together.

    Attributes:
        compute: The spectra -> one row of values per field.
        points: Of which points' spectra.
        why: Why not of the others.
    """

    compute: Callable[[Spectra], Mapping[str, NDArray[Any]]]
    points: tuple[str, ...] = _BOTH
    why: str = ""


def _each(name: str, function: Callable[..., Any], **options: Any) -> Any:
    return lambda matrix: {name: function(matrix.sigma, **options)}


def _entropy(matrix: Spectra) -> Mapping[str, NDArray[Any]]:
    # as recorded: a share of what min(N, d) values can reach
    size = min(matrix.shape) if matrix.shape and matrix.count is not None else None
    return {"spectral_entropy": ranks.spectral_entropy(matrix.sigma, size=size)}


def _rank_limit(matrix: Spectra) -> Mapping[str, NDArray[Any]]:
    if matrix.count is None:
        raise ValueError("rank_limit needs the number of samples: pass count=.")
    limit = max(min(matrix.count - 1, matrix.sigma.shape[-1]), 0)
    return {"rank_limit": np.full(len(matrix.sigma), float(limit))}


def _power_law(matrix: Spectra) -> Mapping[str, NDArray[Any]]:
    fits = [tail.power_law_alpha(row) for row in matrix.resolved()]
    return {
        "power_law_alpha": np.array([fit.alpha for fit in fits]),
        "power_law_ks_distance": np.array([fit.ks_distance for fit in fits]),
        "power_law_tail_size": np.array([float(fit.tail_size) for fit in fits]),
        "power_law_error": np.array([fit.standard_error for fit in fits]),
    }


def _noise(matrix: Spectra) -> Mapping[str, NDArray[Any]]:
    if matrix.shape is None:
        raise ValueError(
            "Measures of noise need the shape of the matrix: pass shape=(out, in) of a "
            "weight, count= of a covariance."
        )
    shape, sigma, samples = matrix.shape, matrix.resolved(), matrix.count
    if samples is not None:  # those themselves have √(N·λ), min(N, d) of them
        sigma = sigma[:, : min(shape)] * samples**0.5
    if sigma.shape[-1] % max(min(shape), 1):  # an adapter's r values are not all
        return dict.fromkeys(_NOISE, np.full(len(sigma), np.nan))
    noise = _noise_per_entry(sigma, shape)
    edge = tail.marchenko_pastur_edge(shape, noise)
    if samples is not None:  # in units of the spectrum that is recorded
        edge = edge**2 / samples
    others = (tail.outlier_count, tail.gavish_donoho_rank, tail.mp_soft_rank)
    values = (edge, *(measure(sigma, shape, noise) for measure in others))
    return dict(zip(_NOISE, values, strict=True))


def _noise_per_entry(sigma: Rows, shape: tuple[int, int]) -> Values:
    """As by default in ``tail``, but a block diagonal map has several times the values."""
    middle = np.median(sigma, axis=-1) if sigma.shape[-1] else np.zeros(len(sigma))
    small, large = min(shape), max(*shape, 1)
    noise: Values = middle / (large * law.median(small / large)) ** 0.5
    return noise


_OF_WEIGHTS = "of a covariance it is recorded under another name: "
_CENTRED = "defined for centred features, that is for 'input' and 'output'"
_POWER_LAW = (
    "power_law_alpha",
    "power_law_ks_distance",
    "power_law_tail_size",
    "power_law_error",
)


def _table() -> dict[str, Measure]:
    both = {
        name: Measure(_each(name, getattr(ranks, name)))
        for name in (
            "stable_rank",
            "effective_rank",
            "variance_effective_rank",
            "participation_ratio",
            "condition_number",
        )
    }
    return {
        "spectral_norm": Measure(
            _each("spectral_norm", ranks.spectral_norm),
            MATRIX,
            _OF_WEIGHTS + "largest_eigenvalue is its square",
        ),
        "frobenius_norm": Measure(
            _each("frobenius_norm", ranks.frobenius_norm),
            MATRIX,
            _OF_WEIGHTS + "total_variance is its square",
        ),
        "total_variance": Measure(
            _each("total_variance", lambda sigma: (sigma**2).sum(-1)),
            COVARIANCE,
            "of a matrix it is the square of frobenius_norm",
        ),
        "largest_eigenvalue": Measure(
            _each("largest_eigenvalue", lambda sigma: ranks.spectral_norm(sigma) ** 2),
            COVARIANCE,
            "of a matrix it is the square of spectral_norm",
        ),
        "rank_limit": Measure(
            _rank_limit, COVARIANCE, "of a weight it is in the table of layers"
        ),
        **both,
        "spectral_entropy": Measure(_entropy),
        "nuclear_ratio": Measure(_each("nuclear_ratio", tail.nuclear_ratio)),
        "saturation": Measure(
            _each("saturation", tail.saturation), COVARIANCE, _CENTRED
        ),
        "nesum": Measure(
            _each("nesum", tail.nesum),
            COVARIANCE,
            f"{_CENTRED}; of a matrix the same sum is stable_rank",
        ),
        "alpha_req": Measure(_each("alpha_req", tail.alpha_req), COVARIANCE, _CENTRED),
        **dict.fromkeys(
            _POWER_LAW,
            Measure(
                _power_law,
                MATRIX,
                "defined for weights; the decay of a covariance is alpha_req",
            ),
        ),
        **dict.fromkeys(
            _NOISE,
            Measure(
                _noise,
                tuple(point for point in _BOTH if point != "heads"),
                "the shape of one head is not in the log",
            ),
        ),
    }


MEASURES = _table()
"""Name -> how it is computed, from which points."""

FIELDS: tuple[str, ...] = tuple(MEASURES)
"""Names of the measures that a recorded spectrum gives."""

_NOT_IN_A_SPECTRUM = {
    "rankme": "RankMe is of uncentred embeddings, and recorded covariances are centred; "
    "effective_rank is the same measure, centred and without its epsilon",
    "numerical_rank": "it needs the precision of the samples, and is recorded",
    "noise_floor": "it needs the precision of the samples, and is recorded",
    "mean_norm": "a centred spectrum does not know the mean; it is recorded",
    "count": "it is recorded",
    "lidar": "it needs the views of each sample; svdhooks.LiDAR records it",
    "dead_fraction": "it needs the samples, and is recorded",
    "always_on_fraction": "it needs the samples, and is recorded",
    "dormant_fraction": "it needs the samples, and is recorded",
}

_NO_MATRIX = {
    "jacobian": "its spectrum is the mean over samples of the singular values of many "
    "Jacobians, which no matrix has; what is defined of each sample is recorded as a "
    "mean over them",
    "ledger": "the ledger has no spectrum",
}
"""Points that are known, and why nothing follows from what is recorded there."""


def why_not(field: str, point: str) -> str:
    """Why a measure does not follow from the spectra of a point.

    Args:
        field: Name of the measure.
        point: For example ``"weight"``.

    Returns:
        The reason in words; empty if it does follow.
    """
    if field not in MEASURES:
        return _NOT_IN_A_SPECTRUM.get(field, f"no measure {field!r} is known")
    if point not in _BOTH:
        unknown = f"what the spectrum of {point!r} consists of is not known here"
        return _NO_MATRIX.get(point, unknown)
    measure = MEASURES[field]
    return "" if point in measure.points else measure.why


def applicable(field: str, point: str) -> bool:
    """Whether a measure follows from the spectra of a point.

    Args:
        field: Name of the measure.
        point: For example ``"weight"``.

    Returns:
        False also for unknown names; ``why_not`` says why.
    """
    return not why_not(field, point)
