"""What rules are made of: levels, and signs that must last."""

import math
from collections.abc import Collection
from dataclasses import dataclass

WARM_UP = 3
"""Records that make a level: the fewest whose median one outlier cannot move."""

Key = tuple[str, str]
"""Layer and point."""


@dataclass(frozen=True)
class Patience:
    """How long a sign must last before it counts, and how long its end.

    Attributes:
        records: That many records in a row.
        steps: And over that many optimiser steps, so that a run recorded at every step
            does not alarm of a spike. 50 is five times the memory of momentum 0.9.
    """

    records: int = 3
    steps: int = 50

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            TypeError: If one is no whole number.
            ValueError: If one is too small.
        """
        for name, least in (("records", 1), ("steps", 0)):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(
                    f"Patience({name}={number!r}): expected a whole number, such as "
                    f"{name}=5."
                )
            if number < least:
                raise ValueError(
                    f"Patience({name}={number}): expected {least} or more."
                )


class Level:
    """One measure of one layer, smoothed: the median of its last three records.

    The first value counts as it is: that of the fresh network, which one of the next
    records may have left far behind.

    Attributes:
        now: The median of the last `WARM_UP` values; NaN before there are as many.
        highest: The largest ``now`` so far, or the first value.
        lowest: The smallest ``now`` so far, or the first value.
        highest_step: When it was highest.
        lowest_step: When it was lowest.
    """

    __slots__ = ("_last", "highest", "highest_step", "lowest", "lowest_step", "now")

    def __init__(self) -> None:
        self._last: tuple[float, ...] = ()
        self.now = self.highest = self.lowest = math.nan
        self.highest_step = self.lowest_step = 0

    def observe(self, step: int, value: float) -> float:
        """Take in a value.

        Args:
            step: When it was measured.
            value: Not NaN.

        Returns:
            ``now``.
        """
        if len(self._last) < WARM_UP - 1:
            if not self._last:
                self.highest = self.lowest = value
                self.highest_step = self.lowest_step = step
            self._last = (*self._last, value)
            return self.now
        a, b = self._last
        self._last = (b, value)
        # the median of three, spelled out: this runs for every layer at every record
        if a > b:
            a, b = b, a
        now = a if value < a else min(value, b)
        if now > self.highest:
            self.highest, self.highest_step = now, step
        elif now < self.lowest:
            self.lowest, self.lowest_step = now, step
        self.now = now
        return now


class Latch:
    """A sign that counts once it lasted, and again only after it has long passed.

    Attributes:
        since: First step of the sign as it holds now.
        raised: Whether it counts.
    """

    __slots__ = ("_count", "_gone", "_gone_since", "raised", "since")

    def __init__(self) -> None:
        self.since = 0
        self.raised = False
        self._count = self._gone = self._gone_since = 0

    def update(self, step: int, on: bool, over: bool, patience: Patience) -> bool:
        """Take in one record.

        Args:
            step: Of the record.
            on: Whether the sign is there.
            over: Whether it is clearly gone. Neither: it is near the edge, and what
                holds goes on holding.
            patience: How long either must last.

        Returns:
            Whether it begins to count now.
        """
        if self.raised:
            if not over:
                self._gone = 0
                return False
            if self._gone == 0:
                self._gone_since = step
            self._gone += 1
            if self._lasted(self._gone, step - self._gone_since, patience):
                self.raised, self._count = False, 0
            return False
        if not on:
            self._count = 0
            return False
        if self._count == 0:
            self.since = step
        self._count += 1
        if self._lasted(self._count, step - self.since, patience):
            self.raised, self._gone = True, 0
        return self.raised

    @staticmethod
    def _lasted(records: int, steps: int, patience: Patience) -> bool:
        return records >= patience.records and steps >= patience.steps


class Latches:
    """One `Latch` for each layer, made when a sign first shows."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._latches: dict[Key, Latch] = {}
        self._said = 0

    def update(self, key: Key, step: int, on: bool, over: bool) -> bool:
        """Take in what a record says of one layer; see `Latch.update`."""
        latch = self._latches.get(key)
        if latch is None:
            if not on:
                return False
            latch = self._latches[key] = Latch()
        return latch.update(step, on, over, self._patience)

    def since(self, key: Key) -> int:
        """First step of the sign of a layer."""
        return self._latches[key].since

    def known(self, key: Key) -> bool:
        """Whether a layer ever had the sign."""
        return key in self._latches

    @property
    def known_keys(self) -> Collection[Key]:
        """All that ever had the sign."""
        return self._latches.keys()

    @property
    def holding(self) -> list[Key]:
        """All whose sign counts now."""
        return [key for key, latch in self._latches.items() if latch.raised]

    def worth_saying(self, new: int) -> bool:
        """Whether those that begin to count make an event.

        The first does; then only when there are twice as many as at the last event, so
        that a fault that spreads through 200 layers is told of at most eight times.

        Args:
            new: How many begin to count at this record.

        Returns:
            Whether to say so.
        """
        many = len(self.holding)
        if many == 0:
            self._said = 0
        if new == 0 or many < 2 * self._said:
            return False
        self._said = many
        return True
