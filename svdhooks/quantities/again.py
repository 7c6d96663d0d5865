"""What was measured before and need not be measured again: the same bits, the same spectrum."""

import hashlib
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from svdhooks.layers import Layer, PointValue
from svdhooks.layers.sharding import is_dtensor
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
        self._seen: dict[str, _SeenWeight] = {}
        self._changes_unseen: set[str] = set()

    def measure(
        self, quantity: WeightQuantity, layer: Layer, step: int
    ) -> Record | Sequence[Record]:
        """Measure a weight, unless it is known to be as it was.

        Args:
            quantity: What to measure.
            layer: The layer.
            step: Optimiser updates contained in the weights.

        Returns:
            The record, or several of a quantity that measures several matrices.
        """
        if type(quantity) is not WeightSpectrum:
            # it may depend on more than the weight
            return quantity.measure(layer, step)
        known = self._recall(layer)
        if known is None:
            found = quantity.measure(layer, step)
            known = (found,) if isinstance(found, Record) else tuple(found)
            self._keep(layer, known)
        records = [replace(record, step=step) for record in known]
        return records if len(records) > 1 else records[0]

    def _recall(self, layer: Layer) -> tuple[Record, ...] | None:
        seen = self._seen.get(layer.name)
        if seen is None or seen.digest is None or not seen.holds(_plain(layer)):
            return None
        if seen.digest != _digest(layer):
            self._changes_unseen.add(layer.name)  # not to be tried every time
            return None
        return seen.records

    def _keep(self, layer: Layer, records: tuple[Record, ...]) -> None:
        before, sources = self._seen.pop(layer.name, None), _plain(layer)
        failed = not all(record.ok for record in records)
        if not sources or failed or layer.name in self._changes_unseen:
            return
        frozen = before is not None and before.holds(sources)
        self._seen[layer.name] = _SeenWeight(
            tuple(map(weakref.ref, sources)),
            tuple(source._version for source in sources),
            records,
            _digest(layer) if frozen else None,
        )


@dataclass(frozen=True)
class _SeenWeight:
    """A weight known by all tensors that it is computed from, and by their states."""

    sources: "tuple[weakref.ref[Tensor], ...]"
    versions: tuple[int, ...]
    records: tuple[Record, ...]
    digest: bytes | None = None

    def holds(self, sources: tuple[Tensor, ...]) -> bool:
        return (
            len(sources) == len(self.sources)
            and all(
                known() is now for known, now in zip(self.sources, sources, strict=True)
            )
            and self.versions == tuple(source._version for source in sources)
        )


def _plain(layer: Layer) -> tuple[Tensor, ...]:
    """What the weight is computed from; empty unless all is memory of this process."""
    sources = layer.sources()
    plain = all(
        isinstance(x, Tensor)
        and not is_dtensor(x)
        and x.device.type == "cpu"
        and not x.is_inference()
        for x in sources
    )
    return sources if plain else ()


def _digest(layer: Layer) -> bytes | None:
    """SHA-256 of the content, also where it is computed; None if there is none."""
    hashed = hashlib.sha256()
    whole = layer.factors() if layer.factors else (layer.weight(),)
    # block by block: where they are not dense, one at a time is copied
    for matrix in (block for x in whole for block in (x if x.ndim == 3 else (x,))):
        if matrix.numel() == 0 or matrix.is_conj():
            return None
        dense = matrix if matrix.is_contiguous() else matrix.mT.contiguous()
        hashed.update(dense.view(torch.uint8).numpy().data)
    return hashed.digest()
