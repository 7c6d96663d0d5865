"""A log read some steps at a time, so that memory does not grow with its length.

`RunLog.series` and `RunLog.spectra` return what a layer has over the whole run. Here the
same values come in windows of steps: a store that shows only the rows of some steps, under
the same tables.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from svdhooks import schema
from svdhooks.runlog.derive import DerivedMeasures, Extended
from svdhooks.runlog.frame import Measured
from svdhooks.runlog.known import Known
from svdhooks.runlog.log import RunLog
from svdhooks.runlog.spectra import Spectra, read_spectra
from svdhooks.runlog.table import RunTable
from svdhooks.runlog.tagstore import TagStore
from svdhooks.runlog.tagvalues import Rows

VALUES = 1 << 20
"""Values that are held at once, about."""


def measure_windows(
    log: RunLog, metrics: Sequence[str], values: int | None = None
) -> Iterator[Measured]:
    """The measures of a run, some steps at a time.

    Args:
        log: The run.
        metrics: Which will be asked for: of ``log.metrics`` or ``log.derived``.
        values: How many of them a window holds, about; None: some megabytes.

    Yields:
        Windows in the order of the steps. Their layers are those of the run, in its
        order. What they say was measured is what the whole run says.
    """
    whole = log._table
    derived = tuple(name for name in metrics if name not in whole.metrics)
    # as float64, and which there are, and where each goes: some twenty bytes for each
    count = max((values or VALUES // 4) // max(len(whole.layers) * len(metrics), 1), 1)
    ever = _Ever(log._store, whole, count * max(len(metrics), 1))
    for store in _windows(log._store, whole.steps, count):
        table = _Window(whole, store, ever)
        if derived:
            yield Extended(table, DerivedMeasures(store, table), derived)
        else:
            yield table


def spectra_there(log: RunLog) -> dict[str, list[str]]:
    """Which spectra a run has.

    Args:
        log: The run.

    Returns:
        Layer -> points, both in the order in which the run lists them.
    """
    layers = log._table.layers  # which looks through the files
    order = {point: place for place, point in enumerate(schema.POINTS)}
    found: dict[str, dict[str, None]] = {}
    for point, layer in filter(None, map(schema.layer_of, log._store.tags)):
        found.setdefault(layer, {})[point] = None
    listed = (name for name in layers if name in found)
    return {
        layer: sorted(found[layer], key=lambda p: order.get(p, len(order)))
        for layer in listed
    }


def spectrum_windows(
    log: RunLog, layer: str, point: str, values: int | None = None
) -> Iterator[Spectra]:
    """The spectra of one matrix of a layer, some steps at a time.

    Args:
        log: The run.
        layer: Its name.
        point: Which matrix.
        values: How many a window holds, about; None: some megabytes.

    Yields:
        Windows in the order of the steps; none if nothing was stored. One of which only
        display forms were stored has the columns of those.
    """
    _ = log._table  # which looks through the files
    forms = [
        log._store.rows(tag(point, layer))
        for tag in (schema.spectrum_tag, schema.full_tag)
    ]
    there = [rows for rows in forms if rows is not None]
    if not there:
        return
    # four bytes each, and what stands around them
    width = max(int(rows.blocks[:, 1].max()) // 4 for rows in there)
    steps = np.unique(np.concatenate([rows.steps for rows in there]))
    for store in _windows(log._store, steps, max((values or VALUES) // width, 1)):
        found = read_spectra(store, point, layer)
        if found is not None and len(found.steps):
            yield found


def _windows(
    store: TagStore, steps: NDArray[np.int64], count: int
) -> Iterator["_Between"]:
    """A store for each so many steps."""
    for first in range(0, len(steps), count):
        part = steps[first : first + count]
        yield _Between(store, int(part[0]), int(part[-1]))


class _Between(TagStore):
    """A store that shows the values from one step to another, both included.

    Layer tables hold from a step on, so that all of them are shown.
    """

    def __init__(self, store: TagStore, first: int, last: int) -> None:
        super().__init__(store.directory)
        self._files, self._tags = store._files, store._tags
        self._counted = store._counted
        self._first, self._last = first, last

    def _rows(self, tag: str) -> Rows | None:
        """Where the values of a tag are."""
        rows = super()._rows(tag)
        if rows is None or tag == schema.META_TAG:
            return rows
        begin = np.searchsorted(rows.steps, self._first, side="left")
        end = np.searchsorted(rows.steps, self._last, side="right")
        return rows.take(np.arange(begin, end))


class _Ever:
    """Which layers a run ever has a value of, measure by measure; found when asked."""

    def __init__(self, store: TagStore, whole: RunTable, count: int) -> None:
        self._store = store
        self._whole = whole
        self._count = count
        self._found: dict[str, NDArray[np.bool_]] = {}

    def __call__(self, metric: str) -> NDArray[np.bool_]:
        """For each layer whether the measure is a number at any step."""
        if metric not in self._found:
            ever = np.zeros(len(self._whole.layers), dtype=bool)
            for store in _windows(self._store, self._whole.steps, self._count):
                ever |= _Window(self._whole, store, None).told(metric)
            self._found[metric] = ever
        return self._found[metric]


class _Window(RunTable):
    """The records of some steps, with the layers and measures of the whole run."""

    def __init__(self, whole: RunTable, store: TagStore, ever: _Ever | None) -> None:
        super().__init__(store, Known())
        self._ever = ever
        # cached properties, of which a window would find less
        vars(self).update(metas=whole.metas, layers=whole.layers, metrics=whole.metrics)

    def told(self, metric: str) -> NDArray[np.bool_]:
        """For each layer whether the measure is a number at any step of the window."""
        return np.asarray((~np.isnan(self.measure(metric))).any(axis=0), dtype=np.bool_)

    def _in_vain(self, metric: str, told: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """As of the whole run: what a layer never has did not fail."""
        if self._ever is None:
            return told
        return super()._in_vain(metric, self._ever(metric)[np.newaxis])
