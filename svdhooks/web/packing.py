"""Arrays as text for a page: sorted bytes, deflated, base64. static/packed.js reads it."""

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.web.page import DTYPES


def packed(arrays: Sequence[NDArray[Any]]) -> tuple[list[dict[str, Any]], str]:
    """Pack arrays into one blob of text.

    Args:
        arrays: Of the types in `svdhooks.web.page.DTYPES`.

    Returns:
        What the blob holds, ``{"dtype", "shape"}`` in order; and the blob.

    Raises:
        TypeError: If an array has another type.
    """
    manifest, laid = laid_out(arrays)
    deflate = zlib.compressobj(9)
    parts = [deflate.compress(part) for part in laid]
    parts.append(deflate.flush())
    return manifest, base64.b64encode(b"".join(parts)).decode("ascii")


def laid_out(
    arrays: Sequence[NDArray[Any]],
) -> tuple[list[dict[str, Any]], Iterator[bytes]]:
    """Arrays as bytes, little-endian.

    The first bytes of all items of an array come first, then all second bytes and so on:
    neighbours are alike then, and deflate makes measured curves a fifth smaller.

    Args:
        arrays: Of the types in `svdhooks.web.page.DTYPES`.

    Returns:
        ``{"dtype", "shape"}`` of each, and the bytes of each.

    Raises:
        TypeError: If an array has another type.
    """
    for array in arrays:
        if array.dtype not in DTYPES:
            raise TypeError(
                f"Found an array of {array.dtype}; expected one of "
                f"{', '.join(map(str, DTYPES))}. PageData.add converts."
            )
    manifest = [{"dtype": a.dtype.name, "shape": list(a.shape)} for a in arrays]
    return manifest, map(_planes, arrays)


def _planes(array: NDArray[Any]) -> bytes:
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).reshape(-1, array.itemsize).T.tobytes()


def json_text(value: Any) -> str:
    """JSON that can stand inside a script tag: no ``<`` can end it, NaN is null."""
    text = json.dumps(
        _plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    # lone surrogates of broken file names cannot be written as UTF-8
    text = text.encode("utf-8", "replace").decode("utf-8")
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    """JSON's own kinds: what is not finite becomes null, mappings have text as keys."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
