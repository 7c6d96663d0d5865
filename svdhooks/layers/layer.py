"""A tracked linear map: its name, its weight as a matrix, its two points."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.utils import parametrize

from svdhooks.layers.points import Reader


@dataclass(frozen=True, eq=False)
class Layer:
    """A tracked linear map.

    Attributes:
        name: Canonical name, without the prefixes of compile, DDP and FSDP.
        kind: For people and logs: ``"linear"``, ``"conv2d"``, ``"embedding"``, …
        module: The module that holds the weight and whose calls are observed.
        parameter: Name of the weight in ``module``.
        view: The weight -> ``(out, in)``, or ``(groups, out, in)`` for a map that
            is block diagonal.
        shape: ``(out, in)`` of one block; for a convolution that of its flattened
            kernel.
        groups: Number of blocks.
        points: Point name -> number of features.
        read: How to find the points in one call of ``module``.
        tied_to: Name of the layer that holds the same weight, if any.
    """

    name: str
    kind: str
    module: nn.Module
    parameter: str
    view: Callable[[Tensor], Tensor]
    shape: tuple[int, int]
    points: Mapping[str, int]
    read: Reader
    groups: int = 1
    tied_to: str | None = None

    def weight(self) -> Shaped[Tensor, "*groups out in"]:
        """The weight now, as a matrix or a batch of blocks; detached, not copied."""
        return self.view(self.parameter_value().detach())

    def parameter_value(self) -> Any:
        """The weight as the module holds it; a tensor unless it is quantised."""
        with _quiet_parametrizations(self.module, self.parameter), torch.no_grad():
            value: Any = self.module
            for part in self.parameter.split("."):
                value = getattr(value, part)
            return value

    @property
    def rank_limit(self) -> int:
        """Number of singular values of the whole map."""
        return self.groups * min(self.shape)

    @property
    def dtype(self) -> str:
        """Name of the weight's dtype, for example ``"bfloat16"``."""
        return str(self.parameter_value().dtype).removeprefix("torch.")

    def describe(self) -> dict[str, Any]:
        """The layer's row in the log's table of layers."""
        return {
            "name": self.name,
            "kind": self.kind,
            "shape": list(self.shape),
            "groups": self.groups,
            "rank_limit": self.rank_limit,
            "dtype": self.dtype,
            "points": dict(self.points),
            "tied_to": self.tied_to,
        }


@dataclass(frozen=True)
class Skipped:
    """Something with weights that is not watched, and why.

    Attributes:
        name: Canonical name of the module or parameter.
        reason: Why, in words.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class LayerTable:
    """What is watched and what is not.

    Attributes:
        layers: The tracked layers, in the model's order.
        skipped: Everything else that has a matrix of weights.
        incomplete: Whether uninitialised (lazy) modules may still become layers.
    """

    layers: tuple[Layer, ...]
    skipped: tuple[Skipped, ...]
    incomplete: bool = False


@contextmanager
def _quiet_parametrizations(module: nn.Module, path: str) -> Iterator[None]:
    """Read a parametrised weight without moving its buffers.

    ``spectral_norm`` runs a power iteration, and changes its buffers, whenever the
    weight is read in training mode.
    """
    parent, _, name = path.rpartition(".")
    owner = module.get_submodule(parent)
    if not parametrize.is_parametrized(owner, name):
        yield
        return
    parts = list(owner.parametrizations[name].modules())  # type: ignore[index, union-attr]
    flags = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part, flag in zip(parts, flags, strict=True):
            part.training = flag
