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
    powers: int = 1,
    method: Method = "forward",
    chunk: int | None = None,
    seed: int = 1,
) -> RefinedSpectra:
    """Refine a sketch ``J V`` from the other side: ``Q = orth(J V)``, then ``σ(QᵀJ)``.

    Costs k pullbacks of this layer, and for the error ``1 + 2·powers`` products with
    each probe. The error is estimated a posteriori (Halko, Martinsson & Tropp 2011,
    eq. 4.3): for standard normal ω, ``‖B‖ ≤ 10·√(2/π)·max ‖B ω‖``. With
    ``E = (I - QQᵀ)J`` and ``B = (EEᵀ)^powers E`` the root of order ``1 + 2·powers`` is
    taken, which shrinks the factor and lets the largest singular value prevail.

    Args:
        function: What is differentiated.
        at: Where.
        name: The layer.
        products: ``J V`` of that layer.
        probes: Number of ω.
        powers: Of ``EEᵀ`` in the estimate; 0 is the estimate of the paper.
        method: How products with J are found.
        chunk: Directions held at once; None: all.
        seed: Of the ω; it must not be that of the directions.

    Returns:
        ``min(m, k, n_in)`` values per sample.

    Raises:
        ValueError: If there are no probes or a negative power.
        RuntimeError: As PyTorch raises where something has no derivative.
    """
    if probes < 1 or powers < 0:
        raise ValueError(
            f"Found {probes} probes and {powers} powers, expected at least 1 and 0."
        )
    jacobian = _Jacobian(function, at, name, method, chunk)
    Q = torch.linalg.qr(_solvers.double(products)).Q
    sigma = jacobian_spectra(jacobian.pull(Q).mT.to(at.dtype))
    generator = torch.Generator().manual_seed(seed)
    shape = (len(at), at[:1].numel(), probes)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    seen, logs = normal.to(Q.device), Q.new_zeros(len(at), probes)
    for turn in range(1 + powers):
        seen = jacobian.pull(seen) if turn else seen
        seen = _beside(Q, jacobian.push(seen))
        norms = seen.norm(dim=1)
        logs = logs + norms.log()
        # to length 1 before J comes again, or powers of small numbers underflow
        seen = seen / torch.where(norms > 0, norms, 1.0).unsqueeze(1)
    bound = math.log(10 * math.sqrt(2 / math.pi)) + logs.amax(-1)
    return RefinedSpectra(sigma, (bound / (1 + 2 * powers)).exp())


class _Jacobian:
    """Products of one layer's Jacobians and their transposes with tall matrices."""

    def __init__(
        self,
        function: Function,
        at: Tensor,
        name: str,
        method: Method,
        chunk: int | None,
    ) -> None:
        self._function, self._at, self._name = function, at, name
        self._method, self._chunk = method, chunk
        self._point, outputs = modes.graph(function, at)
        self._output = outputs[name]

    def push(self, columns: Float64[Tensor, "n d p"]) -> Float64[Tensor, "n m p"]:
        """``J X``."""
        tangents = columns.permute(2, 0, 1).reshape(-1, *self._at.shape).to(self._at)
        found = modes.products_along(
            self._only, self._at, tangents, self._method, self._chunk
        )
        return _solvers.double(found[self._name]).permute(1, 2, 0)

    def pull(self, columns: Float64[Tensor, "n m p"]) -> Float64[Tensor, "n d p"]:
        """``Jᵀ Y``."""
        if not self._output.requires_grad:
            n, _, p = columns.shape
            return columns.new_zeros((n, self._at[:1].numel(), p))
        covectors = columns.permute(2, 0, 1).to(self._output)
        (rows,) = modes.pullbacks(self._output, [self._point], covectors, self._chunk)
        return _solvers.double(rows.reshape(*rows.shape[:2], -1)).permute(1, 2, 0)

    def _only(self, delta: Tensor) -> dict[str, Tensor]:
        return {self._name: self._function(delta)[self._name]}


def _beside(Q: Tensor, columns: Tensor) -> Tensor:
    """What of the columns is orthogonal to Q."""
    for _ in range(2):  # once leaves rounding errors of the columns' size
        columns = columns - Q @ (Q.mT @ columns)
    return columns
