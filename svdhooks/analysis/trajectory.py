"""What one curve does over a run: its phases, when it falls, what it goes along with."""

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, stats

from svdhooks.alarms import loss_source
from svdhooks.analysis.trajectory_pieces import cuts, line, noise
from svdhooks.display.overview import Source, log_spaced

Floats = NDArray[np.float64]

_MOST = 300
_FLAT = 0.05
_FEWEST = 3


@dataclass(frozen=True)
class Phase:
    """A stretch of a curve.

    Attributes:
        kind: ``"rise"``, ``"plateau"`` or ``"fall"``.
        start: Its first step.
        end: Its last step, which is the first of the next.
        first: The value at its start, by a line through it.
        last: The same at its end.
    """

    kind: str
    start: int
    end: int
    first: float
    last: float


@dataclass(frozen=True)
class Correlation:
    """How a measure of a layer goes along with another curve.

    Two curves that both fall over a run have a rank correlation near 1 whatever joins
    them, so there is no p here; ``changes`` is free of such trends.

    Attributes:
        layer: Its name.
        levels: Spearman's ρ of the values, -1 … 1; NaN if one of them never changes.
        changes: Spearman's ρ of what changes from record to record.
        records: How many both have.
    """

    layer: str
    levels: float
    changes: float
    records: int


def phases(
    steps: ArrayLike, values: ArrayLike, *, logarithmic: bool | None = None
) -> list[Phase]:
    """Cut a curve into rises, plateaus and falls.

    The piecewise linear curve with the least squared error plus a penalty for each piece
    (found exactly by dynamic programming: Bellman, 1961; the penalty is that of Schwarz,
    1978, with the noise from second differences), on the logarithm of what is positive.
    Lone outliers go by a median of three before that; a piece has three records at least. A piece that changes by less than
    a twentieth of the curve's range, and a curve that changes by less than 5 %, is flat.
    Pieces of one kind are one phase.

    Args:
        steps: ``(T,)``, increasing.
        values: ``(T,)``; what is not finite is left out.
        logarithmic: Whether lines are straight in the logarithm of steps; None: where
            most records are early.

    Returns:
        In order, without gaps; none if there are less than three values.

    Raises:
        ValueError: If the lengths differ, or steps do not increase.
    """
    at, read = _finite(steps, values)
    if len(at) < _FEWEST:
        return []
    thinned = np.unique(np.rint(np.linspace(0, len(at) - 1, _MOST)).astype(np.intp))
    chosen = thinned if len(at) > _MOST else np.arange(len(at))
    if logarithmic is None:
        logarithmic = log_spaced(at)
    positive = bool((read > 0).all())
    y = np.log(read) if positive else read
    spread = noise(y)  # before the median, which hides most of it
    y = ndimage.median_filter(y, 3, mode="nearest")[chosen]
    x = np.log1p(at - at[0])[chosen] if logarithmic else at[chosen]
    x = (x - x[0]) / (x[-1] - x[0])
    pieces = [(a, b, *line(x, y, a, b)) for a, b in cuts(x, y, spread)]
    size = float(np.ptp(y))
    whole = _FLAT if positive else _FLAT * float(np.abs(y).max())
    least = max(_FLAT * size, 3 * spread) if size > whole else math.inf
    found: list[Phase] = []
    for a, b, first, last in pieces:
        change = last - first
        kind = "plateau" if abs(change) < least else "rise" if change > 0 else "fall"
        ends = (math.exp(first), math.exp(last)) if positive else (first, last)
        span = int(at[chosen[a]]), int(at[chosen[b]])
        if found and found[-1].kind == kind:
            before = found.pop()
            span, ends = (before.start, span[1]), (before.first, ends[1])
        found.append(Phase(kind, *span, *ends))
    return found


def time_to(
    steps: ArrayLike,
    values: ArrayLike,
    *,
    level: float | None = None,
    fraction: float | None = None,
    records: int = 2,
) -> int | None:
    """When a curve reaches a level.

    Args:
        steps: ``(T,)``, increasing.
        values: ``(T,)``; what is not finite is left out.
        level: Which; from above if the curve begins above it, else from below.
        fraction: Instead: a share of the first value, 0.5 for half of it.
        records: So many have to be there in a row, so that no outlier counts; the last
            record of the run may stand alone.

    Returns:
        The step of the first of these records; None if that never happens.

    Raises:
        ValueError: If not exactly one of ``level`` and ``fraction`` is given.
    """
    if (level is None) == (fraction is None):
        raise ValueError(
            f"Found level={level}, fraction={fraction}; expected exactly one of them."
        )
    at, read = _finite(steps, values)
    if not len(at):
        return None
    wanted = level if level is not None else cast("float", fraction) * float(read[0])
    there = read <= wanted if read[0] > wanted else read >= wanted
    padded = np.concatenate([there, np.ones(max(records - 1, 0), dtype=bool)])
    lasting = np.lib.stride_tricks.sliding_window_view(padded, max(records, 1))
    found = np.flatnonzero(lasting.all(axis=1))
    return int(at[found[0]]) if len(found) else None


def fall_order(
    log: Source, metric: str, fraction: float = 0.5
) -> list[tuple[str, int | None]]:
    """In which order layers fall.

    Args:
        log: A `svdhooks.RunLog` or a `svdhooks.MemorySink`.
        metric: The measure.
        fraction: To what share of its first value.

    Returns:
        Layer and the step at which it got there for two records in a row, the first to
        fall first; those that never do last, with None. Layers that were measured less
        than twice are left out.

    Raises:
        KeyError: If no layer has the measure.
        ValueError: If ``fraction`` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction}: expected a number between 0 and 1.")
    curves = _curves(log, metric)
    found = {
        layer: time_to(at, read, fraction=fraction)
        for layer, (at, read) in curves.items()
        if np.isfinite(read).sum() > 1
    }
    return sorted(
        found.items(), key=lambda pair: math.inf if pair[1] is None else pair[1]
    )


def correlation(
    log: Source, metric: str, tag: str = "loss", lag: int = 0
) -> list[Correlation]:
    """How a measure goes along with the loss, layer by layer (Spearman).

    Args:
        log: A `svdhooks.RunLog` or a `svdhooks.MemorySink`.
        metric: The measure.
        tag: A value of the run, or a scalar, which is joined by the logger's step;
            ``"loss"``: the training loss, as `svdhooks.alarms.loss_source` finds it.
        lag: The measure is compared with the other so many records later; negative:
            earlier.

    Returns:
        One for each layer, the strongest ``changes`` first.

    Raises:
        KeyError: If no layer has the measure, or there is no such tag.
    """
    name = (loss_source(log) if tag == "loss" else None) or tag  # type: ignore[arg-type]
    if name in log.run_metrics or not hasattr(log, "align"):
        steps, other = log.run_series(name)
    else:
        steps, other = log.align(name)
    told = dict(zip(steps.tolist(), other.tolist(), strict=True))
    found = []
    for layer, (at, read) in _curves(log, metric).items():
        joined = np.array([told.get(step, np.nan) for step in at.tolist()])
        first, second = _shifted(read, joined, lag)
        both = np.isfinite(first) & np.isfinite(second)
        a, b = first[both], second[both]
        found.append(
            Correlation(
                layer, _spearman(a, b), _spearman(np.diff(a), np.diff(b)), len(a)
            )
        )
    return sorted(
        found, key=lambda c: -abs(c.changes) if c.changes == c.changes else 1.0
    )


def _finite(steps: ArrayLike, values: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    """Steps and values that are finite."""
    at, read = np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=np.float64)
    if at.ndim != 1 or at.shape != read.shape:
        raise ValueError(
            f"Found steps {at.shape} and values {read.shape}; expected two of one length, "
            "as log.series(layer, metric) gives them."
        )
    if (np.diff(at) <= 0).any():
        raise ValueError("steps do not increase; expected those of log.series.")
    there = np.isfinite(read)
    return at[there], read[there]


def _curves(
    log: Source, metric: str
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.floating]]]:
    """The layers that have a measure."""
    every = {layer: log.series(layer, metric) for layer in log.layers}
    found = {layer: curve for layer, curve in every.items() if len(curve[0])}
    if not found:
        raise KeyError(f"No layer has {metric!r}; there is {', '.join(log.metrics)}.")
    return found


def _shifted(
    first: NDArray[np.floating], second: Floats, lag: int
) -> tuple[Floats, Floats]:
    """The first against the second so many places later."""
    a, b = np.asarray(first, dtype=np.float64), second
    if lag >= 0:
        return a[: max(len(a) - lag, 0)], b[lag:]
    return a[-lag:], b[: max(len(b) + lag, 0)]


def _spearman(a: Floats, b: Floats) -> float:
    """The rank correlation; NaN where it is not defined."""
    if len(a) < _FEWEST or not np.ptp(a) or not np.ptp(b):
        return math.nan
    return float(stats.spearmanr(a, b).statistic)
