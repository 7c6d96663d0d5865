"""Named measures, for callbacks that stop or save on them."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from svdhooks import linalg
from svdhooks.layers import Layer
from svdhooks.quantities import (
    COVARIANCE_MEASURES,
    PointQuantity,
    Quantity,
    WeightQuantity,
)
from svdhooks.record import Record

_OVER_LAYERS: dict[str, Callable[[list[float]], Any]] = {
    "min": np.min,
    "median": np.median,
    "max": np.max,
}


def as_names(monitor: str | Sequence[str]) -> tuple[str, ...]:
    """Bring ``monitor=`` into one form.

    Args:
        monitor: A name, or several.

    Returns:
        All of them.
    """
    return (monitor,) if isinstance(monitor, str) else tuple(monitor)


def check_monitored(
    names: Sequence[str], layers: Sequence[Layer], quantities: Sequence[Quantity]
) -> None:
    """Refuse names that no record will ever fill.

    Args:
        names: ``"<point>_<measure>/<layer>"`` or ``"<point>_<measure>/median"``.
        layers: The layers that are watched.
        quantities: What is measured of them.

    Raises:
        ValueError: If the measure or the layer is unknown, or the one is not recorded
            of the other.
    """
    points = {layer.name: _points(layer, quantities) for layer in layers}
    for name in names:
        measure, _, subject = name.partition("/")
        if measure not in measures():
            raise ValueError(_unknown("measure", measure, name, measures()))
        subjects = [*points, *_OVER_LAYERS]
        if subject not in subjects:
            raise ValueError(_unknown("layer", subject, name, subjects))
        point = measure.partition("_")[0]
        having = [layer for layer, of in points.items() if point in of]
        if subject not in having and not (having and subject in _OVER_LAYERS):
            shown = ", ".join(having[:8]) or "no layer"
            raise ValueError(
                f"monitor={name!r}: it is not recorded. The quantities, the layer's "
                f"kind or its tied weight leave it out; {point}_… is recorded of {shown}."
            )


def _points(layer: Layer, quantities: Sequence[Quantity]) -> set[str]:
    """The points of a layer that are recorded."""
    found: set[str] = set()
    for quantity in quantities:
        if isinstance(quantity, PointQuantity):
            found |= layer.points.keys() - quantity.skipped_points(layer).keys()
        elif isinstance(quantity, WeightQuantity) and layer.tied_to is None:
            found.add("weight")
    return found


def measures() -> list[str]:
    """All measures that can be monitored, ``<point>_<field>``."""
    covariance = [f"{p}_{m}" for p in ("input", "output") for m in COVARIANCE_MEASURES]
    return [f"weight_{m}" for m in linalg.MEASURES] + covariance


def monitored_values(
    names: Sequence[str], last: Mapping[tuple[str, str], Record]
) -> dict[str, float]:
    """The latest values of monitored measures.

    Args:
        names: As checked by `check_monitored`.
        last: ``(layer, point)`` -> latest record.

    Returns:
        Name -> value, for those whose latest record did not fail: a NaN would make
        callbacks such as ``EarlyStopping`` end the training.
    """
    values = {}
    for name in names:
        measure, _, subject = name.partition("/")
        point, _, field = measure.partition("_")
        found = [
            float(record.values[field])
            for (layer, of), record in last.items()
            if of == point
            and record.ok
            and field in record.values
            and subject in {layer, *_OVER_LAYERS}
        ]
        if found and subject in _OVER_LAYERS:
            values[name] = float(_OVER_LAYERS[subject](found))
        elif found:
            values[name] = found[0]
    return values


def _unknown(kind: str, found: str, name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(found, known, 3, 0.5) or list(known)[:8]
    return (
        f"monitor={name!r}: unknown {kind} {found!r}; did you mean {', '.join(close)}? "
        "Expected '<point>_<measure>/<layer>', such as "
        "'output_effective_rank/encoder.0', or '/min', '/median', '/max' over layers."
    )
