"""What a page shows, as data: a tree that is JSON, and the arrays that it refers to."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARRAY = "$array"
"""Key of a reference: ``{"$array": i}`` stands for ``arrays[i]``."""

DTYPES = tuple(map(np.dtype, ("float32", "int32", "uint8")))
"""What arrays may be made of; a browser has a typed array for each."""


@dataclass
class PageData:
    """A tree of JSON in which ``{"$array": i}`` stands for ``arrays[i]``.

    Attributes:
        tree: Mappings, lists, text, numbers, truth values and None.
        arrays: Contiguous, of one of ``DTYPES``, with as many axes as they like.
    """

    tree: dict[str, Any] = field(default_factory=dict)
    arrays: list[NDArray[Any]] = field(default_factory=list)
    _places: dict[tuple[str, tuple[int, ...], bytes], int] = field(
        default_factory=dict, repr=False, compare=False
    )

    def add(self, array: NDArray[Any]) -> dict[str, int]:
        """Take an array into the page; one that is there already is not taken twice.

        Args:
            array: Truth values become uint8, integers int32 if they fit, and all others
                float32; what is too large for float32 becomes infinite.

        Returns:
            What stands for it in the tree.

        Raises:
            TypeError: If it holds no real numbers.
        """
        stored = _stored(np.asarray(array))
        key = (stored.dtype.str, stored.shape, _digest(stored))
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self.arrays)
            self.arrays.append(stored)
        return {ARRAY: place}

    def array(self, reference: Mapping[str, int]) -> NDArray[Any]:
        """The array that ``{"$array": i}`` stands for."""
        return self.arrays[reference[ARRAY]]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, before they are packed."""
        return sum(array.nbytes for array in self.arrays)


def _stored(array: NDArray[Any]) -> NDArray[Any]:
    """The array in one of ``DTYPES``."""
    kind = array.dtype.kind
    if kind not in "biuf":
        raise TypeError(
            f"Found an array of {array.dtype}; expected truth values or real numbers."
        )
    if kind == "b":
        array = array.astype(np.uint8)
    elif kind in "iu" and _fits(array):
        array = array if array.dtype == np.uint8 else array.astype(np.int32)
    else:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    return np.ascontiguousarray(array)


def _fits(integers: NDArray[Any]) -> bool:
    """Whether they are 32-bit integers."""
    bounds = np.iinfo(np.int32)
    if not integers.size:
        return True
    return bool(integers.min() >= bounds.min and integers.max() <= bounds.max)


def _digest(array: NDArray[Any]) -> bytes:
    """What tells arrays apart."""
    return hashlib.blake2b(array.data, digest_size=16).digest()
