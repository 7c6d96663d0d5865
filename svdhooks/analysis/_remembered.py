"""Records in memory as a run that can be read like a log."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from svdhooks.display import LiveView, Source
from svdhooks.runlog import RunLog
from svdhooks.runlog.spectra import Spectra

Series = tuple[NDArray[np.int64], NDArray[np.floating]]


@runtime_checkable
class Remembering(Source, Protocol):
    """What is needed of a `MemorySink`."""

    @property
    def described(self) -> Mapping[str, Mapping[str, Any]]:
        """Layer -> its row in the layer table."""
        ...

    def alarms(self) -> list[dict[str, Any]]:
        """Those that were raised."""
        ...

    def spectra(
        self, layer: str, point: str = "weight"
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The spectra of one matrix of a layer, or a KeyError."""
        ...

    def follow(self, view: LiveView) -> LiveView:
        """Have a view redrawn as records come."""
        ...


class RememberedRun(RunLog):
    """A `MemorySink` as a run, without files.

    What only files have is empty: scalars of others, derived measures, vectors, damage.

    Args:
        memory: Where the records are.
        name: What the run is called.
    """

    def __init__(self, memory: Remembering, name: str = "memory") -> None:
        self.name = name
        self.directory = self.log_dir = Path(name)
        self._memory = memory
        self._table_now = _Table(memory)

    def refresh(self) -> bool:
        """Take in what was recorded since; return whether there were new steps."""
        before = self._table_now.steps
        self._table_now = _Table(self._memory)
        return not np.array_equal(before, self._table_now.steps)

    @property
    def derived(self) -> tuple[str, ...]:
        """None: memory holds what was recorded."""
        return ()

    @property
    def scalar_tags(self) -> tuple[str, ...]:
        """None: nobody else logs to memory."""
        return ()

    @property
    def damage(self) -> dict[str, int]:
        """None: there are no files."""
        return {}

    @property
    def _table(self) -> Any:
        return self._table_now

    def _spectra(self, layer: str, point: str) -> Spectra:
        steps, values = self._memory.spectra(layer, point)
        return Spectra(steps, values, np.arange(values.shape[1]))


class _Table:
    """What a `RunTable` says, as far as a `RunLog` asks it."""

    metas: tuple[()] = ()

    def __init__(self, memory: Remembering) -> None:
        self._memory = memory
        self.layers = memory.layers
        self.steps = memory.steps
        self.metrics = tuple(m for m in memory.metrics if not m.startswith("edges_"))
        self.run_metrics = memory.run_metrics
        self.described = memory.described
        self.alarms = memory.alarms()
        self._events = memory.events
        self._known: dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]] = {}

    def run_series(self, metric: str) -> Series:
        return self._memory.run_series(metric)

    def measure(self, metric: str) -> NDArray[np.float64]:
        return self._kept(metric)[0]

    def measured(self, metric: str) -> NDArray[np.bool_]:
        return self._kept(metric)[1]

    def events(self) -> Iterator[Any]:
        return iter(self._events)

    def statuses(self, layer: str) -> Iterator[Any]:
        return (event for event in self._events if event.layer == layer)

    def _kept(self, metric: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Values ``(T, L)``, and where there are any."""
        if metric not in self._known:
            shape = len(self.steps), len(self.layers)
            values, there = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
            for place, layer in enumerate(self.layers):
                at, found = self._memory.series(layer, metric)
                here = np.isin(at, self.steps)
                rows = np.searchsorted(self.steps, at[here])
                values[rows, place], there[rows, place] = found[here], True
            self._known[metric] = values, there
        return self._known[metric]
