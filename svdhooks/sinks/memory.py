"""Records kept in a list: for notebooks and tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svdhooks import display
from svdhooks.display import LiveView
from svdhooks.record import Record
from svdhooks.sinks._index import Index, Series, check_recorded, latest

if TYPE_CHECKING:
    import pandas as pd

    from svdhooks.runlog.histories import LedgerHistory, LocalRankHistory


@dataclass(repr=False)
class MemorySink:
    """Keeps every record, and reads like a `RunLog`: series, a table, a live view.

    In a notebook it shows itself as a small table; ``print`` gives the same as text.

    Attributes:
        records: In the order in which they were made.
        closed: Whether ``close`` was called.
        max_records: Forget the oldest steps when there are more records than that; the
            latest step is always kept. None: keep all.
    """

    records: list[Record] = field(default_factory=list)
    closed: bool = False
    max_records: int | None = None
    _views: list[LiveView] = field(default_factory=list, init=False, compare=False)
    _index: Index = field(default_factory=Index, init=False, compare=False)

    def __post_init__(self) -> None:
        if self.max_records is not None and self.max_records < 1:
            raise ValueError(f"max_records={self.max_records}: expected a number >= 1.")

    def write(self, records: Sequence[Record]) -> None:
        """Keep the records."""
        self.records.extend(records)
        self._forget()
        for view in self._views:
            view.update(now=False)

    def close(self) -> None:
        """Note that no more records come."""
        if not self.closed:
            for view in self._views:
                view.update()
        self.closed = True

    def of(self, quantity: str, layer: str | None = None) -> list[Record]:
        """The records of one quantity.

        Args:
            quantity: For example ``"weight_spectrum"``, ``"run"``.
            layer: Only those of this layer; None: of all.

        Returns:
            In the order in which they were made.
        """
        return [
            record
            for record in self.records
            if record.quantity == quantity and layer in {None, record.layer}
        ]

    # --- what a RunLog has too ----------------------------------------------------------

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers and taps, in the model's order."""
        return self._read().named(pairs=False)

    @property
    def edges(self) -> tuple[str, ...]:
        """Names of the pairs of layers that have measures of their own."""
        return self._read().named(pairs=True)

    @property
    def steps(self) -> NDArray[np.int64]:
        """The recorded steps, increasing."""
        return self._read().steps

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the measures, for example ``"output_effective_rank"``."""
        return self._read().metrics

    @property
    def run_metrics(self) -> tuple[str, ...]:
        """Names of the values of the whole run, for example ``"overhead"``."""
        return self._read().run_metrics

    @property
    def pairs(self) -> tuple[dict[str, Any], ...]:
        """The layers that feed each other, with ``source``, ``target``, ``kind``, ``stream``."""
        return self._read().pairs

    @property
    def events(self) -> tuple[Record, ...]:
        """The measurements that failed or carry a mark, of all layers."""
        return tuple(self._read().events)

    def alarms(self) -> list[dict[str, Any]]:
        """The alarms that were raised, each with its step."""
        return list(self._read().alarms)

    def series(self, layer: str, metric: str) -> Series:
        """One measure of one layer over the run.

        Args:
            layer: One of ``layers``.
            metric: One of ``metrics``.

        Returns:
            Steps at which the layer was measured, and the values; NaN if that failed.

        Raises:
            KeyError: If there is no such layer or measure.
        """
        index = self._read(layer)
        check_recorded("metric", metric, index.metrics)
        return index.series(layer, metric)

    def run_series(self, metric: str) -> Series:
        """One of ``run_metrics``, such as the share of time that we took.

        Args:
            metric: Its name.

        Returns:
            Steps and values.

        Raises:
            KeyError: If there is no such value.
        """
        index = self._read()
        check_recorded("run metric", metric, index.run_metrics)
        return index.run_series(metric)

    def spectra(
        self, layer: str, point: str = "weight"
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The spectra of one matrix of a layer, as `RunLog.spectra` gives them.

        Args:
            layer: One of ``layers``.
            point: Which matrix.

        Returns:
            Steps ``(T,)`` and values ``(T, n)``, descending; zeros behind shorter ones.

        Raises:
            KeyError: If none were recorded.
        """
        return self._read(layer).recorded_spectra(layer, point)

    def local_rank(self, layer: str, *, relative: bool = False) -> "LocalRankHistory":
        """The local rank of a layer over the run, as `RunLog.local_rank` gives it.

        Args:
            layer: One of ``layers``.
            relative: Count singular values above ``eps·σ₁`` instead of ``eps``.

        Returns:
            Mean, spread, samples, threshold and mean spectra at its steps.

        Raises:
            KeyError: If none was recorded of this layer.
        """
        from svdhooks.runlog.of_layer import local_rank_of  # loads the readers of logs

        index = self._read(layer)
        return local_rank_of(
            index,
            layer,
            relative,
            spectra=lambda: index.spectra(layer, "jacobian"),
            bounds=lambda: display.bounded_steps(index.events).get(layer, ()),
            run="memory",
        )

    def ledger(self, layer: str) -> "LedgerHistory":
        """What a layer throws away, over the run, as `RunLog.ledger` gives it.

        Args:
            layer: One of ``layers``.

        Returns:
            Every field as an array.

        Raises:
            KeyError: If none was recorded of this layer.
        """
        from svdhooks.runlog.of_layer import ledger_of  # loads the readers of logs

        return ledger_of(self._read(layer), layer, "memory")

    @property
    def described(self) -> Mapping[str, Mapping[str, Any]]:
        """Layer -> its row in the layer table: kind, shape, rank limit, points."""
        return self._read().described

    def vectors(
        self, layer: str, point: str = "weight"
    ) -> tuple[NDArray[np.int64], dict[str, list[NDArray[Any] | None]]]:
        """The arrays recorded of one matrix of a layer, as `RunLog.vectors` gives them.

        Args:
            layer: One of ``layers``.
            point: Which matrix.

        Returns:
            Steps ``(T,)``, and field -> ``T`` arrays, None at steps without the field.

        Raises:
            KeyError: If none were recorded; names the points of which they were.
        """
        return self._read(layer).recorded_vectors(layer, point)

    def frame(self, name: str = "memory") -> "pd.DataFrame":
        """All measures as a tidy table, as `RunLog.frame` gives it.

        Args:
            name: What the run is called.

        Returns:
            Columns run, step, layer, metric, value; one row for every value that was
            measured, NaN if that failed. Needs pandas: ``svdhooks[analysis]``.

        Raises:
            ImportError: If pandas is not installed.
        """
        from svdhooks.runlog.frame import to_frame  # loads the readers of logs

        return to_frame(self._read(), name)

    # --- for the eye --------------------------------------------------------------------

    def live(self, measure: str | None = None, *, seconds: float = 1.0) -> LiveView:
        """Show the run in this cell, redrawn in place as records come.

        Args:
            measure: What is drawn over the steps; None: the first headline measure.
            seconds: Redraw at most this often, and once more at the end.

        Returns:
            What is shown.

        Raises:
            ImportError: If there is no IPython.
        """
        return self.follow(LiveView(self, measure, seconds=seconds).show())

    def follow(self, view: LiveView) -> LiveView:
        """Have a view that is shown redrawn as records come, and at the end; return it."""
        self._views.append(view)
        return view

    def __repr__(self) -> str:
        steps = self.steps
        reach = f"steps {steps[0]} … {steps[-1]}" if len(steps) else "no step yet"
        return (
            f"<MemorySink: {len(self.records)} records of {len(self.layers)} layers, "
            f"{reach}>"
        )

    def __str__(self) -> str:
        return display.text(self)

    def _repr_html_(self) -> str:
        return display.html(self)

    # --- inside -------------------------------------------------------------------------

    def _read(self, layer: str | None = None) -> Index:
        """The index, up to date, with that layer; the list of records is the user's too."""
        if not self._index.follows(self.records):
            self._index = Index()
        self._index.take(self.records)
        if layer is not None:
            check_recorded("layer", layer, self._index.layers)
        return self._index

    def _forget(self) -> None:
        """Drop the oldest steps, whole, if there are too many records."""
        if self.max_records is not None:
            self.records[:] = latest(self.records, self.max_records)
