"""Timing shared by the benchmarks: CPU time, medians, candidates side by side."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of all threads of this process while ``work`` runs."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def side_by_side(
    candidates: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1
) -> dict[str, float]:
    """Median CPU seconds of each candidate, measured in turns.

    The machine's speed drifts, by other work or by heat; in turns it drifts for all.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warmup + rounds):
        for name, work in candidates.items():
            seconds = cpu_seconds(work)
            if turn >= warmup:
                times[name].append(seconds)
    return {name: statistics.median(found) for name, found in times.items()}


def show(title: str, rows: Sequence[tuple[str, ...]], head: tuple[str, ...]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    print(f"\n{title}")
    for row in (head, *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())
