"""The projections of torch's own attention, which are fused or never called."""

from collections.abc import Callable

from jaxtyping import Shaped
from torch import Tensor

from svdhooks.layers.biases import bias_at
from svdhooks.layers.layer import Layer
from svdhooks.layers.points import attention_output_points, projection_points
from svdhooks.layers.site import Site


def multihead_attention(site: Site) -> list[Layer]:
    """The four projections of ``nn.MultiheadAttention``.

    Args:
        site: The module.

    Returns:
        Query, key, value and output projection.
    """
    name, module = site.name, site.module
    width = module.embed_dim
    inputs = {"q": width, "k": module.kdim, "v": module.vdim}
    found = []
    for row, (letter, in_) in enumerate(inputs.items()):
        fused = module.in_proj_weight is not None
        parameter = "in_proj_weight" if fused else f"{letter}_proj_weight"
        rows = _rows(row * width, (row + 1) * width)
        found.append(
            Layer(
                f"{name}.{letter}_proj",
                "attention projection",
                module,
                parameter,
                rows if fused else _same,
                (width, in_),
                {"input": in_, "output": width},
                projection_points(letter),
                bias_source=bias_at(module, "in_proj_bias", rows),
            )
        )
    out = module.out_proj
    found.append(
        Layer(
            f"{name}.out_proj",
            "attention projection",
            module,
            "out_proj.weight",
            _same,
            (out.out_features, out.in_features),
            {"output": out.out_features},
            attention_output_points,
            bias_source=bias_at(module, "out_proj.bias"),
        )
    )
    return found


def _same(weight: Shaped[Tensor, "out in"]) -> Shaped[Tensor, "out in"]:
    return weight


def _rows(first: int, last: int) -> Callable[[Tensor], Tensor]:
    return lambda weight: weight[first:last]
