"""The training loss as rules judge it: whether it falls, stays or rises."""

import math
from collections import deque
from statistics import median
from typing import Literal

LossState = Literal["", "diverged", "worse", "stuck"]
"""Of the training loss; empty: it falls, or nothing can be said yet."""


GETS_WORSE = frozenset({"worse", "diverged"})
"""States of a loss that is not merely slow."""

LOSS_WORDS = {
    "diverged": "the loss is not finite",
    "worse": "the loss got worse",
    "stuck": "the loss does not fall",
}
"""How a message says it."""


_LOSSES = 5
"""Losses of one batch are rougher than ranks: two outliers of five move no median."""


class LossLevel:
    """The training loss as far as rules judge it: whether it falls, stays or rises.

    Losses may be negative (cosine similarity) and noisy (one batch). So nothing is
    divided by the loss: its gain is compared with its own noise, the median absolute
    difference of successive records.
    """

    NOISES = 4.0
    """A rise counts above so many times the noise: of a thousand Gaussian losses the
    largest and the smallest median of five differ by 3.6 times the noise."""
    GAIN = 2.0
    """A gain counts above so many times the noise, less than a rise needs: doubt is for
    the run. Of a thousand losses that stay, the best is 1.5 times the noise below."""
    GIVEN_BACK = 0.5
    """More than half of the gain lost: the loss is nearer to its start than its best."""
    LEFT = 0.1
    """Less than a tenth of the first loss left is learned. What is stuck at the mean of
    its answers, or at the frequencies of its tokens, keeps most of it."""
    RECORDS = 8
    """Losses needed before one is called stuck: a first level, a last one, and noise."""

    def __init__(self) -> None:
        self.state: LossState = ""
        self.start = self.best = self.now = math.nan
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=_LOSSES)
        self._moves: deque[float] = deque(maxlen=101)
        self._anchor = self._least = math.inf
        self._idle = 0

    @property
    def improved(self) -> bool:
        """Whether the loss fell by more than its noise, and did not give that back."""
        return self._judgeable and self.state == ""

    def observe(self, loss: float | None) -> LossState:
        """Take in the loss of a record.

        Args:
            loss: NaN if it is not finite; None if there is none.

        Returns:
            ``state``.
        """
        if loss is None:
            return self.state
        if not math.isfinite(loss):
            self.state = "diverged"
            return self.state
        if self._last:
            self._moves.append(abs(loss - self._last[-1]))
        if len(self._first) < _LOSSES:
            self._first.append(loss)
            self.start = median(self._first)
        self._last.append(loss)
        self._least = min(self._least, loss)
        self.now = median(self._last)
        self.best = min(self.best, self.now) if self.best == self.best else self.now
        self._count_idle()
        self.state = self._judged()
        return self.state

    def _count_idle(self) -> None:
        """Count the records since the loss last fell by more than its noise."""
        noise = self.GAIN * median(self._moves or [0.0])
        if self.now < self._anchor - noise:
            self._anchor, self._idle = self.now, 0
        else:
            self._idle += 1

    @property
    def stalled(self) -> bool:
        """Whether it does not fall now, and not because there is next to none left."""
        if not self._judgeable:
            return False
        return self.state != "" or (self._idle >= self.RECORDS and not self._learned)

    @property
    def _learned(self) -> bool:
        """Whether little is left of a loss that is positive: it has no way to go."""
        return self._least >= 0 and self.now < self.LEFT * self.start

    @property
    def _judgeable(self) -> bool:
        return len(self._moves) >= self.RECORDS - 1

    def _judged(self) -> LossState:
        if not self._judgeable:
            return ""
        noise = median(self._moves)
        gain, back = self.start - self.best, self.now - self.best
        if back > max(self.NOISES * noise, self.GIVEN_BACK * gain):
            return "worse"
        return "stuck" if gain <= self.GAIN * noise else ""
