"""How much time recording may take, and what a record measures when it is short."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Part = tuple[str, str]
"""What can be measured in one record and left out in the next: (quantity, layer)."""

CREDIT_SECONDS = 10.0
LARGEST_STRETCH = 10


@dataclass(frozen=True)
class Allowance:
    """What the next record may do; decided at the end of the one before.

    Attributes:
        stretch: It comes at this many-th due step; 1 is the next one.
        seconds: Parts are measured until this is used up; None: all of them.
    """

    stretch: int = 1
    seconds: float | None = None


class OverheadGuard:
    """Keeps recording within ``max_overhead × training time + 10 s``.

    When a record of everything would exceed that, the interval stretches, at most
    tenfold; where this does not suffice, the parts take turns, longest unmeasured
    first. The decision is taken once per record and from numbers that can be
    exchanged, so that several processes can agree on it.

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
        self._shared_cost = 0.0
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

    def choose(self, parts: Sequence[Part], shared: Iterable[str] = ()) -> set[Part]:
        """Which parts this record measures.

        Args:
            parts: All that are due, in the order of the model.
            shared: Quantities which share one probe forward.

        Returns:
            All parts, or those that waited longest and fit the allowance; at least
            one, so that every record says something.
        """
        if self.allowance.seconds is None:
            return set(parts)
        shared = set(shared)
        ordered = sorted(parts, key=lambda part: self._turn.get(part, -1))
        chosen: set[Part] = set()
        left = self.allowance.seconds
        probing = False
        for part in ordered:
            first_probe = part[0] in shared and not probing
            cost = self._cost(part, first_probe)
            if cost <= left:
                probing |= first_probe
                chosen.add(part)
                left -= cost
        return chosen or self._least(ordered, shared)

    def _cost(self, part: Part, with_probe: bool) -> float:
        return self._costs.get(part, 0.0) + (self._shared_cost if with_probe else 0.0)

    def _least(self, ordered: Sequence[Part], shared: set[str]) -> set[Part]:
        """One part when none fits: the longest unmeasured of the cheap ones."""
        costs = {part: self._cost(part, part[0] in shared) for part in ordered}
        cheap = 2 * min(costs.values(), default=0.0)
        return (
            {next(part for part in ordered if costs[part] <= cheap)} if costs else set()
        )

    def finished(self, costs: Mapping[Part, float], total: float) -> None:
        """Learn what a record cost and decide about the next.

        Args:
            costs: Seconds of each measured part.
            total: Seconds of the whole record, up to now.
        """
        self._records += 1
        self._costs.update(costs)
        self._turn.update(dict.fromkeys(costs, self._records))
        # what no part accounts for: the probe's forward, the log
        self._shared_cost = max(total - sum(costs.values()), 0.0)
        self.allowance = self._decide()

    def _decide(self) -> Allowance:
        if self.max_overhead is None:
            return Allowance()
        whole = sum(self._costs.values()) + self._shared_cost
        available = self.max_overhead * self.elapsed + CREDIT_SECONDS - self.spent
        if available >= whole:
            return Allowance()
        if self._dues == 0 or self.elapsed <= 0:
            # how long training takes is not known yet: use what is left of the credit
            return Allowance(1, max(available, 0.0))
        gain = self.max_overhead * self.elapsed / self._dues
        for stretch in range(1, LARGEST_STRETCH + 1):
            if available + stretch * gain >= whole:
                return Allowance(stretch)
        return Allowance(LARGEST_STRETCH, max(available + LARGEST_STRETCH * gain, 0.0))
