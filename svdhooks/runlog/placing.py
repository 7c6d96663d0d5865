"""Where the values of a measure go in the matrix of steps and layers."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.runlog.tagstore import Column

Block = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[Any]]
"""Rows, columns, and the values that go there."""


def blocks(
    column: Column | None,
    steps: NDArray[np.int64],
    same: bool,
    places_at: Callable[[int, int], NDArray[np.intp] | None],
) -> Iterator[Block]:
    """Sort the vectors of a measure into a matrix; those of most runs all at once.

    Args:
        column: One vector for each step; None: there is none.
        steps: Those of the matrix's rows.
        same: Whether all records have the same layer table.
        places_at: Step, length of the vector -> columns of the matrix; None: not known.

    Yields:
        What goes where; without what belongs to no step, or has no layer table.
    """
    if column is None:
        return
    known = np.isin(column.steps, steps)
    rows = np.searchsorted(steps, column.steps)
    if same and isinstance(column.values, np.ndarray) and known.any():
        vectors = column.values[known]
        places = places_at(int(column.steps[0]), vectors.shape[1])
        if places is not None:
            yield rows[known], places, vectors
        return
    for i in np.flatnonzero(known).tolist():
        places = places_at(int(column.steps[i]), len(column.values[i]))
        if places is not None:
            yield rows[i : i + 1], places, column.values[i]
