"""One measure of one layer in every run, read at the same points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.analysis.comparison.axes import Alignment
from svdhooks.analysis.comparison.runs import Group
from svdhooks.display.overview import Source

Floats = NDArray[np.float64]

# float32, in which measures are logged, has seven digits
_ROUNDING = 1e-6
_SHORT = 0.8
_TOLD = 5


@dataclass(frozen=True, eq=False)
class Curve:
    """One measure of one layer in all runs that have it.

    Attributes:
        layer: Its name.
        metric: The measure.
        x: Steps, epochs or levels, in the order of training, ``(T,)``.
        values: Run -> ``(T,)``, linear between records.
        ratio: Whether ratios are compared, of what is positive everywhere, or else
            differences.
        whole: Whether every value is a whole number.
    """

    layer: str
    metric: str
    x: Floats
    values: Mapping[str, Floats]
    ratio: bool
    whole: bool

    def of(self, group: Group) -> Floats:
        """The runs of a group on the scale on which they are compared, ``(n, T)``."""
        rows = [self.values[run] for run in group.runs if run in self.values]
        found = np.array(rows, dtype=np.float64).reshape(len(rows), len(self.x))
        return np.log(found) if self.ratio else found

    def floor(self) -> Floats:
        """The least variance over runs that is believed, ``(T,)``.

        Returns:
            That of rounding to float32; where everything is counted, that of counting.
        """
        size = np.mean(np.abs(np.array(list(self.values.values()))), axis=0)
        top = float(size.max(initial=0.0)) or 1.0
        variance = np.full(len(self.x), (_ROUNDING * top) ** 2)
        if self.whole:
            variance = np.maximum(variance, 1 / 12)
        return (
            variance / np.maximum(size, _ROUNDING * top) ** 2
            if self.ratio
            else variance
        )

    def bands(self, group: Group) -> tuple[Floats, Floats, Floats] | None:
        """Mean of a group, and mean ± the spread of single runs.

        Args:
            group: Its runs.

        Returns:
            Mean (of ratios: the geometric one), lower and upper end, each ``(T,)``, in
            the unit of the measure; None if no run has the layer. The ends are NaN for a
            single run.
        """
        runs = self.of(group)
        if not len(runs):
            return None
        mean = runs.mean(axis=0)
        nothing = np.full(mean.shape, np.nan)
        spread = runs.std(axis=0, ddof=1) if len(runs) > 1 else nothing
        found = mean, mean - spread, mean + spread
        if not self.ratio:
            return found
        middle, low, high = map(np.exp, found)
        return middle, low, high

    def as_dict(self, groups: Sequence[Group]) -> dict[str, Any]:
        """Means and bands for JSON, where NaN is None."""
        bands = {group.name: self.bands(group) for group in groups}
        names = ("mean", "low", "high")
        return {
            "layer": self.layer,
            "metric": self.metric,
            "x": self.x.tolist(),
            "groups": {
                name: {k: _plain(v) for k, v in zip(names, found, strict=True)}
                for name, found in bands.items()
                if found is not None
            },
        }


def curves_of(
    runs: Mapping[str, Source],
    alignment: Alignment,
    metrics: Sequence[str],
    layers: Sequence[str],
    notes: list[str],
) -> tuple[Curve, ...]:
    """Read all measures of all layers on common grids.

    Args:
        runs: The runs.
        alignment: Of the same runs.
        metrics: Measures.
        layers: Layers.
        notes: Added to: what is missing, and who shortens whom.

    Returns:
        Those that two runs have at least, layers in order within measures.

    Raises:
        ValueError: If there is none.
    """
    found, failed = [], dict[str, int]()
    reach = {name: _reach(run, alignment, name) for name, run in runs.items()}
    short: dict[str, float] = {}
    apart = 0
    for metric in metrics:
        series = {
            layer: _series(runs, layer, metric, alignment, failed) for layer in layers
        }
        ratio = _positive(series)
        whole = _whole(series)
        for layer, own in series.items():
            if len(own) < 2:
                continue
            grid = alignment.grid({name: x for name, (x, _, _) in own.items()})
            if not len(grid):
                apart += 1
                continue
            for name, (x, _, _) in own.items():
                if x[-1] <= grid[-1] and x[-1] < max(reach.values()):
                    short[name] = max(short.get(name, -np.inf), float(x[-1]))
            values = {
                name: np.interp(alignment.axes[name].steps_at(grid), steps, read)
                for name, (_, steps, read) in own.items()
            }
            found.append(
                Curve(layer, metric, alignment.shown(grid), values, ratio, whole)
            )
    if not found:
        raise ValueError(
            f"Nothing to compare: no two runs have {', '.join(metrics)} of the same layer "
            "at common points."
        )
    notes += _said(runs, found, failed, apart)
    notes += _shortened(short, max(reach.values()), alignment)
    return tuple(found)


_Read = tuple[Floats, Floats, Floats]
"""Positions, steps and values of the records of one run."""


def _series(
    runs: Mapping[str, Source],
    layer: str,
    metric: str,
    alignment: Alignment,
    failed: dict[str, int],
) -> dict[str, _Read]:
    """What each run has of one measure of one layer, where it is finite."""
    found: dict[str, _Read] = {}
    for name, run in runs.items():
        try:
            steps, values = run.series(layer, metric)
        except KeyError:
            continue
        there = np.isfinite(values)
        if failures := int((~there).sum()):
            failed[name] = failed.get(name, 0) + failures
        x = alignment.axes[name].positions(steps)
        there &= np.isfinite(x)
        if there.any():
            x, at = x[there], steps[there].astype(np.float64)
            found[name] = x, at, values[there].astype(np.float64)
    return found


def _reach(run: Source, alignment: Alignment, name: str) -> float:
    """Where the last record of a run stands."""
    x = alignment.axes[name].positions(run.steps)
    return float(np.nanmax(x)) if np.isfinite(x).any() else -np.inf


def _positive(series: Mapping[str, Mapping[str, _Read]]) -> bool:
    """Whether all values are above zero, so that ratios make sense."""
    return all((v > 0).all() for own in series.values() for _, _, v in own.values())


def _whole(series: Mapping[str, Mapping[str, _Read]]) -> bool:
    """Whether all values are counts."""
    return all(
        (values == np.rint(values)).all()
        for own in series.values()
        for _, _, values in own.values()
    )


def _said(
    runs: Mapping[str, Source],
    curves: Sequence[Curve],
    failed: Mapping[str, int],
    apart: int,
) -> list[str]:
    """What is missing or the same, in words."""
    notes = []
    if failed:
        told = ", ".join(f"{name} {n}" for name, n in list(failed.items())[:_TOLD])
        notes.append(
            f"Values that are not finite are left out, and the curve goes straight over "
            f"them: {told}."
        )
    if apart:
        notes.append(
            f"{apart} curves have no point in common with those of other runs, and are "
            "left out."
        )
    limited = sorted({name for name, run in runs.items() if _limited(run)})
    if limited:
        notes.append(
            f"Covariances of few samples (sample_limited) in {', '.join(limited[:_TOLD])}"
            f"{' …' if len(limited) > _TOLD else ''} read low: compare runs with equal "
            "probes."
        )
    for first, second in _twins(curves, list(runs)):
        notes.append(
            f"{first} and {second} agree in every digit: are they the same run? They "
            "count as two."
        )
    return notes


def _limited(run: Source) -> bool:
    """Whether a covariance was measured with too few samples."""
    return any("sample_limited" in event.marks for event in run.events)


def _twins(curves: Sequence[Curve], names: Sequence[str]) -> list[tuple[str, str]]:
    """Runs that have the same values everywhere."""
    prints: dict[bytes, str] = {}
    found = []
    for name in names:
        own = [c.values[name].tobytes() for c in curves if name in c.values]
        key = b"".join(own)
        if len(own) and key in prints:
            found.append((prints[key], name))
        prints.setdefault(key, name)
    return found


def _shortened(
    short: Mapping[str, float], longest: float, alignment: Alignment
) -> list[str]:
    """Runs that end early end the comparison."""
    if alignment.falling:
        return []
    ends = {name: x for name, x in short.items() if x < _SHORT * longest}
    return [
        f"{name} ends at {alignment.by} {x:,.6g} of {longest:,.6g}, and so does the "
        "comparison of what it has."
        for name, x in list(ends.items())[:_TOLD]
    ]


def _plain(values: Floats) -> list[float | None]:
    """JSON knows no NaN, and a drawing needs no more than six digits."""
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in values.tolist()]
