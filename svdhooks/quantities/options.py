"""The options of a quantity, or of an alarm, in a form that a log can hold."""

import math
from dataclasses import fields, is_dataclass
from typing import Any

_BESIDE = {"name", "schedule"}


def options_of(quantity: object) -> dict[str, Any]:
    """How a quantity measures, so that a log explains its numbers: thresholds, sizes, ….

    Args:
        quantity: Or an alarm; those that are no dataclass tell nothing.

    Returns:
        Option -> what JSON can hold; other things as what they are called.
    """
    if not is_dataclass(quantity):
        return {}
    names = [x.name for x in fields(quantity) if x.init and not x.name.startswith("_")]
    return {n: _plain(getattr(quantity, n)) for n in names if n not in _BESIDE}


def _plain(value: object) -> Any:
    """The same in every process: nothing that holds an address."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (tuple, list)):
        return [_plain(x) for x in value]
    return getattr(value, "__qualname__", type(value).__qualname__)
