"""Spectra of many Jacobians at once."""

import torch
from jaxtyping import Float
from torch import Tensor

from svdhooks.linalg import _solvers
from svdhooks.linalg.noise import GRAM_RESOLUTION
from svdhooks.linalg.spectrum import (
    gram,
    method_for,
    singular_values,
    spectrum_of_gram,
)


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
    sigma = spectrum_of_gram(gram(products))
    if eps is not None:
        fine = eps < GRAM_RESOLUTION * side**0.5 * sigma[:, :1].sum(1)
        if fine.any():
            sigma[fine] = singular_values(_solvers.double(products[fine]))
    return sigma.to(result)


def _shared(products: Tensor) -> bool:
    """Whether all samples, more than one, have the same."""
    if len(products) < 2 or not torch.equal(products[0], products[-1]):
        return False
    return torch.equal(products, products[:1].expand_as(products))
