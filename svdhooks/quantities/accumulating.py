"""What passes the points of a probe, added up; of one process or of many."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from svdhooks import linalg
from svdhooks.distributed.merging import Key, Share, merge
from svdhooks.distributed.team import Team
from svdhooks.layers import PointValue, samples_of
from svdhooks.layers.tap import Watched
from svdhooks.linalg.units import UnitStatistics
from svdhooks.quantities.again import SeenTensors
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.record import Record
from svdhooks.reports import status_of


@runtime_checkable
class Accumulated(Protocol):
    """What an observer has to know of the quantity that makes it."""

    @property
    def name(self) -> str:
        """Under which records are filed."""
        ...

    @property
    def max_features(self) -> int:
        """Of a point that is measured."""
        ...


def by_point(
    layers: Sequence[Watched], measured_points: Callable[[Watched], Sequence[str]]
) -> dict[Key, Watched]:
    """What is added up: (layer, point) -> layer.

    Args:
        layers: Those chosen for a record.
        measured_points: Gives the points of a layer that are measured.

    Returns:
        In the order of the layers.
    """
    return {
        (layer.name, point): layer
        for layer in layers
        for point in measured_points(layer)
    }


class Accumulation(ABC):
    """Accumulates the points of one probe; solves and frees each as soon as it can.

    Args:
        quantity: The options.
        wanted: (layer, point) -> layer, of those chosen for this record.
        context: What is known about the probe.
    """

    def __init__(
        self,
        quantity: Accumulated,
        wanted: Mapping[Key, Watched],
        context: ProbeContext,
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
            alone = expected == calls == 1 and self._as_it_is(layer, point)
            seen = self._solved.recall(value) if alone else None
            if self._context.together:  # other processes have more of it
                if calls > expected > 0:  # whose later calls would be mixed in
                    raise ValueError(f"called {calls} times, in the first probe less")
                self._hold(key, layer, value, alone, seen)
            elif seen is not None:
                self._done[key] = replace(
                    seen, layer=layer.name, point=self._filed(point)
                )
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
                filed = self._filed(key[1])
                self._done[key] = replace(record, layer=key[0], point=filed)

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
        for samples in self._samples(layer, key[1], value):
            features, expected = samples.shape[-1], self._features(layer, key[1])
            if features != (expected or features):
                raise ValueError(
                    f"the {key[1]} has {features} features, expected {expected}"
                )
            most = self._quantity.max_features
            if features > most:  # of a tap: not known before
                raise ValueError(f"{features} features exceed max_features={most}")
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

    # --- what is made of them -----------------------------------------------------

    def _samples(
        self,
        layer: Watched,  # noqa: ARG002
        point: str,  # noqa: ARG002
        value: PointValue,
    ) -> Iterable[Tensor]:
        """What one call showed, as samples × features, in parts."""
        return (samples_of(value, self._context.samples, self._context.mask),)

    def _features(self, layer: Watched, point: str) -> int:
        """How many there have to be; 0: that is not known."""
        return layer.points[point]

    def _as_it_is(self, layer: Watched, point: str) -> bool:  # noqa: ARG002
        """Whether the samples of equal tensors are equal."""
        return True

    def _filed(self, point: str) -> str:
        """The point of the record."""
        return point

    @abstractmethod
    def _solve(self, key: Key) -> None:
        """Make the record of a point of which everything was seen, and free it."""

    @abstractmethod
    def _unknown(self, key: Key, status: str) -> Record:
        """The record of a point that failed."""
