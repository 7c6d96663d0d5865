"""What passes the points of a probe, reduced to covariances."""

import functools
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from svdhooks import derived
from svdhooks.distributed.merging import Key
from svdhooks.layers.tap import Watched
from svdhooks.quantities.accumulating import Accumulated, Accumulation
from svdhooks.quantities.pending import Pending, Unfinished
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.quantities.spread import COVARIANCE_MEASURES, SeenPoint
from svdhooks.quantities.values import unknown, with_measures
from svdhooks.record import Record
from svdhooks.solving import current_solver


@runtime_checkable
class Options(Accumulated, Protocol):
    """What an observer has to know of `Covariance`, which makes it."""

    @property
    def points(self) -> tuple[str, ...]:
        """The points that are measured."""
        ...

    @property
    def measures(self) -> tuple[str, ...]:
        """Further measures to record."""
        ...


class CovarianceObserver(Accumulation):
    """Finds the eigenvalues of the covariance of each point.

    Args:
        quantity: The options.
        wanted: (layer, point) -> layer, of those chosen for this record.
        context: What is known about the probe.
    """

    def __init__(
        self, quantity: Options, wanted: Mapping[Key, Watched], context: ProbeContext
    ) -> None:
        super().__init__(quantity, wanted, context)
        self._measures, self._points = quantity.measures, quantity.points

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
        name = self._quantity.name
        record = seen.record(self._context.step, key[0], name, key[1])
        if not self._measures:
            return record
        add = derived.live(self._measures, self._points)
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
