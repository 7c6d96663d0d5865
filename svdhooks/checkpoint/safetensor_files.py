"""Reading ``.safetensors``, one tensor at a time.

The header is checked by the library of the format. The values are read from the file
rather than mapped: what was read before does not stay in the memory of the process.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from svdhooks.checkpoint.stored import Stored

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def read_safetensors(path: Path) -> dict[str, Stored]:
    """What a file holds.

    Args:
        path: The file.

    Returns:
        Name -> tensor, in the order of the file.

    Raises:
        ValueError: If it is damaged or of another format.
        OSError: If it cannot be read.
    """
    try:
        with safe_open(path, "pt"):
            header, start = _header(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}). Expected one as "
            "safetensors.torch.save_file writes it; copy or download it again."
        ) from error
    header.pop("__metadata__", None)
    placed = sorted(header, key=lambda name: header[name]["data_offsets"])
    return {name: _stored(path, name, header[name], start) for name in placed}


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON in front, and where the data begins."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size)), 8 + size


def _stored(path: Path, name: str, entry: dict[str, Any], start: int) -> Stored:
    shape = tuple(entry["shape"])
    dtype = _DTYPES.get(entry["dtype"], entry["dtype"])
    first, last = entry["data_offsets"]
    read = _reader(path, start + first, last - first, dtype, shape)
    return Stored(name, shape, dtype, read)


def _reader(
    path: Path, start: int, size: int, dtype: str, shape: tuple[int, ...]
) -> Callable[[], Tensor]:
    def read() -> Tensor:
        if not math.prod(shape):
            return torch.empty(shape, dtype=getattr(torch, dtype))
        data = bytearray(size)
        with path.open("rb") as file:
            file.seek(start)
            count = file.readinto(data)
        if count != size:
            raise OSError(f"{path} has become shorter while it was read.")
        flat = torch.frombuffer(data, dtype=torch.uint8)
        return flat.view(getattr(torch, dtype)).reshape(shape)

    return read
