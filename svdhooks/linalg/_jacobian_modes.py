"""Three ways to the same products ``J_l v``, all layers at once, on raw tensors.

In every mode sample i of an output depends on sample i of the input alone, and a layer
that does not depend on the input has a Jacobian of zeros.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Function = Callable[[Tensor], Mapping[str, Tensor]]
"""``(n, *point)`` -> name -> ``(n, m)``: from a point to the outputs of the layers."""

Method = Literal["forward", "double_backward", "reverse"]
"""How to differentiate: the ladder from the cheapest to what works most often."""

Tangents = Float[Tensor, "k n ..."]


def products_along(
    function: Function,
    at: Tensor,
    tangents: Tangents,
    method: Method,
    chunk: int | None = None,
) -> dict[str, Tensor]:
    """``J_l v`` of every layer, for directions that each sample has for itself.

    Args:
        function: What is differentiated.
        at: Where.
        tangents: The directions.
        method: One of the three.
        chunk: Directions (in reverse: rows) at once; None: all.

    Returns:
        ``(k, n, m)`` of each layer.

    Raises:
        ValueError: If there are no directions, or the chunk is not positive.
    """
    if len(tangents) < 1 or (chunk is not None and chunk < 1):
        raise ValueError(
            f"Found {len(tangents)} directions and a chunk of {chunk}, expected at "
            "least one of each. chunk=None takes all at once."
        )
    return _MODES[method](function, at, tangents, chunk)


def _forward(
    function: Function, at: Tensor, tangents: Tangents, chunk: int | None
) -> dict[str, Tensor]:
    """By forward mode, batched over the directions: one pass per chunk."""
    point = at.detach()

    def outputs_of(delta: Tensor) -> dict[str, Tensor]:
        return dict(function(delta))

    def product(tangent: Tensor) -> dict[str, Tensor]:
        # an output without a tangent gets zeros: it does not depend on the point, or
        # an operation lost it
        found: dict[str, Tensor] = torch.func.jvp(outputs_of, (point,), (tangent,))[1]
        return found

    # forward mode needs no graph of the parameters; a function that draws random
    # numbers draws the same ones for all directions
    with torch.no_grad(), _quiet():
        parts = [
            torch.vmap(product, randomness="same")(part)
            for part in torch.split(tangents, chunk or len(tangents))
        ]
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _double_backward(
    function: Function, at: Tensor, tangents: Tangents, chunk: int | None
) -> dict[str, Tensor]:
    """By two reverse passes: ``g(u) = Σ_l J_lᵀu_l`` is linear in u, and ``∂⟨g, v⟩/∂u``."""
    point, outputs = graph(function, at)
    # u enters no sum, so that layers of different dtypes may stand side by side
    dummies = {name: torch.zeros_like(z) for name, z in outputs.items()}
    reached = [name for name, z in outputs.items() if z.requires_grad]
    slots = [dummies[name].requires_grad_() for name in reached]
    (pulled,) = (
        [None]
        if not reached
        else torch.autograd.grad(
            [outputs[name] for name in reached],
            [point],
            slots,
            create_graph=True,
            allow_unused=True,
        )
    )
    k = len(tangents)
    products = {
        name: z.detach().new_zeros((k, *z.shape)) for name, z in outputs.items()
    }
    if pulled is not None and pulled.requires_grad:
        products.update(
            zip(reached, pullbacks(pulled, slots, tangents, chunk), strict=True)
        )
    return products


def _reverse(
    function: Function, at: Tensor, tangents: Tangents, chunk: int | None
) -> dict[str, Tensor]:
    """By all rows of every Jacobian: as many pullbacks as a layer has outputs."""
    point, outputs = graph(function, at)
    flat = tangents.reshape(*tangents.shape[:2], -1)
    products = {}
    for name, z in outputs.items():
        if not z.requires_grad:
            products[name] = z.new_zeros((len(tangents), *z.shape))
            continue
        units = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        parts = []
        for part in torch.split(units, chunk or len(units)):
            covectors = part.unsqueeze(1).expand(-1, len(z), -1)
            (rows,) = pullbacks(z, [point], covectors, None)
            products_of_rows = torch.einsum(
                "rnp,knp->knr", rows.reshape(*rows.shape[:2], -1), flat
            )
            parts.append(products_of_rows.to(z.dtype))
        products[name] = torch.cat(parts, -1)
    return products


def graph(function: Function, at: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    """A leaf at the point, and the outputs that hang from it.

    Args:
        function: What is differentiated.
        at: Where.

    Returns:
        The leaf and the outputs, with their graph.
    """
    with torch.enable_grad():
        point = at.detach().clone().requires_grad_()
        return point, function(point)


def pullbacks(
    output: Tensor, inputs: Sequence[Tensor], covectors: Tensor, chunk: int | None
) -> list[Tensor]:
    """``Jᵀu`` for a batch of covectors of one output; the graph stays.

    Args:
        output: What is differentiated.
        inputs: With respect to what; those that it does not depend on get zeros.
        covectors: ``(r, *output)``.
        chunk: Covectors at once.

    Returns:
        ``(r, *input)`` for each input.
    """
    parts = [
        _pullbacks(output, inputs, part)
        for part in torch.split(covectors, chunk or len(covectors))
    ]
    return [_joined(list(columns)) for columns in zip(*parts, strict=True)]


def _pullbacks(
    output: Tensor, inputs: Sequence[Tensor], covectors: Tensor
) -> list[Tensor]:
    if len(covectors) > 1:
        try:
            with _quiet():
                return _gradients(output, inputs, covectors, batched=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            # vmap has no rule for something in there, so one after the other
            pass
    single = [_gradients(output, inputs, u, batched=False) for u in covectors]
    return [torch.stack(columns) for columns in zip(*single, strict=True)]


def _gradients(
    output: Tensor, inputs: Sequence[Tensor], covectors: Tensor, *, batched: bool
) -> list[Tensor]:
    found = torch.autograd.grad(
        output,
        inputs,
        covectors,
        retain_graph=True,
        allow_unused=True,
        is_grads_batched=batched,
    )
    count = covectors.shape[:1] if batched else ()
    return [
        x.detach().new_zeros((*count, *x.shape)) if gradient is None else gradient
        for x, gradient in zip(inputs, found, strict=True)
    ]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


_MODES = {
    "forward": _forward,
    "double_backward": _double_backward,
    "reverse": _reverse,
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of PyTorch's own ways.

    The first: vmap runs an operation for each direction by itself. The second: forward
    mode, when it is first used, compiles rules by what is deprecated for users.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        warnings.filterwarnings("ignore", "`torch.jit.script` is", DeprecationWarning)
        yield
