"""What passes the points of a probe, reduced to covariances; of one process or of many."""

import functools
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch

from svdhooks import derived, linalg
from svdhooks.distributed.merging import Key, Share, merge
from svdhooks.distributed.team import Team
from svdhooks.layers import PointValue, samples_of
from svdhooks.layers.tap import Watched
from svdhooks.linalg.units import UnitStatistics
from svdhooks.quantities.again import SeenTensors
from svdhooks.quantities.pending import Pending, Unfinished
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.quantities.spread import COVARIANCE_MEASURES, SeenPoint
from svdhooks.quantities.values import unknown, with_measures
from svdhooks.record import Record
from svdhooks.reports import status_of
from svdhooks.solving import current_solver


@runtime_checkable
class Options(Protocol):
    """What an observer has to know of `Covariance`, which makes it."""

    @property
    def name(self) -> str:
        """Under which records are filed."""
        ...

    @property
    def points(self) -> tuple[str, ...]:
        """The points that are measured."""
        ...

    @property
    def max_features(self) -> int:
        """Of a point that is measured."""
        ...

    @property
    def measures(self) -> tuple[str, ...]:
        """Further measures to record."""
        ...


class CovarianceObserver:
    """Accumulates the points of one probe; solves and frees each as soon as it can.

    Args:
        quantity: The options.
        wanted: (layer, point) -> layer, of those chosen for this record.
        context: What is known about the probe.
    """

    def __init__(
        self, quantity: Options, wanted: Mapping[Key, Watched], context: ProbeContext
    ) -> None:
        self._quantity = quantity
        self._context = context
        self._wanted = dict(wanted)
        self._calls: dict[str, int] = {}
        self._open: dict[Key, linalg.CovarianceAccumulator] = {}
        self._units: dict[Key, UnitStatistics] = {}
        self._dtypes: dict[Key, torch.dtype] = {}
        self._seconds: dict[Key, float] = {}
        self._done: dict[Key, Record] = {}
        self._failed: set[Key] = set()
        self._solved = SeenTensors()
        self._same: dict[Key, Key] = {}  # of the same tensor as another point

    def receive(self, layer: Watched, values: Mapping[str, PointValue]) -> None:
        """Take in what one call of a layer's module showed.

        Args:
            layer: The layer.
            values: Point name -> value.

        Raises:
            ValueError: If the samples are not such as they have to be.
        """
        calls = self._calls[layer.name] = self._calls.get(layer.name, 0) + 1
        expected = self._context.expected_calls.get(id(layer.module), 1)
        for point, value in values.items():
            key = (layer.name, point)
            if key not in self._wanted:
                continue
            begun = time.perf_counter()
            if key in self._done:
                self._too_many(key, calls)
                continue
            alone = expected == calls == 1
            seen = self._solved.recall(value) if alone else None
            if self._context.together:  # other processes have more of it
                if calls > expected > 0:  # whose later calls would be mixed in
                    raise ValueError(f"called {calls} times, in the first probe less")
                self._hold(key, layer, value, alone, seen)
            elif seen is not None:
                self._done[key] = replace(seen, layer=layer.name, point=point)
            else:
                self._add(key, layer, value)
                if calls == expected:
                    self._solve(key)
                    if alone:
                        self._solved.keep(value, self._done[key])
            spent = time.perf_counter() - begun
            self._seconds[key] = self._seconds.get(key, 0.0) + spent

    def _hold(
        self,
        key: Key,
        layer: Watched,
        value: PointValue,
        alone: bool,
        seen: Record | None,
    ) -> None:
        """Keep samples until `unite`; those of a tensor seen before only once."""
        if seen is not None:
            self._same[key] = (seen.layer, seen.point)
            return
        self._add(key, layer, value)
        if alone:
            where = Record(0, key[0], self._quantity.name, {}, point=key[1])
            self._solved.keep(value, where)

    def unite(self, team: Team, counts: bool) -> None:
        """Merge the samples of all processes; each solves its share; collective.

        Args:
            team: The processes.
            counts: Whether what this process saw counts.
        """
        told = [
            x for x in team.exchange(self._same if counts else None) if x is not None
        ]
        same = {
            key: first
            for key, first in (told[0] if told else {}).items()
            if all(others.get(key) == first for others in told)
        }
        keys = [key for key in self._wanted if key not in same]
        shares = {key: self._share(key) for key in keys} if counts else {}
        self._open, self._units = {}, {}
        found = merge(team, keys, shares)
        shares.clear()
        self._wanted = {
            key: layer
            for key, layer in self._wanted.items()
            if same.get(key, key) in found
        }
        self._done = {}
        for key, share in found.items():
            self._take(key, share)
        for key in self._wanted.keys() & same.keys():
            record = self._done.get(same[key])
            if record is not None:
                self._done[key] = replace(record, layer=key[0], point=key[1])

    def _share(self, key: Key) -> Share:
        first = self._same.get(key, key)
        failed = next((each for each in (key, first) if each in self._failed), None)
        if failed is not None:
            return Share(problem=self._done[failed].status)
        return Share(
            self._open.get(first), self._units.get(first), self._dtypes.get(first)
        )

    def _take(self, key: Key, share: Share) -> None:
        """Solve a point of which the samples of all processes are known."""
        if share.problem is not None:
            self._done[key] = self._unknown(key, share.problem)
        elif share.samples is not None and share.units and share.dtype:
            self._open[key], self._units[key] = share.samples, share.units
            self._dtypes[key] = share.dtype
            try:
                self._solve(key)
            except Exception as error:  # noqa: BLE001  # that of one point, not of all
                self._done[key] = self._unknown(key, status_of(error))

    def _add(self, key: Key, layer: Watched, value: PointValue) -> None:
        samples = samples_of(value, self._context.samples, self._context.mask)
        features, expected = samples.shape[-1], layer.points[key[1]]
        if features != (expected or features):
            raise ValueError(
                f"the {key[1]} has {features} features, expected {expected}"
            )
        if features > self._quantity.max_features:  # of a tap: not known before
            raise ValueError(
                f"{features} features exceed max_features={self._quantity.max_features}"
            )
        if key not in self._open:
            self._open[key] = linalg.CovarianceAccumulator(features)
            self._units[key] = UnitStatistics(features)
        self._open[key].update(samples)
        self._units[key].update(samples)
        self._dtypes[key] = samples.dtype

    def _too_many(self, key: Key, calls: int) -> None:
        if key in self._failed:
            return  # that is the reason to be told
        self._done[key] = replace(
            self._done[key],
            status=f"called {calls} times, more often than in the first probe: only "
            "the first calls are in",
        )

    def fail(self, layer: Watched, error: Exception) -> None:
        """Note that reading a layer's points failed.

        Args:
            layer: The layer.
            error: Why.
        """
        for key in self._wanted:
            if key[0] == layer.name and key not in self._done:
                self._open.pop(key, None)
                self._failed.add(key)
                self._done[key] = self._unknown(key, status_of(error))

    def records(self) -> list[Record]:
        """One record per chosen layer and point, also where nothing was seen."""
        for key in list(self._open):
            try:
                self._solve(key)
            except Exception as error:  # noqa: BLE001  # that of one point, not of all
                self._done[key] = self._unknown(key, status_of(error))
        return [
            replace(
                self._done.get(key)
                or self._unknown(key, f"not called in {self._context.source}"),
                seconds=self._seconds.get(key, 0.0),
            )
            for key in self._wanted
        ]

    def _solve(self, key: Key) -> None:
        accumulator, units = self._open.pop(key), self._units.pop(key)
        solver = current_solver()
        seen = SeenPoint(accumulator, units, self._dtypes[key], solver)
        if not solver.deferred:
            self._done[key] = self._solved_record(key, seen)
            return
        unfinished = Unfinished(
            functools.partial(self._solved_record, key, seen),
            functools.partial(self._unknown, key),
        )
        step, name = self._context.step, self._quantity.name
        self._done[key] = Pending(
            step, key[0], name, point=key[1], unfinished=unfinished
        )

    def _solved_record(self, key: Key, seen: SeenPoint) -> Record:
        name, measures = self._quantity.name, self._quantity.measures
        record = seen.record(self._context.step, key[0], name, key[1])
        if not measures:
            return record
        add = derived.live(measures, self._quantity.points)
        return with_measures(record, add(record, seen.shape))

    def _unknown(self, key: Key, status: str) -> Record:
        layer = self._wanted[key]
        values = unknown(layer.points[key[1]], COVARIANCE_MEASURES)
        return Record(
            self._context.step,
            layer.name,
            self._quantity.name,
            values,
            status=status,
            point=key[1],
        )
