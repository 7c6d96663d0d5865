"""Why a weight is not watched, in words."""

import fnmatch
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parameter import is_lazy

from svdhooks.layers.flat import flat_place
from svdhooks.layers.kinds_lora import LoraSource, unread
from svdhooks.layers.layer import Layer
from svdhooks.layers.sharding import axes, is_dtensor, is_partitioned
from svdhooks.layers.site import class_is
from svdhooks.layers.weights import ParameterSource

ZERO_3 = (
    "partitioned by DeepSpeed ZeRO-3, which this version does not gather; train with "
    "FSDP2 (torch.distributed.fsdp.fully_shard) or ZeRO-2, or scan checkpoints"
)
"""Of a parameter of which DeepSpeed leaves each process an empty tensor."""

LAZY = "uninitialised (lazy); looked for again at every record until the first forward"


def unreadable(layer: Layer) -> str | None:
    """Why the weight of a layer cannot be read; None if it can.

    Args:
        layer: The layer.

    Returns:
        The reason.
    """
    if isinstance(layer.source, LoraSource):
        reason = unread(layer.module)
        if reason:
            return reason
    elif layer.source is None:
        old = ParameterSource(layer.module, layer.parameter).stale()
        if old:
            return (
                f"{old}: the old torch.nn.utils hook form without its hook; use "
                "torch.nn.utils.parametrizations, whose weight is always current"
            )
    return next(filter(None, map(_why_not, layer.sources())), None)


def _why_not(weight: Any) -> str | None:
    """Why a tensor that a weight is computed from cannot be read."""
    if not isinstance(weight, Tensor):
        return f"its weight is a {type(weight).__name__}, not a tensor (quantised?)"
    if is_lazy(weight):
        return LAZY
    if is_partitioned(weight):
        return ZERO_3
    if flat_place(weight) is not None:
        return None  # it stands in for one that FSDP1 has
    if weight.is_meta:
        return "on the meta device: it has no values yet"
    if is_dtensor(weight) and not distributed.is_initialized():
        return (
            "sharded over several processes, but torch.distributed is not initialised "
            "here, so that it cannot be gathered"
        )
    if weight.layout != torch.strided:
        return f"its weight is {weight.layout}, not dense"
    if not (weight.is_floating_point() or weight.is_complex()) or weight.itemsize < 2:
        return f"its weight is {weight.dtype}: quantised weights are not supported"
    if type(weight).__module__.startswith("torchao."):
        return f"its weight is a {type(weight).__name__}: quantised, not supported"
    return None


def refused(module: nn.Module) -> str | None:
    """Why a module and all that it holds is not watched; None if it may be.

    Args:
        module: The module.

    Returns:
        The reason.
    """
    own = module.parameters(recurse=False)
    if any(is_partitioned(x) and axes(x) >= 2 for x in own):
        return ZERO_3
    packed = ("_packed_params", "_all_weight_values")
    if class_is(module, "torch.ao.nn.quantized.*", "torch.nn.quantized.*") and (
        callable(getattr(module, "weight", None))
        or any(hasattr(module, name) for name in packed)
    ):
        return f"{type(module).__name__}: quantised, its weights are packed"
    if class_is(module, "peft.tuners.lora.layer.ParamWrapper"):
        return (
            "adapted by peft's ParamWrapper, which puts the adapted weight in place "
            "during its forward only"
        )
    if class_is(module, "peft.tuners.lora.layer.MultiheadAttention"):
        return "adapted by peft's MultiheadAttention, which this version does not read"
    return None


def reason_for(module: nn.Module, parameter: str) -> str:
    """Why a parameter with two axes or more is no layer.

    Args:
        module: Who holds it.
        parameter: Its name there.

    Returns:
        The reason.
    """
    kind = type(module).__name__
    for patterns, names, reason in _KNOWN:
        fits = any(fnmatch.fnmatchcase(parameter, name) for name in names)
        if fits and class_is(module, *patterns):
            return f"{kind}: {reason}"
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return f"{kind}: a scale per element, not a linear map"
    return f"a parameter of {kind}, for which this version has no rule"


_LIBRARIES = ("transformers.models.*", "timm.*", "torchvision.*")

_KNOWN: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    # classes that hold it, globs on its name, why it is no linear map
    (
        ("transformers.models.*", "mamba_ssm.*"),
        ("A_log", "D", "dt_bias"),
        "decay rates and gains of the state space, not a linear map",
    ),
    (
        _LIBRARIES,
        (
            "*_token",
            "*_tokens",
            "class_embedding",
            "no_memory_*",
            "no_object_*",
            "pos_embed*",
            "position_embedding*",
            "pos_embedding",
            "probe",
            "query",
            "latents*",
            "level_embed",
        ),
        "added to the tokens or put beside them, not a linear map of them",
    ),
    (
        _LIBRARIES,
        (
            "attention_biases",
            "*bias_u",
            "*bias_v",
            "rel_pos_h",
            "rel_pos_w",
            "relative_position_bias_table",
        ),
        "enters the attention logits by position, not a linear map",
    ),
    (
        _LIBRARIES,
        ("alpha", "layer_scale*", "logit_scale", "time_mix_*"),
        "a factor per channel or head, not a linear map",
    ),
    (
        ("transformers.models.*Experts*",),
        ("*_bias",),
        "one bias per expert",
    ),
    (
        ("torch.nn.modules.activation.MultiheadAttention",),
        ("bias_k", "bias_v"),
        "an additional key or value, not a linear map",
    ),
)
