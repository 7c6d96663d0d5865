"""Which measures a summary has columns for, and what stands in a cell."""

import fnmatch
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from svdhooks.display.overview import log_spaced, spared
from svdhooks.runlog import RunLog

HEADLINES = {
    "weight_stable_rank": "weight\nstable rank",
    "input_effective_rank": "input\neff. rank",
    "output_effective_rank": "output\neff. rank",
    "tokens_effective_rank": "tokens\neff. rank",
    # the absolute threshold moves with the scale of the weights alone
    "jacobian_relative_local_rank": "local rank\nrelative",
    "jacobian_local_rank": "local rank\nabsolute",
}
TREND_WIDTH = 11
"""Of a cell without a sparkline and without a sign."""
_BARS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 16
_SHORTEST_SPARK = 4
_TITLE_WIDTH = 12


def chosen(log: RunLog, globs: str | None) -> list[str]:
    """The measures of a summary.

    Args:
        log: The run.
        globs: On the names of measures, with commas between; None: the headline ones.

    Returns:
        Names, those of the log in its order.
    """
    if globs is None:
        return [metric for metric in HEADLINES if metric in log.metrics]
    wanted = [glob.strip() for glob in globs.split(",")]
    return [
        metric
        for metric in (*log.metrics, *log.derived)
        if any(fnmatch.fnmatchcase(metric, glob) for glob in wanted)
    ]


def title_of(metric: str) -> str:
    """A column's title, in lines."""
    first, _, rest = metric.partition("_")
    plain = textwrap.wrap(rest.replace("_", " "), _TITLE_WIDTH)
    return HEADLINES.get(metric, "\n".join([first, *plain]))


def fitting(metrics: Sequence[str], room: int, width: int) -> tuple[list[str], ...]:
    """The headline measures that there is room for, and those that there is none for.

    Args:
        metrics: The measures.
        room: Characters for all columns.
        width: Characters for each.

    Returns:
        Two lists. Without local ranks all are shown.
    """
    shown = list(metrics)
    for metric in spared(metrics):
        if len(shown) * width > room:
            shown.remove(metric)
    return shown, [metric for metric in metrics if metric not in shown]


def spark_width(left: int, columns: int) -> int:
    """Characters left for each sparkline; 0 if that is too few to show anything."""
    each = left // max(columns, 1) - 1
    return min(each, _SPARK_WIDTH) if each >= _SHORTEST_SPARK else 0


def trend(
    steps: NDArray[np.int64],
    values: NDArray[np.float64],
    width: int,
    signs: Mapping[int, str],
) -> str:
    """First -> last and a sparkline.

    Args:
        steps: Increasing.
        values: Finite.
        width: Of the sparkline.
        signs: Step -> what stands before its number.

    Returns:
        Text with rich's markup.
    """
    if not len(values):
        return "[dim]–[/dim]"
    first, last = values[0], values[-1]
    before, after = (
        f"{signs.get(int(steps[i]), '')}{number(float(values[i]))}" for i in (0, -1)
    )
    text = f"{before:>4} → {after:<4}"
    if last < 0.5 * first:
        text = f"[bold]{text}[/bold]"
    return f"{text} {sparkline(steps, values, width)}" if width else text


def number(value: float) -> str:
    """Three figures at most."""
    if value == 0 or 0.01 <= abs(value) < 10000:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        return f"{value:.{digits}f}"
    return f"{value:.0e}"


def sparkline(
    steps: NDArray[np.int64], values: NDArray[np.float64], width: int = _SPARK_WIDTH
) -> str:
    """A line of block characters, from 0 to the largest value, over equal spans.

    Args:
        steps: Increasing.
        values: Non-negative.
        width: Characters.

    Returns:
        The line; blank where there is no record. Of records with more and more steps
        between them each has the same share of the line.
    """
    top = float(values.max())
    if top <= 0 or not math.isfinite(top):
        return _BARS[0] * min(width, len(values))
    if log_spaced(steps):
        width = min(width, len(steps))
        column = np.arange(len(steps)) * width // len(steps)
    else:
        span = max(int(steps[-1] - steps[0]), 1)
        column = np.minimum((steps - steps[0]) * width // span, width - 1)
    out = []
    for i in range(width):
        here = values[column == i]
        level = None if not len(here) else here.mean() / top * (len(_BARS) - 1)
        out.append(" " if level is None else _BARS[max(round(level), 0)])
    return "".join(out)


def longest(texts: Iterable[str]) -> int:
    """Length of the longest, at least 1."""
    return max(map(len, texts), default=1)
