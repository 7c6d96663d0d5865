"""Records whose spectra are solved beside the training: begun, awaited, delivered."""

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from svdhooks import advice
from svdhooks.conductor.computing import chosen_here, on_cuda, solve_seconds
from svdhooks.conductor.leaving import take_leave
from svdhooks.conductor.measured import report_failed
from svdhooks.conductor.models import Models
from svdhooks.conductor.overhead import OverheadGuard
from svdhooks.conductor.settings import Settings
from svdhooks.quantities import Quantity
from svdhooks.quantities.pending import Pending
from svdhooks.record import Record
from svdhooks.reports import Reporter
from svdhooks.solving import INLINE, Solution, Solver, ThreadSolver, solved_by

MOST_RECORDS = 2
"""Of records that are not delivered yet."""

PATIENCE = 30.0
"""Seconds to wait for what is not solved yet; longer if it is much."""

HURRY = 1.0
"""The same where an exception ends the training."""

_LOOK = 0.2  # seconds after which to see whether the thread still runs


@dataclass(eq=False)
class _Flight:
    """A record on its way.

    Attributes:
        step: Its step.
        records: What it holds; some of it pending.
        deliver: Hands it on; told the seconds that completing it took.
        awaited: The last of its spectra to be solved; None: it waits for none.
        seconds: What the thread needs for it, about.
    """

    step: int
    records: list[Record]
    deliver: Callable[[float], None]
    awaited: Solution | None
    seconds: float

    @property
    def landed(self) -> bool:
        return self.awaited is None or self.awaited.ready


class Delayed:
    """Keeps records in order from their beginning until they are delivered.

    All of it happens on the training thread, which also completes the records; the
    other thread only solves.

    Args:
        models: What is watched.
        settings: The recorder's.
        guard: Counts the time of the training thread.
        reporter: Where problems go.
        clock: Seconds.
    """

    def __init__(
        self,
        models: Models,
        settings: Settings,
        guard: OverheadGuard,
        reporter: Reporter,
        clock: Callable[[], float],
    ) -> None:
        self._models = models
        self._settings = settings
        self._guard = guard
        self._reporter = reporter
        self._clock = clock
        self._flights: deque[_Flight] = deque()
        self._thread: ThreadSolver | None = None
        self._solver: Solver = INLINE
        self._seconds = 0.0
        self._dropped = 0
        self._late: _Flight | None = None
        # an error that is handled around the whole training is none that ends it
        self._handled = id(sys.exc_info()[1])

    @property
    def in_flight(self) -> bool:
        """Whether a record is not delivered yet."""
        return bool(self._flights)

    # --- a record begins ----------------------------------------------------------

    def has_room(self, step: int) -> bool:
        """Whether another record may begin; where none may be left out, wait for it.

        Args:
            step: Of that record.

        Returns:
            False if it has to be left out.
        """
        if len(self._flights) < MOST_RECORDS:
            return True
        if self._settings.max_overhead is None and self._settle_first():
            return True
        self._dropped += 1
        self._reporter.note(
            "dropped",
            f"svdhooks: the record of step {step} is left out, because the thread that "
            f"solves spectra still works on the {MOST_RECORDS} before it. The next one "
            "says how many were left out ('dropped'). Choose a longer interval or fewer "
            "layers, or max_overhead=None to wait for it.",
        )
        return False

    def choose(self, due: Sequence[Quantity]) -> bool:
        """Decide who solves the spectra of the record that begins.

        Args:
            due: What is measured.

        Returns:
            Whether it is the other thread.
        """
        self._seconds = solve_seconds(self._models, due)
        compute = self._settings.probe_options.compute
        how = chosen_here(compute, self._seconds, on_cuda(self._models))
        self._solver = INLINE
        if how == "thread":
            if self._thread is None or not self._thread.alive:
                self._thread = ThreadSolver()
                take_leave(self)
            self._thread.last = None
            self._solver = self._thread
        return self._solver.deferred

    def solving(self) -> AbstractContextManager[None]:
        """Where spectra are solved as it was decided."""
        return solved_by(self._solver)

    def dropped(self) -> dict[str, int]:
        """How many records were left out since the last; nothing if none."""
        count, self._dropped = self._dropped, 0
        return {"dropped": count} if count else {}

    def add(
        self, step: int, records: list[Record], deliver: Callable[[float], None]
    ) -> None:
        """Deliver a record, at once if it waits for nothing.

        Args:
            step: Its step.
            records: What it holds; completed in place.
            deliver: Hands it on; told the seconds that completing it took.
        """
        awaited = self._thread.last if self._solver.deferred and self._thread else None
        if awaited is None and not self._flights:
            self._complete(records)
            deliver(0.0)
        else:
            self._flights.append(
                _Flight(step, records, deliver, awaited, self._seconds)
            )

    # --- a record ends ------------------------------------------------------------

    def drain(self) -> None:
        """Deliver what is solved, in the order of the steps; waits for nothing."""
        if self._flights:
            with self._guard.timed():
                self._await(self._flights[0], 0.0)
                while self._flights and self._flights[0].landed:
                    self._deliver_first()

    def settle(self) -> None:
        """Wait until all is solved, and deliver it; not for a thread that is stuck."""
        while self._flights and self._settle_first():
            pass

    def _settle_first(self) -> bool:
        """Wait for the oldest record; whether it is delivered."""
        flight = self._flights[0]
        with self._guard.timed():
            if self._await(flight, self._until()):
                self._deliver_first()
                return True
        self._late = flight
        self._reporter.note(
            "late",
            f"svdhooks: the spectra of step {flight.step} are not solved after "
            f"{PATIENCE:g} s and ten times what they were expected to take. They are "
            'not waited for. ProbeOptions(compute="inline") needs no other thread.',
        )
        return False

    def _until(self) -> float:
        """When patience ends with what is on its way; it ends once."""
        if self._flights and self._flights[0] is self._late:
            return time.monotonic()
        expected = 10 * sum(flight.seconds for flight in self._flights)
        return time.monotonic() + max(PATIENCE, expected)

    def close(self, hurried: bool = False) -> None:
        """Deliver what is solved in time; say what is lost.

        Args:
            hurried: Wait only for a moment; so it does where an exception is on its way.

        Raises:
            RecordingError: If ``on_error="raise"`` and something failed, unless hurried.
        """
        if self._thread is None:
            return
        hurried |= id(sys.exc_info()[1]) not in {id(None), self._handled}
        self._thread.close()
        try:
            self._settle_in_time(hurried)
        except Exception:
            if not hurried:
                raise
        finally:
            lost = [flight.step for flight in self._flights]
            self._flights.clear()
            self._thread.close(abandon=True)
            self._thread.join(0.0 if lost else HURRY)
            self._say_lost(lost, "its spectra were not solved in time when closed")

    def forget(self) -> None:
        """In a forked process: what is on its way belongs to the other one."""
        self._flights.clear()
        self._thread, self._solver = None, INLINE

    def __del__(self) -> None:
        lost = [flight.step for flight in getattr(self, "_flights", ())]
        self._say_lost(lost, "nobody closed the recorder. Use it in a with block")

    def _say_lost(self, steps: Sequence[int], why: str) -> None:
        if steps:
            told = ", ".join(map(str, steps))
            self._reporter.note(
                "lost", f"svdhooks: the record of step {told} is lost: {why}."
            )

    def _settle_in_time(self, hurried: bool) -> None:
        until = time.monotonic() + HURRY if hurried else self._until()
        failure: Exception | None = None
        while self._flights and self._await(self._flights[0], until):
            try:
                self._deliver_first()
            except Exception as error:  # noqa: BLE001  # the others are to be written
                failure = failure or error
        if failure is not None:
            raise failure

    def _await(self, flight: _Flight, until: float) -> bool:
        """Wait for a record, as long as somebody works on it."""
        awaited = flight.awaited
        while awaited is not None and not awaited.ready:
            left = until - time.monotonic()
            if not awaited.wait(min(left, _LOOK)):
                if self._thread is not None:
                    self._thread.give_up_if_dead()
                if left <= 0:
                    break
        return flight.landed

    def _deliver_first(self) -> None:
        flight, begun = self._flights[0], self._clock()
        try:
            self._complete(flight.records)  # Ctrl-C until here: it is completed later
            self._flights.popleft()
            flight.deliver(self._clock() - begun)
        except Exception as error:  # noqa: BLE001  # training must not stop
            if flight in self._flights:
                self._flights.popleft()
            advice.failed(self._reporter, flight.step, error)

    def _complete(self, records: list[Record]) -> None:
        """Put the values into the records that wait for them."""
        for place, record in enumerate(records):
            if isinstance(record, Pending):
                begun = self._clock()
                done = record.complete()
                seconds = record.seconds + self._clock() - begun
                records[place] = replace(done, seconds=seconds)
                if record.ok:  # or it was reported already
                    report_failed(self._reporter, done, record.unfinished.error)
