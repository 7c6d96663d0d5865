"""Weights and biases of layers as tensors of a file, read when they are asked for."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from svdhooks.checkpoint.stored import Stored, Tensors
from svdhooks.layers import Layer
from svdhooks.layers.biases import BiasSource

_COARSE = ("float8_e4m3fn", "float8_e5m2")
_FLOATS = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "complex64",
    "complex128",
    *_COARSE,
)


class Desk:
    """Where one tensor lies at a time: several layers may be parts of it."""

    def __init__(self) -> None:
        self._held: tuple[Stored, Tensor] | None = None

    def take(self, stored: Stored) -> Tensor:
        """Read a tensor, unless it lies here.

        Args:
            stored: Which.

        Returns:
            The tensor; the one before is let go first.
        """
        if self._held is None or self._held[0] is not stored:
            self._held = None
            self._held = (stored, stored.read())
        return self._held[1]

    def clear(self) -> None:
        """Let go of what lies here."""
        self._held = None


@dataclass(frozen=True, eq=False)
class FileSource:
    """A weight in a file.

    Attributes:
        stored: Where.
        desk: Keeps the last one read.
        turned: Whether the file holds the transposed.
    """

    stored: Stored
    desk: Desk
    turned: bool = False

    def value(self) -> Any:
        """The weight, in the layout of a module of torch."""
        weight = self.desk.take(self.stored)
        if self.stored.dtype in _COARSE:
            weight = weight.to(torch.float32)  # exact, and torch computes with it
        return weight.T if self.turned else weight

    def tensors(self) -> tuple[Any, ...]:
        """What stands for it where only shape and dtype are asked for."""
        return (self.stored.on_meta,)


@dataclass(frozen=True, eq=False)
class FileBias(BiasSource):
    """A bias in a file.

    Attributes:
        stored: Where.
    """

    stored: Stored | None = field(default=None)

    def value(self) -> Tensor:
        """The bias, the part that is the layer's own."""
        if self.stored is None:
            return super().value()
        whole = self.stored.read()
        return whole if self.pick is None else self.pick(whole)


def from_file(
    layers: list[Layer],
    owner: str,
    tensors: Tensors,
    desk: Desk,
    turned: bool = False,
) -> list[Layer]:
    """Let the layers of a module without values read from a file.

    Args:
        layers: As the rule of the module's kind finds them.
        owner: Name of the module.
        tensors: Of the file.
        desk: Keeps the last one read.
        turned: Whether the weights are stored transposed.

    Returns:
        The same layers.
    """
    found = []
    for layer in layers:
        stored = tensors[joined(owner, layer.parameter)]
        bias = layer.bias_source
        if bias is not None:
            held = tensors.get(joined(owner, bias.path))
            bias = (
                None
                if held is None
                else FileBias(bias.module, bias.path, bias.pick, stored=held)
            )
        source = FileSource(stored, desk, turned)
        found.append(replace(layer, source=source, bias_source=bias))
    return found


def joined(owner: str, name: str) -> str:
    """The full name of a tensor."""
    return f"{owner}.{name}" if owner else name


def unreadable(stored: Stored, tensors: Tensors) -> str | None:
    """Why a tensor is not measured; None if it is.

    Args:
        stored: The tensor.
        tensors: All of the file.

    Returns:
        The reason.
    """
    dtype = stored.dtype
    if dtype.endswith("(meta)"):
        return f"{dtype}: the model had not been loaded when it was saved"
    if dtype not in _FLOATS:
        return (
            f"{dtype}: quantised or packed, or no weight at all; its numbers are not "
            "the values of a matrix. Scan the model before it was quantised"
        )
    if dtype in _COARSE:
        scales = [
            name
            for name in (f"{stored.name}_scale_inv", f"{stored.name}_scale")
            if name in tensors
        ]
        if scales:
            return (
                f"{dtype} with scales in {scales[0]}, which are not applied here; "
                "convert it to bfloat16 first"
            )
    return None
