"""Records of checkpoints, written into the log of a run."""

import hashlib
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svdhooks.checkpoint.adapters import FactorSource
from svdhooks.checkpoint.contents import Contents, contents_of
from svdhooks.checkpoint.scanning import (
    Progress,
    measured,
    stepwise,
)
from svdhooks.conductor.meta import Described, meta_record, run_record
from svdhooks.layers import Layer, Skipped
from svdhooks.quantities import WeightSpectrum, WeightVectors
from svdhooks.record import Record
from svdhooks.reports import RecordingWarning
from svdhooks.sinks.tensorboard import TensorBoardSink

UNCHANGED = "unchanged"
"""Marks a record of a weight that has every byte of the checkpoint before."""

_AT_ONCE = 2**30
"""Bytes of vectors that wait for being written."""


@dataclass(eq=False)
class LogWriter:
    """The log of a series, or of one checkpoint, while it is written.

    Attributes:
        sink: Where it goes.
        quantities: Spectra, and vectors or None.
        globs: Of layer names.
        settings: For the log.
    """

    sink: TensorBoardSink
    quantities: tuple[WeightSpectrum, WeightVectors | None]
    globs: str | Sequence[str]
    settings: dict[str, Any]
    done: dict[int, Path] = field(default_factory=dict)
    unchanged: dict[str, list[int]] = field(default_factory=dict)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    skipped: dict[str, Skipped] = field(default_factory=dict)
    _table: dict[str, Layer] = field(default_factory=dict)
    _notes: dict[str, str] = field(default_factory=dict)
    _shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    _before: dict[str, tuple[bytes, Record]] = field(default_factory=dict)

    def take(self, step: int, path: Path, progress: Progress | None) -> None:
        """Scan one checkpoint; if it cannot be read, warn and go on.

        Args:
            step: Of the checkpoint.
            path: Where it is.
            progress: Is told; None: nobody.
        """
        try:
            self.write(step, contents_of(path, self.globs), progress)
        except Exception as error:  # noqa: BLE001  # one of many
            self._passed_over(path, error)
        else:
            self.done[step] = path

    def write(
        self, step: int, contents: Contents, progress: Progress | None
    ) -> list[Record]:
        """Measure a checkpoint and write its records.

        Args:
            step: Of the checkpoint.
            contents: What it holds.
            progress: Is told; None: nobody.

        Returns:
            The spectra.
        """
        begun = time.perf_counter()
        self._describe(step, contents)
        records, waiting = self._measure(step, contents, progress)
        values = {"checkpoint_seconds": time.perf_counter() - begun}
        if "epoch" in contents.checkpoint.facts:
            values["epoch"] = float(contents.checkpoint.facts["epoch"])
        self.sink.write([*waiting, run_record(step, values)])
        return records

    def close(self) -> None:
        """Write what is known at the end only.

        Raises:
            ValueError: If no checkpoint could be read.
        """
        if not self.done:
            path, why = self.failed[-1]
            raise ValueError(
                f"None of {len(self.failed)} checkpoints could be read. Of {path}: {why}"
            )
        self._write_table(max(self.done))

    def _describe(self, step: int, contents: Contents) -> None:
        """Write the table of layers, if there is anything new in it."""
        self.skipped |= {x.name: x for x in contents.skipped}
        for name, row in contents.rows.items():
            if "note" in row:
                self._notes.setdefault(name, row["note"])
        facts = contents.checkpoint.facts
        if "hparams" in facts:
            self.settings.setdefault("hparams", dict(facts["hparams"]))
        new = [layer for layer in contents.table if layer.name not in self._table]
        self._table |= {layer.name: _without_values(layer) for layer in new}
        changed = self._note_shapes(step, contents.table)
        if new or changed:
            self._write_table(step)

    def _note_shapes(self, step: int, layers: Sequence[Layer]) -> bool:
        """Say where a weight has another shape than the table: a vocabulary grew."""
        changed = False
        for layer in layers:
            first = self._table[layer.name].shape
            last = self._shapes.setdefault(layer.name, first)
            if layer.shape != last:
                out, in_ = layer.shape
                told = self._notes.get(layer.name)
                here = f"{out} x {in_} from step {step} on"
                self._notes[layer.name] = f"{told}; {here}" if told else here
                self._shapes[layer.name] = layer.shape
                changed = True
        return changed

    def _write_table(self, step: int) -> None:
        names = [q.name for q in self.quantities if q is not None]
        settings = {
            **self.settings,
            "quantities": [{"name": name} for name in names],
            "notes": self._notes,
            "unchanged": self.unchanged,
            "failed": [[str(path), why] for path, why in self.failed],
        }
        model = Described(tuple(self._table.values()), tuple(self.skipped.values()))
        self.sink.write([meta_record(step, model, settings)])

    def _measure(
        self, step: int, contents: Contents, progress: Progress | None
    ) -> tuple[list[Record], list[Record]]:
        """All spectra, and what is still to be written."""
        spectra, vectors = self.quantities
        found: list[Record] = []
        waiting: list[Record] = []
        size = 0
        for layer in stepwise(contents.layers, progress):
            found.append(self._spectrum(spectra, layer, step))
            waiting.append(found[-1])
            for record in measured(vectors, layer, step) if vectors else ():
                waiting.append(record)
                size += sum(x.nbytes for x in record.values.values())
            if size > _AT_ONCE:
                self.sink.write(waiting)
                waiting, size = [], 0
        return found, waiting

    def _spectrum(self, quantity: WeightSpectrum, layer: Layer, step: int) -> Record:
        """Measure a layer, unless it is what it was."""
        digest = _digest(layer)
        before = self._before.get(layer.name)
        if before is not None and before[0] == digest:
            self.unchanged.setdefault(layer.name, []).append(step)
            record = before[1]
            return replace(record, step=step, marks=(*record.marks, UNCHANGED))
        record = measured(quantity, layer, step)[0]
        self._before[layer.name] = digest, record
        return record

    def _passed_over(self, path: Path, error: Exception) -> None:
        first = str(error).partition("\n")[0] or type(error).__name__
        self.failed.append((path, first))
        warnings.warn(f"{path} is passed over: {first}", RecordingWarning, stacklevel=4)


def _digest(layer: Layer) -> bytes:
    """Tells weights apart by their bytes."""
    found = hashlib.blake2b(digest_size=16)
    source = layer.source
    if isinstance(source, FactorSource):
        parts: Sequence[Tensor] = source.factors()
    else:
        parts = (layer.weight(),)
    for part in parts:
        found.update(str((part.dtype, tuple(part.shape))).encode())
        flat = part.detach().contiguous().reshape(-1).view(torch.uint8)
        found.update(flat.numpy().data)
    return found.digest()


@dataclass(frozen=True, eq=False)
class _OnMeta:
    """Stands for a weight that is not read any more."""

    like: tuple[Any, ...]

    def value(self) -> Any:
        return self.like[0]

    def tensors(self) -> tuple[Any, ...]:
        return self.like


def _without_values(layer: Layer) -> Layer:
    """The layer as it is described, which keeps no file in memory."""
    inert = _OnMeta(layer.sources())
    return replace(
        layer, source=inert, factors=layer.factors and _none, bias_source=None
    )


def _none() -> tuple[Tensor, Tensor]:
    raise RuntimeError("the table of layers holds no weights")
