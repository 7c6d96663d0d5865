"""Values of a tag, read from the files and checked."""

import functools
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from svdhooks.eventfile.outline import walk
from svdhooks.eventfile.reader import decode, values_in
from svdhooks.eventfile.wire import read_varint
from svdhooks.runlog.tagrows import FileIndex, Tag

_GAP = 1 << 12
"""Bytes between two values that are read rather than passed over."""
_PART = 1 << 19
"""Bytes that are handled at once."""
_FEW = 4
"""Blocks of one length that are decoded together, at least, on average."""

Values = NDArray[Any] | list[Any]
"""Values of a tag: an array with one row for each, or a list."""
_crc = google_crc32c.value


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the values of a tag are that count, in step order.

    Attributes:
        tag: Their tag.
        steps: ``(T,)``, strictly increasing.
        events: ``(T, 2)``, which file, and where in it the Event is.
        blocks: ``(T, 4)``, see `TagGroup.locate`.
        files: The files.
        dropped: Values superseded by later ones at or before their step.
        held: The values, if they are here already; None: `read` fetches them.
    """

    tag: Tag
    steps: NDArray[np.int64]
    events: NDArray[np.int64]
    blocks: NDArray[np.int64]
    files: Sequence[FileIndex]
    dropped: int
    held: Values | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def take(self, places: NDArray[np.intp]) -> "Rows":
        """Some of the rows."""
        steps, events, blocks = (
            x[places] for x in (self.steps, self.events, self.blocks)
        )
        held = self.held
        if isinstance(held, list):
            held = [held[place] for place in places.tolist()]
        elif held is not None:
            held = held[places]
        return Rows(self.tag, steps, events, blocks, self.files, self.dropped, held)

    def keys(self) -> list[tuple[int, int]]:
        """For each row what no other Event has, also after a ``refresh``."""
        serials = [file.serial for file in self.files] or [-1]
        return [(serials[f], e) for f, e in self.events.tolist()]


def read(rows: Rows) -> Values:
    """Read and check values.

    Args:
        rows: Where they are.

    Returns:
        Floats, flat arrays, or strings as bytes; None for what is damaged, which is
        counted, and for what is neither. If all are numbers or arrays of one dtype and
        length, one array with a row for each.
    """
    if rows.held is not None:
        return rows.held
    found = _Found(rows)
    for place in np.unique(rows.events[:, 0]).tolist():
        index = rows.files[place]
        mine = np.flatnonzero(rows.events[:, 0] == place)
        mine = mine[np.argsort(rows.blocks[mine, 0], kind="stable")]
        try:
            # unbuffered: between two values there may be megabytes
            with index.path.open("rb", buffering=0) as file:
                # a part at a time, which the processor's cache holds
                for part in _parts(rows.blocks[mine]):
                    found.take(mine[part], _blocks(file, rows.blocks[mine[part]]))
        except OSError as error:  # it was removed, or may no longer be read
            index.unreadable = error.strerror or type(error).__name__
    return found.values()


class _Found:
    """Values as they are found: of blocks of one length all at once."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._single: dict[int, Any] = {}
        self._many: list[tuple[NDArray[np.intp], NDArray[Any]]] = []
        self._shapes: dict[tuple[int, int], _Shape | None] = {}

    def take(self, places: NDArray[np.intp], blocks: list[bytes]) -> None:
        """Check and decode the values at some places."""
        expected = self._rows.blocks[places]
        crc = np.fromiter(map(_crc, blocks), dtype=np.int64, count=len(blocks))
        sound = crc == expected[:, 2]
        if not sound.all():
            self._miss(places[~sound])
        if (expected[:, [1, 3]] == expected[0, [1, 3]]).all():
            kinds, kind = expected[:1, [1, 3]], np.zeros(len(places), dtype=np.intp)
        else:
            kinds, kind = np.unique(expected[:, [1, 3]], axis=0, return_inverse=True)
        if len(kinds) * _FEW > len(places):  # strings of any length
            for place in np.flatnonzero(sound).tolist():
                self._decode(int(places[place]), blocks[place])
            return
        for number in range(len(kinds)):
            alike = np.flatnonzero((kind.reshape(-1) == number) & sound)
            self._take_alike(places[alike], [blocks[i] for i in alike.tolist()])

    def values(self) -> Values:
        """What was found, in the order of the rows."""
        count = len(self._rows)
        if not self._single and sum(len(p) for p, _ in self._many) == count:
            kinds = {(array.dtype, array.shape[1:]) for _, array in self._many}
            if len(kinds) == 1:
                places = np.concatenate([places for places, _ in self._many])
                whole = np.concatenate([array for _, array in self._many])
                ordered = (np.diff(places) > 0).all()
                return whole if ordered else whole[np.argsort(places)]
        values: list[Any] = [None] * count
        for places, array in self._many:
            found = array.tolist() if array.ndim == 1 else array
            for place, value in zip(places.tolist(), found, strict=True):
                values[place] = value
        for place, value in self._single.items():
            values[place] = value
        return values

    def _take_alike(self, places: NDArray[np.intp], blocks: list[bytes]) -> None:
        """Decode the values of blocks of one length: numbers without their messages."""
        if not blocks:
            return
        which = int(self._rows.blocks[places[0], 3])
        kind = len(blocks[0]), which
        if kind not in self._shapes:
            self._shapes[kind] = _shape(blocks[0], which, self._rows.tag.name)
        shape = self._shapes[kind]
        if shape is None:
            alike = np.zeros(len(blocks), dtype=bool)
        else:
            length = len(blocks[0])
            table = np.frombuffer(b"".join(blocks), dtype=np.uint8)
            table = table.reshape(-1, length)
            alike = (table[:, shape.same] == shape.bytes).all(axis=1)
            numbers = np.ascontiguousarray(table[alike, shape.begin : shape.end])
            array = numbers.view(shape.dtype)
            if shape.single:
                array = array[:, 0].astype(np.float64)
            self._many.append((places[alike], array))
        for place in np.flatnonzero(~alike).tolist():
            self._decode(int(places[place]), blocks[place])

    def _decode(self, place: int, block: bytes) -> None:
        """Decode one value by its message."""
        which = int(self._rows.blocks[place, 3])
        found = values_in(block)
        if which < len(found) and found[which].tag == self._rows.tag.name:
            self._single[place] = decode(found[which])
        else:
            self._miss(np.array([place]))

    def _miss(self, places: NDArray[np.intp]) -> None:
        """Note which values are damaged."""
        for place in places.tolist():
            number, event = self._rows.events[place].tolist()
            self._rows.files[number].miss(event)
            self._single[place] = None


@dataclass(frozen=True, slots=True)
class _Shape:
    """What blocks of one length have in common.

    Attributes:
        same: Places of the bytes that say what is where.
        bytes: Those bytes; where they are equal, numbers are in the same place.
        begin: Where the numbers of the value begin.
        end: Where they end.
        dtype: Of the numbers.
        single: Whether it is a plain number.
    """

    same: NDArray[np.intp]
    bytes: NDArray[np.uint8]
    begin: int
    end: int
    dtype: np.dtype[Any]
    single: bool


def _shape(block: bytes, which: int, tag: str) -> _Shape | None:
    """Where the numbers of a value are; None if it has none that stand last in it."""
    found = values_in(block)
    if which >= len(found) or found[which].tag != tag:
        return None
    value = decode(found[which])
    single = isinstance(value, float)
    if single:
        content, dtype = np.float32(value).tobytes(), np.dtype("<f4")
    elif isinstance(value, np.ndarray) and value.size:
        content, dtype = value.tobytes(), value.dtype
    else:
        return None
    _, ends = walk(block, 0, len(block))
    begins = [0, *ends[:-1]]
    begin, end = begins[which], ends[which]
    if not block[begin:end].endswith(content):
        return None
    # the lengths of the values in front, and all of this one in front of its numbers
    heads = [range(b, read_varint(block, b + 1)[1]) for b in begins[:which]]
    same = np.array([
        *itertools.chain.from_iterable(heads),
        *range(begin, end - len(content)),
    ])
    found_there = np.frombuffer(block, dtype=np.uint8)[same]
    return _Shape(same, found_there, end - len(content), end, dtype, single)


def _blocks(file: BinaryIO, blocks: NDArray[np.int64]) -> list[bytes]:
    """Read blocks, which are in the order of the file; short where the file ends."""
    begins, lengths = blocks[:, 0], blocks[:, 1]
    near = begins[1:] - (begins + lengths)[:-1] <= _GAP
    if not near.any() and hasattr(os, "pread"):  # not on Windows
        at = functools.partial(os.pread, file.fileno())
        return list(map(at, lengths.tolist(), begins.tolist()))
    found = []
    cuts = [0, *(np.flatnonzero(~near) + 1).tolist(), len(blocks)]
    for first, last in itertools.pairwise(cuts):
        base = int(begins[first])
        file.seek(base)
        data = file.read(int(begins[last - 1] + lengths[last - 1]) - base)
        offsets = (begins[first:last] - base).tolist()
        pairs = zip(offsets, lengths[first:last].tolist(), strict=True)
        found += [data[offset : offset + size] for offset, size in pairs]
    return found


def _parts(blocks: NDArray[np.int64]) -> list[slice]:
    """Blocks that are handled at once: a number of bytes, however far apart."""
    size = np.cumsum(blocks[:, 1] + np.minimum(_GAP, np.diff(blocks[:, 0], prepend=0)))
    cuts = np.flatnonzero(np.diff(size // _PART)) + 1
    return [slice(a, b) for a, b in itertools.pairwise([0, *cuts.tolist(), len(size)])]
