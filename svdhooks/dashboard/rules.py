"""The alarms of a run: rules go through its log beside the requests, and not too often."""

import logging
import threading
import time
from collections.abc import Iterator

from svdhooks.alarms import Reading, Watcher, readings
from svdhooks.analysis.reporting.judging import Alarmed, alarmed, joined, raised
from svdhooks.runlog import RunLog

CHOICE = "auto"
"""The rules that need no knowledge of the task."""

_AT_ONCE = 20_000
"""Records × layers that rules go through while a request waits."""

_REST = 20.0
"""Rules go through a growing log again after so many times as long as it took."""

_logger = logging.getLogger(__name__)


class Rules:
    """What rules say of one run; older than the log by a known number of records.

    Args:
        log: The run.
        lock: Held whenever the log is read.
        rest: Seconds to wait, times those that the last passage took.

    Attributes:
        found: What they said last; None: nothing yet.
        version: Counts passages.
        records: How many records they had seen.
    """

    def __init__(self, log: RunLog, lock: threading.RLock, rest: float = _REST) -> None:
        self.found: Alarmed | None = None
        self.version = 0
        self.records = 0
        self._log, self._lock, self._rest = log, lock, rest
        self._seen = -1
        self._due = 0.0
        self._worker: threading.Thread | None = None

    def look(self, version: int) -> None:
        """Have the rules go through the log, if it has grown and it is time.

        The lock is held by the caller. Small logs are done on return.

        Args:
            version: Of the records.
        """
        if version == self._seen or (self._worker and self._worker.is_alive()):
            return
        size = len(self._log.steps) * max(len(self._log.layers), 1)
        if size <= _AT_ONCE:
            self._pass(version)
        elif time.monotonic() >= self._due:
            self._worker = threading.Thread(
                target=self._pass, args=(version,), name="svdhooks-rules", daemon=True
            )
            self._worker.start()

    @property
    def pending(self) -> bool:
        """Whether they have not yet gone through the log for the first time."""
        return self.found is None

    def _pass(self, version: int) -> None:
        begun = time.monotonic()
        try:
            with self._lock:
                records, live = len(self._log.steps), raised(self._log)
            found = joined(live, CHOICE, self._readings)
        except Exception:  # a log of which rules can make nothing is still worth seeing
            _logger.exception("The rules failed on %s", self._log.directory)
            with self._lock:
                found, records = live_alone(self._log), 0
        with self._lock:
            self.found, self.records = found, records
            self._seen = version
            self.version += 1
            self._due = time.monotonic() + self._rest * (time.monotonic() - begun)

    def _readings(self, watcher: Watcher) -> Iterator[Reading]:
        """The readings; the lock is held while the log is read, not while rules think."""
        several = readings(self._log, None, watcher.measures)
        while True:
            with self._lock:
                reading = next(several, None)
            if reading is None:
                return
            yield reading


def live_alone(log: RunLog) -> Alarmed:
    """What was raised during the run, and nothing else."""
    return alarmed(log, None)
