"""One record of a run, as rules see it: the same live and from a log."""

import functools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from svdhooks.record import Record

# a lower bound says nothing about how low the truth is
LIMITING = frozenset({"sample_limited", "lower_bound"})

Key = tuple[str, str]
"""Layer and point."""


@dataclass(frozen=True)
class Reading:
    """One record of the run.

    Attributes:
        step: Optimiser updates contained in the weights.
        values: Layer -> ``"<point>_<field>"`` -> value, rounded to float32 as the log
            keeps it, so that rules say the same live and from the log. What is NaN is
            left out.
        failed: Layer and point -> why its measurement failed.
        limited: Layer and point of what rests on too few samples, or is a lower bound:
            no rule calls that a collapse.
        run: Values of the whole run, such as ``"loss"``; NaN where they are not finite.
        rows: Layer -> its row in the layer table: kind, shape, points.
    """

    step: int
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    failed: Mapping[Key, str] = field(default_factory=dict)
    limited: frozenset[Key] = frozenset()
    run: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        step: int,
        records: Sequence[Record],
        rows: Mapping[str, Mapping[str, Any]],
        measures: Collection[str] | None = None,
    ) -> "Reading":
        """Read the records of one step.

        Args:
            step: Theirs.
            records: All that were made at this step; of two of the same the later counts.
            rows: Layer -> its row in the layer table.
            measures: Which to keep; None: all. Few are read much faster.

        Returns:
            What rules see.
        """
        wanted = None if measures is None else frozenset(measures)
        found = _Found()
        failed: dict[Key, str] = {}
        limited: set[Key] = set()
        run: dict[str, float] = {}
        for record in records:
            layer = record.layer
            if not layer:
                if record.quantity == "run":
                    run |= {k: _finite(v) for k, v in record.measures.items()}
                continue
            point = record.point or record.quantity
            if not record.ok:
                failed[layer, point] = record.status
            if record.marks and not LIMITING.isdisjoint(record.marks):
                limited.add((layer, point))
            found.add(record, point, wanted)
        values = in_order(found.rounded(), rows)
        return cls(step, values, failed, frozenset(limited), run, rows)

    @property
    def loss(self) -> float | None:
        """The training loss at this record, NaN if it is not finite; None: not known."""
        return self.run.get("loss")


def in_order(
    values: Mapping[str, Mapping[str, float]], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, float]]:
    """Layers in the model's order, and what it does not know behind them.

    Rules name layers in the order in which they see them: it must not depend on whether
    records or a log are read.

    Args:
        values: Layer -> its measures.
        rows: The layer table.

    Returns:
        The same.
    """
    known = {layer: values[layer] for layer in rows if layer in values}
    if len(known) == len(values):
        return known
    return known | {layer: values[layer] for layer in sorted(set(values) - set(known))}


@functools.lru_cache(maxsize=256)
def _fields(point: str, measures: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """The fields of a point that are wanted, and how their measures are called."""
    start = f"{point}_"
    return tuple((m.removeprefix(start), m) for m in measures if m.startswith(start))


class _Found:
    """Values of many records, rounded at once."""

    def __init__(self) -> None:
        self._layers: dict[str, dict[str, float]] = {}
        self._places: list[tuple[dict[str, float], str]] = []
        self._values: list[float] = []

    def add(self, record: Record, point: str, measures: frozenset[str] | None) -> None:
        """Take in the scalar fields of a record that are wanted."""
        values = record.values
        if measures is None:
            pairs: Iterable[tuple[str, str]] = ((k, f"{point}_{k}") for k in values)
        else:
            pairs = _fields(point, measures)
        layer = self._layers.get(record.layer)
        if layer is None:
            layer = self._layers[record.layer] = {}
        for field_name, name in pairs:
            value = values.get(field_name)
            if value is not None and value.ndim == 0:
                self._places.append((layer, name))
                self._values.append(value.item())

    def rounded(self) -> dict[str, dict[str, float]]:
        """By layer, as float32; without what is NaN."""
        with np.errstate(over="ignore"):  # too large is infinite in the log, too
            values = np.array(self._values, dtype=np.float32).tolist()
        for (layer, name), value in zip(self._places, values, strict=True):
            if value == value:  # NaN is not
                layer[name] = value
            else:
                layer.pop(name, None)  # of an earlier record of the same
        return {name: layer for name, layer in self._layers.items() if layer}


def _finite(value: float) -> float:
    """The note of a record has null for what is not finite, and that is read as NaN."""
    return float(value) if math.isfinite(value) else math.nan
