"""When to record: a rule over optimiser steps.

A schedule answers "is a record due between these two steps?" and not "is this
step a multiple of n?": steps repeat under gradient accumulation and jump when two
optimisers are counted, and a multiple that is jumped over must not be missed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Schedule(Protocol):
    """A rule that says when a record is due."""

    def due(self, previous_step: int, step: int) -> bool:
        """Whether a scheduled step lies in ``(previous_step, step]``.

        Args:
            previous_step: The step last asked about; -1 before the first.
            step: The step now.
        """
        ...


@dataclass(frozen=True)
class Every:
    """Steps 0, n, 2n and so on."""

    n: int

    def due(self, previous_step: int, step: int) -> bool:
        """Whether a multiple of ``n`` lies in ``(previous_step, step]``."""
        return step // self.n > previous_step // self.n

    def __str__(self) -> str:
        return "every step" if self.n == 1 else f"every {self.n} steps"


@dataclass(frozen=True)
class LogSpaced:
    """Step 0 and then ``per_decade`` steps per factor of ten, from ``first`` on."""

    per_decade: int
    first: int
    last: int | None

    def due(self, previous_step: int, step: int) -> bool:
        """Whether one of the log-spaced steps lies in ``(previous_step, step]``."""
        if step <= previous_step:
            return False
        if previous_step < 0 <= step:
            return True
        return self._largest_up_to(step) > max(previous_step, 0)

    def _largest_up_to(self, step: int) -> int:
        """The largest scheduled step <= ``step``; 0 if there is none after 0."""
        if step < self.first:
            return 0
        reach = step if self.last is None else min(step, self.last)
        k = math.floor(self.per_decade * math.log10(reach / self.first)) + 1
        # + 1 and the loop: rounding to an integer may move a step either way
        while (candidate := round(self.first * 10 ** (k / self.per_decade))) > reach:
            k -= 1
        return candidate

    def __str__(self) -> str:
        until = "" if self.last is None else f" until {self.last}"
        return f"{self.per_decade} steps per decade from {self.first}{until}"


@dataclass(frozen=True)
class At:
    """Exactly the given steps."""

    steps: tuple[int, ...]

    def due(self, previous_step: int, step: int) -> bool:
        """Whether one of the steps lies in ``(previous_step, step]``."""
        return any(previous_step < s <= step for s in self.steps)

    def __str__(self) -> str:
        return "at " + ", ".join(map(str, self.steps))


@dataclass(frozen=True)
class AnyOf:
    """Due when any of several schedules is due."""

    schedules: tuple[Schedule, ...]

    def due(self, previous_step: int, step: int) -> bool:
        """Whether any of the schedules is due."""
        return any(s.due(previous_step, step) for s in self.schedules)

    def __str__(self) -> str:
        return " or ".join(map(str, self.schedules))


def every(n: int) -> Schedule:
    """Record at steps 0, n, 2n and so on.

    Args:
        n: Interval in optimiser steps.

    Returns:
        The schedule.

    Raises:
        ValueError: If ``n`` is not a positive whole number.
    """
    if not _whole(n) or n < 1:
        raise ValueError(
            f"every({n!r}): expected a positive whole number of optimiser steps, "
            "for example every(100)."
        )
    return Every(int(n))


def log_spaced(
    per_decade: int = 10, *, first: int = 1, last: int | None = None
) -> Schedule:
    """Record at step 0 and then at steps evenly spaced in log time.

    Local rank lives on log time: it moves between 1e4 and 1e5 steps as it does
    between 10 and 100 (Patel & Shwartz-Ziv, arXiv 2410.07687).

    Args:
        per_decade: Records per factor of ten in steps.
        first: First step after 0.
        last: No record after this step; None: without end.

    Returns:
        The schedule.

    Raises:
        ValueError: If ``per_decade`` or ``first`` is not positive, or ``last`` is
            before ``first``.
    """
    if not (_whole(per_decade) and _whole(first)) or per_decade < 1 or first < 1:
        raise ValueError(
            f"log_spaced(per_decade={per_decade!r}, first={first!r}): expected "
            "positive whole numbers."
        )
    if last is not None and last < first:
        raise ValueError(
            f"log_spaced(first={first}, last={last}): the schedule is empty after "
            "step 0; expected last >= first."
        )
    return LogSpaced(int(per_decade), int(first), last)


def at(*steps: int) -> Schedule:
    """Record at exactly these optimiser steps.

    Args:
        *steps: The steps; 0 is the state before the first update.

    Returns:
        The schedule.

    Raises:
        ValueError: If no step is given, or one is negative or not whole.
    """
    if not steps:
        raise ValueError(
            "at(): the schedule is empty. Give at least one step, for example "
            "at(0, 100, 1000)."
        )
    wrong = [s for s in steps if not _whole(s) or s < 0]
    if wrong:
        raise ValueError(f"at(): expected whole steps >= 0, found {wrong}.")
    return At(tuple(sorted({int(s) for s in steps})))


def any_of(*schedules: Schedule) -> Schedule:
    """Record when any of the schedules is due.

    Args:
        *schedules: For example ``any_of(every(1000), log_spaced())``.

    Returns:
        The schedule.

    Raises:
        ValueError: If no schedule is given.
        TypeError: If one of them has no ``due(previous_step, step)``.
    """
    if not schedules:
        raise ValueError("any_of(): the schedule is empty. Give at least one.")
    for schedule in schedules:
        check_schedule(schedule)
    return AnyOf(schedules)


_SPARSER = 20


def sparser(schedule: Schedule | None) -> Schedule:
    """A schedule for what costs much more than the rest.

    Args:
        schedule: When the rest is due; None: not known.

    Returns:
        Every twentieth time of a fixed interval; else five times per factor of ten in
        steps.
    """
    return (
        every(_SPARSER * schedule.n) if isinstance(schedule, Every) else log_spaced(5)
    )


def check_schedule(schedule: object) -> Schedule:
    """Return ``schedule`` if it is one.

    Args:
        schedule: Anything.

    Returns:
        The same object.

    Raises:
        TypeError: If it has no ``due(previous_step, step)``.
    """
    if isinstance(schedule, Schedule) and not isinstance(schedule, type):
        return schedule
    raise TypeError(
        f"Found {schedule!r} as a schedule; expected every(n), log_spaced(...), "
        "at(...), any_of(...), or an object with due(previous_step, step) -> bool."
    )


_LOOK_AHEAD = 64


def quiet_until(schedules: Sequence[Schedule], step: int, notice: int = 0) -> int:
    """The next step at which to ask the schedules: none is due before.

    Asking at every step of the training would cost 10 µs, nearly all of it for
    fetching code that the training has driven out of the caches.

    Args:
        schedules: All that matter.
        step: The step last asked about.
        notice: That many steps before one is due, it has to be asked as well.

    Returns:
        A step after ``step``; the very next one if one of the schedules is not of
        this module: its answers may depend on more than the steps.
    """
    ahead = _LOOK_AHEAD if all(map(_foreseeable, schedules)) else 1
    while ahead > 1 and any(s.due(step, step + ahead - 1 + notice) for s in schedules):
        ahead //= 2
    return step + ahead


def _foreseeable(schedule: Schedule) -> bool:
    if type(schedule) is AnyOf:
        return all(map(_foreseeable, schedule.schedules))
    return type(schedule) in {Every, LogSpaced, At}


def _whole(value: object) -> bool:
    """Whether ``value`` is a whole number, bool excluded."""
    return isinstance(value, int) and not isinstance(value, bool)
