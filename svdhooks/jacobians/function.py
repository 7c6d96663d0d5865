"""The outputs of the layers, sample by sample, as a function of the input point."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from svdhooks.jacobians.model import InputPoint, Perturbable, mapped
from svdhooks.jacobians.options import Positions
from svdhooks.jacobians.samples import Layout
from svdhooks.layers.tap import Watched
from svdhooks.probe import ReferenceBatch


class SampleFunction:
    """``delta (n, *point)`` -> layer -> ``z (n, m)``; what `linalg.jacobian` takes.

    Args:
        model: The model.
        reference: The batch, of n samples.
        point: The input point.
        axis: Its axis that holds the samples.
        layouts: Where the samples are in the output of each layer.
        watched: The layers.
        positions: Which positions of an output count.
    """

    def __init__(
        self,
        model: Perturbable,
        reference: ReferenceBatch,
        point: "PointAxis",
        layouts: Mapping[str, Layout],
        watched: Sequence[Watched],
        positions: Positions,
    ) -> None:
        self._model = model
        self._reference = reference
        self._point = point
        self._layouts = layouts
        self._watched = watched
        self._positions = positions

    def __call__(self, delta: Tensor) -> dict[str, Tensor]:
        """Call the model once.

        Args:
            delta: What is added at the input point; samples on the first axis.

        Returns:
            One row per sample, of each layer.

        Raises:
            RuntimeError: If a layer is not seen in this pass.
        """
        n = len(delta)
        placed = self._point.placed(delta)
        values, failed = self._model.outputs(
            self._reference, self._watched, self._point.point, placed
        )
        for layer in self._watched:
            if layer.name not in values:
                reason = failed.get(layer.name, "its module was not called this time")
                raise RuntimeError(
                    f"the output of {layer.name!r} is not seen: {reason}"
                )
        return {
            layer.name: self._layouts[layer.name].arranged(
                values[layer.name], n, self._positions
            )
            for layer in self._watched
        }


class PointAxis:
    """An input point whose samples lie on a known axis.

    Args:
        point: The input point.
        axis: Its axis that holds the samples.
        shape: Its shape, of one sample.
        like: A tensor of its dtype on its device.
    """

    def __init__(
        self, point: InputPoint, axis: int, shape: Sequence[int], like: Tensor
    ) -> None:
        self.point = point
        self.axis = axis
        self.shape = tuple(shape)
        self.dtype = like.dtype
        self.device = like.device

    @property
    def size(self) -> int:
        """Dimension, of one sample."""
        return torch.Size(self.shape).numel()

    def placed(self, delta: Tensor) -> Tensor:
        """A perturbation in the layout of the point."""
        return delta.movedim(0, self.axis)

    def zeros(self, n: int) -> Float[Tensor, "n ..."]:
        """No perturbation."""
        return torch.zeros(n, *self.shape, dtype=self.dtype, device=self.device)


def taken(
    model: Perturbable,
    reference: ReferenceBatch,
    way: Mapping[int, int],
    samples: Sequence[int],
) -> ReferenceBatch:
    """Some samples of a batch.

    Args:
        model: Says what of the batch enters.
        reference: The batch.
        way: Which axis of which tensor that enters holds the samples.
        samples: Which ones.

    Returns:
        A batch of these.
    """
    axes = {id(t): way.get(i) for i, t in enumerate(model.entering(reference))}
    index = torch.tensor(samples)

    def some(tensor: Tensor) -> Tensor:
        axis = axes.get(id(tensor))
        return (
            tensor
            if axis is None
            else tensor.index_select(axis, index.to(tensor.device))
        )

    return mapped(reference, some)
