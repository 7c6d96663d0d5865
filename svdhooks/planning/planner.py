"""Puts together what would be watched, how, and what it would cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from svdhooks.conductor.computing import chosen_here, on_cuda, solve_seconds
from svdhooks.conductor.models import Models
from svdhooks.conductor.overhead import OverheadGuard
from svdhooks.conductor.settings import QuantityChoice, Settings, make_settings
from svdhooks.conductor.watched import WatchedModel
from svdhooks.distributed.team import Team
from svdhooks.layers import Layer, Selector
from svdhooks.layers.tap import TapChoice, Watched
from svdhooks.linalg import method_for
from svdhooks.planning.costs import Costs, Timer
from svdhooks.planning.logsize import bytes_per_record
from svdhooks.planning.result import Plan, PlannedLayer
from svdhooks.planning.trial import Trial, on_trial
from svdhooks.planning.twins import advice, twins
from svdhooks.probe import Forward, ProbeOptions
from svdhooks.quantities import (
    Covariance,
    EdgeQuantity,
    Quantity,
    WeightQuantity,
    needs_probe,
)
from svdhooks.quantities.moments import PointMoments, features_of
from svdhooks.reports import Reporter
from svdhooks.solving import MOST_BYTES


def plan(
    model: nn.Module | Mapping[str, nn.Module],
    probe: Any = None,
    *,
    every: int | None = None,
    schedule: Any = None,
    layers: Selector | Sequence[Selector] | None = None,
    taps: TapChoice | None = None,
    quantities: QuantityChoice = None,
    probe_options: ProbeOptions | None = None,
    forward: Forward | Mapping[str, Forward] | None = None,
    samples: int = 4096,
) -> Plan:
    """Say what `watch` would do with the same arguments, without doing it.

    Nothing is written and no hook remains. Weights are read; with a reference batch the
    model is run a few times on the side, as at a record.

    Args:
        model: The model, or several by name; wrappers are looked through.
        probe: The reference batch, as for `watch`.
        every: Interval in optimiser steps.
        schedule: A schedule instead.
        layers: Which layers.
        taps: Name -> module whose output is observed too.
        quantities: Names or objects.
        probe_options: Mask, what a sample is.
        forward: How to call the model.
        samples: Without a reference batch: how many samples are assumed at each point.

    Returns:
        The plan; ``print`` it.

    Raises:
        ValueError: If nothing can be watched, or an argument is out of range.
        TypeError: If an argument is of a wrong kind.
    """
    if samples < 1:
        raise ValueError(f"samples={samples}: expected at least 1.")
    settings = make_settings(
        every,
        schedule,
        quantities,
        layers=layers,
        taps=taps,
        probe=probe,
        probe_options=probe_options or ProbeOptions(),
        forward=forward,
        max_overhead=None,
    )
    reporter, guard = Reporter(), OverheadGuard(None)
    models = Models(model, settings, None, reporter, guard, Team())
    models.check_probes()
    trial = on_trial(models, settings.quantities, guard)
    planner = _Planner(settings.quantities, trial, samples)
    rows = tuple(row for one in models for row in planner.rows(one))
    watched, skipped = models.describe(settings.quantities)
    copies = [pair for one in models for pair in twins(one.measurer.model, _of(one))]
    return Plan(
        rows,
        tuple(skipped),
        (*planner.notes(), *_beside(models, settings), *advice(copies)),
        str(settings.schedule),
        trial.forward,
        bytes_per_record(watched, settings.quantities, trial, samples),
        trial.together,
    )


def _held(quantity: Quantity, layer: Watched) -> int:
    """Bytes of the largest covariance and of what is recorded of it."""
    if not isinstance(quantity, PointMoments):
        return 0
    points = quantity.measured_points(layer)
    return max((2 * 8 * features_of(layer, p) ** 2 for p in points), default=0)


def _beside(models: Models, settings: Settings) -> list[str]:
    """What a thread that solves adds to the memory."""
    seconds = solve_seconds(models, settings.quantities)
    chosen = chosen_here(settings.probe_options.compute, seconds, on_cuda(models))
    if chosen == "inline":
        return []
    return [
        "spectra are solved by a thread beside the training (ProbeOptions(compute=...)), "
        f"which keeps copies of up to {MOST_BYTES / 2**30:.0f} GiB besides"
    ]


def _of(model: WatchedModel) -> tuple[Layer, ...]:
    return model.measurer.table.layers


class _Planner:
    """Estimates the rows of one plan."""

    def __init__(
        self,
        quantities: Sequence[Quantity],
        trial: Trial,
        samples: int,
    ) -> None:
        self._quantities = quantities
        self._trial = trial
        self._counts = trial.counts
        self._samples = samples
        self._timer = Timer()

    def rows(self, model: WatchedModel) -> list[PlannedLayer]:
        """The layers, taps and edges of a model."""
        measurer = model.measurer
        found = [self._row(x) for x in measurer.watched]
        for quantity in self._quantities:
            if isinstance(quantity, EdgeQuantity):
                for edge in measurer.edges(quantity):
                    costs = {quantity.name: self._of_edge(quantity, edge)}
                    kind = getattr(edge, "kind", "attention")
                    found.append(PlannedLayer(edge.name, kind, None, 0, "gram", costs))
        return found

    def _of_edge(self, quantity: EdgeQuantity, edge: Any) -> Costs:
        seconds = self._trial.seconds.get((quantity.name, edge.name))
        if seconds is not None:
            return Costs(seconds)
        return self._timer.of_edge(quantity, edge)

    def _row(self, layer: Watched) -> PlannedLayer:
        costs = {q.name: self._costs(q, layer) for q in self._quantities}
        kept = {name: cost for name, cost in costs.items() if cost is not None}
        if not isinstance(layer, Layer):
            return PlannedLayer(layer.name, "tap", None, 0, "", kept)
        method = method_for(layer.dtype) if layer.factors is None else "factors"
        if layer.tied_to is not None:
            method = f"weight of {layer.tied_to}"
        return PlannedLayer(
            layer.name, layer.kind, layer.shape, layer.rank_limit, method, kept
        )

    def _costs(self, quantity: Quantity, layer: Watched) -> Costs | None:
        if isinstance(quantity, EdgeQuantity):
            return None
        if isinstance(quantity, WeightQuantity):
            if not isinstance(layer, Layer) or layer.tied_to is not None:
                return None
            return self._timer.of_weight(quantity, layer)
        if isinstance(quantity, Covariance):
            return sum(
                (self._point(layer, p) for p in quantity.measured_points(layer)),
                Costs(),
            )
        if needs_probe(quantity) and quantity.name not in self._trial.together:
            seconds = self._trial.seconds.get((quantity.name, layer.name), math.nan)
            return Costs(seconds, _held(quantity, layer))
        return None

    def _point(self, layer: Watched, point: str) -> Costs:
        count = self._counts.get(
            (layer.name, point), None if self._counts else self._samples
        )
        features = layer.points[point]
        if not count or not features:
            return Costs()
        return self._timer.of_covariance(count, features)

    def notes(self) -> list[str]:
        """What the numbers rest on."""
        found = list(self._trial.notes)
        of_points = any(map(needs_probe, self._quantities))
        if of_points and not self._counts:
            found.append(
                f"No reference batch: {self._samples} samples are assumed at each point. "
                "Give probe= for the real number and for the time of the forward."
            )
        unknown = [
            q.name
            for q in self._quantities
            if needs_probe(q) and not isinstance(q, Covariance) and not self._counts
        ]
        if unknown:
            found.append(f"Not timed without a reference batch: {', '.join(unknown)}.")
        rarer = [q for q in self._quantities if q.schedule is not None]
        found += [f"{q.name} has its own schedule: {q.schedule}." for q in rarer]
        return found
