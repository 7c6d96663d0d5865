"""One rule per module type: where its weights are and how its points are read."""

import math
from collections.abc import Callable
from typing import Any

from jaxtyping import Shaped
from torch import Tensor, nn

from svdhooks.layers.layer import Layer
from svdhooks.layers.points import (
    attention_output_points,
    channels_points,
    features_points,
    lookup_points,
    projection_points,
)

Rule = Callable[[str, Any], list[Layer]]


def _linear(name: str, module: nn.Linear) -> list[Layer]:
    out, in_ = module.out_features, module.in_features
    points = {"input": in_, "output": out}
    read = features_points
    return [Layer(name, "linear", module, "weight", _same, (out, in_), points, read)]


def _conv(name: str, module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[Layer]:
    groups = module.groups
    positions = math.prod(module.kernel_size)
    shape = (module.out_channels // groups, module.in_channels // groups * positions)
    dimensions = len(module.kernel_size)
    return [
        Layer(
            name,
            f"conv{dimensions}d",
            module,
            "weight",
            lambda w: w.reshape(groups, *shape) if groups > 1 else w.flatten(1),
            shape,
            {"input": module.in_channels, "output": module.out_channels},
            channels_points(dimensions),
            groups=groups,
        )
    ]


def _embedding(name: str, module: nn.Embedding | nn.EmbeddingBag) -> list[Layer]:
    count, width = module.num_embeddings, module.embedding_dim
    # the map from a one-hot index: its input has no covariance worth a spectrum
    points = {"output": width}
    shape = (width, count)
    read = lookup_points
    return [Layer(name, "embedding", module, "weight", _transpose, shape, points, read)]


def _attention(name: str, module: nn.MultiheadAttention) -> list[Layer]:
    """The four projections, which are fused or never called as modules."""
    width = module.embed_dim
    inputs = {"q": width, "k": module.kdim, "v": module.vdim}
    found = []
    for row, (letter, in_) in enumerate(inputs.items()):
        fused = module.in_proj_weight is not None
        parameter = "in_proj_weight" if fused else f"{letter}_proj_weight"
        found.append(
            Layer(
                f"{name}.{letter}_proj",
                "attention projection",
                module,
                parameter,
                _rows(row * width, (row + 1) * width) if fused else _same,
                (width, in_),
                {"input": in_, "output": width},
                projection_points(letter),
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
        )
    )
    return found


_RULES: tuple[tuple[tuple[type[nn.Module], ...], Rule], ...] = (
    ((nn.MultiheadAttention,), _attention),
    ((nn.Linear,), _linear),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
)


def rule_for(module: nn.Module) -> Rule | None:
    """The rule that says how to read a module; None if there is none."""
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return None
    return next((rule for types, rule in _RULES if isinstance(module, types)), None)


def _same(weight: Shaped[Tensor, "out in"]) -> Shaped[Tensor, "out in"]:
    return weight


def _transpose(weight: Shaped[Tensor, "n d"]) -> Shaped[Tensor, "d n"]:
    return weight.T


def _rows(first: int, last: int) -> Callable[[Tensor], Tensor]:
    return lambda weight: weight[first:last]
