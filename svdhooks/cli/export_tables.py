"""Tidy tables, written block by block: csv and parquet.

Lines of csv are made by string formatting, ten times as fast as the csv module and in
need of no package; the csv module quotes the names in them.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from svdhooks.cli.export_parts import MeasurePart, SpectraPart
from svdhooks.cli.kinds import What

COLUMNS = {
    What.MEASURES: ("run", "step", "layer", "metric", "value"),
    What.SPECTRA: ("run", "step", "layer", "point", "index", "value"),
}
_SINGLE, _DOUBLE = "%.9g", "%.17g"
"""Digits that give back every float32, and every float64."""
_ROWS = 1 << 18
"""Of a row group of parquet, about."""
_HERE = "\0"
"""Stands for the names in front of a line until they are put in."""


@runtime_checkable
class Table(Protocol):
    """A table to which blocks are added."""

    def measures(self, part: MeasurePart) -> None:
        """Add measures."""
        ...

    def spectra(self, part: SpectraPart) -> None:
        """Add spectra."""
        ...

    def __enter__(self) -> "Table": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class CsvTable:
    """A csv file in UTF-8 with a head line.

    Args:
        path: The file.
        what: Which columns it has.
        runs: Names of the runs.
        double: Whether values are float64.
    """

    def __init__(
        self,
        path: Path,
        what: What,
        runs: Sequence[str],  # noqa: ARG002  # as for parquet
        double: bool,
    ) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._number = _DOUBLE if double else _SINGLE
        self._file.write(",".join(COLUMNS[what]) + "\n")
        self._quoted: dict[str, str] = {}

    def __enter__(self) -> "CsvTable":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def measures(self, part: MeasurePart) -> None:
        """Add measures, in the order of steps, layers, metrics."""
        run = self._quote(part.run)
        names = [
            f"{self._quote(layer)},{self._quote(metric)},{self._number}\n"
            for layer in part.layers
            for metric in part.metrics
        ]
        for step, values, there in zip(
            part.steps.tolist(),
            part.values.reshape(len(part.steps), -1),
            part.there.reshape(len(part.steps), -1),
            strict=True,
        ):
            first = f"{run},{step},"
            lines = [
                first + name % value
                for name, value, is_there in zip(
                    names, values.tolist(), there.tolist(), strict=True
                )
                if is_there
            ]
            self._file.write("".join(lines))

    def spectra(self, part: SpectraPart) -> None:
        """Add spectra, in the order of steps and entries."""
        number = _DOUBLE if part.values.dtype == np.float64 else self._number
        ends = [f"{_HERE}{entry},{number}\n" for entry in part.index.tolist()]
        whole = "".join(ends)
        names = f"{self._quote(part.layer)},{self._quote(part.point)},"
        run = self._quote(part.run)
        rows = zip(part.steps.tolist(), part.values, part.there, strict=True)
        for step, values, there in rows:
            lines = whole
            if not there.all():
                lines = "".join(ends[i] for i in np.flatnonzero(there).tolist())
            filled = lines % tuple(values[there].tolist())
            self._file.write(filled.replace(_HERE, f"{run},{step},{names}"))

    def _quote(self, name: str) -> str:
        """A name as a field, as the csv module writes it."""
        if name not in self._quoted:
            line = io.StringIO()
            # with a second field, since one that is empty and alone is quoted
            csv.writer(line, lineterminator="\n").writerow([name, ""])
            self._quoted[name] = line.getvalue()[:-2]
        return self._quoted[name]


class ParquetTable:
    """A parquet file, names in dictionary columns, a row group at a time.

    Args:
        path: The file.
        what: Which columns it has.
        runs: Names of the runs.
        double: Whether values are float64.
    """

    def __init__(
        self, path: Path, what: What, runs: Sequence[str], double: bool
    ) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._pa = pa
        self._runs = {name: place for place, name in enumerate(runs)}
        self._value = np.dtype(np.float64 if double else np.float32)
        names = pa.dictionary(pa.int32(), pa.string())
        kinds = {
            "step": pa.int64(),
            "index": pa.int32(),
            "value": pa.from_numpy_dtype(self._value),
        }
        self._schema = pa.schema([(n, kinds.get(n, names)) for n in COLUMNS[what]])
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: list[Any] = []
        self._rows = 0

    def __enter__(self) -> "ParquetTable":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def measures(self, part: MeasurePart) -> None:
        """Add measures, in the order of steps, layers, metrics."""
        step, layer, metric = np.nonzero(part.there)
        self._add({
            "run": self._named([part.run], np.zeros(len(step), np.int32)),
            "step": part.steps[step],
            "layer": self._named(part.layers, layer),
            "metric": self._named(part.metrics, metric),
            "value": part.values[part.there].astype(self._value),
        })

    def spectra(self, part: SpectraPart) -> None:
        """Add spectra, in the order of steps and entries."""
        there = part.there
        step, entry = np.nonzero(there)
        same = np.zeros(len(step), np.int32)
        self._add({
            "run": self._named([part.run], same),
            "step": part.steps[step],
            "layer": self._named([part.layer], same),
            "point": self._named([part.point], same),
            "index": part.index[entry].astype(np.int32),
            "value": part.values[there].astype(self._value),
        })

    def _add(self, columns: dict[str, Any]) -> None:
        """Add rows; write them once they are many."""
        self._waiting.append(self._pa.table(columns, schema=self._schema))
        self._rows += len(columns["step"])
        if self._rows >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        """Write what is waiting as one row group."""
        if self._waiting:
            whole = self._pa.concat_tables(self._waiting).unify_dictionaries()
            self._writer.write_table(whole, row_group_size=_ROWS)
        self._waiting, self._rows = [], 0

    def _named(self, names: Sequence[str], index: NDArray[Any]) -> Any:
        """A column of names."""
        pa = self._pa
        words = pa.array(list(names), type=pa.string())
        return pa.DictionaryArray.from_arrays(index.astype(np.int32), words)


def need_pyarrow() -> None:
    """Refuse parquet where it cannot be written.

    Raises:
        ImportError: If pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "parquet needs pyarrow: pip install 'svdhooks[analysis]'. Without it there "
            "is --format csv, or npz."
        ) from error
