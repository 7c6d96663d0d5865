"""The values of Events as rows: Events that carry the same tags are stored together."""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.eventfile.reader import NUMBERS, STRING


@dataclass(frozen=True, slots=True)
class Row:
    """The values of one Event, taken out of it in one pass."""

    tags: list[str] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)
    """For each tag the number, or 0."""
    raw: list[bytes] = field(default_factory=list)
    """The bytes of each array."""
    raw_places: list[int] = field(default_factory=list)
    """Which of the tags they belong to."""
    rest: list[tuple[int, Any]] = field(default_factory=list)
    """The other values, and numbers that are 0, with their places."""

    @classmethod
    def of(cls, values: Iterable[Any]) -> "Row":
        """Take the values out of a Summary."""
        row = cls()
        tags, numbers, raw = row.tags.append, row.numbers.append, row.raw.append
        raw_places, rest = row.raw_places.append, row.rest.append
        for place, value in enumerate(values):
            tags(value.tag)
            number = value.simple_value  # 0.0 if there is none
            numbers(number)
            if number:
                continue
            content = value.tensor.tensor_content
            if content:
                raw(content)
                raw_places(place)
            else:
                rest((place, value))
        return row


class TagGroup:
    """The Events that carry the same tags in the same order, as rows.

    Most Events of a run are alike, so that one look at the list of tags replaces a
    look-up of every tag.

    Attributes:
        tags: The tags of each row.
        steps: Of the rows; strictly increasing.
        order: How many Events had been read before each row.
        dropped: Rows superseded by later ones at or before their step.
    """

    def __init__(self, row: Row, values: Sequence[Any], tags: tuple[str, ...]) -> None:
        self.tags = list(tags)
        self.steps = array("q")
        self.order = array("q")
        self.dropped = 0
        self._raw_places = row.raw_places
        self._rest_places = [i for i, v in row.rest if not v.HasField("simple_value")]
        self._dtypes = [_dtype(values[i].tensor) for i in row.raw_places]
        self._numbers = array("d")
        self._raw: list[bytes] = []
        self._rest: list[Any] = []

    def append(self, step: int, order: int, row: Row) -> bool:
        """Add a row; rows at or after its step are superseded.

        Args:
            step: The step of the Event.
            order: Events read before.
            row: Its values.

        Returns:
            False, and nothing is added, if the tags are others, or one of them has a
            value of another kind than in this group.
        """
        rest = [(i, v) for i, v in row.rest if not v.HasField("simple_value")]
        if (
            row.tags != self.tags
            or row.raw_places != self._raw_places
            or [i for i, _ in rest] != self._rest_places
        ):
            return False
        self.drop_from(step)
        self.steps.append(step)
        self.order.append(order)
        self._numbers.extend(row.numbers)
        self._raw += row.raw
        self._rest += [_decode(value) for _, value in rest]
        return True

    def drop_from(self, step: int) -> None:
        """Forget the rows at and after ``step``."""
        if not self.steps or self.steps[-1] < step:
            return
        keep = bisect_left(self.steps, step)
        self.dropped += len(self.steps) - keep
        del self.steps[keep:]
        del self.order[keep:]
        del self._numbers[keep * len(self.tags) :]
        del self._raw[keep * len(self._raw_places) :]
        del self._rest[keep * len(self._rest_places) :]

    def is_number(self, place: int) -> bool:
        """Whether the tag at ``place`` is a ``simple_value``."""
        return place not in self._raw_places and place not in self._rest_places

    def values(self, place: int) -> list[Any]:
        """The values of the tag at ``place``: floats, flat arrays, bytes, or None."""
        if place in self._raw_places:
            first = self._raw_places.index(place)
            found = self._raw[first :: len(self._raw_places)]
            dtype = self._dtypes[first]
            if dtype is None:
                return [None] * len(found)
            return [np.frombuffer(raw, dtype=dtype) for raw in found]
        if place in self._rest_places:
            first = self._rest_places.index(place)
            return self._rest[first :: len(self._rest_places)]
        return self._numbers[place :: len(self.tags)].tolist()


def _dtype(tensor: Any) -> np.dtype[Any] | None:
    """The dtype of a tensor written as bytes; None if we do not know it."""
    return NUMBERS[tensor.dtype][0] if tensor.dtype in NUMBERS else None


def _decode(value: Any) -> bytes | NDArray[Any] | None:
    """A string, an array; None for images and the like."""
    tensor = value.tensor
    if tensor.dtype == STRING:
        string: bytes | None = tensor.string_val[0] if tensor.string_val else None
        return string
    if tensor.dtype not in NUMBERS:
        return None
    dtype, name = NUMBERS[tensor.dtype]
    flat = np.array(getattr(tensor, name), dtype=dtype)
    count = math.prod(dimension.size for dimension in tensor.tensor_shape.dim)
    if flat.size == 1 and count > 1:  # protobuf's short form of a constant
        return np.full(count, flat[0])
    return flat
