"""Arrays beside an event file: safetensors with a checksum for each tensor.

The format is safetensors' own, so that anything reads it. It knows no checksums; they
stand in the metadata. Not all its versions know complex numbers: those are stored as real
numbers with one more axis, real and imaginary part, and the metadata names them. Files are read by plain reads, never mapped: a mapped file that
is cut while it is read kills the process.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from svdhooks.schema import VERSION

METADATA = "svdhooks"
DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
"""What safetensors calls a dtype -> the dtype."""

_STORED = frozenset(DTYPES.values())
_COMPLEX = frozenset({np.dtype("<c8"), np.dtype("<c16")})
_NAME = re.compile(r"vectors-(\d{10,})-(.+)-(\d+)\.safetensors")
_LENGTH = 8
_LONGEST_HEADER = 100_000_000  # safetensors' own limit


@dataclass(frozen=True, slots=True, order=True)
class VectorName:
    """What the name of a file of vectors says.

    Attributes:
        session: What follows ``tfevents.`` in the name of the event file beside.
        number: How many files of the session came before.
        step: Of the record.
    """

    session: str
    number: int
    step: int

    def __str__(self) -> str:
        return f"vectors-{self.step:010}-{self.session}-{self.number}.safetensors"

    @classmethod
    def of(cls, name: str) -> "VectorName | None":
        """Read the name of a file; None if it is no file of vectors."""
        found = _NAME.fullmatch(name)
        return None if found is None else cls(found[2], int(found[3]), int(found[1]))


def has_dtype(array: NDArray[Any]) -> bool:
    """Whether an array can be stored: not strings, not objects."""
    return array.dtype.newbyteorder("<") in _STORED | _COMPLEX


def serialise(name: VectorName, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a file of vectors.

    Args:
        name: Its name.
        arrays: Name of the tensor -> array, of a dtype in ``DTYPES`` or complex.

    Returns:
        A safetensors file.
    """
    from safetensors.numpy import save

    whole = {
        key: _as_real(
            np.ascontiguousarray(array).astype(
                array.dtype.newbyteorder("<"), copy=False
            )
        )
        for key, array in arrays.items()
    }
    two = [key for key, array in arrays.items() if np.iscomplexobj(array)]
    crc = {
        key: _crc(key, array, array.tobytes(), key in two)
        for key, array in whole.items()
    }
    said = {"v": VERSION, "step": name.step, "session": name.session, "crc": crc}
    said |= {"complex": two} if two else {}
    data: bytes = save(whole, metadata={METADATA: json.dumps(said)})
    return data


class VectorFile:
    """One file of vectors; the tensors are read when asked for.

    Attributes:
        path: The file.
        tensors: Name -> dtype, shape, begin and end in the file.

    Raises:
        ValueError: If the file is damaged, or none of ours.
        OSError: If it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(_LENGTH), "little")
            if not 0 < length <= min(size - _LENGTH, _LONGEST_HEADER):
                raise ValueError(f"{path} is no safetensors file, or was cut.")
            header = json.loads(file.read(length))
        try:
            said = json.loads(header.pop("__metadata__")[METADATA])
            self._crc: Mapping[str, int] = said["crc"]
            self._complex = frozenset(said.get("complex", ()))
            self.tensors = {
                key: _placed(found, _LENGTH + length, size)
                for key, found in header.items()
                if key in self._crc
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no vectors of ours.") from error
        if len(self.tensors) < len(self._crc):
            raise ValueError(f"{path} lacks some of its vectors.")

    def read(self, key: str) -> NDArray[Any]:
        """One tensor.

        Args:
            key: One of ``tensors``.

        Returns:
            The array, of its own memory.

        Raises:
            ValueError: If it is damaged.
            OSError: If it cannot be read.
        """
        dtype, shape, begin, end = self.tensors[key]
        with self.path.open("rb", buffering=0) as file:
            file.seek(begin)
            data = file.read(end - begin)
        array = np.empty(shape, dtype=dtype)
        two = key in self._complex
        crc = _crc(key, array, data, two)
        if len(data) != array.nbytes or crc != self._crc[key]:
            raise ValueError(f"{key} in {self.path} is damaged.")
        found = np.frombuffer(data, dtype=dtype).reshape(shape).copy()
        if not two:
            return found
        return found.view(np.result_type(dtype, np.complex64))[..., 0]


def _as_real(array: NDArray[Any]) -> NDArray[Any]:
    if not np.iscomplexobj(array):
        return array
    return array.view(array.real.dtype).reshape(*array.shape, 2)


def _placed(
    found: Mapping[str, Any], base: int, size: int
) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """Where a tensor is, from its entry in the header."""
    begin, end = (base + int(place) for place in found["data_offsets"])
    shape = tuple(int(n) for n in found["shape"])
    if not base <= begin <= end <= size or any(n < 0 for n in shape):
        raise ValueError("a tensor that lies outside its file")
    dtype = DTYPES[found["dtype"]]
    if int(np.prod(shape, dtype=object)) * dtype.itemsize != end - begin:
        raise ValueError("a tensor that is longer or shorter than its shape")
    return dtype, shape, begin, end


def _crc(key: str, array: NDArray[Any], data: bytes, two: bool) -> int:
    """The checksum of a tensor: its name, dtype, shape, what it means, and bytes."""
    what = f"{key} {array.dtype.str} {list(array.shape)}{' complex' * two}"
    found: int = google_crc32c.extend(google_crc32c.value(what.encode()), data)
    return found
