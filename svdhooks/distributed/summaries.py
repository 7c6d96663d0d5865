"""What a process saw of a point, and what the others have to know of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from svdhooks.linalg import CovarianceAccumulator
from svdhooks.linalg.units import UnitStatistics

Key = tuple[str, str]
"""Layer and point."""


@dataclass
class Share:
    """What one process saw of one point.

    Attributes:
        samples: Its samples; None: none.
        units: The same, unit by unit.
        dtype: Of the samples.
        problem: Why the point could not be observed here; None if all is well.
    """

    samples: CovarianceAccumulator | None = None
    units: UnitStatistics | None = None
    dtype: torch.dtype | None = None
    problem: str | None = None

    def summary(self) -> "Summary":
        """What the other processes have to know of it."""
        if self.samples is None or self.problem is not None:
            return Summary(problem=self.problem)
        is_complex = bool(self.dtype and self.dtype.is_complex)
        return Summary(self.samples.count, self.samples.d, self.dtype, is_complex)


@dataclass(frozen=True)
class Summary:
    """How much there is of one point, on one process or on all.

    Attributes:
        count: Number of samples.
        d: Number of features; 0 where there are no samples.
        dtype: Of the samples.
        is_complex: Whether they are complex.
        problem: Why the point could not be observed.
    """

    count: int = 0
    d: int = 0
    dtype: torch.dtype | None = None
    is_complex: bool = False
    problem: str | None = None

    @property
    def as_samples(self) -> bool:
        """Whether the samples are fewer than the features."""
        return self.count < self.d

    @property
    def mergeable(self) -> bool:
        """Whether there is something to merge."""
        return self.problem is None and self.count > 0


def total_of(column: Sequence[Summary]) -> Summary:
    """What all processes have of one point.

    Args:
        column: What each has, by rank.

    Returns:
        All of it, or the problem of one of them.
    """
    problems = [
        f"{each.problem} (rank {rank})"
        for rank, each in enumerate(column)
        if each.problem is not None
    ]
    if problems:
        return Summary(problem=problems[0])
    seen = [each for each in column if each.count]
    if not seen:  # called, with nothing that counts; or not called at all
        return Summary(problem="no samples" if any(e.d for e in column) else None)
    if len({each.d for each in seen}) > 1:
        widths = sorted({each.d for each in seen})
        return Summary(problem=f"the ranks saw different numbers of features: {widths}")
    return Summary(
        sum(each.count for each in seen),
        seen[0].d,
        seen[0].dtype,
        any(each.is_complex for each in seen),
    )
