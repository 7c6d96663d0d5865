"""How much time recording may take, and what a record measures when it is short."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Part = tuple[str, str]
"""What can be measured in one record and left out in the next: (quantity, layer)."""

CREDIT_SECONDS = 10.0
LARGEST_STRETCH = 10
CALL_SECONDS = 4e-6
"""What a call takes that finds nothing due, where its code is no longer in the caches.

Measured between training steps of 4 ms; in a loop of its own it is 0.1 µs. To look at
the clock twice would take as long again.
"""


@dataclass(frozen=True)
class Allowance:
    """What the next record may do; decided at the end of the one before.

    Attributes:
        stretch: It comes at this many-th due step; 1 is the next one.
        seconds: Parts are measured until this is used up; None: all of them, but for
            those with a schedule of their own.
        earned: How much of these seconds the training until then brings.
        within: What there is for all of it, saved and earned.
    """

    stretch: int = 1
    seconds: float | None = None
    earned: float = 0.0
    within: float = math.inf


class OverheadGuard:
    """Keeps recording within ``max_overhead × training time + 10 s``.

    When a record of everything would exceed that, the interval stretches, at most
    tenfold; where this does not suffice, the parts take turns, longest unmeasured
    first; a record for which none is cheap enough measures none. What has a schedule of
    its own, and is rare, does not make the others rarer: it waits until the others have
    left enough. The decision is taken once per record and from numbers that can be
    exchanged, so that several processes can agree on it. What a part costs is known once
    it was measured; so a record that takes much longer than expected leaves the rest for
    the next, see `exhausted`.

    Args:
        max_overhead: Largest share of the training time; None: no limit.
        clock: Seconds; an argument so that tests need not wait.
    """

    def __init__(
        self,
        max_overhead: float | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if max_overhead is not None and not 0 < max_overhead < 1:
            raise ValueError(
                f"max_overhead={max_overhead!r}: expected a share of the training time "
                "between 0 and 1, such as 0.01, or None for no limit."
            )
        self.max_overhead = max_overhead
        self.allowance = Allowance()
        self.spent = 0.0
        self._clock = clock
        self._started = clock()
        self._waited = 0
        self._dues = 0
        self._costs: dict[Part, float] = {}
        # what no part accounts for: of every record (the log), of those that probe
        self._record_cost = 0.0
        self._probe_cost = 0.0
        self._probing = False
        self._rare: set[str] = set()
        self._until = math.inf
        self._turn: dict[Part, int] = {}
        self._records = 0

    @property
    def elapsed(self) -> float:
        """Training seconds so far, without our own."""
        return max(self._clock() - self._started - self.spent, 0.0)

    @property
    def overhead(self) -> float:
        """Seconds spent per second of training."""
        return self.spent / self.elapsed if self.elapsed > 0 else 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count what happens inside as time spent on recording."""
        begun = self._clock()
        try:
            yield
        finally:
            self.spent += self._clock() - begun

    def passed(self, calls: int, seconds: float) -> None:
        """Count calls that recorded nothing.

        Args:
            calls: How many.
            seconds: What was measured of the last of them.
        """
        self.spent += calls * CALL_SECONDS + seconds

    def restart(self) -> None:
        """Training begins now: setting up does not count as training time."""
        self._started = self._clock() - self.spent

    def admits(self) -> bool:
        """Whether to record at this due step; ask once per due step."""
        self._dues += 1
        self._waited += 1
        if self._waited < self.allowance.stretch:
            return False
        self._waited = 0
        return True

    @property
    def will_admit(self) -> bool:
        """Whether the next due step is one to record at."""
        return self._waited + 1 >= self.allowance.stretch

    def choose(
        self,
        parts: Sequence[Part],
        shared: Iterable[str] = (),
        whole: Iterable[str] = (),
        rare: Iterable[str] = (),
    ) -> set[Part]:
        """Which parts this record measures.

        Args:
            parts: All that are due, in the order of the model.
            shared: Quantities which share one probe forward.
            whole: Quantities whose layers are measured in the same passes: half of
                them costs as much as all, so they have their turn together.
            rare: Quantities with a schedule of their own.

        Returns:
            All parts, or those that waited longest and fit the allowance.
        """
        shared, together = set(shared), set(whole)
        self._rare.update(rare)
        regular = {part for part in parts if part[0] not in self._rare}
        left = self.allowance.within
        self._probing = any(part[0] in shared for part in regular)
        if self.allowance.seconds is not None:
            left, regular, self._probing = self.allowance.seconds, set(), False
        others = [part for part in parts if part not in regular]
        left -= self._expected(regular)
        chosen = regular | self._affordable(_units(others, together), shared, left)
        self._probing = any(part[0] in shared for part in chosen)
        left = max(self._available, 0.0)
        self._until = self._clock() + self._expected(chosen) + left
        return chosen

    def permit(self, seconds: float) -> None:
        """Let what comes now take that long, whatever is available.

        Args:
            seconds: Until `exhausted`.
        """
        self._until = self._clock() + seconds

    def exhausted(self) -> bool:
        """Whether this record took what it was to cost and all that is available."""
        return self._clock() > self._until

    @property
    def _available(self) -> float:
        """Seconds that may be spent now; negative if too many were."""
        if self.max_overhead is None:
            return math.inf
        return self.max_overhead * self.elapsed + CREDIT_SECONDS - self.spent

    def _expected(self, parts: Iterable[Part]) -> float:
        """Seconds that a record of these parts takes, as far as they are known."""
        probe = self._probe_cost if self._probing else 0.0
        return sum(self._costs.get(p, 0.0) for p in parts) + self._record_cost + probe

    def _affordable(
        self, units: Iterable[Sequence[Part]], shared: set[str], left: float
    ) -> set[Part]:
        """Those that waited longest and fit what is left."""
        chosen: set[Part] = set()
        probing, saving = self._probing, False
        for unit in sorted(units, key=self._waiting_since):
            probe = unit[0][0] in shared and not probing
            cost = sum(self._costs.get(part, 0.0) for part in unit)
            cost += self._probe_cost if probe else 0.0
            if cost <= left:
                probing |= probe
                chosen.update(unit)
                left -= cost
            elif not saving:
                # saved for it; else cheaper parts use up every allowance
                saving = True
                left = min(left, self.allowance.earned / 2)
        return chosen

    def _waiting_since(self, unit: Sequence[Part]) -> int:
        """The record in which it was measured; -1 before."""
        return max(self._turn.get(part, -1) for part in unit)

    def finished(
        self,
        costs: Mapping[Part, float],
        total: float,
        told: Mapping[str, float] | None = None,
    ) -> None:
        """Learn what a record cost and decide about the next.

        Where several processes record one run, they have to decide alike: then all
        numbers are those which they agreed upon.

        Args:
            costs: Seconds of each measured part.
            total: Seconds of the whole record, up to now.
            told: ``spent`` and ``elapsed`` of all processes; None: those of this one.
        """
        told = told or {"spent": self.spent, "elapsed": self.elapsed}
        self._records += 1
        self._costs.update(costs)
        self._turn.update(dict.fromkeys(costs, self._records))
        rest = max(total - sum(costs.values()), 0.0)
        if self._probing:
            self._probe_cost = max(rest - self._record_cost, 0.0)
        else:
            self._record_cost = rest
        self.allowance = self._decide(told["spent"], told["elapsed"])

    def _decide(self, spent: float, elapsed: float) -> Allowance:
        if self.max_overhead is None:
            return Allowance()
        regular = (s for part, s in self._costs.items() if part[0] not in self._rare)
        whole = sum(regular) + self._record_cost + self._probe_cost
        available = self.max_overhead * elapsed + CREDIT_SECONDS - spent
        gain = self.max_overhead * elapsed / max(self._dues, 1)
        if available >= whole:
            return Allowance(1, None, gain, available + gain)
        if self._dues == 0 or elapsed <= 0:
            # how long training takes is not known yet: use what is left of the credit
            available = max(available, 0.0)
            return Allowance(1, available, available)
        for stretch in range(1, LARGEST_STRETCH + 1):
            if available + stretch * gain >= whole:
                earned = stretch * gain
                return Allowance(stretch, None, earned, available + earned)
        earned = LARGEST_STRETCH * gain
        return Allowance(LARGEST_STRETCH, max(available + earned, 0.0), earned)


def _units(parts: Sequence[Part], whole: set[str]) -> list[list[Part]]:
    """The parts one by one, and those of some quantities together."""
    units: dict[str | Part, list[Part]] = {}
    for part in parts:
        units.setdefault(part[0] if part[0] in whole else part, []).append(part)
    return list(units.values())
