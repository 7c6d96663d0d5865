"""Scalars that others logged beside a run: the loss, the learning rate."""

import os

import numpy as np
from numpy.typing import NDArray

from svdhooks.runlog.tagstore import TagStore

Series = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Steps ``(T,)`` and values ``(T,)``."""


class LoggedScalars:
    """The ordinary TensorBoard scalars of a directory, read when first asked for.

    Args:
        directory: Where the event files are.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._store = TagStore(directory)
        self._read = False

    @property
    def tags(self) -> tuple[str, ...]:
        """Their tags, sorted."""
        if not self._read:
            self._store.refresh()
            self._read = True
        return tuple(sorted(self._store.scalar_tags))

    def series(self, tag: str) -> Series:
        """One of ``tags``: the logger's x coordinates and the values."""
        return scalar_series(self._store, tag)

    def refresh(self) -> bool:
        """Read what is new, if they were asked for before.

        Returns:
            Whether there was anything.
        """
        return self._read and self._store.refresh()


def scalar_series(store: TagStore, tag: str) -> Series:
    """A scalar of a store.

    Args:
        store: The tags of a directory.
        tag: Its name.

    Returns:
        The logger's x coordinates and the values.
    """
    column = store.column(tag)
    if column is None:
        return np.empty(0, dtype=np.int64), np.empty(0)
    return column.steps, np.array(column.values, dtype=np.float64)


def latest_before(
    series: Series, positions: NDArray[np.float64]
) -> NDArray[np.float64]:
    """For each position the latest value at or before it.

    Args:
        series: Increasing positions and values.
        positions: Where to look.

    Returns:
        Values; NaN before the first.
    """
    at, values = series
    # index 0: before the first
    place = np.searchsorted(at, positions, side="right")
    found: NDArray[np.float64] = np.concatenate([[np.nan], values])[place]
    return found
