"""One run that is looked at: read by one request at a time, gathered once for each state.

A token stands for a state of the log, ``<instance>-<records>-<beside>-<alarms>``: which
counts grow when records are added, when others log scalars beside them, and when rules have
gone through the log. A page that knows the records is sent the rest alone.
"""

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from svdhooks.analysis.reporting.reading import Remarks
from svdhooks.dashboard import gathered
from svdhooks.dashboard.answers import bundled, zipped
from svdhooks.dashboard.rules import Rules, live_alone
from svdhooks.runlog import RunLog
from svdhooks.web.page import PageData

REST = 1.0
"""Seconds between two looks at the files, at least."""

_SHARE = 10.0
"""A growing log is gathered again after so many times as long as that takes."""

_LONGEST = 30.0
"""But no later than that."""

_LAYERS = 8
"""Answers about layers that are kept."""


class LiveRun:
    """A run, and what was gathered of it.

    Args:
        name: What TensorBoard calls it.
        log: The run.
        opened: Opens it once more; None: it cannot be.
        path: Where it is, for people; empty: its log directory.
        rest: Seconds between two looks at the files.

    Attributes:
        log: The run; read with ``lock`` held.
        lock: Of the log.
    """

    def __init__(
        self,
        name: str,
        log: RunLog,
        opened: Callable[[], RunLog] | None = None,
        path: str = "",
        rest: float = REST,
    ) -> None:
        self.name, self.log = name, log
        self._path = path or str(log.log_dir)
        self.lock = threading.RLock()
        self.rules = Rules(log, opened or (lambda: log))
        self._instance = secrets.token_hex(4)
        self._rest, self._cost = rest, 0.0
        self._records = self._beside = 0
        self._looked = -float("inf")
        self._overview: tuple[str, bytes] = ("", b"")
        self._layers: dict[tuple[str, int], tuple[str, bytes]] = {}
        self._said: tuple[int, Remarks] | None = None

    @property
    def records_token(self) -> str:
        """Stands for the records alone."""
        return f"{self._instance}-{self._records}"

    @property
    def token(self) -> str:
        """Stands for everything."""
        return f"{self.records_token}-{self._beside}-{self.rules.version}"

    @property
    def _pause(self) -> float:
        return self._rest * min(max(1.0, _SHARE * self._cost), _LONGEST)

    def look(self) -> None:
        """Read what is new, if the last time is long enough ago."""
        with self.lock:
            now = time.monotonic()
            if now - self._looked < self._pause:
                return
            before = self.log._current
            new = self.log.refresh()
            if self.log._current is not before or before is None:
                self._records += 1
            elif new:
                self._beside += 1
            self._looked = time.monotonic()

    def overview(self, known: str | None) -> tuple[str, bytes | None]:
        """The run but for single layers.

        Args:
            known: The token that the page has.

        Returns:
            The token now, and a bundle as it travels: ``{"token", "partial", "run"}``.
            None instead if the page has it.
        """
        if self._nothing_new(known):
            return str(known), None
        with self.lock:
            self.look()
            self.rules.look(self._records)
            token = self.token
            if known == token:
                return token, None
            if known and known.rsplit("-", 2)[0] == self.records_token:
                return token, self._rest_of(known, token)
            if self._overview[0] != token:
                begun = time.thread_time()  # not what others on the machine do
                self._overview = token, self._whole(token)
                self._cost = time.thread_time() - begun
            return self._overview

    def _nothing_new(self, known: str | None) -> bool:
        """Whether the page has what is known of the run, said without waiting."""
        if known != self.token:
            return False
        if time.monotonic() - self._looked < self._pause:
            return True
        if not self.lock.acquire(blocking=False):
            return True  # somebody reads; the page will ask again
        try:
            self.look()
            self.rules.look(self._records)
            return known == self.token
        finally:
            self.lock.release()

    def layer(
        self, name: str, most: int, known: str | None
    ) -> tuple[str, bytes | None]:
        """What belongs to one layer.

        Args:
            name: Of the layer.
            most: Largest number of steps.
            known: The token of the records that the page has.

        Returns:
            The token of the records now, and a bundle as it travels; None if the page
            has it.

        Raises:
            KeyError: If there is no such layer; names what comes close.
        """
        with self.lock:
            self.look()
            token = self.records_token
            if known == token:
                return token, None
            kept = self._layers.get((name, most))
            if kept is None or kept[0] != token:
                page = gathered.layer(self.log, name, self._remarks(), most)
                page.tree |= {"v": 1, "run": self.name, "token": token}
                kept = token, zipped(bundled(page))
                self._keep(name, most, kept)
            return kept

    def pairs(self) -> PageData:
        """How layers meet, but for the matrices."""
        with self.lock:
            self.look()
            page = gathered.pairs(self.log)
            page.tree |= {"v": 1, "run": self.name, "token": self.records_token}
            return page

    def summary(self) -> dict[str, Any]:
        """The run in a list of runs."""
        with self.lock:
            self.look()
            found = self.rules.found or live_alone(self.log)
            alarms = sum(event.severity == "alarm" for event, _ in found.events)
            return summary_of(self.log) | {"alarms": alarms, "token": self.token}

    def _whole(self, token: str) -> bytes:
        found = self.rules.found or live_alone(self.log)
        gathering = gathered.gathering_of(self.log, found)
        said = gathered.remarks_of(gathering)
        self._said = self._records, said
        run = {"name": self.name, "path": self._path}
        run |= gathered.overview(gathering, found, said)
        run |= self._alarms(gathering, said)
        page = gathering.page
        page.tree = {"v": 1, "token": token, "partial": False, "run": run}
        return zipped(bundled(page))

    def _rest_of(self, known: str, token: str) -> bytes:
        """What changed while the records did not."""
        found = self.rules.found or live_alone(self.log)
        gathering = gathered.gathering_of(self.log, found)
        run: dict[str, Any] = {"name": self.name}
        _, beside, rules = known.rsplit("-", 2)
        if beside != str(self._beside):
            run |= gathered.beside(gathering)
        if rules != str(self.rules.version):
            run |= self._alarms(gathering, self._remarks())
        page = gathering.page
        page.tree = {"v": 1, "token": token, "partial": True, "run": run}
        return zipped(bundled(page))

    def _alarms(self, gathering: Any, said: Remarks) -> dict[str, Any]:
        ready = not self.rules.pending
        found = self.rules.found or live_alone(self.log)
        told = gathered.alarms(gathering, found, said, ready)
        return told | {"rules_read": self.rules.records}

    def _remarks(self) -> Remarks:
        """What is said of the measurements, gone through once for each state."""
        if self._said is None or self._said[0] != self._records:
            gathering = gathered.gathering_of(self.log)
            self._said = self._records, gathered.remarks_of(gathering)
        return self._said[1]

    def _keep(self, name: str, most: int, answer: tuple[str, bytes]) -> None:
        self._layers.pop((name, most), None)
        while len(self._layers) >= _LAYERS:
            del self._layers[next(iter(self._layers))]
        self._layers[name, most] = answer


def summary_of(log: RunLog) -> dict[str, Any]:
    """What a list of runs says of one.

    Args:
        log: The run.

    Returns:
        How many layers and records, the first and the last step.
    """
    steps = log.steps
    return {
        "layers": len(log.layers),
        "records": len(steps),
        "first": int(steps[0]) if len(steps) else None,
        "last": int(steps[-1]) if len(steps) else None,
    }
