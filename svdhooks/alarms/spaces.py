"""How many directions there can be."""

import math
from collections.abc import Mapping
from typing import Any

from svdhooks.alarms.reading import Reading

_WIDE = 8


def outputs_of(rows: Mapping[str, Mapping[str, Any]]) -> float:
    """Features that leave the model's last layer with a weight.

    Args:
        rows: The layer table, in the model's order.

    Returns:
        A number; NaN if none is known.
    """
    widths = [
        float(row["points"]["output"])
        for row in rows.values()
        if row.get("shape") and "output" in (row.get("points") or {})
    ]
    return widths[-1] if widths else math.nan


def entering(reading: Reading) -> float:
    """Effective rank of what enters the model: data of few directions need no more.

    Args:
        reading: The first of a run.

    Returns:
        Of the first layer with an input; NaN if it is not measured on enough samples,
        or if a sample may be more than what enters at once: pixels, or series of
        numbers, of which convolutions and narrow layers see one at a time.
    """
    layer = first_of(reading.rows)
    if layer is None or (layer, "input") in reading.limited:
        return math.nan
    row = reading.rows[layer]
    if row.get("kind") != "linear" or possible(row, "input") < _WIDE:
        return math.nan
    return reading.values.get(layer, {}).get("input_effective_rank", math.nan)


def first_of(rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The first layer with an input.

    Args:
        rows: The layer table, in the model's order.

    Returns:
        Its name; None if there is none.
    """
    return next(
        (name for name, row in rows.items() if "input" in (row.get("points") or {})),
        None,
    )


def possible(row: Mapping[str, Any], point: str) -> float:
    """The largest rank that a point of a layer can have.

    Args:
        row: Of the layer table.
        point: ``"weight"``, ``"input"`` or ``"output"``.

    Returns:
        The rank limit of a weight, the width of what enters, the smaller of both of what
        leaves; infinite if that is not known.
    """
    limit = float(row.get("rank_limit") or math.inf)
    if point == "weight":
        return limit
    width = float((row.get("points") or {}).get(point, math.inf))
    return min(limit, width) if point == "output" else width
