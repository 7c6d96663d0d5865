"""What is worth showing of a run, without saying how it looks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from svdhooks.display.bounds import Status, bounded_steps, sign_of

HEADLINES = (
    "weight_stable_rank",
    "input_effective_rank",
    "output_effective_rank",
    "tokens_effective_rank",
    # the absolute threshold moves with the scale of the weights alone
    "jacobian_relative_local_rank",
    "jacobian_local_rank",
)
_TITLES = {
    "jacobian_relative_local_rank": "local rank (relative)",
    "jacobian_local_rank": "local rank (absolute)",
}
_SPARED = ("jacobian_local_rank", "input_effective_rank")
_MEASURES = 3
_FEW, _EARLY = 5, 0.15
_THOUSAND, _MILLION = 1e3, 1e6


@runtime_checkable
class Source(Protocol):
    """Measures of layers over steps: a `RunLog` or a `MemorySink`."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names, in the model's order."""
        ...

    @property
    def steps(self) -> NDArray[np.int64]:
        """The recorded steps, increasing."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the measures, ``<point>_<field>``."""
        ...

    @property
    def run_metrics(self) -> tuple[str, ...]:
        """Names of the values of the whole run."""
        ...

    @property
    def events(self) -> tuple[Any, ...]:
        """The measurements that failed or carry a mark, each a `Status`."""
        ...

    def series(
        self, layer: str, metric: str
    ) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
        """Steps and values of one measure of one layer."""
        ...

    def run_series(self, metric: str) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
        """Steps and values of one of ``run_metrics``."""
        ...


@dataclass(frozen=True)
class Curve:
    """One measure of one layer, for a cell of a table.

    Attributes:
        steps: ``(T,)``.
        values: ``(T,)``, NaN where a measurement failed.
        signs: Step -> what stands before the figure, for some steps.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.floating]
    signs: Mapping[int, str] = field(default_factory=dict)

    @property
    def ends(self) -> tuple[str, ...]:
        """The first and the last value in figures; once if there is one; or none."""
        if not len(self.values):
            return ()
        ends = [0, -1] if len(self.values) > 1 else [0]
        return tuple(
            signed(self.signs.get(int(self.steps[i]), ""), float(self.values[i]))
            for i in ends
        )


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        layer: Its name, as it is.
        curves: One per measure.
        failed: What failed, in words; empty if nothing did.
    """

    layer: str
    curves: tuple[Curve, ...]
    failed: str


@dataclass(frozen=True)
class Overview:
    """A run in a small table.

    Attributes:
        heading: How many layers, which steps.
        measures: Names of the columns.
        rows: Layers.
        hidden: Number of layers that the table has no room for.
        cost: What recording cost, in words; empty if that is not known.
    """

    heading: str
    measures: tuple[str, ...]
    rows: tuple[Row, ...]
    hidden: int
    cost: str


def overview(source: Source, rows: int) -> Overview:
    """Choose what to show.

    Args:
        source: The run.
        rows: Largest number of layers; those with failures go before others.

    Returns:
        The table, layers in the model's order.
    """
    layers, steps = source.layers, source.steps
    events = source.events
    failures, bounded = _failures(events), bounded_steps(events)
    # pairs of layers have measures of their own; but a failure is never left out
    layers = tuple(dict.fromkeys((*layers, *failures)))
    first = sorted(layers, key=lambda name: name not in failures)[:rows]
    shown = [name for name in layers if name in set(first)]
    measures = chosen_measures(source)
    return Overview(
        f"{count(len(layers), 'layer')}, {count(len(steps), 'record')}"
        f"{_reach(steps.tolist())}",
        measures,
        tuple(
            Row(
                name,
                tuple(
                    Curve(*source.series(name, metric), _signs(bounded, name, metric))
                    for metric in measures
                ),
                failures.get(name, ""),
            )
            for name in shown
        ),
        len(layers) - len(shown),
        _cost(source),
    )


def chosen_measures(source: Source) -> tuple[str, ...]:
    """The headline measures that were recorded; where there are none, the first."""
    metrics = source.metrics
    return tuple(m for m in HEADLINES if m in metrics) or metrics[:_MEASURES]


def figure(value: float) -> str:
    """A number with three figures, without an exponent where that is readable."""
    if not np.isfinite(value):
        return "–"
    if abs(value) >= _MILLION:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= _THOUSAND else f"{value:.3g}"


def spared(metrics: Iterable[str]) -> list[str]:
    """Which headline measures are left out where there is no room.

    Args:
        metrics: Those there are.

    Returns:
        Some of them, the first to go first; none if no local rank is among them.
    """
    metrics = list(metrics)
    asked = any("local_rank" in metric for metric in metrics)
    return [metric for metric in _SPARED if metric in metrics and asked]


def log_spaced(steps: NDArray[np.number]) -> bool:
    """Whether most records are early, so that an even axis would hide them."""
    if len(steps) < _FEW or steps[0] > 1:
        return False
    middle, last = float(steps[len(steps) // 2]), float(steps[-1])
    return middle < _EARLY * last


def signed(sign: str, value: float) -> str:
    """A number with what stands before it, unless there is none."""
    return f"{sign}{figure(value)}" if np.isfinite(value) else figure(value)


def count(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def title_of(metric: str) -> str:
    """A measure's name in words: ``weight_stable_rank`` is "weight stable rank"."""
    return _TITLES.get(metric, metric.replace("_", " "))


def thin(curve: Curve, most: int) -> Curve:
    """The same curve with fewer points, both ends included."""
    if len(curve.steps) <= most:
        return curve
    kept = np.unique(np.rint(np.linspace(0, len(curve.steps) - 1, most)).astype(int))
    return Curve(curve.steps[kept], curve.values[kept], curve.signs)


def _failures(events: Iterable[Status]) -> dict[str, str]:
    """Layer -> how often a measurement failed, and why the last time."""
    reasons: dict[str, list[str]] = {}
    for event in events:
        if event.layer and not event.ok:
            reasons.setdefault(event.layer, []).append(event.status)
    return {
        layer: f"failed {len(told)}×: {told[-1]}" for layer, told in reasons.items()
    }


def _signs(
    bounded: Mapping[str, set[int]], layer: str, metric: str
) -> Mapping[int, str]:
    """Step -> what stands before the figure."""
    return dict.fromkeys(bounded.get(layer, ()), sign_of(metric))


def _reach(steps: Sequence[int]) -> str:
    """From which step to which."""
    if len(steps) > 1:
        return f", steps {steps[0]:,} to {steps[-1]:,}"
    return f", step {steps[0]:,}" if steps else ""


def _cost(source: Source) -> str:
    """What recording cost, as far as the run says so."""
    known = {
        name: float(source.run_series(name)[1][-1])
        for name in ("overhead", "spent")
        if name in source.run_metrics
    }
    parts = []
    if "overhead" in known:
        parts.append(f"{known['overhead']:.2%} of the training time")
    if "spent" in known:
        parts.append(f"{known['spent']:.3g} s")
    return f"Recording took {', '.join(parts)}." if parts else ""
