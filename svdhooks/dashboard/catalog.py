"""The runs that there are: those TensorBoard has loaded, and those that are on the disk."""

import contextlib
import difflib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svdhooks.dashboard.answers import RequestError
from svdhooks.dashboard.live import REST, LiveRun, summary_of
from svdhooks.dashboard.locating import HERE, directory_of, found_on_disk, name_of
from svdhooks.dashboard.locating import roots as roots_of
from svdhooks.dashboard.provided import Provided, ProvidedLog
from svdhooks.eventfile.writer import event_files
from svdhooks.runlog import RunLog
from svdhooks.runlog.find import find_run

_logger = logging.getLogger(__name__)

OPEN = 6
"""Runs that are kept open; the one not asked for the longest is closed first."""

_SHARE = 20.0
"""Directories are gone through again after so many times as long as that takes."""
_SLOW = 0.5
"""Seconds; where it takes longer, requests do not wait for it a second time."""
_SECONDS = 0.4
"""For summaries, in one answer; the others follow in the next."""
_AGAIN = 30.0
"""Seconds after which a run that grows and is not open is summed up again."""


@dataclass(frozen=True)
class Place:
    """Where a run is.

    Attributes:
        name: What it is called here.
        run: What TensorBoard calls it; empty: TensorBoard has not loaded it.
        directory: On this machine; None: it is elsewhere, TensorBoard has its data.
    """

    name: str
    run: str = field(compare=False)  # known later than the directory
    directory: Path | None

    @property
    def written(self) -> float | None:
        """When it was last written to, seconds since 1970; None: not known."""
        times = []
        with contextlib.suppress(OSError):
            path = find_run(self.directory) if self.directory else None
            for file in event_files(path) if path else ():
                with contextlib.suppress(OSError):
                    times.append(file.stat().st_mtime)
        return max(times, default=None)


class Catalog:
    """All runs, and those that are open.

    Args:
        logdir: As TensorBoard was given it.
        spec: The same of ``--logdir_spec``.
        provider: TensorBoard's data; None: there are only files.
        rest: Seconds between two looks at files and directories.
    """

    def __init__(
        self,
        logdir: str | None,
        spec: str | None,
        provider: Provided | None,
        rest: float = REST,
    ) -> None:
        self.roots = roots_of(logdir, spec)
        self._provider, self._rest = provider, rest
        self._lock = threading.RLock()
        self._places: dict[str, Place] = {}
        self._open: OrderedDict[Place, LiveRun] = OrderedDict()
        self._summaries: dict[Place, tuple[float, float, dict[str, Any]]] = {}
        self._listed, self._cost = -float("inf"), 0.0
        self._worker: threading.Thread | None = None

    def places(self, experiment: str, hurry: bool = False) -> dict[str, Place]:
        """All runs.

        Args:
            experiment: TensorBoard's.
            hurry: Whether somebody asks for a run that was not there.

        Returns:
            Name -> place, in the order of the names.
        """
        with self._lock:
            rest = max(self._rest, _SHARE * self._cost * self._rest)
            hurried = max(self._rest, self._cost * self._rest)
            if time.monotonic() - self._listed >= (hurried if hurry else rest):
                if self._places and self._cost > _SLOW:
                    self._list_beside(experiment)
                else:
                    self._list(experiment)
            return self._places

    def _list_beside(self, experiment: str) -> None:
        """Go through slow directories; until then the runs are those of before."""
        if self._worker is None or not self._worker.is_alive():
            self._worker = threading.Thread(
                target=self._list, args=(experiment,), name="svdhooks-runs", daemon=True
            )
            self._worker.start()

    def _list(self, experiment: str) -> None:
        """Find all runs, and close those that are gone."""
        begun = time.monotonic()
        found = dict(self._find(experiment))
        with self._lock:
            self._places = {name: found[name] for name in sorted(found)}
            for place in set(self._open) - set(found.values()):
                del self._open[place]
            for place in set(self._summaries) - set(found.values()):
                del self._summaries[place]
            self._listed = time.monotonic()
            self._cost = self._listed - begun

    def run(self, name: str, experiment: str) -> LiveRun:
        """A run, opened if it is not.

        Args:
            name: One of ``places``.
            experiment: TensorBoard's.

        Returns:
            The run.

        Raises:
            RequestError: If there is none, which names what comes close; if it holds
                nothing.
        """
        place = self.places(experiment).get(name)
        place = place or self.places(experiment, hurry=True).get(name)
        if place is None:
            raise RequestError(404, *_unknown(name, self._places))
        with self._lock:
            if place in self._open:
                self._open.move_to_end(place)
                return self._open[place]
        opened = self._live(place, experiment)
        with self._lock:
            live = self._open.setdefault(place, opened)
            while len(self._open) > OPEN:
                self._open.popitem(last=False)
            return live

    def summaries(self, experiment: str) -> list[dict[str, Any]]:
        """The list of runs; what there is no time for follows the next time.

        Args:
            experiment: TensorBoard's.

        Returns:
            One row for each; ``pending`` where numbers are missing.
        """
        begun = time.monotonic()
        rows = []
        places = [(place, place.written) for place in self.places(experiment).values()]
        for place, written in sorted(places, key=lambda p: -(p[1] or 0.0)):
            hurried = time.monotonic() - begun > _SECONDS
            rows.append(self._row(place, written, experiment, hurried))
        return sorted(rows, key=lambda row: str(row["name"]))

    def _row(
        self, place: Place, written: float | None, experiment: str, hurried: bool
    ) -> dict[str, Any]:
        row: dict[str, Any] = {
            "name": place.name,
            "title": self._title(place),
            "written": written,
            "local": place.directory is not None,
            "pending": False,
        }
        with self._lock:
            live = self._open.get(place)
        known = self._summaries.get(place)
        now = time.monotonic()
        if live is None and known and (known[0] == written or now < known[1] + _AGAIN):
            return row | known[2]
        if hurried:
            return row | (known[2] if known else {}) | {"pending": True}
        try:
            if live is None and len(self._open) < OPEN:  # it will be looked at next
                live = self.run(place.name, experiment)
            told = live.summary() if live else self._summed(place, experiment)
        except (OSError, ValueError, KeyError, RequestError) as error:
            told = {"error": str(error)}
        self._summaries[place] = written or 0.0, time.monotonic(), told
        return row | told

    def _summed(self, place: Place, experiment: str) -> dict[str, Any]:
        """A run that is not open, in a list of runs."""
        log = self._log(place, experiment)
        raised = [a for a in log.alarms() if a.get("severity", "alarm") == "alarm"]
        told = summary_of(log)
        return told | {"alarms": len(raised), "token": f"{told['records']}"}

    def _live(self, place: Place, experiment: str) -> LiveRun:
        def opened() -> RunLog:
            return self._log(place, experiment)

        elsewhere = f"{self.roots[0].path}/{place.run}" if self.roots else place.run
        path = "" if place.directory is not None else elsewhere
        return LiveRun(place.name, opened(), opened, path, self._rest)

    def _log(self, place: Place, experiment: str) -> RunLog:
        try:
            if place.directory is not None:
                return RunLog(place.directory, name=place.name)
        except (OSError, ValueError) as error:
            if not place.run:
                raise RequestError(404, str(error), "Choose another run.") from None
        if self._provider is None:
            raise RequestError(404, *_unknown(place.name, self._places))
        return ProvidedLog(self._provider, experiment, place.run, place.name)

    def _title(self, place: Place) -> str:
        """The name; of the directory itself, that of the directory."""
        if place.name != HERE or place.directory is None:
            return place.name
        return place.directory.resolve().name

    def _find(self, experiment: str) -> Iterator[tuple[str, Place]]:
        """Those that TensorBoard has loaded come last: they are known by two names."""
        on_disk: dict[str, Path] = {}
        with contextlib.suppress(OSError):
            for name, path in found_on_disk(self.roots):
                on_disk.setdefault(name, path)
        for name, path in on_disk.items():
            yield name, Place(name, "", path)
        for run in self._loaded(experiment):
            name = name_of(run)
            local = on_disk.get(name) or directory_of(run, self.roots)
            yield name, Place(name, run, local)

    def _loaded(self, experiment: str) -> list[str]:
        """What TensorBoard has; nothing while it cannot say."""
        if self._provider is None:
            return []
        try:
            return self._provider.runs(experiment)
        except Exception as error:  # noqa: BLE001  whatever it is, there may be files
            _logger.info("TensorBoard's runs could not be listed: %s", error)
            return []


def _unknown(name: str, places: dict[str, Place]) -> tuple[str, str]:
    """What is wrong, and what to do."""
    close = difflib.get_close_matches(name[:200], list(places), n=3)
    shown = close or list(places)[:10]
    hint = " or ".join(repr(one[:100]) for one in shown)
    remedy = (
        f"Did you mean {hint}?" if close else f"There is {hint or 'no run here yet'}."
    )
    return f"There is no run {name[:100]!r}.", remedy
