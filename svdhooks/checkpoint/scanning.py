"""Weight spectra and ranks of a checkpoint."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdhooks.checkpoint.contents import Contents, contents_of
from svdhooks.layers import Layer
from svdhooks.quantities import WeightSpectrum, WeightVectors
from svdhooks.record import Record
from svdhooks.runlog.frame import rows_frame

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int, str], object]
"""Called with layers done, layers in all, and the one that is next; empty at the end."""

HEADLINES = ("numerical_rank", "stable_rank", "effective_rank", "spectral_norm")


@dataclass(frozen=True, eq=False)
class CheckpointScan:
    """What a checkpoint holds.

    Attributes:
        path: Which.
        format: Of the files, in words.
        layers: One record per layer, as `svdhooks.scan` gives them.
        rows: Layer -> kind, shape, dtype, the name of its tensor, and ``note``: what
            was taken for granted. Tied layers too, which have no record of their own.
        skipped: Tensors without a record, and why.
        facts: What else the checkpoint says: step, epoch, hyper-parameters.
    """

    path: Path
    format: str
    layers: tuple[Record, ...]
    rows: Mapping[str, Mapping[str, Any]]
    skipped: tuple[tuple[str, str], ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def rows_table(self) -> list[dict[str, Any]]:
        """One row per layer, one column per measure.

        Returns:
            ``layer``, ``tensor``, ``kind``, ``shape`` (``out x in`` of one block),
            ``blocks``, ``dtype``, ``rank_limit``, the measures, the headline ranks
            first, then ``status``, ``marks`` and ``note``. A measure that a layer has
            not, or of which nothing is known, is None.
        """
        names = [name for record in self.layers for name in record.measures]
        columns = dict.fromkeys((*HEADLINES, *names))
        return [self._row(record, list(columns)) for record in self.layers]

    def frame(self) -> "pd.DataFrame":
        """The same as a table of pandas.

        Returns:
            A frame. Needs pandas: ``pip install 'svdhooks[analysis]'``.

        Raises:
            ImportError: If pandas is not installed.
        """
        rows = self.rows_table()
        return rows_frame(rows, list(rows[0]) if rows else [])

    def _row(self, record: Record, measures: Sequence[str]) -> dict[str, Any]:
        row = self.rows[record.layer]
        values = record.measures
        known = {
            name: values[name] if math.isfinite(values.get(name, math.nan)) else None
            for name in measures
        }
        return {
            "layer": record.layer,
            "tensor": row["tensor"],
            "kind": row["kind"],
            "shape": "x".join(map(str, row["shape"])),
            "blocks": max(row.get("groups", 1), row.get("experts", 0)),
            "dtype": row["dtype"],
            "rank_limit": row["rank_limit"],
            **known,
            "status": record.status,
            "marks": " ".join(record.marks),
            "note": row.get("note", ""),
        }


def scan_checkpoint(
    path: str | Path,
    *,
    layers: str | Sequence[str] = "*",
    measures: Sequence[str] = (),
    progress: Progress | None = None,
) -> CheckpointScan:
    """Weight spectra and ranks of a checkpoint, without building the model.

    Tensors are read one at a time. Layers have the names and values that
    `svdhooks.scan` gives for the model itself. What a state dict does not tell is taken
    for granted, and said under ``note`` in ``rows``: `docs/checkpoints.md` has the list.

    Args:
        path: A ``.safetensors`` file; a ``.pt``, ``.pth``, ``.ckpt`` or ``.bin`` file of
            ``torch.save``, of which weights only are read; a directory of Hugging Face's
            libraries or of a peft adapter; the index of a sharded checkpoint.
        layers: Globs of layer names.
        measures: Further measures, out of ``svdhooks.derived.FIELDS``, such as
            ``("power_law_alpha",)``.
        progress: Called with layers done, layers in all, and the next one.

    Returns:
        The records, the table of layers, and what was skipped.

    Raises:
        ValueError: If it is of no known format or damaged, holds no weights, or a
            measure or glob fits nothing.
        OSError: If it cannot be read.
    """
    quantity = WeightSpectrum(measures=tuple(measures))
    contents = contents_of(Path(path), layers)
    records = [
        measured(quantity, layer, 0)[0] for layer in stepwise(contents.layers, progress)
    ]
    return scan_of(contents, records)


def scan_of(contents: Contents, records: Sequence[Record]) -> CheckpointScan:
    """Put together what was found and what was measured.

    Args:
        contents: Of the checkpoint.
        records: One per layer.

    Returns:
        The scan.
    """
    checkpoint = contents.checkpoint
    return CheckpointScan(
        checkpoint.path,
        checkpoint.format,
        tuple(records),
        contents.rows,
        tuple((x.name, x.reason) for x in contents.skipped),
        checkpoint.facts,
    )


def stepwise(layers: Sequence[Layer], progress: Progress | None) -> Iterator[Layer]:
    """The layers one after the other, told to a progress bar.

    Args:
        layers: The layers.
        progress: Is told; None: nobody.

    Yields:
        Each layer.
    """
    for done, layer in enumerate(layers):
        if progress is not None:
            progress(done, len(layers), layer.name)
        yield layer
    if progress is not None:
        progress(len(layers), len(layers), "")


def measured(
    quantity: WeightSpectrum | WeightVectors, layer: Layer, step: int
) -> list[Record]:
    """Measure one layer; if that fails, the record says why.

    Args:
        quantity: What to measure.
        layer: Of a file.
        step: For the record.

    Returns:
        The records.

    Raises:
        OSError: If the file cannot be read any more.
    """
    try:
        made = quantity.measure(layer, step)
    except OSError:
        raise  # the file is gone or cut off: of the others nothing can be read either
    except Exception as error:  # noqa: BLE001  # one layer must not end the scan
        status = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return [quantity.failed(layer, step, status)]
    return made if isinstance(made, list) else [made]
