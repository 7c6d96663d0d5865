"""One record of a run, as rules see it: the same live and from a log."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
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
        found: dict[tuple[str, str], float] = {}
        failed: dict[Key, str] = {}
        limited: set[Key] = set()
        run: dict[str, float] = {}
        for record in records:
            if not record.layer:
                if record.quantity == "run":
                    run |= {k: _finite(v) for k, v in record.measures.items()}
                continue
            point = record.point or record.quantity
            if not record.ok:
                failed[record.layer, point] = record.status
            if not LIMITING.isdisjoint(record.marks):
                limited.add((record.layer, point))
            for name, value in _chosen(record, point, measures):
                found[record.layer, name] = value
        values = in_order(_rounded(found), rows)
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


def _chosen(
    record: Record, point: str, measures: Collection[str] | None
) -> Iterator[tuple[str, float]]:
    """The scalar fields of a record that are wanted, with their names."""
    for field_name, value in record.values.items():
        name = f"{point}_{field_name}"
        if (measures is None or name in measures) and np.ndim(value) == 0:
            yield name, float(value)


def _rounded(found: Mapping[tuple[str, str], float]) -> dict[str, dict[str, float]]:
    """By layer, as float32; without what is NaN."""
    with np.errstate(
        over="ignore"
    ):  # too large for float32 is infinite in the log, too
        values = np.array(list(found.values()), dtype=np.float32).tolist()
    layers: dict[str, dict[str, float]] = {}
    for (layer, name), value in zip(found, values, strict=True):
        if value == value:  # NaN is not
            layers.setdefault(layer, {})[name] = value
    return layers


def _finite(value: float) -> float:
    """The note of a record has null for what is not finite, and that is read as NaN."""
    return float(value) if math.isfinite(value) else math.nan
