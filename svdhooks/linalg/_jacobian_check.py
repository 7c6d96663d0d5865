"""Whether a method differentiates rightly, by the adjoint identity."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from svdhooks.linalg import _jacobian_modes as modes
from svdhooks.linalg import _solvers
from svdhooks.linalg._jacobian_modes import Function, Method

ADJOINT_TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.bfloat16: 2e-2,
    torch.float16: 2e-2,
}
"""Errors above these are no rounding errors, by the dtype of the layer.

Measured on sound networks: 1e-7 in float32, 3e-3 in bfloat16; on networks with an
operation that forward mode loses: 3e-2 … 2.8 in float32, 7e-2 … 1.8 in bfloat16.
"""


def adjoint_errors(
    function: Function, at: Tensor, method: Method = "forward", seeds: int = 3
) -> dict[str, float]:
    """How far ``⟨u, J_l v⟩`` is from ``⟨J_lᵀu, v⟩``, for each layer.

    Left by the method, right by plain reverse mode. Both are taken sample by sample for
    normal u and v; the root of the sum of squares of the differences is divided by the
    larger of ``‖J_l v‖`` and ``‖J_lᵀu‖``. So an operation whose derivative a method
    loses, and samples that depend on each other, read about 1 in every later layer.

    First all layers are pulled back together, each with u over ``‖J_l v‖``, so that none
    drowns the others: the differences add up to the root of the sum of the squares of
    all errors. Only where that is too large, each layer is pulled back by itself.

    Args:
        function: What is differentiated.
        at: Where.
        method: What is checked. ``"reverse"`` is compared with a second pass,
            half of the samples at a time: this shows only a function that draws random
            numbers, and samples that depend on each other.
        seeds: How many pairs u, v.

    Returns:
        The worst of the pairs: rounding errors if all is well (``ADJOINT_TOLERANCE``),
        then of all layers together; 0 for a layer that both find independent of the
        point, infinity where a plain pullback is impossible.

    Raises:
        RuntimeError: As PyTorch raises where the method does not apply at all.
    """
    if method == "reverse":
        return _repeated(function, at, seeds)
    tangents = torch.stack([_normal(at, seed) for seed in range(seeds)])
    pushed = modes.products_along(function, at, tangents, method)
    return errors_of(function, at, pushed, tangents)


def errors_of(
    function: Function, at: Tensor, pushed: Mapping[str, Tensor], tangents: Tensor
) -> dict[str, float]:
    """The same of products that are known already: one backward pass if they are right.

    Args:
        function: What was differentiated.
        at: Where.
        pushed: ``(k, n, m)`` of each layer: ``J_l v``.
        tangents: ``(k, n, *point)``: the v.

    Returns:
        As `adjoint_errors`.
    """
    seeds = len(tangents)
    point, outputs = modes.graph(function, at)
    # of what is lost altogether the norm is no measure
    moved = [
        name
        for name, z in outputs.items()
        if z.requires_grad and all(0 < float(p.norm()) < math.inf for p in pushed[name])
    ]
    errors = _together({n: outputs[n] for n in moved}, point, pushed, tangents)
    for name, z in outputs.items():
        if name not in errors:
            worst = 0.0
            for seed in range(seeds):
                u = _normal(z, seeds + seed)
                pulled = _pulled(z, point, u)
                worst = max(worst, _gap(u, pushed[name][seed], pulled, tangents[seed]))
            errors[name] = worst
    return {name: errors[name] for name in outputs}


def _together(
    outputs: Mapping[str, Tensor],
    point: Tensor,
    pushed: Mapping[str, Tensor],
    tangents: Tensor,
) -> dict[str, float]:
    """The errors of layers that are right, by one pullback for each seed, or none."""
    worst = 0.0
    for seed, v in enumerate(tangents):
        left = _solvers.double(v).new_zeros(len(v))
        covectors = []
        for index, (name, z) in enumerate(outputs.items()):
            p = pushed[name][seed]
            u = _normal(z, len(tangents) * (1 + index) + seed) / p.norm()
            covectors.append(u)
            left += (_solvers.double(u) * _solvers.double(p)).sum(1)
        pulled = _pulled(list(outputs.values()), point, covectors)
        right = (_solvers.double(pulled) * _solvers.double(v)).flatten(1).sum(1)
        worst = max(worst, _ratio(left - right, torch.ones(())))
    tolerance = min((_tolerance(z.dtype) for z in outputs.values()), default=0.0)
    return dict.fromkeys(outputs, worst) if worst <= tolerance else {}


def _tolerance(dtype: torch.dtype) -> float:
    return ADJOINT_TOLERANCE.get(dtype, min(ADJOINT_TOLERANCE.values()))


def _repeated(function: Function, at: Tensor, seeds: int) -> dict[str, float]:
    """Relative difference of the pullbacks of two passes, the second in two parts."""
    (point, outputs), (point_2, outputs_2) = (modes.graph(function, at) for _ in "ab")
    even = (torch.arange(len(at), device=at.device) % 2 == 0).to(at)
    errors = {}
    for name, z in outputs.items():
        worst = 0.0
        for seed in range(seeds):
            u = _normal(z, seed)
            pulled, pulled_2 = _pulled(z, point, u), torch.zeros_like(point)
            # those of every other sample must not reach the samples in between
            for part in (even, 1 - even)[: len(at)]:
                some = _pulled(outputs_2[name], point_2, u * _rows(part, u).to(u))
                pulled_2 += some * _rows(part, some)
            worst = max(worst, _ratio(pulled - pulled_2, pulled, pulled_2))
        errors[name] = worst
    return errors


def _rows(samples: Tensor, like: Tensor) -> Tensor:
    return samples.reshape(-1, *[1] * (like.ndim - 1))


def _pulled(
    outputs: Tensor | Sequence[Tensor], point: Tensor, u: Tensor | Sequence[Tensor]
) -> Tensor:
    """``Σ J_lᵀu_l``: zeros if nothing depends on the point, infinite if impossible."""
    several = [outputs] if isinstance(outputs, Tensor) else outputs
    if not any(z.requires_grad for z in several):
        return torch.zeros_like(point)
    try:
        (pulled,) = torch.autograd.grad(
            outputs, point, u, retain_graph=True, allow_unused=True
        )
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return torch.full_like(point, torch.inf)
    return torch.zeros_like(point) if pulled is None else pulled


def _gap(u: Tensor, pushed: Tensor, pulled: Tensor, v: Tensor) -> float:
    """The two sides of the identity, sample by sample, against the larger norm."""
    left = (_solvers.double(u) * _solvers.double(pushed)).flatten(1).sum(1)
    right = (_solvers.double(pulled) * _solvers.double(v)).flatten(1).sum(1)
    return _ratio(left - right, pushed, pulled)


def _ratio(difference: Tensor, *parts: Tensor) -> float:
    """Norm of the difference over the largest norm of the parts; 0/0 is 0."""
    top, *norms = (float(_solvers.double(x).norm()) for x in (difference, *parts))
    if not math.isfinite(top) or not all(math.isfinite(norm) for norm in norms):
        return math.inf  # NaN would compare as no error
    return top / max(norms) if top > 0 else 0.0


def _normal(like: Tensor, seed: int) -> Tensor:
    """Standard normal numbers that leave the random streams alone."""
    generator = torch.Generator().manual_seed(seed)
    # float32 is random enough for all dtypes, and drawn in half the time
    draw = torch.randn(like.shape, generator=generator, dtype=torch.float32)
    return draw.to(like.dtype).to(like.device)
