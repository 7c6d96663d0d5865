"""Jacobians of all layers at once, for any function from a point to many outputs.

A function takes ``delta`` of shape ``(n, *point)`` and returns, by name, the outputs
``z_l`` of shape ``(n, m_l)``; sample i of an output depends on sample i of the point
alone. ``J_l`` of sample i is ``∂z_l[i]/∂delta[i]``, an ``m_l × n_in`` matrix, and its
rank is the local rank of layer l at that sample (Patel & Shwartz-Ziv 2024).
"""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from svdhooks.linalg import _jacobian_modes as modes
from svdhooks.linalg import _solvers
from svdhooks.linalg._jacobian_check import ADJOINT_TOLERANCE, adjoint_errors, errors_of
from svdhooks.linalg._jacobian_modes import Function, Method
from svdhooks.linalg._jacobian_refined import RefinedSpectra, refined_spectra
from svdhooks.linalg._jacobian_spectra import jacobian_spectra

__all__ = [
    "ADJOINT_TOLERANCE",
    "Function",
    "Method",
    "RefinedSpectra",
    "adjoint_errors",
    "errors_of",
    "first_layer_factor",
    "jacobian_products",
    "jacobian_rows",
    "jacobian_spectra",
    "local_ranks",
    "orthonormal_directions",
    "refined_spectra",
]


def orthonormal_directions(
    k: int,
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Float[Tensor, "k ..."]:
    """Directions in which to differentiate: all of them, or a random orthonormal few.

    Args:
        k: How many.
        shape: Shape of a point.
        dtype: Of the result. In 16 bits the directions are orthonormal to 1e-3 only.
        device: Where the result is.
        seed: Of the draw, which is the same on every device.

    Returns:
        The unit vectors if k is the number of coordinates; otherwise the basis of a
        uniformly distributed (Haar) subspace.

    Raises:
        ValueError: If k is not between 1 and the number of coordinates.
    """
    size = torch.Size(shape).numel()
    if not 1 <= k <= size:
        raise ValueError(
            f"Found {k} directions for points of shape {tuple(shape)}, expected 1 to "
            f"{size}. With as many as coordinates the basis is complete."
        )
    if k == size:
        return torch.eye(k, dtype=dtype, device=device).reshape(k, *shape)
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(size, k, generator=generator, dtype=torch.float64)
    Q, R = torch.linalg.qr(normal)
    # LAPACK's signs depend on the entries; with a positive diagonal Q is Haar
    # distributed (Mezzadri 2007)
    Q *= torch.where(R.diagonal() < 0, -1.0, 1.0)
    directions: Tensor = Q.T.reshape(k, *shape).to(dtype).to(device)
    return directions


def jacobian_products(
    function: Function,
    at: Float[Tensor, "n ..."],
    directions: Float[Tensor, "k ..."],
    method: Method = "forward",
    chunk: int | None = None,
) -> dict[str, Float[Tensor, "n m k"]]:
    """``J_l v`` of every layer in one pass, for directions common to all samples.

    Args:
        function: What is differentiated.
        at: Where.
        directions: The columns to multiply with; the unit vectors give ``J_l`` itself.
        method: ``"forward"``: forward mode, batched over the directions.
            ``"double_backward"``: reverse mode twice. Either raises for operations
            without such a derivative, but takes some for constants in silence, which
            ``adjoint_errors`` shows. ``"reverse"``: all rows, layer by layer.
        chunk: Directions (for ``"reverse"``: rows) held at once; None: all.

    Returns:
        For each layer the products of each sample, in the dtype of the layer; zeros
        for layers that do not depend on the point.

    Raises:
        ValueError: If there are no directions, or the chunk is not positive.
        RuntimeError: As PyTorch raises where the method does not apply.
    """
    tangents = directions.to(at).unsqueeze(1).expand(-1, len(at), *at.shape[1:])
    products = modes.products_along(function, at, tangents, method, chunk)
    return {name: found.permute(1, 2, 0) for name, found in products.items()}


def jacobian_rows(
    function: Function,
    at: Float[Tensor, "n ..."],
    name: str,
    covectors: Float[Tensor, "*n r m"],
    chunk: int | None = None,
) -> Float[Tensor, "n r ..."]:
    """``uᵀJ`` of one layer, by batched reverse mode.

    Args:
        function: What is differentiated.
        at: Where.
        name: The layer.
        covectors: ``(r, m)``, common to all samples, or ``(n, r, m)``.
        chunk: Covectors held at once; None: all.

    Returns:
        The rows, in the dtype of the point; zeros if the layer does not depend on it.

    Raises:
        RuntimeError: As PyTorch raises where something has no derivative.
    """
    point, outputs = modes.graph(function, at)
    output = outputs[name]
    common = covectors.to(output).expand(len(output), *covectors.shape[-2:])
    if not output.requires_grad:
        return at.new_zeros((*common.shape[:2], *at.shape[1:]))
    (rows,) = modes.pullbacks(output, [point], common.transpose(0, 1), chunk)
    return rows.transpose(0, 1)


def first_layer_factor(
    weight: Float[Tensor, "m1 n_in"],
) -> Float64[Tensor, "m1 r"]:
    """A factor with the singular values of the first layer, and fewer columns.

    With the basis at the output of the first linear map, which has m1 < n_in outputs,
    products are ``A_l`` of ``J_l = A_l W_1``. From ``W_1ᵀ = QR`` follows
    ``σ(J_l) = σ(A_l Rᵀ)``: m1 columns instead of n_in.

    Args:
        weight: ``W_1``, outputs × inputs.

    Returns:
        ``Rᵀ``, with r = min(m1, n_in).
    """
    R: Tensor = torch.linalg.qr(_solvers.double(weight).mH, mode="r").R
    return R.mH.contiguous()


def local_ranks(
    spectra: Float[Tensor, "*n r"], eps: float = 0.01, relative: bool = False
) -> Int[Tensor, "*n"]:
    """Number of singular values above a threshold, for each sample.

    Args:
        spectra: Singular values, descending.
        eps: The threshold; a singular value equal to it does not count, as in
            ``torch.linalg.matrix_rank(J, atol=eps)``.
        relative: The threshold is ``eps·σ₁``.

    Returns:
        The ranks; 0 for a Jacobian of zeros, and -1, for no answer, where a singular
        value is NaN or infinite.
    """
    if spectra.shape[-1] == 0:
        return spectra.new_zeros(spectra.shape[:-1], dtype=torch.int64)
    limit = eps * spectra[..., :1] if relative else eps
    counted = (spectra > limit).sum(-1)
    return torch.where(spectra.isfinite().all(-1), counted, -1)
