"""What a training loop tells beside its batches: numbers, and hyper-parameters."""

from collections.abc import Mapping, Sized
from typing import Any

import numpy as np
from torch import Tensor

from svdhooks.reports import Reporter

Hparam = bool | int | float | str | None

_LONGEST = 1000
_MANY = 50


def only_numbers(
    reporter: Reporter, context: Mapping[str, Any]
) -> dict[str, float | int]:
    """What of the context of a step can be stored; say what cannot.

    Args:
        reporter: Says it.
        context: As given by the user.

    Returns:
        The numbers.
    """
    numbers: dict[str, float | int] = {}
    for name, value in context.items():
        try:
            numbers[name] = _number(value)
        except (TypeError, ValueError, RuntimeError) as error:
            given = "loss=" if name == "loss" else f"context={{{name!r}: …}}"
            reporter.note(
                f"context {name}",
                f"svdhooks: {given} is not stored: found {type(value).__name__}, "
                f"expected a number ({error}).",
            )
    return numbers


def _number(value: Any) -> float | int:
    """A number as Python's; of a tensor with one number that."""
    if isinstance(value, int):
        return value
    # one that needs gradients warns if it is read as it is
    return float(value.detach() if isinstance(value, Tensor) else value)


def flat_hparams(given: object) -> dict[str, Hparam]:
    """Hyper-parameters in one level, as they go into the log.

    Args:
        given: Name -> value, perhaps nested; None: nothing is known.

    Returns:
        Names with dots between levels. What is no number, truth value or text is told in
        words; long texts are cut.

    Raises:
        TypeError: If it is no mapping.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(
            f"Found {type(given).__name__} as hparams=; expected a mapping of names to "
            "values, such as {'lr': 0.1, 'seed': 0}."
        )
    flat: dict[str, Hparam] = {}
    for name, value in given.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{k}": v for k, v in flat_hparams(value).items()}
        else:
            flat[str(name)] = _plain(value)
    return flat


def _plain(value: object) -> Hparam:
    """A value that JSON has."""
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and not value.ndim):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value[:_LONGEST] if isinstance(value, str) else value
    if isinstance(value, Sized) and len(value) > _MANY:
        return f"{type(value).__qualname__} of {len(value)}"
    return str(value)[:_LONGEST]
