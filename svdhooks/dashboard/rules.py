"""The alarms of a run: rules go through its log beside the requests, and not too often."""

import logging
import threading
import time
from collections.abc import Callable

from svdhooks.analysis.reporting.judging import Alarmed, alarmed
from svdhooks.runlog import RunLog

CHOICE = "auto"
"""The rules that need no knowledge of the task."""

_AT_ONCE = 20_000
"""Records × layers that rules go through while a request waits."""

_REST = 20.0
"""Rules go through a growing log again after so many times as long as it took."""

_POLITE = 1.0
"""Seconds before rules go through a large log: the page is asking for its first picture."""

_logger = logging.getLogger(__name__)


class Rules:
    """What rules say of one run; older than the log by a known number of records.

    Args:
        log: The run.
        opened: Opens it once more, so that rules that take long keep nobody waiting.
        rest: Seconds to wait, times those that the last passage took.

    Attributes:
        found: What they said last; None: nothing yet.
        version: Counts passages.
        records: How many records they had seen.
    """

    def __init__(
        self, log: RunLog, opened: Callable[[], RunLog], rest: float = _REST
    ) -> None:
        self.found: Alarmed | None = None
        self.version = 0
        self.records = 0
        self._log, self._opened, self._rest = log, opened, rest
        self._seen = -1
        self._due = 0.0
        self._worker: threading.Thread | None = None

    def look(self, version: int) -> None:
        """Have the rules go through the log, if it has grown and it is time.

        The caller has the log to itself. Small logs are done on return.

        Args:
            version: Of the records.
        """
        if version == self._seen or (self._worker and self._worker.is_alive()):
            return
        size = len(self._log.steps) * max(len(self._log.layers), 1)
        if size <= _AT_ONCE:
            self._pass(self._log, version)
        elif time.monotonic() >= self._due:
            self._worker = threading.Thread(
                target=self._beside, args=(version,), name="svdhooks-rules", daemon=True
            )
            self._worker.start()

    @property
    def pending(self) -> bool:
        """Whether they have not yet gone through the log for the first time."""
        return self.found is None

    def _beside(self, version: int) -> None:
        """Go through a large log, after what the page asks for first."""
        time.sleep(_POLITE)
        try:
            log = self._opened()
        except (OSError, ValueError):  # gone since
            log = self._log
        self._pass(log, version)

    def _pass(self, log: RunLog, version: int) -> None:
        begun = time.monotonic()
        records, found = 0, None
        try:
            records = len(log.steps)
            found = alarmed(log, CHOICE)
        except Exception:  # a log of which rules can make nothing is still worth seeing
            _logger.exception("The rules failed on %s", log.directory)
        self._due = time.monotonic() + self._rest * (time.monotonic() - begun)
        self.found = found or Alarmed((), frozenset(), None)
        self.records, self._seen = records, version
        self.version += 1  # last: who sees it sees the rest


def live_alone(log: RunLog) -> Alarmed:
    """What was raised during the run, and nothing else."""
    return alarmed(log, None)
