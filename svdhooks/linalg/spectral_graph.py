"""The spectral graph between layers: which singular vectors write what others read.

Singular Value Representation (Meller & Berkouk, AISTATS 2023, arXiv 2302.08183): a layer
``A = U S Vᴴ`` is a set of spectral neurons, the triplets; an edge joins the left vector
of one layer to the right vector of the next by the square of their inner product.
Nonlinearities, pooling, biases and batch norms between the layers are ignored.
"""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Inexact, Shaped
from torch import Tensor

from svdhooks.linalg import _solvers
from svdhooks.linalg._graph_null import (
    NULLS,
    edge_p_values,
    significance_threshold,
    tail_probability,
    to_numpy,
)
from svdhooks.linalg._graph_vectors import (
    as_readers,
    checked,
    left_vectors,
    right_vectors,
)
from svdhooks.linalg._kinds import tensor

__all__ = [
    "NULLS",
    "edge_p_values",
    "fold_batch_norm",
    "internal_dimensions",
    "kernel_matrix",
    "left_vectors",
    "neuron_intensity",
    "right_vectors",
    "significance_threshold",
    "spectral_adjacency",
    "tail_probability",
    "vector_adjacency",
]

BLOCK_BYTES = _solvers.COPY_BYTES
"""Bound on the products that `vector_adjacency` holds at one time."""


def spectral_adjacency(
    earlier_weight: Shaped[Tensor, "out in *kernel"],
    later_weight: Shaped[Tensor, "out2 in2 *kernel2"],
    kind: Literal["svr", "cosvr"] = "svr",
) -> Float64[Tensor, "later earlier"]:
    """How strongly each spectral neuron of a layer feeds each one of the next.

    ``svr`` flattens a kernel to ``out × (in · positions)``; the entry (n, m) is
    ``Σ_z (Σ_k u_km v_kzn)²``, over the positions z of the later kernel, and of two fully
    connected layers ``⟨v_n, u_m⟩²``. ``cosvr`` flattens to ``(out · positions) × in``; z
    are then the positions of the earlier kernel. Singular values do not enter. The
    SVDs are full. Vectors of equal singular values, those of value 0 among them, are an
    arbitrary basis of their span.

    Memory: up to some 10 float64 copies of the larger layer, most of them for LAPACK,
    and the result; 1.4 GB for two layers of 4096 × 4096.

    Args:
        earlier_weight: ``(out, in)`` or ``(out, in, *kernel)``, as torch holds it.
        later_weight: The same, of the layer that reads the earlier one's output. After
            a convolution a fully connected layer may read the flattened map, channel
            by channel as ``torch.flatten`` has it.
        kind: ``"svr"`` or ``"cosvr"``.

    Returns:
        One row for each singular vector of the later layer, one column for each of the
        earlier; entries in [0, 1].

    Raises:
        TypeError: If one is no tensor, or its entries are integers or booleans.
        ValueError: If the shapes do not fit, an entry is not finite, or the kind is
            unknown.
        torch.linalg.LinAlgError: If a decomposition does not converge.
    """
    readers = _readers(earlier_weight, later_weight)
    if kind == "svr":
        U = left_vectors(earlier_weight.flatten(1))
        return vector_adjacency(U, right_vectors(readers.flatten(1)))
    if kind != "cosvr":
        raise ValueError(f"Found kind={kind!r}, expected 'svr' or 'cosvr'.")
    U = left_vectors(_positions_with_outputs(earlier_weight))
    Vh = right_vectors(_positions_with_outputs(readers))
    # the same sum with the parts of the two exchanged: now U has the positions
    return vector_adjacency(Vh.mT, U.mT).mT


def kernel_matrix(
    earlier_weight: Shaped[Tensor, "out in *kernel"],
    later_weight: Shaped[Tensor, "out2 in2 *kernel2"],
) -> Float64[Tensor, "later earlier"]:
    """``|coV U|``: left vectors of a layer against plain right vectors of the next.

    Not squared. Blocks of it are input spaces that the next layer keeps apart, which
    Meller & Berkouk found in networks with batch norm. The right vectors are those of
    the next kernel flattened to ``(out · positions) × in``.

    Args:
        earlier_weight: ``(out, in)`` or ``(out, in, *kernel)``.
        later_weight: The same, of the next layer.

    Returns:
        Entries in [0, 1]; the square of one is Beta(1/2, (out − 1)/2) by chance.

    Raises:
        TypeError: If the entries are integers or booleans.
        ValueError: If the shapes do not fit or an entry is not finite.
        torch.linalg.LinAlgError: If a decomposition does not converge.
    """
    readers = _readers(earlier_weight, later_weight)
    U = left_vectors(earlier_weight.flatten(1))
    Vh = right_vectors(_positions_with_outputs(readers))
    dtype = torch.promote_types(U.dtype, Vh.dtype)
    return (Vh.to(dtype) @ U.to(dtype)).abs().clamp(max=1.0)


def vector_adjacency(
    U: Inexact[Tensor, "c m"], Vh: Inexact[Tensor, "n cz"]
) -> Float64[Tensor, "n m"]:
    """The adjacency from singular vectors: ``Σ_z |Σ_k Vh[n, k, z] U[k, m]|²``.

    Beside the result and U in double precision it holds at most 32 MiB at one time, or
    the products of one row of Vh if these are more.

    Args:
        U: Left vectors of the earlier layer, one per column.
        Vh: Right vectors of the later layer, conjugated as an SVD returns them, one per
            row; its c·z entries are ordered channel by channel.

    Returns:
        Entries in [0, 1] for vectors of length 1.

    Raises:
        ValueError: If the later vectors are no multiple of the earlier ones in length.
    """
    c, m = tensor(U, "left vectors").shape
    n, width = tensor(Vh, "right vectors").shape
    if not c or width % c:
        raise ValueError(
            f"Found left vectors of {c} entries and right vectors of {width}; expected "
            "a multiple: one entry for each feature and position."
        )
    z = width // c
    either = torch.promote_types(U.dtype, Vh.dtype)
    U = _solvers.double(U).to(torch.promote_types(either, torch.float64))
    found = U.new_empty((n, m), dtype=torch.float64)
    per_row = U.element_size() * max(z * 2 * (c + m), 1)
    for start in range(0, n, size := max(BLOCK_BYTES // per_row, 1)):
        rows = _solvers.double(Vh[start : start + size]).to(U)
        # one product: a batch of them would be a matrix and a vector, again and again
        inner = rows.reshape(len(rows), c, z).mT.reshape(len(rows) * z, c) @ U
        inner = inner.abs() if inner.is_complex() else inner
        found[start : start + size] = inner.square_().reshape(len(rows), z, m).sum(1)
    return found.clamp_(max=1.0)  # 1 + 1e-16 is a rounding error


def internal_dimensions(
    adjacency: Shaped[Any, "later earlier"],
    features: int | None = None,
    zero_based: bool = False,
) -> tuple[int, int]:
    """How many leading neurons of two layers form the block that is joined.

    ``argmax_ij (Σ_{k ≤ i, l ≤ j} A_kl − i·j/c)``: the block with the largest excess over
    chance. The first one where several are equal.

    Args:
        adjacency: Entries in [0, 1], a tensor or an array.
        features: c, the features between the layers; None: the longer side of the
            adjacency, which is right wherever one of the weights is square (flattened).
        zero_based: Count from 0, as the figures published with the method do.

    Returns:
        The number of neurons of the later layer (d_out) and of the earlier one (d_in).

    Raises:
        ValueError: If the adjacency is empty, no matrix, or has entries that are not
            finite.
    """
    A, c = _read(adjacency, features)
    excess = np.cumsum(np.cumsum(A, axis=0), axis=1)
    excess -= np.outer(_counts(A.shape[0]), _counts(A.shape[1])) / c
    # sums of up to 4096² entries agree to this only, and ties go to the smaller block
    slack = 4 * np.finfo(np.float64).eps * sum(A.shape) * max(1.0, excess.max())
    first = int(np.argmax(excess >= excess.max() - slack))
    later, earlier = divmod(first, A.shape[1])
    return later + (not zero_based), earlier + (not zero_based)


def neuron_intensity(
    adjacency: Shaped[Any, "later earlier"], features: int | None = None
) -> Float[Any, " earlier"]:
    """How much each spectral neuron of a layer feeds the leading ones of the next.

    ``max_i (Σ_{k ≤ i} A_kj − i/c)``, divided by the largest of the layer.

    Args:
        adjacency: Entries in [0, 1], a tensor or an array.
        features: c, as in `internal_dimensions`.

    Returns:
        At most 1; not positive for a neuron that feeds less than chance has it. Zeros
        if all of them are so.

    Raises:
        ValueError: If the adjacency is empty, no matrix, or has entries that are not
            finite.
    """
    A, c = _read(adjacency, features)
    excess = (np.cumsum(A, axis=0) - _counts(A.shape[0])[:, None] / c).max(axis=0)
    top = excess.max()
    scaled = excess / top if top > 0 else np.zeros_like(excess)
    return torch.from_numpy(scaled) if isinstance(adjacency, Tensor) else scaled


def fold_batch_norm(
    weight: Shaped[Tensor, "out in *kernel"],
    gamma: Shaped[Tensor, " out"] | None,
    variance: Shaped[Tensor, " out"],
    eps: float = 1e-5,
) -> Float[Tensor, "out in *kernel"]:
    """A weight together with the batch norm after it: ``diag(γ/√(var + eps)) W``.

    An extension: the paper drops batch norms, also where its networks have them.

    Args:
        weight: ``(out, in)`` or ``(out, in, *kernel)``.
        gamma: The norm's weight; None where it has none.
        variance: Its running variance.
        eps: What it adds to that.

    Returns:
        The folded weight, float64.

    Raises:
        TypeError: If the entries are integers or booleans.
        ValueError: If the sizes differ, or a variance is negative or not finite.
    """
    double = checked(weight)
    scale = _solvers.double(tensor(variance, "variances"))
    if scale.shape != weight.shape[:1] or (
        gamma is not None and gamma.shape != scale.shape
    ):
        raise ValueError(
            f"Found a weight with {len(weight)} outputs and a batch norm with "
            f"{tuple(variance.shape)} variances; expected one for each output."
        )
    if not bool((torch.isfinite(scale) & (scale + eps > 0)).all()):
        raise ValueError("Found a variance that is not positive and finite.")
    scale = (scale + eps).rsqrt()
    scale = scale if gamma is None else scale * _solvers.double(gamma)
    return double * scale.reshape(-1, *(1 for _ in weight.shape[1:]))


def _readers(earlier: Tensor, later: Tensor) -> Tensor:
    """The later weight as (out, features, positions), both of them checked."""
    for weight in (earlier, later):
        if tensor(weight, "a weight").ndim < 2:
            checked(weight)
    return as_readers(later, len(earlier), earlier.ndim > 2)


def _positions_with_outputs(weight: Tensor) -> Tensor:
    """(out, in, *kernel) as (out · positions, in), output by output."""
    moved = weight.movedim(1, -1)
    return moved.reshape(moved.shape[:-1].numel(), weight.shape[1])


def _read(adjacency: Any, features: int | None) -> tuple[np.ndarray, int]:
    A = to_numpy(adjacency)
    if A.ndim != 2 or not A.size or not np.isfinite(A).all():
        raise ValueError(
            f"Found an adjacency of shape {A.shape}, expected a matrix (later, earlier) "
            "that is not empty and holds finite numbers."
        )
    if features is not None and features < 1:
        raise ValueError(f"Found {features} features, expected one at least.")
    return A, max(A.shape) if features is None else features


def _counts(n: int) -> np.ndarray:
    return np.arange(1, n + 1, dtype=np.float64)
