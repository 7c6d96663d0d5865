"""What a run recorded, read back from its event files."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from svdhooks import display
from svdhooks.alarms import alarms_of
from svdhooks.alarms.choosing import Choice
from svdhooks.runlog.base import Run
from svdhooks.runlog.derive import DerivedMeasures, Extended
from svdhooks.runlog.frame import to_frame
from svdhooks.runlog.histories import LedgerHistory, LocalRankHistory
from svdhooks.runlog.known import check_known
from svdhooks.runlog.of_layer import ledger_of, local_rank_of
from svdhooks.runlog.scalars import Series, latest_before, scalar_series
from svdhooks.runlog.spectra import Spectra, find_spectra

if TYPE_CHECKING:
    import pandas as pd


class RunLog(Run):
    """One run, read back; live too: ``refresh`` reads what has been added.

    Nothing is read before it is asked for; then where the values are, and of large logs
    little else. Values are read, checked and decoded on access. Arrays are copies.

    Args:
        path: The log directory, or the sub-run ``svdhooks`` in it.
        name: What the run is called in tables; None: the name of the log directory.

    Attributes:
        directory: Of the event files.
        log_dir: Of the logger, whose scalars are joined by step.
        name: What the run is called.

    Raises:
        FileNotFoundError: If nothing is recorded there.
        NotADirectoryError: If ``path`` is a file.
        ValueError: If it holds event files, but none of ours.
    """

    def series(self, layer: str, metric: str) -> Series:
        """One measure of one layer over the run.

        Args:
            layer: One of ``layers``.
            metric: One of ``metrics``, or of ``derived``.

        Returns:
            Steps at which the layer was measured, and the values; NaN if that failed.
        """
        self._check(layer)
        table = self._table
        if metric not in table.metrics and metric in self.derived:
            return self._derived.series(layer, metric)
        check_known("metric", metric, table.metrics, self.name, self.derived)
        place = table.layers.index(layer)
        there = table.measured(metric)[:, place]
        return table.steps[there], table.measure(metric)[there, place]

    @property
    def derived(self) -> tuple[str, ...]:
        """Names of the measures that were not recorded but follow from the spectra."""
        return self._derived.names

    @property
    def run_metrics(self) -> tuple[str, ...]:
        """Names of the values of the whole run, for example ``"overhead"``."""
        return self._table.run_metrics

    def run_series(self, metric: str) -> Series:
        """One of ``run_metrics``, such as the share of time that we took.

        Returns:
            Steps and values.
        """
        check_known("run metric", metric, self.run_metrics, self.name)
        return self._table.run_series(metric)

    def frame(
        self, derived: bool | Iterable[str] = False, *, hparams: bool = False
    ) -> "pd.DataFrame":
        """All measures as a tidy table.

        Args:
            derived: Which of ``derived`` to add; True: all of them.
            hparams: Whether to add a column ``hparam.<name>`` for each of ``hparams``,
                the same in every row, so that tables of several runs can be put together.

        Returns:
            Columns run, step, layer, metric, value; one row for every value that was
            measured, NaN if that failed. Needs pandas: ``svdhooks[analysis]``.
        """
        names = tuple(self.derived if derived is True else derived or ())
        for name in names:
            check_known("derived metric", name, self.derived, self.name)
        told = self.hparams if hparams else {}
        more = {f"hparam.{name}": value for name, value in told.items()}
        table = Extended(self._table, self._derived, names) if names else self._table
        return to_frame(table, self.name, more)

    def spectra(
        self, layer: str, point: str = "weight"
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The singular values of a layer's weight over the run, or another spectrum.

        Args:
            layer: Its name.
            point: Which matrix, for example ``"update"``.

        Returns:
            Steps ``(T,)`` and singular values ``(T, n)``, descending, as measured. If
            the run kept display forms only, ``n`` is the length of those; if it changed
            to display forms on the way, later rows are NaN between their entries.
            `spectrum_index` says which entry each column is. Damaged ones are left out.
        """
        found = self._spectra(layer, point)
        return found.steps, found.values

    def covariance_spectra(
        self, layer: str, point: str = "output"
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The eigenvalues of a layer's covariance (1/N) over the run.

        Args:
            layer: Its name.
            point: ``"input"`` for what enters the layer, ``"output"`` for what leaves.

        Returns:
            Steps ``(T,)`` and eigenvalues ``(T, d)``, descending, with zeros behind
            those that the number of samples allows.
        """
        return self.spectra(layer, point)

    def vectors(
        self, layer: str, point: str = "weight"
    ) -> tuple[NDArray[np.int64], dict[str, list[NDArray[Any] | None]]]:
        """The arrays stored of one matrix of a layer, such as singular vectors.

        Args:
            layer: Its name.
            point: Which matrix.

        Returns:
            Steps ``(T,)``, and field -> ``T`` arrays, None at steps without the field.
            Steps of which an array is damaged are left out.

        Raises:
            KeyError: If none were stored; names the points of which they were.
        """
        self._check(layer)
        found = self._vectors.read(layer, point)
        if found is None:
            points = ", ".join(self._vectors.points(layer)) or "none"
            raise KeyError(
                f"Run {self.name!r} stored no vectors of {point} of layer {layer!r}; "
                f"stored: {points}."
            )
        return found

    def spectrum_index(self, layer: str, point: str = "weight") -> NDArray[np.int64]:
        """Which entries, from 0, the columns are: all, but for display forms alone."""
        return self._spectra(layer, point).index.copy()

    def local_rank(self, layer: str, *, relative: bool = False) -> LocalRankHistory:
        """The local rank of a layer over the run: ``steps, mean = log.local_rank(…)``.

        Args:
            layer: Its name.
            relative: Count singular values above ``eps·σ₁`` instead of ``eps``: an
                absolute threshold moves with the scale of the weights alone.

        Returns:
            Mean, spread, samples, threshold and mean spectra at the steps at which it
            was recorded; shows itself in a notebook.

        Raises:
            KeyError: If the run recorded none, or none of this layer.
        """
        self._check(layer)
        return local_rank_of(
            self,
            layer,
            relative,
            spectra=lambda: self.spectra(layer, "jacobian"),
            bounds=lambda: display.bounded_steps(self.statuses(layer)).get(layer, ()),
            run=self.name,
        )

    def ledger(self, layer: str) -> LedgerHistory:
        """What a layer throws away, over the run: ``steps, fields = log.ledger(…)``.

        Args:
            layer: Its name.

        Returns:
            Every field as an array, ``history["input_null_share"]`` or
            ``history.input_null_share``; shows itself in a notebook.

        Raises:
            KeyError: If the run recorded none, or none of this layer.
        """
        self._check(layer)
        return ledger_of(self, layer, self.name)

    def alarms(
        self, choice: Choice = None, loss: str | None = None
    ) -> list[dict[str, Any]]:
        """What was raised while the run was recorded, or what rules say of it now.

        Args:
            choice: Rules to apply to the log, as ``svdhooks.watch(alarms=)`` takes them;
                None: what was raised during the run.
            loss: Tag of the training loss, for these rules; None: as it is found.

        Returns:
            A `svdhooks.AlarmEvent` each, as a mapping: ``step``, ``layer``, ``alarm``,
            ``severity``, ``message``, ``since``, ``evidence``.
        """
        if choice is None:
            return self._table.alarms
        return [event.as_dict() for event in alarms_of(self, choice, loss)]

    @property
    def scalar_tags(self) -> tuple[str, ...]:
        """Scalars that others logged in ``log_dir``, such as the loss."""
        return self._scalars.tags

    def scalars(self, tag: str) -> Series:
        """A scalar that somebody else logged beside our sub-run.

        Args:
            tag: One of ``scalar_tags``, or one of our own stock scalars.

        Returns:
            The logger's x coordinates, and the values.
        """
        if tag in self._table.scalar_tags and tag not in self.scalar_tags:
            return scalar_series(self._store, tag)
        check_known("scalar", tag, self.scalar_tags, self.name)
        return self._scalars.series(tag)

    def align(self, tag: str) -> Series:
        """A logged scalar, joined to our records by the logger's x coordinate.

        Args:
            tag: One of ``scalar_tags``.

        Returns:
            ``steps``, and for each the latest value logged at or before the record;
            NaN if there was none yet.
        """
        return self.steps, latest_before(self.scalars(tag), self._table.logged_steps)

    def __str__(self) -> str:
        return display.text(self, title=self.name)

    def _repr_html_(self) -> str:
        return display.html(self, title=self.name)

    def _spectra(self, layer: str, point: str) -> Spectra:
        """The spectra of one matrix of a layer, or a KeyError."""
        self._check(layer)
        return find_spectra(self._store, point, layer, self.name)

    @property
    def _derived(self) -> DerivedMeasures:
        """What follows from the spectra; looks through the files the first time."""
        _ = self._table
        return cast("DerivedMeasures", self._derivable)
