"""What a layer adds to its output: read as it is now, the part that is the layer's own."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from svdhooks.layers.flat import FlatPlace
from svdhooks.layers.sharding import local
from svdhooks.layers.weights import ParameterSource


@dataclass(frozen=True, eq=False)
class BiasSource:
    """Where the bias of a layer is.

    Attributes:
        module: Where the path begins.
        path: Name of the bias, for example ``"bias"`` or ``"out_proj.bias"``.
        pick: Takes the layer's own entries out of it; None: all are.
        flat: The parameter of FSDP1 that it is a part of, if any.
    """

    module: nn.Module
    path: str
    pick: Callable[[Tensor], Tensor] | None = None
    flat: FlatPlace | None = None

    def value(self) -> Shaped[Tensor, " out"]:
        """The bias now; detached, not copied."""
        with torch.no_grad():
            whole: Tensor = local(ParameterSource(self.module, self.path).value())
        whole = whole.detach()
        return whole if self.pick is None else self.pick(whole)

    def tensors(self) -> tuple[Any, ...]:
        """All tensors that it is computed from."""
        return ParameterSource(self.module, self.path).tensors()

    def part(self, pick: Callable[[Tensor], Tensor]) -> "BiasSource":
        """The same for a layer that is a part of this one.

        Args:
            pick: Takes its entries out of the last axis.

        Returns:
            A new object.
        """
        first = self.pick
        both = pick if first is None else lambda whole: pick(first(whole))
        return replace(self, pick=both)


def bias_at(
    module: Any, path: str = "bias", pick: Callable[[Tensor], Tensor] | None = None
) -> BiasSource | None:
    """The bias of a module, if it has one.

    Args:
        module: Where the path begins.
        path: Name of the bias.
        pick: Takes the layer's own entries out of it; None: all are.

    Returns:
        Where it is; None if there is none.
    """
    parent, _, name = path.rpartition(".")
    owner = module.get_submodule(parent)
    if getattr(owner, name, None) is None:
        return None
    return BiasSource(module, path, pick)
