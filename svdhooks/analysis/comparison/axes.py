"""Where two runs are compared: at equal steps, epochs, or losses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svdhooks.alarms import loss_source
from svdhooks.display.overview import Source

Floats = NDArray[np.float64]

_POINTS = 200
_LEVELS = 60


@dataclass(frozen=True)
class Axis:
    """Step against what runs are aligned by; both strictly increasing.

    Attributes:
        steps: ``(K,)``; empty: ``x`` is the step itself.
        x: ``(K,)``.
    """

    steps: Floats
    x: Floats

    def positions(self, steps: NDArray[np.int64]) -> Floats:
        """Where records stand; NaN before and behind what is known."""
        at = steps.astype(np.float64)
        return _between(at, self.steps, self.x) if len(self.steps) else at

    def steps_at(self, x: Floats) -> Floats:
        """The step at which a run is there."""
        return _between(x, self.x, self.steps) if len(self.steps) else x


@dataclass(frozen=True)
class Alignment:
    """How all runs are aligned.

    Attributes:
        by: ``"step"``, ``"epoch"``, or the name of what falls.
        axes: Run -> its axis.
        falling: Whether ``x`` is minus a level that falls.
        left_out: Run -> why it cannot be aligned.
    """

    by: str
    axes: Mapping[str, Axis]
    falling: bool
    left_out: Mapping[str, str]

    def grid(self, spans: Mapping[str, Floats]) -> Floats:
        """Points at which all runs can be read.

        Args:
            spans: Run -> positions of its records, increasing.

        Returns:
            ``(T,)``: all positions of records within what the runs have in common,
            thinned to 200; of a level that falls 60 between its ends. Empty if they have
            nothing in common.
        """
        first = max((x[0] for x in spans.values()), default=np.inf)
        last = min((x[-1] for x in spans.values()), default=-np.inf)
        if not first <= last:
            return np.empty(0)
        if self.falling:
            return _levels(float(first), float(last))
        found = np.unique(np.concatenate(list(spans.values())))
        found = found[(found >= first) & (found <= last)]
        kept = np.linspace(0, len(found) - 1, min(len(found), _POINTS))
        return found[np.rint(kept).astype(np.intp)]

    def shown(self, x: Floats) -> Floats:
        """Positions as they are called: a level is positive."""
        return -x if self.falling else x


def align(runs: Mapping[str, Source], by: str) -> Alignment:
    """Find the axes of some runs.

    Args:
        runs: Name -> run.
        by: ``"step"``, ``"epoch"``, ``"loss"``, or the name of a value that falls.

    Returns:
        Axes; runs without what they are aligned by are left out.

    Raises:
        ValueError: If no run has it.
    """
    if by == "step":
        same = Axis(np.empty(0), np.empty(0))
        return Alignment(by, dict.fromkeys(runs, same), falling=False, left_out={})
    find: Callable[[Source], tuple[Axis | None, str]]
    find = _by_epoch if by == "epoch" else lambda run: _by_level(run, by)
    found = {name: find(run) for name, run in runs.items()}
    axes = {name: axis for name, (axis, _) in found.items() if axis is not None}
    missing = {name: why for name, (axis, why) in found.items() if axis is None}
    if not axes:
        raise ValueError(
            f"align={by!r}: no run can be aligned by it ({next(iter(missing.values()))}). "
            "Use align='step'."
        )
    names = sorted({why for axis, why in found.values() if axis is not None})
    return Alignment(
        ", ".join(names) if by != "epoch" else by,
        axes,
        falling=by != "epoch",
        left_out=missing,
    )


def envelope(values: Floats) -> Floats:
    """The best that a noisy loss has reached so far.

    The running minimum of the running median. A median of w records forgets up to
    (w − 1)/2 lucky batches in a row; w is a twentieth of the records, odd, from 3 to 51.

    Args:
        values: ``(K,)``, finite.

    Returns:
        ``(K,)``, never rising.
    """
    width = 2 * int(np.clip(len(values) // 40, 1, 25)) + 1
    if len(values) < width:
        return np.minimum.accumulate(values)
    # at the ends the window is cut, not filled up
    half = width // 2
    padded = np.concatenate([np.full(half, np.nan), values, np.full(half, np.nan)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    return np.minimum.accumulate(np.nanmedian(windows, axis=1))


def loss_of(run: Source, name: str = "loss") -> tuple[str, Floats, Floats] | None:
    """The training loss of a run, or another value of it.

    Args:
        run: Which.
        name: ``"loss"``: as `svdhooks.alarms.loss_source` finds it; or the name of a
            value of the run or of a scalar.

    Returns:
        What it is called, steps and values, finite; None if there is none.
    """
    tag = (loss_source(run) if name == "loss" else None) or name  # type: ignore[arg-type]
    if tag in run.run_metrics:
        at, values = run.run_series(tag)
        steps = at.astype(np.float64)
    elif tag in getattr(run, "scalar_tags", ()):
        logged, values = run.scalars(tag)  # type: ignore[attr-defined]
        steps = _steps_of(run, logged.astype(np.float64))
    else:
        return None
    finite = np.isfinite(values)
    return (tag, steps[finite], values[finite]) if finite.any() else None


def _steps_of(run: Source, logged: Floats) -> Floats:
    """Optimiser steps of positions on the logger's axis, linear between records."""
    if "logged_step" not in run.run_metrics:
        return logged
    steps, theirs = run.run_series("logged_step")
    told = np.isfinite(theirs)
    if not told.any() or (np.diff(theirs[told]) <= 0).any():
        return logged
    found: Floats = np.interp(logged, theirs[told], steps[told].astype(np.float64))
    return found


def _by_epoch(run: Source) -> tuple[Axis | None, str]:
    """Through the first record of every epoch; within one in proportion."""
    if "epoch" not in run.run_metrics:
        return None, "it has no 'epoch'"
    steps, epochs = run.run_series("epoch")
    finite = np.isfinite(epochs)
    at, x = steps[finite].astype(np.float64), epochs[finite].astype(np.float64)
    rising = np.concatenate([[True], x[1:] > np.maximum.accumulate(x)[:-1]])
    knots, levels = at[rising], x[rising]
    if len(knots) < 2:
        return None, "it has one epoch only"
    if at[-1] > knots[-1]:  # the last one goes on as fast as the one before
        slope = (levels[-1] - levels[-2]) / (knots[-1] - knots[-2])
        knots = np.append(knots, at[-1])
        levels = np.append(levels, levels[-1] + slope * (at[-1] - knots[-2]))
    return Axis(knots, levels), "epoch"


def _by_level(run: Source, name: str) -> tuple[Axis | None, str]:
    """Through the first step at which each level of the envelope was reached."""
    found = loss_of(run, name)
    if found is None:
        what = "training loss" if name == "loss" else f"{name!r}"
        return None, f"it has no {what}; {_there_is(run)}"
    tag, steps, values = found
    low = envelope(values)
    fall = float(low[0] - low[-1])
    if not fall > 0:
        return None, f"its {tag!r} never falls"
    # a ramp too small to see: where the envelope is flat its first step counts
    ramp = 1e-9 * fall * np.arange(len(low)) / len(low)
    rising = np.concatenate([[True], np.diff(steps) > 0])
    return Axis(steps[rising], (ramp - low)[rising]), tag


def _there_is(run: Source) -> str:
    """The values that it could be aligned by."""
    names = (*run.run_metrics, *getattr(run, "scalar_tags", ()))
    return f"it has {', '.join(names[:8]) or 'no value of the run'}"


def _levels(first: float, last: float) -> Floats:
    """Minus levels from high to low, in equal ratios where all are positive."""
    if last < 0:
        return -np.geomspace(-first, -last, _LEVELS)
    return np.linspace(first, last, _LEVELS)


def _between(at: Floats, knots: Floats, values: Floats) -> Floats:
    """Linear between knots, NaN beyond."""
    return np.interp(at, knots, values, left=np.nan, right=np.nan)
