"""What kind of module holds tensors of these names and shapes."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from svdhooks.checkpoint.sources import Desk
from svdhooks.checkpoint.stacked import stacked_experts
from svdhooks.checkpoint.stored import Stored
from svdhooks.layers import Layer

NO_MATRIX = "one axis or none (bias, norm, counter): no matrix"

_EMBEDDING = re.compile(
    r"(.*_)?(emb|embed|embeds|embedding|embeddings)(_\w+)?"
    r"|wte|wpe|tokens?|positions?|shared|relative_attention_bias"
)
_NOT_EMBEDDING = re.compile(r"embed_out|.*_(proj|projection|mapping\w*|head)|\w*_fc")
_RECURRENT = re.compile(r"weight_(ih|hh|hr)(?:_l(\d+)(_reverse)?)?")
_TRANSPOSED = re.compile(r".*(transpose|deconv|upconv|convt|up_?sample_conv).*", re.I)
_CONVS: dict[int, type[Any]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_TRANSPOSED_CONVS: dict[int, type[Any]] = {
    3: nn.ConvTranspose1d,
    4: nn.ConvTranspose2d,
    5: nn.ConvTranspose3d,
}
_GATES: dict[int, tuple[type[Any], type[Any]]] = {
    4: (nn.LSTM, nn.LSTMCell),
    3: (nn.GRU, nn.GRUCell),
    1: (nn.RNN, nn.RNNCell),
}


@dataclass(frozen=True, eq=False)
class Group:
    """The tensors of one module.

    Attributes:
        owner: Name of the module; empty for the model itself.
        leaves: Name in the module -> tensor.
        first: Whether no layer came before.
        channels: Outputs of the convolution before; 0: there is none.
        turned: Whether weights of modules of this name are stored as in × out.
        config: Of the model.
    """

    owner: str
    leaves: Mapping[str, Stored]
    first: bool = True
    channels: int = 0
    turned: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def attribute(self) -> str:
        """Last part of the name."""
        return attribute_of(self.owner)


@dataclass(frozen=True, eq=False)
class Kind:
    """What holds the tensors.

    Attributes:
        module: One of its kind without values; None: there is none, or not one.
        turned: Whether its weight is stored transposed.
        layers: Makes the layers where no module of torch is of its kind.
        note: What was taken for granted.
        why: Why there is no layer.
        known: Of which tensors ``why`` speaks.
    """

    module: nn.Module | None = None
    turned: bool = False
    layers: Callable[[Desk], list[Layer]] | None = None
    note: str = ""
    why: str = ""
    known: Callable[[str], bool] = lambda _leaf: False


def kind_of(group: Group) -> Kind:
    """The kind of a module.

    Args:
        group: Its tensors.

    Returns:
        The kind; without a module where there is no linear map.
    """
    leaves = group.leaves
    if "in_proj_weight" in leaves or "q_proj_weight" in leaves:
        return _attention(group)
    if "weight_ih_l0" in leaves or {"weight_ih", "weight_hh"} <= leaves.keys():
        return _recurrent(group)
    weight = leaves.get("weight")
    if weight is None:
        make = stacked_experts(group.owner, leaves, group.config)
        return Kind(layers=make)
    bias, axes = leaves.get("bias"), len(weight.shape)
    if bias is not None and len(bias.shape) >= 2:
        why = "a scale per element, not a linear map"
        return Kind(why=why, known=lambda leaf: leaf in ("weight", "bias"))
    if axes == 2:
        return _of_matrix(group, weight, bias)
    if axes in _CONVS:
        return _convolution(group, weight, bias)
    return Kind()


def _of_matrix(group: Group, weight: Stored, bias: Stored | None) -> Kind:
    rows, columns = weight.shape
    if bias is None and _is_embedding(group.attribute):
        return Kind(nn.Embedding(rows, columns, device="meta"))
    turned = group.turned
    if bias is not None and bias.shape != weight.shape[:1]:
        turned = bias.shape == weight.shape[1:]
    out, in_ = (columns, rows) if turned else (rows, columns)
    has_bias = bias is not None and bias.shape == (out,)
    return Kind(nn.Linear(in_, out, has_bias, device="meta"), turned)


def _is_embedding(attribute: str) -> bool:
    if _NOT_EMBEDDING.fullmatch(attribute):
        return False
    return bool(_EMBEDDING.fullmatch(attribute))


def _convolution(group: Group, weight: Stored, bias: Stored | None) -> Kind:
    first, second, *kernel = weight.shape
    size: Any = tuple(kernel)
    by_bias = bias is not None and bias.shape == (second,) and bias.shape != (first,)
    by_name = bool(_TRANSPOSED.fullmatch(group.attribute))
    fits = bias is None or bias.shape == (second,)
    has_bias = bias is not None
    if by_bias or (by_name and fits):
        kind = _TRANSPOSED_CONVS[len(weight.shape)]
        module = kind(first, second, size, bias=has_bias, device="meta")
        note = "" if by_bias else "taken for a transposed convolution by its name"
        return Kind(module, note=note)
    groups, note = _groups(group, first, second, math.prod(kernel))
    module = _CONVS[len(weight.shape)](
        second * groups, first, size, groups=groups, bias=has_bias, device="meta"
    )
    return Kind(module, note=note)


def _groups(group: Group, out: int, in_: int, positions: int) -> tuple[int, str]:
    """How many groups a convolution has, which its weight does not tell."""
    if positions == 1 or out == 1:
        return 1, ""
    if in_ == 1 and group.first:
        return 1, "one input channel: taken for a picture of one, not for depthwise"
    if in_ == 1:
        return out, "one input channel for each kernel: taken for depthwise"
    before = group.channels
    if in_ < before and before % in_ == 0 and out % (before // in_) == 0:
        return 1, (
            "maybe of several groups, which the file does not tell: measured as one "
            "flattened kernel"
        )
    return 1, ""


def own_name(owner: str) -> str:
    """A module's name; of one that peft has wrapped that of the wrapper."""
    return owner.removesuffix(".base_layer")


def attribute_of(owner: str) -> str:
    """Last part of a module's own name."""
    return own_name(owner).rpartition(".")[2]


def _attention(group: Group) -> Kind:
    leaves = group.leaves
    if "in_proj_weight" in leaves:
        rows, width = leaves["in_proj_weight"].shape
        inputs = (width, width)
    else:
        _, width = leaves["q_proj_weight"].shape
        kinds = ("k_proj_weight", "v_proj_weight")
        if not {*kinds} <= leaves.keys():
            return Kind()
        inputs = (leaves[kinds[0]].shape[1], leaves[kinds[1]].shape[1])
        rows = 3 * width
    if rows != 3 * width or "out_proj.weight" not in leaves:
        why = "a fused projection that is not that of torch's MultiheadAttention"
        return Kind(why=why, known=lambda leaf: leaf == "in_proj_weight")
    module = nn.MultiheadAttention(
        width,
        1,  # how many heads it has is not in a state dict, and changes no weight
        bias="in_proj_bias" in leaves,
        kdim=inputs[0],
        vdim=inputs[1],
        device="meta",
    )
    return Kind(module)


def _recurrent(group: Group) -> Kind:
    """An LSTM, GRU or RNN: the rows over the hidden states tell which."""
    leaves = group.leaves
    found = [m for leaf in leaves if (m := _RECURRENT.fullmatch(leaf))]
    cell = "weight_ih" in leaves
    end = "" if cell else "_l0"
    of_input, of_hidden = leaves[f"weight_ih{end}"], leaves.get(f"weight_hh{end}")
    why = "weights of a recurrent module whose gates are not known"
    unknown = Kind(why=why, known=lambda leaf: leaf.startswith("weight_"))
    if of_hidden is None:
        return unknown
    projection = leaves.get(f"weight_hr{end}")
    hidden = projection.shape[1] if projection else of_hidden.shape[1]
    gates, rest = divmod(of_input.shape[0], max(hidden, 1))
    if rest or gates not in _GATES:
        return unknown
    kind, of_cell = _GATES[gates]
    biased = f"bias_ih{end}" in leaves
    inputs = of_input.shape[1]
    if cell:
        return Kind(of_cell(inputs, hidden, bias=biased, device="meta"))
    options: dict[str, Any] = {"bias": biased, "device": "meta"}
    options["num_layers"] = 1 + max(int(m[2] or 0) for m in found)
    options["bidirectional"] = any(m[3] for m in found)
    if projection:
        options["proj_size"] = projection.shape[0]
    return Kind(kind(inputs, hidden, **options))
