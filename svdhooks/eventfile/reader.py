"""TensorBoard event files, the reading side: past damage, and while they grow.

Both checksums of every record are checked. After a damaged one the next is searched:
an offset whose eight length bytes match the checksum behind them, and whose payload
matches its own. TensorBoard's readers lose everything behind the first damage.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from tensorboard.compat.proto import types_pb2
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from svdhooks.eventfile.writer import FOOTER_SIZE, HEADER_SIZE, masked_crc

STRING: int = types_pb2.DT_STRING
"""A tensor's type, if it holds strings."""
NUMBERS: dict[int, tuple[np.dtype[Any], str]] = {
    types_pb2.DT_FLOAT: (np.dtype("<f4"), "float_val"),
    types_pb2.DT_DOUBLE: (np.dtype("<f8"), "double_val"),
    types_pb2.DT_INT32: (np.dtype("<i4"), "int_val"),
    types_pb2.DT_INT64: (np.dtype("<i8"), "int64_val"),
    types_pb2.DT_BOOL: (np.dtype("?"), "bool_val"),
}
"""A tensor's type, if it holds numbers -> dtype, and the field of those in a list."""

_CHUNK = 1 << 20
_SMALLEST = HEADER_SIZE + FOOTER_SIZE


class EventReader:
    """The Events of one file; iterating again goes on where the file ended.

    Attributes:
        path: The file.
        offset: Where the next record begins.
        records: Events handed out so far.
    """

    def __init__(
        self, path: str | os.PathLike[str], offset: int = 0, *, verify: bool = True
    ) -> None:
        self.path = Path(path)
        self.offset = offset
        self.records = 0
        self._verify = verify
        self._bad = 0
        self._resynced = 0
        self._size = -1  # of the file, when it was last read
        # What the unfinished end of the file looks like; it may yet grow, so it is
        # read again each time and counted only for as long as it is the end.
        self._tail = ""

    @property
    def counts(self) -> dict[str, int]:
        """What was found so far.

        ``records`` handed out; ``bad``: damaged stretches left out; ``resynced``:
        those after which the next record had to be searched; ``truncated``: 1 if
        the file ends inside a record.
        """
        return {
            "records": self.records,
            "bad": self._bad + (self._tail == "bad"),
            "resynced": self._resynced,
            "truncated": int(self._tail == "truncated"),
        }

    def __iter__(self) -> Iterator[Any]:
        for payload in self.payloads():
            try:
                event = Event.FromString(payload)
            except DecodeError:  # sound, but no Event: a record file of another kind
                self._bad += 1
                self.records -= 1
                continue
            yield event

    def payloads(self) -> Iterator[bytes]:
        """The records as bytes.

        Yields:
            One payload after the other.
        """
        with self.path.open("rb", buffering=_CHUNK) as file:
            size = os.fstat(file.fileno()).st_size
            if size == self._size:
                return
            self._tail = ""
            file.seek(self.offset)
            while (payload := self._next(file, size)) is not None:
                self.offset += _SMALLEST + len(payload)
                self.records += 1
                yield payload
            self._size = size

    def _next(self, file: BinaryIO, size: int) -> bytes | None:
        """The payload at ``self.offset``, which moves over damage; None at the end."""
        while self.offset < size:
            header = file.read(HEADER_SIZE)
            if len(header) < HEADER_SIZE:
                self._tail = "truncated"
                return None
            length = _length(header)
            if length is None:
                return self._search(file, self.offset + 1, size, "bad")
            behind = self.offset + _SMALLEST + length
            if behind > size:
                # Its writer is at work, or was killed; or bytes are missing.
                return self._search(file, self.offset + HEADER_SIZE, size, "truncated")
            payload = file.read(length)
            if _sound(payload, file.read(FOOTER_SIZE)) or not self._verify:
                return payload
            if _length(file.read(HEADER_SIZE)) is None:
                # It is the last, or its length leads nowhere: bytes are missing.
                return self._search(file, self.offset + HEADER_SIZE, size, "bad")
            self._bad += 1
            self.offset = behind
            file.seek(behind)
        return None

    def _search(
        self, file: BinaryIO, start: int, size: int, otherwise: str
    ) -> bytes | None:
        """Move to the first sound record from ``start`` on and return its payload."""
        for offset in _candidates(file, start, size):
            file.seek(offset)
            length = _length(file.read(HEADER_SIZE))
            if length is None or offset + _SMALLEST + length > size:
                continue
            payload = file.read(length)
            if _sound(payload, file.read(FOOTER_SIZE)):
                self._bad += 1
                self._resynced += 1
                self.offset = offset
                return payload
        # None is left: the offset stays, since the file may grow.
        self._tail = otherwise
        return None


def read_events(
    path: str | os.PathLike[str], offset: int = 0, verify: bool = True
) -> EventReader:
    """Read the Events of a file.

    Args:
        path: The file.
        offset: Where to begin: 0, or the ``offset`` of an earlier reader.
        verify: Check the payloads. The lengths are always checked.

    Returns:
        To be iterated, again and again while the file grows; ``counts`` says what
        was damaged.
    """
    return EventReader(path, offset, verify=verify)


def starts_session(event: Any) -> bool:
    """Whether an Event supersedes what is at or after its step."""
    return bool(event.session_log.status == SessionLog.START)


def _length(header: bytes) -> int | None:
    """The length of the payload behind ``header``; None if the header is damaged."""
    if len(header) < HEADER_SIZE:
        return None
    if masked_crc(header[:8]) != int.from_bytes(header[8:], "little"):
        return None
    return int.from_bytes(header[:8], "little")


def _sound(payload: bytes, footer: bytes) -> bool:
    """Whether the payload matches its checksum."""
    return masked_crc(payload) == int.from_bytes(footer, "little")


def _candidates(file: BinaryIO, start: int, size: int) -> Iterator[int]:
    """Offsets in ``start … size`` where a sound header stands."""
    for base in range(start, size - _SMALLEST + 1, _CHUNK):
        file.seek(base)
        chunk = np.frombuffer(file.read(_CHUNK + HEADER_SIZE - 1), dtype=np.uint8)
        for found in _headers(chunk):
            yield base + int(found)


def _headers(chunk: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Indices at which eight length bytes are followed by their checksum."""
    count = len(chunk) - HEADER_SIZE + 1
    if count <= 0:
        return np.empty(0, dtype=np.intp)
    # An Event has less than 2³¹ bytes, so the upper half of its length is zero. That
    # leaves few places to look at closely.
    zero = chunk == 0
    upper = [zero[4 + k : 4 + k + count] for k in range(4)]
    places = np.flatnonzero(upper[0] & upper[1] & upper[2] & upper[3])
    # CRC is linear: the sum of what each byte contributes, and a constant.
    crc = np.full(len(places), _CRC_OF_ZEROS, dtype=np.uint32)
    for k in range(4):
        crc ^= _CONTRIBUTION[k][chunk[places + k]]
    masked = (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)
    stored = np.zeros(len(places), dtype=np.uint32)
    for k in range(4):
        stored |= chunk[places + 8 + k].astype(np.uint32) << np.uint32(8 * k)
    found: NDArray[np.intp] = places[masked == stored]
    return found


_CRC_OF_ZEROS: int = google_crc32c.value(bytes(8))
_CONTRIBUTION = np.array(
    [
        [
            google_crc32c.value(bytes(k) + bytes([b]) + bytes(7 - k)) ^ _CRC_OF_ZEROS
            for b in range(256)
        ]
        for k in range(4)
    ],
    dtype=np.uint32,
)
"""What byte ``b`` at position ``k`` of a length changes in its checksum."""
