"""Arrays of runs in one npz file, written member by member."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from svdhooks.cli.export_parts import Chosen, measure_parts, parts_of
from svdhooks.cli.telling import Tell
from svdhooks.runlog.spectra import pad

_LONG = 100


class Archive:
    """An npz file.

    Of each run: ``steps``, ``layers``, ``metrics``; ``measures/METRIC`` ``(steps,
    layers)``, NaN where not measured; ``spectra/LAYER/POINT/steps`` ``(T,)``,
    ``…/index`` and ``…/values`` ``(T, n)``. Of several runs each is below ``RUN/``, and
    ``runs`` has their names.

    Args:
        path: The file.
        chosen: What it will hold.
    """

    def __init__(self, path: Path, chosen: Sequence[Chosen]) -> None:
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._chosen = chosen
        names = [of_run.log.name for of_run in chosen]
        self._prefixes = [""] if len(names) == 1 else [f"{m}/" for m in members(names)]
        if len(names) > 1:
            self._put("runs", np.array(names))

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def write(self, place: int, tell: Tell) -> None:
        """Write a run.

        Args:
            place: Which of the chosen ones.
            tell: Is told how much is done.
        """
        chosen, prefix = self._chosen[place], self._prefixes[place]
        self._put(f"{prefix}steps", chosen.log.steps)
        self._put(f"{prefix}layers", _names(chosen.layers))
        if chosen.metrics:
            self._put(f"{prefix}metrics", _names(chosen.metrics))
        named = zip(chosen.metrics, members(chosen.metrics), strict=True)
        for done, (metric, member) in enumerate(named, 1):
            self._measure(chosen, metric, f"{prefix}measures/{member}")
            tell("measures", done, len(chosen.metrics))
        safe = dict(zip(chosen.layers, members(chosen.layers), strict=True))
        points = list(dict.fromkeys(point for _, point in chosen.matrices))
        of_point = dict(zip(points, members(points), strict=True))
        for done, (layer, point) in enumerate(chosen.matrices, 1):
            below = f"{prefix}spectra/{safe[layer]}/{of_point[point]}"
            self._spectra(chosen, layer, point, below)
            tell("spectra", done, len(chosen.matrices))

    def _measure(self, chosen: Chosen, metric: str, member: str) -> None:
        """One measure of all layers, written window by window."""
        alone = Chosen(chosen.log, chosen.layers, [metric], {})
        dtype = np.dtype(np.float64 if alone.has_derived else np.float32)
        shape = len(chosen.log.steps), len(chosen.layers)
        rows = (part.values[:, :, 0] for part in measure_parts(alone, _silent))
        self._stream(member, shape, dtype, rows)

    def _spectra(self, chosen: Chosen, layer: str, point: str, below: str) -> None:
        """The spectra of one matrix; twice read if they do not fit into one window."""
        parts = iter(parts_of(chosen.log, layer, point))
        first = next(parts, None)
        if first is None:
            return
        shapes = [_Shape.of(first), *map(_Shape.of, parts)]
        index = max((shape.index for shape in shapes), key=_reach)
        dtype = np.result_type(*(shape.dtype for shape in shapes))
        steps = np.concatenate([shape.steps for shape in shapes])
        again = [first] if len(shapes) == 1 else parts_of(chosen.log, layer, point)
        rows = (_widened(part.values, part.index, index) for part in again)
        self._put(f"{below}/steps", steps)
        self._put(f"{below}/index", index)
        self._stream(f"{below}/values", (len(steps), len(index)), dtype, rows)

    def _put(self, member: str, array: NDArray[Any]) -> None:
        """Write a small array."""
        self._stream(member, array.shape, array.dtype, [array])

    def _stream(
        self,
        member: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        parts: Iterator[NDArray[Any]] | Sequence[NDArray[Any]],
    ) -> None:
        """Write an array part by part."""
        # force_zip64: how large it becomes is not known to the archive
        with self._zip.open(f"{member}.npy", "w", force_zip64=True) as file:
            file.write(_head(shape, dtype))
            for part in parts:
                file.write(np.ascontiguousarray(part, dtype=dtype).tobytes())


class _Shape:
    """What is kept of a window until the array begins."""

    def __init__(
        self, steps: NDArray[np.int64], index: NDArray[np.int64], dtype: np.dtype[Any]
    ) -> None:
        self.steps, self.index, self.dtype = steps, index, dtype

    @classmethod
    def of(cls, part: Any) -> "_Shape":
        """Of a window."""
        return cls(part.steps, part.index, part.values.dtype)


def members(names: Sequence[str]) -> list[str]:
    """Names of members of an archive that are safe as paths, and all different.

    Args:
        names: Of anyone's making, all different.

    Returns:
        Percent-escaped as in URLs, ``/`` and a dot in front too; cut if long, with the
        place in ``names`` behind. Names of letters, digits, ``_.-~`` stay as they are.
    """
    found = []
    for place, name in enumerate(names):
        safe = quote(name, safe="", errors="surrogatepass")
        if safe.startswith("."):
            safe = f"%2E{safe[1:]}"
        if not safe or len(safe) > _LONG:
            safe = f"{safe[:_LONG]}%_{place}"
        found.append(safe)
    return found


def _names(names: Sequence[str]) -> NDArray[Any]:
    return np.array(names, dtype=np.str_)


def _head(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """What stands in front of the numbers of an array."""
    head = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    file = io.BytesIO()
    npy.write_array_header_1_0(file, head)
    return file.getvalue()


def _reach(index: NDArray[np.int64]) -> int:
    return len(index)


def _widened(
    values: NDArray[Any], index: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[Any]:
    """Spectra with the columns of the whole run, as `RunLog.spectra` has them."""
    if np.array_equal(index, wanted):
        return values
    if np.array_equal(index, np.arange(len(index))):  # shorter: few samples
        return np.stack([pad(row, len(wanted)) for row in values])
    wide = np.full((len(values), len(wanted)), np.nan, dtype=values.dtype)
    wide[:, index] = values  # display forms among full ones
    return wide


def _silent(what: str, done: int, whole: int) -> None:
    """Tell nobody."""
