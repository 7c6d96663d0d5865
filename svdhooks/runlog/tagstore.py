"""What a directory of event files says, tag by tag; values are read when asked for."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.eventfile.writer import event_files
from svdhooks.runlog.tagrows import FileIndex, Tag, TagGroup
from svdhooks.runlog.tagvalues import Rows, Values, read


class Column:
    """The values of one tag in step order, one value per step.

    Values that are damaged, and those of which nothing can be made, are left out.

    Attributes:
        steps: int64, strictly increasing.
        values: Floats, flat arrays, or strings as bytes. One array, if all are numbers
            or arrays of one dtype and length.
        content: What the plugin is told of the tag, as written first.
        dropped: Values superseded by later ones at or before their step.
    """

    def __init__(self, rows: Rows) -> None:
        self.content = rows.tag.content
        self.dropped = rows.dropped
        self.steps: NDArray[np.int64] = rows.steps
        self.values: Values = read(rows)
        if rows.tag.plugin == "scalars":
            self.values = _numbers(self.values)
        if isinstance(self.values, list):
            there = [i for i, value in enumerate(self.values) if value is not None]
            self.steps = rows.steps[there]
            self.values = [self.values[place] for place in there]


class TagStore:
    """All tags of a directory; ``refresh`` looks at what has been added.

    Files are read in the order of their names. The start of a session at a step
    supersedes the values of every tag at or after it; a value supersedes those of
    its own tag at or after its step (the rule of TensorBoard's data server). What
    an earlier file gains while a later one is written is superseded all the same.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._files: dict[Path, FileIndex] = {}
        self._tags: dict[str, Tag] = {}
        self._counted: dict[tuple[int, ...], _Counted] = {}

    def refresh(self) -> bool:
        """Look at what is new.

        Returns:
            Whether there was anything.
        """
        self._counted.clear()
        there = self._there()
        lost = any(
            path not in there or not file.is_of(there[path])
            for path, file in self._files.items()
        )
        if lost:  # tags are described where they began, which may be what was lost
            self._files.clear()
            self._tags.clear()
        new = lost
        for path, state in there.items():
            if path not in self._files:
                self._files[path] = FileIndex(path, state)
            new |= self._files[path].refresh(self._tags)
        # the files' order is that of their names
        self._files = {
            path: self._files[path] for path in sorted(self._files, key=_name)
        }
        return new

    def _there(self) -> dict[Path, os.stat_result]:
        """The event files now, each with its state."""
        found = {}
        for path in event_files(self.directory):
            with contextlib.suppress(OSError):  # removed since the directory was listed
                found[path] = path.stat()
        return found

    def verify(self) -> None:
        """Read and check everything that is there."""
        for file in self._files.values():
            try:
                file.verify()
            except FileNotFoundError:
                continue
            except OSError as error:
                file.unreadable = error.strerror or type(error).__name__

    @property
    def tags(self) -> list[str]:
        """All tags, in the order in which they appeared."""
        return list(self._tags)

    @property
    def scalar_tags(self) -> list[str]:
        """The tags of the Scalars dashboard."""
        return [name for name, tag in self._tags.items() if tag.is_scalar]

    def rows(self, tag: str) -> Rows | None:
        """Where the values of a tag are.

        Args:
            tag: Its name.

        Returns:
            Nothing is read; None if the tag has no value (left).
        """
        rows = self._rows(tag)
        return rows if rows is not None and len(rows) else None

    def column(self, tag: str) -> Column | None:
        """The values of a tag.

        Args:
            tag: Its name.

        Returns:
            The column, read now; None if the tag has no value (left).
        """
        rows = self.rows(tag)
        column = None if rows is None else Column(rows)
        return column if column is not None and len(column.steps) else None

    def dropped(self, tag: str) -> int:
        """Values of a tag that were superseded."""
        rows = self._rows(tag)
        return 0 if rows is None else rows.dropped

    def concurrent(self, tag: str) -> int:
        """Values of a tag written to a file after the first one to a later file."""
        found, earliest = 0, np.inf
        for file in reversed(self._files.values()):
            groups = [group for group in file.groups.values() if tag in group.places]
            walls = [wall for group in groups for wall in group.walls]
            found += sum(wall > earliest for wall in walls)
            earliest = min(earliest, *walls) if walls else earliest
        return found

    @property
    def sessions(self) -> list[tuple[str, int]]:
        """The starts of sessions: name of the file, and step."""
        return [
            (path.name, step)
            for path, file in self._files.items()
            for step in file.sessions[1::2]
        ]

    @property
    def unreadable(self) -> dict[Path, str]:
        """Files that could not be read -> why."""
        return {p: f.unreadable for p, f in self._files.items() if f.unreadable}

    @property
    def damage(self) -> dict[str, int]:
        """The files' counts, summed; complete after ``verify``."""
        total = {"records": 0, "bad": 0, "resynced": 0, "truncated": 0}
        for file in self._files.values():
            for name, count in file.counts.items():
                total[name] += count
        return total

    def _rows(self, tag: str) -> Rows | None:
        """Where the values of a tag are, if there ever was one."""
        files = list(self._files.values())
        groups = [
            (rank, group)
            for rank, file in enumerate(files)
            for group in file.groups.values()
            if tag in group.places
        ]
        if not groups:
            return None
        key = tuple(id(group) for _, group in groups)
        if key not in self._counted:
            self._counted[key] = _counted(groups, files)
        steps, events, counted, count = self._counted[key]
        blocks = np.concatenate([group.locate(tag) for _, group in groups])[counted]
        dropped = count - len(counted)
        return Rows(self._tags[tag], steps, events, blocks, files, dropped)


_Counted = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.intp], int]
"""Of rows that count: steps, Events, places among all rows; and how many are all."""


def _counted(
    groups: Sequence[tuple[int, TagGroup]], files: Sequence[FileIndex]
) -> _Counted:
    """Which rows of some groups count; the same for all tags that these hold."""
    steps, order, events = [], [], []
    for rank, group in groups:
        count = len(group.steps)
        steps.append(np.array(group.steps, dtype=np.int64))
        order.append(_ranked(rank, group.order))
        starts = np.array(group.starts, dtype=np.int64)
        events.append(np.stack([np.full(count, rank), starts], axis=1))
    steps_of = np.concatenate(steps)
    counted = _counting(steps_of, np.concatenate(order), files)
    return steps_of[counted], np.concatenate(events)[counted], counted, len(steps_of)


def _counting(
    steps: NDArray[np.int64], order: NDArray[np.int64], files: Sequence[FileIndex]
) -> NDArray[np.intp]:
    """Which rows nothing later supersedes, in their order."""
    starts = [np.array(file.sessions, dtype=np.int64).reshape(-1, 2) for file in files]
    start_order = [_ranked(rank, s[:, 0]) for rank, s in enumerate(starts)]
    all_steps = np.concatenate([steps, *(s[:, 1] for s in starts)])
    by_order = np.argsort(np.concatenate([order, *start_order]), kind="stable")
    # a row counts if its step is before that of everything that comes later
    later = np.minimum.accumulate(all_steps[by_order][::-1])[::-1]
    last = np.iinfo(np.int64).max
    counts = all_steps[by_order] < np.append(later[1:], last)
    counts[-1] = True  # also if its step is the largest there is
    kept = by_order[counts]
    return kept[kept < len(steps)]


def _ranked(rank: int, order: Any) -> NDArray[np.int64]:
    """The order of Events over all files."""
    return np.array(order, dtype=np.int64) + (rank << 40)


def _name(path: Path) -> str:
    return path.name


def _numbers(values: Values) -> Values:
    """Scalars; TensorBoard's newer style is a tensor of one element."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return values
    if isinstance(values, np.ndarray) and values.shape[1] == 1:
        return values[:, 0].astype(np.float64)
    return [_number(value) for value in values]


def _number(value: Any) -> float | None:
    """A scalar; TensorBoard's newer style is a tensor of one element."""
    if isinstance(value, float):
        return value
    return (
        float(value[0]) if isinstance(value, np.ndarray) and value.size == 1 else None
    )
