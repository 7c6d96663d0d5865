"""Named measures, for callbacks that stop or save on them."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from svdhooks import linalg
from svdhooks.quantities import COVARIANCE_MEASURES
from svdhooks.record import Record

Recorded = Mapping[str, Mapping[str, Sequence[str]]]
"""Layer, tap or edge -> point -> names of measures."""

COMMON = (
    *(f"weight_{measure}" for measure in linalg.MEASURES),
    *(f"{p}_{measure}" for p in ("input", "output") for measure in COVARIANCE_MEASURES),
)
"""Measures that are not misspelt, even where none of them is recorded."""

_ALARMS = "alarms"

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

    Raises:
        TypeError: If one is no name.
    """
    several = isinstance(monitor, Iterable) and not isinstance(monitor, str)
    names: tuple[Any, ...] = tuple(monitor) if several else (monitor,)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"monitor={monitor!r}: expected names of measures, such as "
            "'output_effective_rank/encoder.0'."
        )
    return names


def check_monitored(
    names: Sequence[str], recorded: Recorded, alarms: Mapping[str, int] | None = None
) -> None:
    """Refuse names that no record will ever fill.

    Args:
        names: ``"<point>_<measure>/<layer>"``, ``"<point>_<measure>/median"``, or
            ``"alarms/healthy_steps"``.
        recorded: What is recorded of what.
        alarms: What there is of alarms; None: there are none.

    Raises:
        ValueError: If the measure or the layer is unknown, or the one is not recorded
            of the other.
    """
    having: dict[str, list[str]] = {}
    for subject, points in recorded.items():
        for point, fields in points.items():
            for field in fields:
                having.setdefault(f"{point}_{field}", []).append(subject)
    known = list(dict.fromkeys((*having, *COMMON)))
    for name in names:
        measure, _, subject = name.partition("/")
        if measure == _ALARMS:
            _check_alarms(name, subject, alarms or {})
            continue
        if measure not in known:
            raise ValueError(_unknown("measure", measure, name, known))
        subjects = [*recorded, *_OVER_LAYERS]
        if subject not in subjects:
            raise ValueError(_unknown("layer", subject, name, subjects))
        of = having.get(measure, [])
        if subject not in of and not (of and subject in _OVER_LAYERS):
            raise ValueError(
                f"monitor={name!r}: it is not recorded. The quantities, the layer's kind "
                f"or its tied weight leave it out; {measure} is recorded of "
                f"{', '.join(of[:8]) or 'no layer'}."
            )


def _check_alarms(name: str, subject: str, alarms: Mapping[str, int]) -> None:
    if not alarms:
        raise ValueError(
            f"monitor={name!r}: there are no alarms. Pass alarms='auto', or another choice."
        )
    if subject not in alarms:
        raise ValueError(_unknown("value", subject, name, list(alarms)))


def monitored_values(
    names: Sequence[str],
    last: Mapping[tuple[str, str], Record],
    alarms: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """The latest values of monitored measures.

    Args:
        names: As checked by `check_monitored`.
        last: ``(layer, point)`` -> latest record.
        alarms: Name -> value, of alarms; None: there are none.

    Returns:
        Name -> value, for those whose latest record did not fail: a NaN would make
        callbacks such as ``EarlyStopping`` end the training.
    """
    values: dict[str, float] = {}
    for name in names:
        measure, _, subject = name.partition("/")
        if measure == _ALARMS:
            values |= {name: float(alarms[subject])} if alarms else {}
            continue
        found = [
            float(record.values[field])
            for (layer, point), record in last.items()
            for field in [measure.removeprefix(f"{point}_")]
            if field != measure
            and record.ok
            and np.ndim(record.values.get(field, ())) == 0
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
        "'output_effective_rank/encoder.0', or '/min', '/median', '/max' over layers; with "
        "alarms 'alarms/healthy_steps'."
    )
