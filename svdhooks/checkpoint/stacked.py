"""Many experts in one tensor, as the mixtures of transformers 5 hold them."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from svdhooks.checkpoint.sources import Desk, FileSource
from svdhooks.checkpoint.stored import Stored
from svdhooks.layers import Layer
from svdhooks.layers.parts import equal, every_other, split
from svdhooks.layers.points import no_points

_NAMES = ("gate_up_proj", "gate_proj", "up_proj", "down_proj")
_ALTERNATING = ("gpt_oss",)


def stacked_experts(
    owner: str, leaves: Mapping[str, Stored], config: Mapping[str, Any]
) -> Callable[[Desk], list[Layer]] | None:
    """The experts of a module.

    Args:
        owner: Name of the module.
        leaves: Name in the module -> tensor.
        config: Of the model.

    Returns:
        Makes the layers, of many experts each; None if there are none.
    """
    several = {
        n: leaves[n] for n in _NAMES if n in leaves and len(leaves[n].shape) == 3
    }
    if not several or "down_proj" not in several:
        return None
    in_by_out = _is_in_by_out(several)
    apart = config.get("model_type") in _ALTERNATING

    def make(desk: Desk) -> list[Layer]:
        found = []
        for name, stored in several.items():
            layer = _layer(f"{owner}.{name}", name, FileSource(stored, desk), in_by_out)
            divide = every_other if apart else equal
            parts = divide(("gate", "up"), layer.shape[0])
            found += split(layer, parts) if name == "gate_up_proj" else [layer]
        return found

    return make


def _is_in_by_out(several: Mapping[str, Stored]) -> bool:
    """Whether they are stored as in × out: the sides of two that follow each other."""
    down = several["down_proj"].shape
    if "gate_up_proj" in several:
        first = several["gate_up_proj"].shape
        return first[2] == 2 * down[1] and first[1] == down[2]
    first = next((x.shape for n, x in several.items() if n != "down_proj"), down)
    return first[2] == down[1] and first[1] == down[2] and first[1] != first[2]


def _layer(name: str, parameter: str, source: FileSource, in_by_out: bool) -> Layer:
    count, rows, columns = source.stored.shape
    out, in_ = (columns, rows) if in_by_out else (rows, columns)
    return Layer(
        name,
        "experts",
        nn.Module(),
        parameter,
        _transpose if in_by_out else _same,
        (out, in_),
        {},
        no_points,
        experts=count,
        source=source,
    )


def _transpose(weight: Tensor) -> Tensor:
    return weight.mT


def _same(weight: Tensor) -> Tensor:
    return weight
