"""The basis at the output of the first layer: ``J_l = A_l W_1``, with fewer directions."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from svdhooks.jacobians.function import PointAxis
from svdhooks.jacobians.model import InputPoint
from svdhooks.jacobians.passes import Passes
from svdhooks.jacobians.samples import Layout
from svdhooks.layers import PointValue
from svdhooks.layers.tap import Watched
from svdhooks.linalg.jacobian import (
    ADJOINT_TOLERANCE,
    Function,
    Method,
    jacobian_products,
    jacobian_rows,
    orthonormal_directions,
)

CHECKED = 3
"""Random directions in which it is checked that nothing bypasses the layer."""

Make = Callable[[Sequence[str], PointAxis], tuple[Function, Tensor]]
"""Names of layers, input point -> the function of their outputs, and where."""


def output_point(
    layer: Watched, value: PointValue, layout: Layout, n: int
) -> PointAxis | None:
    """A layer's output as the input point.

    Args:
        layer: The layer.
        value: Its output.
        layout: Where the samples are in it.
        n: How many there are.

    Returns:
        None where a sample has more than one vector in it.
    """
    z = value.tensor
    one_vector = z.ndim > 0 and z.numel() == n * z.shape[value.feature_axis]
    if layout.axis is None or z.shape[layout.axis] != n or not one_vector:
        return None
    shape = [length for axis, length in enumerate(z.shape) if axis != layout.axis]
    point = InputPoint(layer.name, module=layer.module)
    return PointAxis(point, layout.axis, shape, z)


def first_weight(
    make: Make, at: PointAxis, name: str, outputs: int, passes: Passes
) -> Float[Tensor, "m1 n_in"]:
    """``W_1``: the Jacobian of the first layer, which is that of every sample.

    Args:
        make: Makes functions of a few samples.
        at: The input point.
        name: The first layer.
        outputs: Dimension of its output.
        passes: Makes the pass.

    Returns:
        The matrix, whatever kind of layer it is and wherever its weight is.
    """
    function, zero = make([name], at)
    units = torch.eye(outputs, dtype=zero.dtype, device=zero.device)
    rows = passes.make(lambda: jacobian_rows(function, zero, name, units), "reverse")
    return rows[0].reshape(outputs, -1)


def nothing_bypasses(
    make: Make,
    at: PointAxis,
    inner: PointAxis,
    weight: Float[Tensor, "m1 n_in"],
    methods: Mapping[str, Method],
    passes: Passes,
) -> bool:
    """Whether ``J_l v = A_l W_1 v`` for random v, in every layer.

    Args:
        make: Makes functions of a few samples.
        at: The input point.
        inner: The output of the first layer.
        weight: Its Jacobian.
        methods: How each layer is differentiated.
        passes: Makes the passes.

    Returns:
        The same on all processes that make the same passes.
    """
    right = True
    for method in sorted(set(methods.values())):
        names = [name for name, own in methods.items() if own == method]

        def check(names: Sequence[str] = names, method: Method = method) -> bool:
            outer, through = make(names, at), make(names, inner)
            return not bypassed(outer, through, weight, method)

        right &= all(passes.told(passes.make(check, f"{method} bypass")))
    return right


def bypassed(
    outer: tuple[Function, Tensor],
    inner: tuple[Function, Tensor],
    weight: Float[Tensor, "m1 n_in"],
    method: Method,
) -> list[str]:
    """Layers of which, for some sample, ``J_l v`` is not ``A_l W_1 v`` for random v.

    Args:
        outer: The function of the input, and where to differentiate.
        inner: The same function of the output of the first layer.
        weight: The Jacobian of that layer.
        method: How to differentiate.

    Returns:
        Their names.
    """
    (function, at), (through, at_inner) = outer, inner
    k = min(CHECKED, at[:1].numel())
    directions = orthonormal_directions(
        k, tuple(at.shape[1:]), dtype=at.dtype, device=at.device, seed=2
    )
    passed = (directions.reshape(k, -1) @ weight.mT).reshape(k, *at_inner.shape[1:])
    direct = jacobian_products(function, at, directions, method)
    composed = jacobian_products(through, at_inner, passed.to(at_inner), method)
    return [name for name, own in direct.items() if not _agree(own, composed[name])]


def _agree(direct: Tensor, composed: Tensor) -> bool:
    tolerance = ADJOINT_TOLERANCE.get(direct.dtype, max(ADJOINT_TOLERANCE.values()))
    apart = (direct.double() - composed.double()).flatten(1).norm(dim=1)
    own = direct.double().flatten(1).norm(dim=1)
    # where one sample's products cancel, rounding is that of what cancels
    size = own.clamp(min=0.1 * float(own.square().mean().sqrt()))
    return bool((apart <= 10 * tolerance * size).all())
