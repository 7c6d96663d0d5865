"""One rule per module type: where its weights are and how its points are read."""

import math
from collections.abc import Callable
from dataclasses import replace

from jaxtyping import Shaped
from torch import Tensor, nn

from svdhooks.layers.biases import bias_at
from svdhooks.layers.kinds_attention import multihead_attention
from svdhooks.layers.kinds_experts import dbrx_experts, experts, parallel_experts
from svdhooks.layers.kinds_fused import parts_of
from svdhooks.layers.kinds_recurrent import recurrent, recurrent_cell
from svdhooks.layers.layer import Layer
from svdhooks.layers.parts import split
from svdhooks.layers.points import (
    channels_points,
    features_points,
    input_points,
    lookup_points,
    no_points,
    two_inputs_points,
)
from svdhooks.layers.site import Site, class_is

Rule = Callable[[Site], list[Layer]]


def rule_for(module: nn.Module) -> Rule | None:
    """The rule that says how to read a module; None if there is none.

    Args:
        module: The module.

    Returns:
        The rule: site -> layers.
    """
    for types, rule in _BY_TYPE:
        if isinstance(module, types):
            return rule
    for patterns, rule in _BY_CLASS_NAME:
        if class_is(module, *patterns):
            return rule
    return None


def bare_parameter(name: str, module: nn.Module, parameter: str) -> Layer | None:
    """A matrix that a known class multiplies with by itself.

    Args:
        name: Canonical name of the module.
        module: The module, which may hold other modules.
        parameter: Name of the parameter in it.

    Returns:
        The layer, of which no call shows the points; None if the class is not known.
    """
    for patterns, names in _IN_BY_OUT:
        if parameter in names and class_is(module, *patterns):
            in_, out = module._parameters[parameter].shape  # type: ignore[union-attr]
            return Layer(
                f"{name}.{parameter}",
                "parameter",
                module,
                parameter,
                _transpose,
                (out, in_),
                {},
                no_points,
            )
    return None


def _linear(site: Site) -> list[Layer]:
    module = site.module
    shape = (module.out_features, module.in_features)
    whole = _biased(_features(site, "linear", _same, shape))
    return split(whole, parts_of(site, shape[0]))


def _conv1d_of_transformers(site: Site) -> list[Layer]:
    """A linear map with its weight as in × out."""
    in_, out = site.module.weight.shape
    whole = _biased(_features(site, "linear", _transpose, (out, in_)))
    return split(whole, parts_of(site, out))


def _biased(layer: Layer) -> Layer:
    """A layer whose module calls its bias so."""
    return replace(layer, bias_source=bias_at(layer.module))


def _router(site: Site) -> list[Layer]:
    """Scores of the experts: a weight (experts, in) applied as a function."""
    if site.module._parameters.get("weight") is None:
        return []  # it holds a Linear instead
    out, in_ = site.module.weight.shape
    layer = _features(site, "router", _same, (out, in_))
    if class_is(site.module, *_SCALED_ROUTERS):
        return [replace(layer, points={"input": in_}, read=input_points)]
    return [layer]  # the scores are the first of its outputs


def _features(
    site: Site, kind: str, view: Callable[[Tensor], Tensor], shape: tuple[int, int]
) -> Layer:
    """A layer whose features are the last axis of its input and output."""
    points = {"input": shape[1], "output": shape[0]}
    read = features_points
    return Layer(site.name, kind, site.module, "weight", view, shape, points, read)


def _conv(site: Site) -> list[Layer]:
    module = site.module
    groups, positions = module.groups, math.prod(module.kernel_size)
    shape = (module.out_channels // groups, module.in_channels // groups * positions)

    def view(weight: Tensor) -> Tensor:
        return weight.reshape(groups, *shape) if groups > 1 else weight.flatten(1)

    return [_channels(site, "conv", view, shape)]


def _transposed_conv(site: Site) -> list[Layer]:
    """Its weight is (in, out / groups, positions): one block of inputs per group."""
    module = site.module
    groups, positions = module.groups, math.prod(module.kernel_size)
    in_, out = module.in_channels // groups, module.out_channels // groups
    shape = (out, in_ * positions)

    def view(weight: Tensor) -> Tensor:
        blocks = weight.reshape(groups, in_, out, positions).transpose(1, 2)
        return blocks.reshape(groups, *shape) if groups > 1 else blocks.reshape(shape)

    return [_channels(site, "conv_transpose", view, shape)]


def _channels(
    site: Site, kind: str, view: Callable[[Tensor], Tensor], shape: tuple[int, int]
) -> Layer:
    module, dimensions = site.module, len(site.module.kernel_size)
    return Layer(
        site.name,
        f"{kind}{dimensions}d",
        module,
        "weight",
        view,
        shape,
        {"input": module.in_channels, "output": module.out_channels},
        channels_points(dimensions),
        groups=module.groups,
        bias_source=bias_at(module),
    )


def _bilinear(site: Site) -> list[Layer]:
    """A linear map of the outer product of its two inputs."""
    module = site.module
    left, right, out = module.in1_features, module.in2_features, module.out_features
    points = {"input": left, "input2": right, "output": out}
    shape, view, read = (out, left * right), _flat_rows, two_inputs_points
    layer = Layer(site.name, "bilinear", module, "weight", view, shape, points, read)
    return [_biased(layer)]


def _embedding(site: Site) -> list[Layer]:
    module = site.module
    count, width = module.num_embeddings, module.embedding_dim
    # the map from a one-hot index: its input has no covariance worth a spectrum
    points, shape, read = {"output": width}, (width, count), lookup_points
    return [
        Layer(site.name, "embedding", module, "weight", _transpose, shape, points, read)
    ]


_IN_BY_OUT: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    # used as x @ parameter
    (
        ("transformers.models.*.Gemma*MultiModalProjector",),
        ("mm_input_projection_weight",),
    ),
    (("clip.model.*", "open_clip.*"), ("proj", "text_projection")),
)

_SCALED_ROUTERS = tuple(
    f"transformers.models.*.{name}"
    for name in (
        # what they return is scaled, squashed or a part of the scores
        "InklingTopkRouter",
        "LagunaTopKRouter",
        "MuseSparkTopkRouter",
    )
)

_BY_TYPE: tuple[tuple[tuple[type[nn.Module], ...], Rule], ...] = (
    ((nn.MultiheadAttention,), multihead_attention),
    ((nn.Linear,), _linear),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed_conv),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    ((nn.Bilinear,), _bilinear),
    ((nn.RNN, nn.GRU, nn.LSTM), recurrent),
    ((nn.RNNCell, nn.GRUCell, nn.LSTMCell), recurrent_cell),
)

_BY_CLASS_NAME: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (("transformers.pytorch_utils.Conv1D",), _conv1d_of_transformers),
    (("transformers.models.*.JetMoeParallelExperts",), parallel_experts),
    (("transformers.models.*.DbrxExpertGLU",), dbrx_experts),
    (("transformers.models.*Experts",), experts),
    (("transformers.models.*.Deepseek*HashRouter",), _router),
    (("transformers.models.*TopKRouter", "transformers.models.*TopkRouter"), _router),
    (("transformers.models.ibert.quant_modules.QuantLinear",), _linear),
)


def _same(weight: Shaped[Tensor, "out in"]) -> Shaped[Tensor, "out in"]:
    return weight


def _transpose(weight: Shaped[Tensor, "n d"]) -> Shaped[Tensor, "d n"]:
    return weight.T


def _flat_rows(weight: Shaped[Tensor, "out left right"]) -> Shaped[Tensor, "out in"]:
    return weight.flatten(1)
