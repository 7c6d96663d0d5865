"""How similar two networks' singular vectors are, up to what does not change a network.

A network does not fix its singular vectors: each pair (u, v) may turn its sign, vectors of
nearly equal singular values mix, and hidden units may be renumbered. Signs are squared
away; spans are compared instead of vectors that mix; units are matched first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor

GAP = 0.02
"""Relative distance of neighbouring singular values whose vectors can be told apart."""

Spans = Sequence[tuple[int, int]]


def spans(sigma: Float[Tensor, " k"], gap: float = GAP) -> tuple[tuple[int, int], ...]:
    """Group singular values that are too close to tell their vectors apart.

    Args:
        sigma: Descending.
        gap: Neighbours belong together if ``σᵢ - σᵢ₊₁ < gap·σᵢ``, and if both are 0.

    Returns:
        ``(start, stop)`` of each group, in order.
    """
    values = sigma.detach().double()
    apart = (values[:-1] - values[1:] >= gap * values[:-1]) & (values[:-1] > 0)
    cuts = (torch.nonzero(apart)[:, 0] + 1).tolist()
    return tuple(pairwise([0, *cuts, len(values)])) if len(values) else ()


def joined(first: Spans, second: Spans) -> tuple[tuple[int, int], ...]:
    """The finest grouping whose borders are borders of both.

    Args:
        first: Of the numbers from 0 on, in order.
        second: The same.

    Returns:
        ``(start, stop)`` of each group, up to where the shorter one ends.
    """
    shared = {stop for _, stop in first} & {stop for _, stop in second}
    end = min(max((stop for _, stop in s), default=0) for s in (first, second))
    inner = sorted(stop for stop in shared if stop < end)
    return tuple(pairwise([0, *inner, end])) if end else ()


@dataclass(frozen=True)
class Overlap:
    """Share of the smaller of two spans within the larger one.

    Attributes:
        score: Mean squared cosine, 0 to 1.
        chance: Its mean for directions drawn at random.
    """

    score: float
    chance: float


def leading_overlap(
    A: Float[Tensor, "n j"],
    B: Float[Tensor, "n l"],
    k: int,
    spans_a: Spans,
    spans_b: Spans,
) -> Overlap:
    """Compare the spans of the leading k singular vectors of two matrices.

    Where k falls inside a group, all of the group is taken: the first vectors of a group
    are no span of the matrix. With a flat spectrum the whole row space is compared, and
    the chance level says so.

    Args:
        A: Orthonormal columns.
        B: The same, of vectors as long.
        k: How many, at least 1.
        spans_a: The groups of A's columns (``spans``).
        spans_b: Those of B's.

    Returns:
        The overlap; its chance is that of Haar columns, the larger count over n.
    """
    ka, kb = _reach(k, spans_a), _reach(k, spans_b)
    return Overlap(orthonormal_overlap(A[:, :ka], B[:, :kb]), max(ka, kb) / A.shape[0])


def orthonormal_overlap(A: Float[Tensor, "n j"], B: Float[Tensor, "n l"]) -> float:
    """``subspace_overlap`` of columns that are orthonormal already: without a QR.

    Args:
        A: Orthonormal columns.
        B: The same, of vectors as long.

    Returns:
        ``‖AᵀB‖²_F / min(j, l)``, 0 … 1.
    """
    shared = float((A.mT @ B).square().sum())
    return min(1.0, shared / min(A.shape[1], B.shape[1]))


def _reach(k: int, groups: Spans) -> int:
    return next((stop for _, stop in groups if stop >= k), groups[-1][1])


def vector_cosines(
    A: Float[Tensor, "n j"], B: Float[Tensor, "n l"], groups: Spans
) -> Float[Tensor, " k"]:
    """|cos| between vectors of the same place, or the principal cosines within a group.

    Args:
        A: Orthonormal columns.
        B: The same, of vectors as long.
        groups: Of the columns of both (``joined``).

    Returns:
        0 to 1, one for each place; in a group descending. Two random vectors have
        0.8/√n on average, those of groups more.
    """
    found = [torch.linalg.svdvals(A[:, a:b].mT @ B[:, a:b]) for a, b in groups]
    return torch.cat(found).clamp(max=1.0) if found else A.new_zeros(0)


def block_correlation(
    A: Float[Tensor, "n m"],
    B: Float[Tensor, "n m"],
    rows: Spans,
    columns: Spans,
) -> float:
    """Correlate two adjacencies |V_{l+1}ᵀU_l|², summed over vectors that mix.

    The sum over a pair of groups is the overlap of two spans, which no rotation within
    them changes; it is divided by the number of its entries.

    Args:
        A: One adjacency.
        B: The other.
        rows: Groups of the later layer's vectors.
        columns: Groups of the earlier layer's vectors.

    Returns:
        Pearson's coefficient, -1 to 1, on average 0 by chance; NaN with fewer than four
        entries, or if all are equal.
    """
    first, second = (_block_means(M, rows, columns).flatten() for M in (A, B))
    if len(first) < 4:
        return float("nan")
    first, second = first - first.mean(), second - second.mean()
    scale = float(first.norm() * second.norm())
    # entries that differ by rounding alone are equal
    if scale < 1e-14 * len(first):
        return float("nan")
    return float(first @ second) / scale


def _block_means(M: Tensor, rows: Spans, columns: Spans) -> Tensor:
    by_row = torch.stack([M[a:b].mean(0) for a, b in rows])
    return torch.stack([by_row[:, a:b].mean(1) for a, b in columns], dim=1)


def match_units(
    activations: Float[Tensor, "n d"], others: Float[Tensor, "n d"]
) -> Int64[Tensor, " d"]:
    """Find which unit of another network does what each unit of the first one does.

    Of all one-to-one matches it is that with the largest sum of correlations over samples
    (the Hungarian algorithm; Li et al. 2016, "Convergent Learning", arXiv:1511.07543).

    Args:
        activations: Of the first network's units.
        others: Of the other's, on the same samples. A unit that is constant correlates
            with nothing.

    Returns:
        The other network's unit for each of the first one's.
    """
    from scipy.optimize import linear_sum_assignment

    gain = _standard(activations).mT @ _standard(others)
    _, places = linear_sum_assignment(gain.cpu().numpy(), maximize=True)
    return torch.from_numpy(places).to(torch.int64)


def _standard(values: Tensor) -> Tensor:
    centred = _centred(values)
    size = centred.norm(dim=0)
    return centred / torch.where(size > 0, size, 1.0)


def _centred(values: Tensor) -> Tensor:
    """Without the means; what a constant column leaves, rounding errors, is zero."""
    double = values.double()
    centred = double - double.mean(0)
    noise = 1e-14 * double.abs().amax(0)
    return torch.where(centred.abs().amax(0) > noise, centred, 0.0)


def linear_cka(A: Float[Tensor, "n d"], B: Float[Tensor, "n e"]) -> float:
    """Linear centred kernel alignment of two representations of the same samples.

    Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited",
    arXiv:1905.00414: ``‖AᵀB‖² / (‖AᵀA‖·‖BᵀB‖)`` of centred columns.

    Args:
        A: One representation.
        B: The other.

    Returns:
        0 to 1; NaN if one is constant.
    """
    A, B = _centred(A), _centred(B)
    scale = float((A.mT @ A).norm() * (B.mT @ B).norm())
    return float((A.mT @ B).square().sum()) / scale if scale else float("nan")
