"""What a directory of event files says, tag by tag, as raw bytes until asked for."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.eventfile.reader import EventReader, starts_session
from svdhooks.eventfile.writer import event_files
from svdhooks.runlog.tagrows import Row, TagGroup


@dataclass(frozen=True, slots=True)
class Tag:
    """Where the values of a tag are, and what its first value says of it."""

    name: str
    plugin: str
    content: bytes
    parts: list[tuple[TagGroup, int]] = field(default_factory=list)

    @property
    def is_scalar(self) -> bool:
        """Whether it belongs to the Scalars dashboard."""
        return self.plugin == "scalars" or any(
            group.is_number(place) for group, place in self.parts
        )


class Column:
    """The values of one tag in step order, one value per step.

    Attributes:
        steps: int64, strictly increasing.
        values: Floats, flat arrays, or strings as bytes.
        content: What the plugin is told of the tag, as written first.
        dropped: Values superseded by later ones at or before their step.
    """

    def __init__(self, tag: "Tag") -> None:
        self.content = tag.content
        self.dropped = sum(group.dropped for group, _ in tag.parts)
        rows: list[tuple[int, int, Any]] = []  # order, step, value
        for group, place in tag.parts:
            rows += zip(group.order, group.steps, group.values(place), strict=True)
        if tag.plugin == "scalars":
            rows = [(order, step, _number(value)) for order, step, value in rows]
        rows = [row for row in rows if row[2] is not None]
        if len(tag.parts) > 1:  # the rows of one group are in order
            rows = self._in_order(rows)
        self.steps: NDArray[np.int64] = np.array([r[1] for r in rows], dtype=np.int64)
        self.values: list[Any] = [r[2] for r in rows]

    def _in_order(self, rows: list[tuple[int, int, Any]]) -> list[tuple[int, int, Any]]:
        """Rows in reading order, without those that later ones supersede."""
        kept: list[tuple[int, int, Any]] = []
        for row in sorted(rows, key=lambda row: row[0]):
            while kept and kept[-1][1] >= row[1]:
                kept.pop()
                self.dropped += 1
            kept.append(row)
        return kept


class TagStore:
    """All tags of a directory; ``refresh`` reads what has been added.

    Files are read in the order of their names. The start of a session at a step
    supersedes the values of every tag at or after it; a value supersedes those of
    its own tag at or after its step (the rule of TensorBoard's data server).
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._groups: dict[object, TagGroup] = {}
        self._latest: TagGroup | None = None
        self._readers: dict[Path, EventReader] = {}
        self._events = 0
        self._tags: dict[str, Tag] = {}

    def refresh(self) -> bool:
        """Read what is new.

        Returns:
            Whether there was anything.
        """
        before = self._events
        for path in event_files(self.directory):
            reader = self._readers.setdefault(path, EventReader(path))
            try:
                for event in reader:
                    self._take(event)
            except FileNotFoundError:  # removed since the directory was listed
                continue
        return self._events > before

    @property
    def tags(self) -> list[str]:
        """All tags, in the order in which they appeared."""
        return list(self._tags)

    @property
    def scalar_tags(self) -> list[str]:
        """The tags of the Scalars dashboard."""
        return [name for name, tag in self._tags.items() if tag.is_scalar]

    def column(self, tag: str) -> Column | None:
        """The values of a tag.

        Args:
            tag: Its name.

        Returns:
            The column, or None if the tag has no value (left).
        """
        if tag not in self._tags:
            return None
        column = Column(self._tags[tag])
        return column if len(column.steps) else None

    def dropped(self, tag: str) -> int:
        """Values of a tag that were superseded."""
        return Column(self._tags[tag]).dropped if tag in self._tags else 0

    @property
    def damage(self) -> dict[str, int]:
        """The readers' counts, summed over the files."""
        total = {"records": 0, "bad": 0, "resynced": 0, "truncated": 0}
        for reader in self._readers.values():
            for name, count in reader.counts.items():
                total[name] += count
        return total

    def _take(self, event: Any) -> None:
        """Store the values of one Event."""
        self._events += 1
        step = event.step
        if starts_session(event):
            for group in self._groups.values():
                group.drop_from(step)
        row = Row.of(event.summary.value)
        if not row.tags:
            return
        if self._latest is None or not self._latest.append(step, self._events, row):
            self._latest = self._group(row, event.summary.value)
            self._latest.append(step, self._events, row)

    def _group(self, row: Row, values: Iterable[Any]) -> TagGroup:
        """The group of Events like this one."""
        values = list(values)
        tags = [self._tag(value) for value in values]
        # the tags' own strings: one copy, however many groups there are
        names = tuple(tag.name for tag in tags)
        rest = tuple(i for i, v in row.rest if not v.HasField("simple_value"))
        key = names, tuple(row.raw_places), rest
        if key not in self._groups:
            group = self._groups[key] = TagGroup(row, values, names)
            # a tag that occurs twice in an Event: the later value counts
            for name, place in {name: i for i, name in enumerate(names)}.items():
                self._tags[name].parts.append((group, place))
        return self._groups[key]

    def _tag(self, value: Any) -> Tag:
        """The tag of a value."""
        name = value.tag
        if name not in self._tags:
            plugin = value.metadata.plugin_data
            self._tags[name] = Tag(name, plugin.plugin_name, plugin.content)
        return self._tags[name]


def _number(value: Any) -> float | None:
    """A scalar; TensorBoard's newer style is a tensor of one element."""
    if isinstance(value, float):
        return value
    return (
        float(value[0]) if isinstance(value, np.ndarray) and value.size == 1 else None
    )
