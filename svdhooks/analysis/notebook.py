"""A run in a notebook: rank map and layer view, live if wanted.

A `RunLog` and a `MemorySink` show themselves as a small table of some kilobytes, and that
stays so: whatever a cell shows is stored in the notebook file, where this view takes
0.3 to 2 megabytes each time. So it is shown when it is asked for. With it the table is
stored, too: it is what people see where frames are taken out, as on GitHub and in
notebooks that are not trusted.
"""

import contextlib
import os
import uuid
import warnings
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from svdhooks import display
from svdhooks.analysis._following import Follower, Picture, cell_number
from svdhooks.analysis._remembered import RememberedRun, Remembering
from svdhooks.display import LiveView
from svdhooks.runlog import RunLog

_MEGABYTE = 10**6
_STILL, _LIVE = 2.0, 1.0
"""Megabytes. Jupyter passes on 1 MB/s; above that it drops what a kernel sends."""
_LEAST = 0.5
_PROGRAM = 0.27 * _MEGABYTE
_PACKED = 0.7
_TRIES = 4
_SPARING = 20
"""A redraw that took a second comes again after twenty, at the earliest."""
_ROWS = 40
_LOW, _HIGH = 640, 960

_following: "WeakValueDictionary[str, NotebookView]" = WeakValueDictionary()


def view(
    source: RunLog | Remembering | str | os.PathLike[str],
    layer: str | None = None,
    *,
    height: int | None = None,
    live: bool = False,
    seconds: int | float = 5.0,
    max_mb: int | float | None = None,
) -> "NotebookView":
    """Show the rank map and the layers of a run in a notebook.

    It is the report's map and layer view in a frame of its own, complete in itself:
    nothing is loaded, and it works again when the notebook is opened later. Colours
    follow the notebook.

    Args:
        source: A `RunLog`, the path of a log directory, or a `MemorySink`.
        layer: Looked at first; None: that of the first alarm, else one in the middle.
        height: Of the frame, in pixels; None: as the number of layers asks for.
        live: Show it at once and redraw it as records come. A log is looked at in the
            background, whoever writes it; a memory redraws it itself, until it is
            closed. What is looked at stays. A later live view of the same run takes
            over from an earlier one. ``close()`` ends it.
        seconds: Redraw at most this often, and for at most a twentieth of the time.
        max_mb: Megabytes (10⁶ bytes) that the view may have; larger runs are thinned,
            and the view says of what. None: 2, and 1 if it is live.

    Returns:
        What shows itself as the last expression of a cell.

    Raises:
        FileNotFoundError: If there is no log at a path.
        KeyError: If there is no such layer; names those that are near.
        TypeError: If ``source`` is none of these.
        ValueError: If a number is out of range.
        ImportError: If it is to be live and there is no IPython.
    """
    if isinstance(source, str | os.PathLike):
        source = RunLog(source)
    if not isinstance(source, RunLog | Remembering):
        raise TypeError(
            f"Found a {type(source).__name__}; expected a RunLog, the path of a log "
            "directory, or a MemorySink, whose records can be read back. Of a recorder: "
            "svdhooks.view(log_dir), or watch(model, None, sinks=[memory]) and "
            "svdhooks.view(memory)."
        )
    max_mb = (_LIVE if live else _STILL) if max_mb is None else max_mb
    _check_numbers(height, seconds, max_mb)
    log = _run_of(source, live)
    if layer is not None and (log.layers or not live):
        log.describe(layer)  # raises if there is none
    shown = NotebookView(log, layer, height=height, seconds=seconds, max_mb=max_mb)
    return _followed(shown, source) if live else shown


class NotebookView(LiveView):
    """A run's rank map and layers in a frame; see `view`.

    Args:
        log: The run.
        layer: Looked at first.
        height: In pixels.
        seconds: Redraw at most this often.
        max_mb: Megabytes.

    Attributes:
        problem: Why it is not redrawn any more, in words; empty if all is well.
    """

    def __init__(
        self,
        log: RunLog,
        layer: str | None = None,
        *,
        height: int | None = None,
        seconds: int | float = 5.0,
        max_mb: int | float = _STILL,
    ) -> None:
        super().__init__(log, title=log.name, seconds=float(seconds))
        self.problem = ""
        self._log, self._layer, self._height = log, layer, height
        self._size = float(max_mb) * _MEGABYTE
        self._key = uuid.uuid4().hex
        self._lock = Lock()
        self._seen: Any = None
        self._html, self._cost, self._cell, self._closed = "", 0.0, -1, False
        self._follower: Follower | None = None

    def show(self) -> "NotebookView":
        """Show it in the cell that is being run, to be redrawn there.

        Returns:
            Itself.

        Raises:
            ImportError: If there is no IPython.
        """
        super().show()
        self._cell = cell_number()
        return self

    def update(self, *, now: bool = True) -> bool:
        """Redraw it where it is shown, if there are new records.

        It never raises: what fails ends the redrawing, with one warning.

        Args:
            now: Also if the last time was a short while ago.

        Returns:
            Whether it was redrawn.
        """
        pause = max(self._seconds, _SPARING * self._cost)
        if self._closed or not (now or self._clock() - self._drawn >= pause):
            return False
        try:
            with self._lock:
                self._log.refresh()
                if self._handle is None or np.array_equal(self._seen, self._log.steps):
                    return False
                return super().update()
        except Exception as error:  # noqa: BLE001  # training goes on without a picture
            self._give_up(error)
            return False

    def close(self) -> None:
        """Redraw it a last time; from then on it stays as it is."""
        if self._follower is not None:
            self._follower.stop()
        self.update()
        self._closed = True

    def follow(self) -> "NotebookView":
        """Look for new records in the background, until it is closed.

        Returns:
            Itself.
        """
        self._follower = Follower(self, self._seconds)
        self._follower.start()
        return self

    def _repr_html_(self) -> str:
        if isinstance(self._log, RememberedRun):
            self._log.refresh()
        if self._html and np.array_equal(self._seen, self._log.steps):
            return self._html
        start = self._clock()
        self._seen = self._log.steps
        self._html = _html(self._log, self._layer, self._key, self._height, self._size)
        self._cost = self._clock() - start
        return self._html

    def _ipython_display_(self) -> None:
        if self._handle is not None and self._cell == cell_number():
            return  # it is there already
        from IPython.display import (  # type: ignore[import-not-found,unused-ignore]
            display as shown,
        )

        shown(self._picture())

    def _picture(self) -> Picture:
        return Picture(self._repr_html_(), repr(self))

    def _give_up(self, error: Exception) -> None:
        self._closed = True
        self.problem = f"{type(error).__name__}: {error}"
        with contextlib.suppress(Warning):  # which may be errors, here of all places
            warnings.warn(
                f"The view of {self._title!r} is not redrawn any more ({self.problem}). "
                "svdhooks.view shows the run anew.",
                stacklevel=3,
            )


def _run_of(source: RunLog | Remembering, live: bool) -> RunLog:
    """What is read; a log is read twice where that is done in the background."""
    if not isinstance(source, RunLog):
        return RememberedRun(source)
    if live and not isinstance(source, RememberedRun):
        return RunLog(source.directory, name=source.name)
    return source


def _followed(shown: NotebookView, source: RunLog | Remembering) -> NotebookView:
    """Show a view, and have it redrawn."""
    if isinstance(source, RunLog):
        place = str(source.directory.resolve())
    else:
        place = f"memory {id(source)}"
    shown.show()
    earlier, _following[place] = _following.get(place), shown
    if earlier is not None:
        earlier.close()
    if isinstance(source, RunLog):
        return shown.follow()
    source.follow(shown)
    return shown


def _check_numbers(
    height: int | None, seconds: int | float, max_mb: int | float
) -> None:
    """Refuse what no view can have."""
    least = (
        ("height", height, 100),
        ("seconds", seconds, 0),
        ("max_mb", max_mb, _LEAST),
    )
    for name, value, low in least:
        if value is not None and not value >= low:
            raise ValueError(f"Found {name}={value!r}, expected {low:g} or more.")


def _html(
    log: RunLog, layer: str | None, key: str, height: int | None, size: float
) -> str:
    """The frame, not larger than asked for."""
    from svdhooks.analysis.reporting.cell import cell_data
    from svdhooks.web.framing import framed, notebook_page

    instead = display.html(log, title=log.name, rows=_ROWS)
    most, title = size - len(instead.encode()), f"svdhooks: {log.name}"
    part, made = max(most - _PROGRAM, 0.0) * _PACKED, ""
    for _ in range(_TRIES):
        page = notebook_page(title, cell_data(log, layer, key, part))
        made = framed(page, title, height or _fitting(len(log.layers)), instead)
        if (ratio := len(made.encode()) / size) <= 1.0:
            break
        part *= 0.8 / ratio  # names and words weigh more than was thought
    return made


def _fitting(layers: int) -> int:
    """Pixels for the map, whose height notebook.js settles, and most of a layer."""
    rows = 20 * layers if layers <= 12 else max(240, min(420, 14 * layers))
    return max(_LOW, min(_HIGH, 680 + rows))
