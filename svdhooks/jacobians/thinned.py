"""Outputs of all layers at once, of which no more is kept than fits."""

from dataclasses import replace

import torch
from torch import Tensor

from svdhooks.layers import PointValue

AT_ONCE = 8
"""Outputs that are held at once while samples are looked for: four, and their marks."""


class Thinned:
    """Keeps of each output evenly spread features, the same ones in every pass.

    Args:
        max_bytes: Bound on what is held at once.
        layers: Number of layers.
    """

    def __init__(self, max_bytes: int, layers: int) -> None:
        self._share = max_bytes // (AT_ONCE * max(layers, 1))
        self._chosen: dict[str, list[int] | None] = {}
        self._shapes: dict[str, torch.Size] = {}

    def __call__(self, name: str, value: PointValue) -> PointValue:
        """What is kept of an output.

        Args:
            name: The layer; what is kept is decided at its first call.
            value: Its output.

        Returns:
            A copy.
        """
        z = value.tensor
        self._shapes.setdefault(name, z.shape)
        if name not in self._chosen:
            self._chosen[name] = self._choose(z, value.feature_axis)
        chosen = self._chosen[name]
        if chosen is None:
            return replace(value, tensor=z.clone())
        index = torch.tensor(chosen, device=z.device)
        return replace(value, tensor=z.index_select(value.feature_axis, index))

    def _choose(self, z: Tensor, axis: int) -> list[int] | None:
        size = z.numel() * z.element_size()
        if size <= self._share or z.ndim == 0:
            return None
        features = z.shape[axis]
        kept = max(1, features * self._share // size)
        return [i * features // kept for i in range(kept)]

    @property
    def names(self) -> set[str]:
        """Layers of which something is left out."""
        return {name for name, chosen in self._chosen.items() if chosen is not None}

    def spare(self, names: set[str]) -> None:
        """Keep all of some outputs from now on.

        Args:
            names: Of which layers.
        """
        self._chosen |= dict.fromkeys(names)

    def whole(self, name: str, value: PointValue) -> PointValue:
        """An output in its whole shape, without content.

        Args:
            name: The layer.
            value: What was kept of it.

        Returns:
            The same, on its device, in no memory.
        """
        empty = value.tensor.new_zeros(()).expand(self._shapes[name])
        return replace(value, tensor=empty)
