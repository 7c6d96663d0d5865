"""Leading singular values of a Jacobian that is only known by products, with an error."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from svdhooks.linalg import _jacobian_modes as modes
from svdhooks.linalg import _solvers
from svdhooks.linalg._jacobian_modes import Function, Method
from svdhooks.linalg._jacobian_spectra import jacobian_spectra


@dataclass(frozen=True)
class RefinedSpectra:
    """Leading singular values, from below, and by how much they may be too small.

    Attributes:
        sigma: ``σ(QᵀJ)``, descending; none is above the singular value of J that it
            stands for.
        error: With probability ``1 - 10^-probes`` for each sample
            ``σᵢ(J)² ≤ sigmaᵢ² + error²``, so ``σᵢ(J) ≤ sigmaᵢ + error``; and every
            singular value of J beyond these is at most ``error``.
    """

    sigma: Float[Tensor, "n r"]
    error: Float64[Tensor, " n"]


def refined_spectra(
    function: Function,
    at: Float[Tensor, "n ..."],
    name: str,
    products: Float[Tensor, "n m k"],
    probes: int = 8,
    *,
    method: Method = "forward",
    chunk: int | None = None,
    seed: int = 1,
) -> RefinedSpectra:
    """Refine a sketch ``J V`` from the other side: ``Q = orth(J V)``, then ``σ(QᵀJ)``.

    Costs k pullbacks of this layer and as many products as there are probes. The error
    is estimated a posteriori (Halko, Martinsson & Tropp 2011, eq. 4.3):
    ``‖(I - QQᵀ)J‖ ≤ 10·√(2/π)·max ‖(I - QQᵀ)J ω‖`` over standard normal ω.

    Args:
        function: What is differentiated.
        at: Where.
        name: The layer.
        products: ``J V`` of that layer.
        probes: Number of ω.
        method: How the products with ω are found.
        chunk: Directions held at once; None: all.
        seed: Of the ω; it must not be that of the directions.

    Returns:
        ``min(m, k, n_in)`` values per sample.

    Raises:
        ValueError: If there are no probes.
        RuntimeError: As PyTorch raises where something has no derivative.
    """
    if probes < 1:
        raise ValueError(f"Found {probes} probes, expected at least 1.")
    Q = torch.linalg.qr(_solvers.double(products)).Q
    covectors = Q.mT.to(products.dtype)
    point, outputs = modes.graph(function, at)
    z = outputs[name]
    if not z.requires_grad:
        zeros = Q.new_zeros(Q.shape[0])
        return RefinedSpectra(jacobian_spectra(torch.zeros_like(products)), zeros)
    (rows,) = modes.pullbacks(z, [point], covectors.transpose(0, 1), chunk)
    sigma = jacobian_spectra(rows.transpose(0, 1).flatten(2))
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(
        (probes, *at.shape), generator=generator, dtype=torch.float64
    ).to(at)
    only = lambda delta: {name: function(delta)[name]}  # noqa: E731
    seen = _solvers.double(modes.products_along(only, at, normal, method, chunk)[name])
    seen = seen.permute(1, 2, 0)
    left = seen - Q @ (Q.mT @ seen)
    left = left - Q @ (Q.mT @ left)  # twice, or its rounding errors stay in Q
    return RefinedSpectra(
        sigma, 10 * math.sqrt(2 / math.pi) * left.norm(dim=1).amax(-1)
    )
