"""Spectra of many Jacobians at once.

They cost more than the Jacobians, so the road was chosen by measurement. CPU ms for
each matrix, one thread of a shared x86 core, torch 2.13 (MKL), numpy 2.4 (OpenBLAS):

=========================================  =========  =========  =========  =========
road, float32 input                        200 × 200  the same,  200 × 784  4096 × 32
                                           full rank  rank 100
=========================================  =========  =========  =========  =========
Gram in float64, then ``eigvalsh``, numpy  0.3 + 1.1  0.3 + 0.9  1.9 + 1.2  0.4 + 0.03
the same, torch                            0.4 + 1.3  0.5 + 1.0  1.6 + 1.3  0.4 + 0.03
``svdvals`` in float32, torch              1.9        1.7        7.8        1.8
``svd`` in float32, numpy                  2.0        1.8        5.7        2.3
``svdvals`` in float64, torch              2.3        2.0        11         2.9
=========================================  =========  =========  =========  =========

- ``eigvalsh`` of 200 × 200 is 0.6 ms of ``dsytrd`` and 0.3 … 0.5 ms of ``dsterf``. For
  the latter ``dstemr`` takes as long or longer (0.4 … 0.7), and ``dpteqr`` fails on
  tridiagonal matrices whose noise is negative.
- A pivoted Cholesky (``dpstrf``, 0.2 … 0.6 ms) would leave a matrix of the size of the
  rank. But it finds rank 170 where it is 100: rounding in float32 is well above what
  float64 resolves. Stopping earlier would lose small values in silence.
- A float32 Gram matrix costs a third but resolves 3e-4·σ₁ only.
- Products need no copy: a view of ``(k, n, m)`` has the strides that BLAS takes; made
  contiguous first, tall ones take 1.7 times as long.
- All samples of a first linear layer share one Jacobian, which is solved once.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from svdhooks.linalg import _solvers
from svdhooks.linalg.noise import GRAM_RESOLUTION
from svdhooks.linalg.spectrum import method_for, singular_values


def jacobian_spectra(
    products: Float[Tensor, "n m k"],
    factor: Float[Tensor, "k r"] | None = None,
    *,
    resolution: float | None = None,
    eps: float | None = None,
) -> Float[Tensor, "n r2"]:
    """Singular values of the Jacobians of many samples, descending.

    Args:
        products: The Jacobians, or their products with directions.
        factor: If given, the Jacobians are ``products @ factor``.
        resolution: Smallest ratio σ/σ₁ that must come out right.
        eps: Smallest absolute σ that must come out right. Jacobians of which either is
            below ``3e-8·√r·σ₁`` take the SVD.

    Returns:
        ``min(m, k)`` values, with a factor ``min(m, r)``: float32 for products of
        float32 or less, otherwise float64; NaN for a Jacobian with NaN or infinity.

    Raises:
        torch.linalg.LinAlgError: If a decomposition does not converge.
    """
    if _shared(products):
        # a first linear layer has one Jacobian for all samples
        one = jacobian_spectra(products[:1], factor, resolution=resolution, eps=eps)
        return one.repeat(len(products), 1)
    result = torch.float64 if products.dtype == torch.float64 else torch.float32
    if factor is not None:
        products = _solvers.double(products) @ _solvers.double(factor)
    # formed in float64, but no more exact than what it was formed from
    side = min(products.shape[1:])
    if result == torch.float64 or method_for(torch.float32, side, resolution) == "svd":
        return singular_values(_solvers.double(products)).to(result)
    sigma = _by_gram(products)
    if eps is not None:
        fine = eps < GRAM_RESOLUTION * side**0.5 * sigma[:, :1].sum(1)
        if fine.any():
            sigma[fine] = singular_values(_solvers.double(products[fine]))
    return sigma.to(result)


def _by_gram(products: Tensor) -> Float64[Tensor, "n r"]:
    """From the Gram matrices of the smaller side, some samples at once."""
    n, m, k = products.shape
    side = min(m, k)
    tall = products if m >= k else products.mT
    if side == 0 or n == 0:
        return _solvers.double(products.new_zeros(n, side))
    parts = []
    for part in torch.split(tall, max(1, _solvers.COPY_BYTES // (8 * m * k))):
        grams = _solvers.product(_solvers.double(part))
        # its diagonal holds the sums of squares: less to look at than all entries
        finite = grams.diagonal(dim1=-2, dim2=-1).isfinite().all(-1)
        if finite.all():
            parts.append(_solvers.eigenvalues(grams))
            continue
        # LAPACK would raise for all of them
        values = grams.new_full((len(grams), side), torch.nan)
        if finite.any():
            values[finite] = _solvers.eigenvalues(grams[finite])
        parts.append(values)
    return torch.cat(parts).flip(-1).clamp(min=0).sqrt()


def _shared(products: Tensor) -> bool:
    """Whether all samples, more than one, have the same."""
    if len(products) < 2 or not torch.equal(products[0], products[-1]):
        return False
    return torch.equal(products, products[:1].expand_as(products))
