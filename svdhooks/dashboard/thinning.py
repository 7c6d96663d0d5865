"""A log of which only some steps are read: what a picture of a long run needs."""

import copy

import numpy as np
from numpy.typing import NDArray

from svdhooks import schema
from svdhooks.analysis.reporting.reading import thinned
from svdhooks.runlog import RunLog
from svdhooks.runlog.tagstore import TagStore
from svdhooks.runlog.tagvalues import Rows


class _Some(TagStore):
    """A store that shows the values at some steps."""

    def __init__(self, store: TagStore, steps: NDArray[np.int64]) -> None:
        super().__init__(store.directory)
        self._of, self._steps = store, steps

    @property
    def tags(self) -> list[str]:
        """All tags of the run."""
        return self._of.tags

    def rows(self, tag: str) -> Rows | None:
        """Where the values of a tag are, at these steps."""
        rows = self._of.rows(tag)
        if rows is None:
            return None
        found = rows.take(np.flatnonzero(np.isin(rows.steps, self._steps)))
        return found if len(found) else None


def with_fewer_spectra(
    log: RunLog, layer: str, point: str, most: int
) -> tuple[RunLog, int]:
    """The run with the spectra of one matrix at some steps only.

    Args:
        log: The run.
        layer: Its name.
        point: Which matrix of it.
        most: Largest number of steps.

    Returns:
        A view of the same run, in which ``spectra`` is short and all else as it was, and
        at how many steps there are spectra in all.
    """
    forms = (schema.spectrum_tag(point, layer), schema.full_tag(point, layer))
    there = [rows.steps for form in forms if (rows := log._store.rows(form))]
    if not there:
        return log, 0
    steps = np.unique(np.concatenate(there))
    if len(steps) <= most:
        return log, len(steps)
    view = copy.copy(log)
    view._store = _Some(log._store, steps[thinned(len(steps), most)])
    return view, len(steps)
