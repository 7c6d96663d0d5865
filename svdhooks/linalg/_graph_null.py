"""What the edges of a spectral graph are by chance: exact laws, and the paper's.

Of unit vectors that are independent and uniform on their spheres, an entry of the
adjacency is the squared length of the projection of one onto z of its c·z dimensions:
Beta(z/2, (c − 1)z/2). The paper (Meller & Berkouk 2023) takes χ²(z)/(c·z), which has the
same mean 1/c, is too wide for small layers, and exceeds 1.
"""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

NULLS = ("beta", "chi2")


def significance_threshold(
    features: int,
    kernel: int = 1,
    sigma: float = 3.0,
    null: str = "beta",
    p: float | None = None,
) -> float:
    """The value that an entry of the adjacency exceeds by chance with probability p.

    There is no correction for the number of entries: of an adjacency of unrelated
    layers ``p · entries`` exceed it on average.

    Args:
        features: c, the features between the layers: outputs of the earlier one.
        kernel: z, the number of kernel positions (9 for 3 × 3), or of spatial positions
            of a flattened map; twice that if vectors are complex.
        sigma: The tail as that of a normal distribution on one side,
            ``p = 1 − Φ(sigma)``: 3 is 0.00135.
        null: ``"beta"``, exact, or ``"chi2"``, the paper's, which can exceed 1: then no
            edge is significant.
        p: The tail itself; it replaces ``sigma``.

    Returns:
        The threshold. With one feature all entries are 1, so it is 1: an edge must
        exceed it.

    Raises:
        ValueError: If there are no features or positions, the null is unknown, sigma is
            not finite, or p is not between 0 and 1.
    """
    _check(features, kernel, null)
    tail = tail_probability(sigma, p)
    from scipy import stats  # takes half a second

    if null == "chi2":
        return float(stats.chi2.isf(tail, kernel)) / (kernel * features)
    if features == 1:
        return 1.0
    return float(stats.beta.isf(tail, kernel / 2, (features - 1) * kernel / 2))


def tail_probability(sigma: float = 3.0, p: float | None = None) -> float:
    """The tail that is meant by a number of standard deviations, or given.

    Args:
        sigma: Of a normal distribution, on one side.
        p: The tail itself; it replaces ``sigma``.

    Returns:
        A probability.

    Raises:
        ValueError: If sigma is not finite, or p is not between 0 and 1.
    """
    if p is None:
        if not math.isfinite(sigma):
            raise ValueError(f"Found sigma={sigma}, expected a finite number.")
        return math.erfc(sigma / math.sqrt(2)) / 2
    if not 0 < p < 1:
        raise ValueError(f"Found p={p}, expected a probability between 0 and 1.")
    return p


def edge_p_values(
    adjacency: Shaped[Any, "*shape"],
    features: int,
    kernel: int = 1,
    null: str = "beta",
) -> Float[Any, "*shape"]:
    """Probability that an entry is at least as large by chance, one by one.

    Args:
        adjacency: Entries in [0, 1], a tensor or an array.
        features: c, as in `significance_threshold`.
        kernel: z, as there.
        null: ``"beta"`` or ``"chi2"``.

    Returns:
        p-values in float64, of the kind that was given. What is below 1e-308 reads 0.
        With one feature they are 1: such an edge says nothing.

    Raises:
        ValueError: If there are no features or positions, or the null is unknown.
    """
    _check(features, kernel, null)
    is_tensor = isinstance(adjacency, Tensor)
    values = to_numpy(adjacency)
    from scipy import special

    if null == "chi2":
        found = special.chdtrc(kernel, values * (kernel * features))
    elif features == 1:
        found = np.where(np.isnan(values), np.nan, 1.0)
    else:
        # the complement itself: 1 − betainc would be 0 from 1e-16 on
        clipped = np.clip(values, 0.0, 1.0)
        found = special.betaincc(kernel / 2, (features - 1) * kernel / 2, clipped)
    return torch.from_numpy(np.asarray(found)) if is_tensor else np.asarray(found)


def to_numpy(values: Shaped[Any, "..."]) -> NDArray[np.float64]:
    """A tensor or an array, in float64.

    Args:
        values: Real numbers.

    Returns:
        An array; not a copy where it is one already.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def _check(features: int, kernel: int, null: str) -> None:
    if features < 1 or kernel < 1:
        raise ValueError(
            f"Found {features} features and {kernel} positions, expected one of each at "
            "least."
        )
    if null not in NULLS:
        raise ValueError(f"Found null={null!r}, expected one of {', '.join(NULLS)}.")
