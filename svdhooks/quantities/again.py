"""What was measured before and need not be measured again: the same bits, the same spectrum."""

import hashlib
import weakref
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from svdhooks.layers import Layer, PointValue
from svdhooks.quantities.protocols import WeightQuantity
from svdhooks.quantities.weight_spectrum import WeightSpectrum
from svdhooks.record import Record


@dataclass(frozen=True)
class _Seen:
    """A tensor known by its identity and its state; its memory is not kept."""

    tensor: "weakref.ref[Tensor]"
    state: tuple[int, ...]
    record: Record
    digest: bytes | None = None

    def holds(self, tensor: Tensor, *state: int) -> bool:
        return self.tensor() is tensor and self.state == (tensor._version, *state)


class SeenTensors:
    """The tensors of one forward: q, k and v, a block and its shortcut share an input."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}

    def recall(self, value: PointValue) -> Record | None:
        """The record of this very tensor, if it is as it was then.

        Args:
            value: What passes a point.

        Returns:
            The record, of the layer where it was made.
        """
        seen = self._seen.get(id(value.tensor))
        if seen is None or not seen.holds(value.tensor, *_axes(value)):
            return None
        return seen.record

    def keep(self, value: PointValue, record: Record) -> None:
        """Remember what was measured, unless that failed.

        Args:
            value: What passed a point.
            record: Its record.
        """
        tensor = value.tensor
        if record.ok and not tensor.is_inference():  # these have no version
            state = (tensor._version, *_axes(value))
            self._seen[id(tensor)] = _Seen(weakref.ref(tensor), state, record)


def _axes(value: PointValue) -> tuple[int, int]:
    return value.feature_axis, value.batch_first


class UnchangedWeights:
    """Recognises weights on the CPU that no update has changed: frozen layers.

    The version of a parameter says that an optimiser changed it; it does not see what
    is written through ``.data``. So the version has to be the same and the content as
    well, by its SHA-256, which takes a tenth of the time of a spectrum. Weights that
    are trained cost one comparison of versions.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._changes_unseen: set[str] = set()

    def measure(self, quantity: WeightQuantity, layer: Layer, step: int) -> Record:
        """Measure a weight, unless it is known to be as it was.

        Args:
            quantity: What to measure.
            layer: The layer.
            step: Optimiser updates contained in the weights.

        Returns:
            The record.
        """
        if type(quantity) is not WeightSpectrum:
            return quantity.measure(
                layer, step
            )  # it may depend on more than the weight
        record = self._recall(layer)
        if record is not None:
            return replace(record, step=step)
        record = quantity.measure(layer, step)
        self._keep(layer, record)
        return record

    def _recall(self, layer: Layer) -> Record | None:
        seen, parameter = self._seen.get(layer.name), _parameter(layer)
        if seen is None or seen.digest is None:
            return None
        if parameter is None or not seen.holds(parameter):
            return None
        if seen.digest != _digest(layer):
            self._changes_unseen.add(layer.name)  # not to be tried every time
            return None
        return seen.record

    def _keep(self, layer: Layer, record: Record) -> None:
        before, parameter = self._seen.pop(layer.name, None), _parameter(layer)
        if parameter is None or not record.ok or layer.name in self._changes_unseen:
            return
        frozen = before is not None and before.holds(parameter)
        self._seen[layer.name] = _Seen(
            weakref.ref(parameter),
            (parameter._version,),
            record,
            _digest(layer) if frozen else None,
        )


def _parameter(layer: Layer) -> Tensor | None:
    """The weight as the module holds it, where it is plain memory of this process."""
    value = layer.parameter_value()
    plain = isinstance(value, torch.nn.Parameter) and not value.is_inference()
    return value if plain and value.device.type == "cpu" else None


def _digest(layer: Layer) -> bytes | None:
    """SHA-256 of the content; None if it is not one piece of memory."""
    weight = layer.weight()
    weight = weight if weight.is_contiguous() else weight.mT
    if not weight.is_contiguous() or weight.is_conj() or weight.numel() == 0:
        return None
    return hashlib.sha256(weight.view(torch.uint8).numpy().data).digest()
