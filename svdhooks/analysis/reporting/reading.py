"""What a report reads from a log, and how little of it is held at a time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.runlog import RunLog

_LIMITING = frozenset({"sample_limited", "lower_bound"})


@dataclass
class Room:
    """How many bytes a page may still take in; what stands in text counts too."""

    left: int | float

    def take(self, size: int | float) -> bool:
        """Whether there is room for something; if so it is taken."""
        if size > self.left:
            return False
        self.left -= size
        return True

    def share(self, part: float) -> "Room":
        """A part of what is left, which the whole then lacks."""
        given = Room(max(self.left, 0.0) * part)
        self.left -= given.left
        return given


def thinned(count: int, most: int) -> NDArray[np.int64]:
    """Places out of ``count``, evenly, the first and the last among them."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.rint(np.linspace(0, count - 1, max(most, 2))).astype(np.int64))


def matrix(
    log: RunLog, layers: Sequence[str], metric: str, steps: NDArray[np.int64]
) -> NDArray[np.float32]:
    """One measure of some layers at some steps.

    Args:
        log: The run.
        layers: Names.
        metric: One of ``log.metrics``.
        steps: Increasing.

    Returns:
        ``(steps, layers)``, NaN where it was not measured.
    """
    table = log._table  # all layers at once: a call for each takes seconds
    place = {name: i for i, name in enumerate(table.layers)}
    columns = np.array([place[name] for name in layers], dtype=np.intp)
    known = np.isin(steps, table.steps)
    rows = np.searchsorted(table.steps, steps[known])
    values = np.full((len(steps), len(layers)), np.nan, dtype=np.float32)
    with np.errstate(over="ignore"):
        values[known] = table.measure(metric)[np.ix_(rows, columns)]
    return values


def measured_steps(
    log: RunLog, layers: Iterable[str], metrics: Iterable[str]
) -> NDArray[np.int64]:
    """The steps at which any of some measures was made of any layer."""
    found: set[int] = set()
    for metric in metrics:
        for layer in layers:
            found.update(log.series(layer, metric)[0].tolist())
    return np.array(sorted(found), dtype=np.int64)


@dataclass
class Remarks:
    """What is said of a run's measurements, as far as a page shows it.

    Attributes:
        limited: (layer, point) -> those of the steps asked for (of Jacobians all) at
            which too few samples or directions limit what is told.
        failures: Layer, point, step and status of measurements that failed; the first.
        failed: How many failed in all.
        since: (layer, point) -> the first step at which it failed.
        sample_limited: Point -> how many measurements are marked so.
        marked: Mark -> how many measurements carry it.
    """

    limited: dict[tuple[str, str], set[int]] = field(default_factory=dict)
    failures: list[tuple[str, str, int, str]] = field(default_factory=list)
    failed: int = 0
    since: dict[tuple[str, str], int] = field(default_factory=dict)
    sample_limited: dict[str, int] = field(default_factory=dict)
    marked: dict[str, int] = field(default_factory=dict)


def remarks(log: RunLog, steps: Iterable[int], most: int) -> Remarks:
    """Go through what is said of the measurements, once.

    Args:
        log: The run.
        steps: Those whose marks are wanted.
        most: Largest number of failures to keep.

    Returns:
        The remarks.
    """
    wanted, found = set(steps), Remarks()
    for event in log.each_event():
        if not event.ok:
            found.failed += 1
            found.since.setdefault((event.layer, event.point), event.step)
            if len(found.failures) < most:
                row = (event.layer, event.point, event.step, event.status)
                found.failures.append(row)
        for mark in event.marks:
            found.marked[mark] = found.marked.get(mark, 0) + 1
        if "sample_limited" in event.marks:
            count = found.sample_limited.get(event.point, 0)
            found.sample_limited[event.point] = count + 1
        shown = event.step in wanted or event.point == "jacobian"  # few are measured
        if shown and not _LIMITING.isdisjoint(event.marks):
            found.limited.setdefault((event.layer, event.point), set()).add(event.step)
    return found


def as_json(value: Any) -> Any:
    """What a log says, as JSON: numbers that are not finite become text."""
    if isinstance(value, dict):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else str(float(value))
    if isinstance(value, np.integer):
        return int(value)
    return value if isinstance(value, str | int | bool | None) else str(value)
