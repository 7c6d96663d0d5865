"""The statistics over layers that stand for a whole model."""

from collections.abc import Iterable, Sequence

import numpy as np

from svdhooks import schema
from svdhooks.record import Record

Key = tuple[str, ...]
"""The parts of a metric's name; every logger joins them by a separator of its own."""

STATISTICS = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9}
"""Name -> quantile over layers."""

MAX_KEYS = 24
OVERHEAD: Key = ("svdhooks", "overhead")
FAILED: Key = ("svdhooks", "layers_failed")

_PREFIX = "svdhooks"
_LAYER_PREFIX = "svdhooks_layers"  # a layer may be called "median"


def point_of(record: Record) -> str:
    """Which matrix a record speaks of; quantities without points are their own."""
    return record.point or record.quantity


def over_layers(values: Iterable[float]) -> dict[str, float]:
    """Statistics of one measure over layers.

    Args:
        values: One per layer; those that are not finite do not count.

    Returns:
        ``min``, ``p10``, ``median``, ``p90``; empty if no value is finite.
    """
    array = np.fromiter(values, dtype=np.float64)
    finite = array[np.isfinite(array)]
    if not len(finite):
        return {}
    levels = np.quantile(finite, list(STATISTICS.values()))
    return {name: float(level) for name, level in zip(STATISTICS, levels, strict=True)}


def columns(records: Iterable[Record]) -> dict[tuple[str, str], dict[str, float]]:
    """The scalar measures of one step, as one column per measure.

    Args:
        records: Of one step.

    Returns:
        ``(point, field)`` -> layer -> value, in the order of the records.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    for record in records:
        if not record.layer:
            continue
        point = point_of(record)
        for field, value in record.measures.items():
            found.setdefault((point, field), {})[record.layer] = value
    return found


def failed_layers(records: Iterable[Record]) -> int:
    """The number of layers of which a measurement failed."""
    return len({record.layer for record in records if record.layer and not record.ok})


class Summary:
    """About 20 numbers of each step, at most 24, under names that stay the same.

    ============================================  ======================================
    ``svdhooks/<point>_<measure>/<statistic>``    min, p10, median and p90 over layers
                                                  of the headline measures
    ``svdhooks/<point>_<measure>/median``         of measures at other points, such as
                                                  tokens: as many as there is room for,
                                                  from every point in turn, those of
                                                  `schema.STOCK` first
    ``svdhooks/overhead``                         share of the training time spent
    ``svdhooks/layers_failed``                    layers of which a measurement failed
    ============================================  ======================================
    """

    def __init__(self) -> None:
        self._room = MAX_KEYS - len(schema.HEADLINES) * len(STATISTICS) - 2
        self._others: list[tuple[str, str]] = []

    def of(self, records: Sequence[Record]) -> dict[Key, float]:
        """The numbers of one step.

        Args:
            records: Those of layers and of the run.

        Returns:
            Name -> value, all finite. What was not measured is left out.
        """
        table = columns(records)
        found: dict[Key, float] = {}
        for point, field in schema.HEADLINES:
            values = table.get((point, field), {}).values()
            for name, level in over_layers(values).items():
                found[_PREFIX, f"{point}_{field}", name] = level
        self._choose(list(table))
        for point, field in self._others:
            values = table.get((point, field), {}).values()
            levels = over_layers(values)
            if levels:
                found[_PREFIX, f"{point}_{field}", "median"] = levels["median"]
        found[FAILED] = float(failed_layers(records))
        for record in records:
            overhead = (
                record.values.get("overhead") if record.quantity == "run" else None
            )
            if overhead is not None and np.isfinite(overhead):
                found[OVERHEAD] = float(overhead)
        return found

    def _choose(self, measured: Sequence[tuple[str, str]]) -> None:
        """Give the room that is left to measures of points without a headline."""
        known = {point for point, _ in schema.HEADLINES}
        queues: dict[str, list[tuple[str, str]]] = {}
        for point, field in measured:
            if point not in known and (point, field) not in self._others:
                queues.setdefault(point, []).append((point, field))
        for queue in queues.values():
            queue.sort(key=[*schema.STOCK, *queue].index)
        while queues and len(self._others) < self._room:
            for point in list(queues):
                if len(self._others) < self._room:
                    self._others.append(queues[point].pop(0))
                if not queues[point]:
                    del queues[point]


def headline_keys(points: Iterable[str]) -> list[Key]:
    """The names that a step in which these points are measured gives values to."""
    there = set(points)
    return [
        (_PREFIX, f"{point}_{field}", name)
        for point, field in schema.HEADLINES
        if point in there
        for name in STATISTICS
    ]


def layer_values(records: Iterable[Record]) -> dict[Key, float]:
    """The headline measures of each layer, and those of what was asked for by name.

    Args:
        records: Of one step.

    Returns:
        ``svdhooks_layers/<point>_<measure>/<layer>`` -> value, NaN if it failed.
    """
    table = columns(records)
    return {
        (_LAYER_PREFIX, f"{point}_{field}", schema.escape(layer)): value
        for point, field in schema.STOCK
        for layer, value in table.get((point, field), {}).items()
    }
