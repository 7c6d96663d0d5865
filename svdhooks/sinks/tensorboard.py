"""Records as TensorBoard event files, in a sub-run of their own."""

import errno
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from svdhooks import schema
from svdhooks.eventfile import values as eventvalues
from svdhooks.eventfile.writer import EventFileWriter, event_files
from svdhooks.record import Record
from svdhooks.runlog.tagstore import TagStore
from svdhooks.sinks import _stock
from svdhooks.sinks._spectra import SpectrumForms
from svdhooks.sinks._step import LayerTable, StepTable
from svdhooks.sinks.summary import point_of
from svdhooks.sinks.vectors import VectorWriter, say

_logger = logging.getLogger(__name__)

_APART = {"meta", "alarm"}
_HISTOGRAM_LAYERS = 32
_META_COPIES = 2
_BYTES_PER_GB = 1e9


class TensorBoardSink:
    """Writes ``<log_dir>/svdhooks/``, one Event per record.

    The run log, which is exact, and what TensorBoard shows without a plugin are the
    same file; `svdhooks.schema` says which tag holds what. A sub-run of its own keeps
    the user's curves alive: of two live files in one directory TensorBoard's Python
    loader follows only one.

    Args:
        log_dir: Where the run's other logs are.
        start_step: Resume: records at or after this step are superseded. None: a new
            run.
        histograms: Draw each weight's spectrum as a histogram; None: for up to 32
            layers.
        full_spectra: Store spectra of more than 256 values as measured, besides their
            display form.
        max_log_gb: From this size of the log on, display forms only; vectors stop at
            half of it. None: no limit.
        clock: Seconds since 1970; an argument for tests.

    Raises:
        ValueError: If ``log_dir`` is not on a file system, or ``start_step`` negative.
        FileExistsError: If there are records already and ``start_step`` is None.
        OSError: If the directory cannot be made or written to.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        *,
        start_step: int | None = None,
        histograms: bool | None = None,
        full_spectra: bool = True,
        max_log_gb: float | int | None = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if "://" in str(log_dir):
            raise ValueError(
                f"log_dir={str(log_dir)!r}: records are appended to a file of the local "
                "file system; expected a path there."
            )
        if start_step is not None and start_step < 0:
            raise ValueError(f"start_step={start_step}: expected a step >= 0.")
        self.directory = Path(log_dir) / schema.SUBDIRECTORY
        _make_writable(self.directory)
        if start_step is None:
            _check_empty(self.directory)
        self._histograms = histograms
        self._full = full_spectra
        self._limit = math.inf if max_log_gb is None else max_log_gb * _BYTES_PER_GB
        self._written = sum(f.stat().st_size for f in event_files(self.directory))
        self._vectors = VectorWriter(self.directory, self._limit)
        if start_step is not None:
            self._vectors.clean()
        self._writer = EventFileWriter(
            self.directory, start_step=start_step or 0, clock=clock
        )
        self._layers = LayerTable()
        self._step: StepTable | None = None
        self._spectra = SpectrumForms(self._layers)
        self._meta_due = _META_COPIES
        self._left_out: set[str] = set()
        self._alone_no_more = False

    @property
    def path(self) -> Path | None:
        """The file written to; None before the first record."""
        return self._writer.path

    def write(self, records: Sequence[Record]) -> None:
        """Append the records; one Event for those of one step.

        Args:
            records: Of layers and of the run.

        Raises:
            OSError: If they could not be written, for example to a full disk. The log
                stays readable, and later records are written when they can be.
        """
        for record in records:
            if record.quantity == "meta":
                self._layers.take(record)
                self._spectra.forget()
                self._meta_due = _META_COPIES
        for step in dict.fromkeys(record.step for record in records):
            self._write_step(step, [r for r in records if r.step == step])

    def close(self) -> None:
        """Close the file. Writing again begins a new one."""
        self._writer.close()

    def _write_step(self, step: int, records: Sequence[Record]) -> None:
        """Write the records of one step."""
        measured = [r for r in records if r.layer]
        said = [r for r in records if r.quantity not in _APART]
        raised = [r for r in records if r.quantity == "alarm"]
        if self._step is None or self._step.step != step:
            self._step = StepTable(step)
        table = self._step
        for record in said:
            table.add(record)
        if self._layers.add_missing(table.layers):
            self._meta_due = _META_COPIES
        values = self._head()
        # of two spectra of one matrix the later counts
        spectra = {(r.layer, point_of(r)): r for r in measured if len(r.spectrum)}
        for record in spectra.values():
            values += self._spectra.values(record, self._has_room)
        if said:
            values += table.values(self._layers.index)
            self._say_left_out(table)
        for record in raised:
            text = record.values["json"].item()
            values.append(eventvalues.text(schema.ALARM_TAG, text))
        stock = self._stock(table, measured) + [
            eventvalues.markdown(schema.ALARM_TEXT_TAG, r.values["markdown"].item())
            for r in raised
        ]
        logged = table.run.get("logged_step", math.nan)
        if not math.isfinite(logged) or int(logged) == step:
            self._append(step, values + stock)
        else:
            self._append(step, values)
            self._append(int(logged), stock)
        self._meta_due = max(self._meta_due - 1, 0)
        if (path := self._writer.path) is not None:
            vectors = table.take_vectors()
            self._vectors.write(step, vectors, path.name, self._written)

    def _append(self, step: int, values: list[bytes]) -> None:
        """Write one Event, if there is anything to write."""
        if not values:
            return
        self._writer.write(step, values)
        self._written += sum(map(len, values))
        if not self._alone_no_more:
            self._look_around()

    def _look_around(self) -> None:
        """Say once that somebody else has begun to write here."""
        # at a resume the process before is gone, and so looks around no more
        last = event_files(self.directory)[-1:]
        if (
            last
            and self._writer.path is not None
            and last[0].name > self._writer.path.name
        ):
            self._alone_no_more = True
            say(
                f"{last[0].name} has appeared in {self.directory}, to which this process "
                "writes: does a second one log there? Of steps that both record, what "
                "the later file holds counts. Give each run a log_dir of its own."
            )

    def _head(self) -> list[bytes]:
        """The layout for a new file, and the layer table while it is due."""
        values = []
        if not self._writer.opened:
            self._meta_due = _META_COPIES
            values.append(_stock.layout(self._layers.quantities))
        if self._meta_due and self._layers.text:
            values.append(eventvalues.text(schema.META_TAG, self._layers.text))
        return values

    def _stock(self, table: StepTable, measured: Sequence[Record]) -> list[bytes]:
        """What TensorBoard shows without a plugin."""
        draw = self._histograms
        if draw is None:
            draw = len(self._layers.index) <= _HISTOGRAM_LAYERS
        return [
            *_stock.layer_scalars(table, measured),
            *(_stock.statistics(table) if measured else ()),
            *(_stock.histograms(measured) if draw else ()),
        ]

    def _say_left_out(self, table: StepTable) -> None:
        """Say once what the event file has no place for."""
        for name in table.left_out - self._left_out:
            _logger.warning("%s is no number and no array: not in the log.", name)
        self._left_out |= table.left_out

    def _has_room(self) -> bool:
        """Whether the log is still small enough for full spectra; warns when not."""
        if not self._full or self._written + self._vectors.size <= self._limit:
            return self._full
        self._full = False
        size = self._written + self._vectors.size
        say(
            f"The log in {self.directory} has reached {size / 1e9:.2g} GB "
            f"(max_log_gb={self._limit / _BYTES_PER_GB:g}). From now on spectra of more "
            f"than {schema.DISPLAY_POINTS} values are stored in their display form, "
            f"{schema.DISPLAY_POINTS} of their values."
        )
        return False


def _make_writable(directory: Path) -> None:
    """Create a directory, or say why nothing can be written there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        blocked = isinstance(error, FileExistsError)  # by a file of that name
        raise OSError(
            errno.ENOTDIR if blocked else error.errno,
            f"Records cannot be written to {directory} ({error.strerror}). Expected a "
            "log_dir that can be created, or an existing directory; choose another "
            "log_dir",
            str(error.filename),
        ) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(
            errno.EACCES,
            "Records cannot be written there: no permission, or a read-only file "
            "system. Choose another log_dir",
            str(directory),
        )


def _check_empty(directory: Path) -> None:
    """Refuse to mix two runs."""
    store = TagStore(directory)
    store.refresh()
    rows = store.rows(schema.RECORD_TAG)
    if rows is None:
        return
    first, last = rows.steps[[0, -1]].tolist()
    held = f"steps {first} to {last}" if first < last else f"step {first}"
    raise FileExistsError(
        f"{directory} already holds records of {held}. Choose another log_dir for a new "
        "run; or pass start_step=N to resume this one, which supersedes its records at "
        "and after step N (start_step=0: all of them); or delete that directory."
    )
