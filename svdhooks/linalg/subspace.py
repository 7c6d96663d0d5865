"""Leading singular subspaces, and how much of another matrix lies in them."""

from dataclasses import dataclass

import torch
from jaxtyping import Inexact
from torch import Tensor

from svdhooks.linalg import _solvers
from svdhooks.linalg.spectrum import gram


@dataclass(frozen=True)
class Leading:
    """The k leading singular triplets of a matrix, in float64.

    Attributes:
        U: Left singular vectors, ``(m, k)``.
        sigma: Singular values, descending, ``(k,)``.
        Vh: Right singular vectors, ``(k, n)``.
    """

    U: Inexact[Tensor, "m k"]
    sigma: Inexact[Tensor, " k"]
    Vh: Inexact[Tensor, "k n"]


def leading_triplets(A: Inexact[Tensor, "m n"], k: int) -> Leading:
    """The k leading singular triplets, through the Gram matrix of the smaller side.

    Args:
        A: A matrix of any floating or complex dtype.
        k: How many; at most min(m, n) are found.

    Returns:
        The triplets. The largest entry of each column of U is positive (real, for a
        complex matrix), so that two runs agree on the signs. A value below
        ``3e-8·√n·σ₁`` counts as none, and its triplet is left out: the Gram matrix does
        not resolve its vectors.

    Raises:
        torch.linalg.LinAlgError: If the decomposition does not converge.
    """
    m, n = A.shape
    double = A.detach().to(torch.complex128 if A.is_complex() else torch.float64)
    values, vectors = _solvers.eigenpairs(gram(A))
    values, vectors = values.flip(-1)[:k], vectors.flip(-1)[:, :k]
    sigma = values.clamp(min=0).sqrt()
    top = float(sigma.max()) if sigma.numel() else 0.0
    kept = int((sigma > 3e-8 * min(m, n) ** 0.5 * top).sum())
    sigma, vectors = sigma[:kept], vectors[:, :kept]
    # the vectors of the larger side follow, to the precision of σ
    if m >= n:
        V, images = vectors, _solvers.times(double, vectors)
        U = _solvers.orthonormal(images / sigma) if kept else double[:, :0]
        U = U * _phase((U.conj() * images).sum(0))
    else:
        U, images = vectors, _solvers.times(double.mH, vectors)
        V = _solvers.orthonormal(images / sigma) if kept else double.mH[:, :0]
        V = V * _phase((V.conj() * images).sum(0))
    sign = _signs(U)
    return Leading(U * sign.conj(), sigma, (V * sign.conj()).mH)


def all_triplets(A: Inexact[Tensor, "m n"]) -> Leading:
    """All min(m, n) singular triplets, by an SVD: also those of tiny singular values.

    Args:
        A: A matrix of finite numbers, of any floating or complex dtype.

    Returns:
        The triplets, with signs as of `leading_triplets`.

    Raises:
        torch.linalg.LinAlgError: If the decomposition does not converge.
    """
    U, sigma, Vh = _solvers.svd(_solvers.double(A))
    sign = _signs(U)
    return Leading(U * sign.conj(), sigma, sign[:, None] * Vh)


@dataclass(frozen=True)
class Alignment:
    """Shares of ‖A‖_F² in the leading singular subspaces of another matrix.

    For a matrix that knows nothing of the other one they are ``k/m``, ``k/n`` and
    ``k²/(m·n)`` on average.

    Attributes:
        left: ``‖UᵀA‖²/‖A‖²``: the share within the leading left subspace.
        right: ``‖AV‖²/‖A‖²``: that within the right one.
        both: ``‖UᵀAV‖²/‖A‖²``.
        diagonal: ``Σ (uᵢᵀAvᵢ)²/‖A‖²``: what changes those singular values alone, to
            first order.
    """

    left: float
    right: float
    both: float
    diagonal: float


def alignment(A: Inexact[Tensor, "m n"], leading: Leading) -> Alignment:
    """How much of A lies in the leading singular subspaces of another matrix.

    Args:
        A: For example an update of the weights.
        leading: Triplets of the other matrix, for example of the weights before it.

    Returns:
        The shares, 0 … 1; NaN for a matrix of zeros.
    """
    double = A.detach().to(leading.U.dtype)
    total = float(double.abs().square().sum())
    if total == 0.0:
        return Alignment(*4 * (float("nan"),))
    left = leading.U.mH @ double
    both = left @ leading.Vh.mH

    def share(part: Tensor) -> float:
        return float(part.abs().square().sum()) / total

    right = double @ leading.Vh.mH
    return Alignment(share(left), share(right), share(both), share(both.diagonal()))


def attention_logit_bound(
    query: Inexact[Tensor, "rows d"],
    key: Inexact[Tensor, "key_rows d_key"],
    heads: int,
    key_heads: int | None = None,
) -> Inexact[Tensor, " heads"]:
    """σ₁(W_QᵀW_K) of each head: how large attention logits can become.

    ``|xᵀW_QᵀW_K y| ≤ σ₁·‖x‖·‖y‖``. The d × d product is not formed: its singular values
    are those of ``G_Q^½ G_K^½``, with the Gram matrices of the head's rows. Biases,
    rotary embeddings and norms of queries and keys are not in it.

    Args:
        query: Rows head by head, ``heads · head_dim`` of them.
        key: The same for ``key_heads``.
        heads: Number of query heads.
        key_heads: Number of key heads, each of which serves ``heads / key_heads`` query
            heads that follow each other; None: as many.

    Returns:
        One bound per query head, float64; without the factor 1/√head_dim.

    Raises:
        ValueError: If the rows do not divide into heads.
    """
    key_heads = heads if key_heads is None else key_heads
    if heads < 1 or key_heads < 1 or heads % key_heads:
        raise ValueError(
            f"Found {heads} query heads and {key_heads} key heads; expected a multiple."
        )
    if query.shape[0] % heads or key.shape[0] % key_heads:
        raise ValueError(
            f"Found {query.shape[0]} and {key.shape[0]} rows, which do not divide into "
            f"{heads} and {key_heads} heads."
        )
    of_queries = _row_grams(query, heads)
    of_keys = _row_grams(key, key_heads).repeat_interleave(heads // key_heads, 0)
    if of_queries.shape != of_keys.shape:
        raise ValueError(
            f"Found heads of {of_queries.shape[-1]} and {of_keys.shape[-1]} rows; "
            "expected as many for queries as for keys."
        )
    root = _root(of_queries)
    # the squares of the singular values of W_QᵀW_K, for each head
    values = _solvers.eigenvalues(root @ of_keys @ root)
    bounds: Tensor = values[:, -1].clamp(min=0).sqrt()
    return bounds


def _row_grams(weight: Tensor, heads: int) -> Tensor:
    """``W_h W_hᴴ`` of the rows of each head, float64."""
    double = weight.detach().to(
        torch.complex128 if weight.is_complex() else torch.float64
    )
    blocks = double.reshape(heads, -1, weight.shape[1])
    grams: Tensor = blocks @ blocks.mH
    return grams


def _root(grams: Tensor) -> Tensor:
    """Positive semi-definite square roots."""
    values, vectors = _solvers.eigenpairs(grams)
    root: Tensor = vectors * values.clamp(min=0).sqrt().unsqueeze(-2) @ vectors.mH
    return root


def _signs(U: Tensor) -> Tensor:
    """Sign, or phase, of the largest entry of each column."""
    if 0 in U.shape:
        return torch.ones(U.shape[1], dtype=U.dtype, device=U.device)
    return _phase(U.gather(0, U.abs().argmax(0, keepdim=True))[0])


def _phase(values: Tensor) -> Tensor:
    """Sign, or phase, of each; 1 for zero."""
    size = values.abs()
    return torch.where(size > 0, values / torch.where(size > 0, size, 1.0), 1.0)
