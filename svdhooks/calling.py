"""What of a training batch a model's forward takes."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn


def required_arguments(model: nn.Module) -> int:
    """How many positional arguments ``forward`` needs; at least one.

    Args:
        model: The plain module.

    Returns:
        Their number.
    """
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    required = [
        p
        for p in _parameters(model)
        if p.kind in positional and p.default is inspect.Parameter.empty
    ]
    return max(1, len(required))


def takes_whole_batch(model: nn.Module) -> bool:
    """Whether ``forward(self, batch)`` takes the batch apart by itself.

    Args:
        model: The plain module.

    Returns:
        True if its one argument is called ``batch``.
    """
    named = [p for p in _parameters(model) if p.kind is not p.VAR_KEYWORD]
    return [p.name for p in named[:1]] == ["batch"] and required_arguments(model) == 1


def named_by_forward(batch: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """The entries of a batch that ``forward`` names.

    Args:
        batch: As it comes from the loader.
        model: The plain module.

    Returns:
        All of them, if ``forward`` takes any keyword.
    """
    parameters = _parameters(model)
    if not parameters or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(batch)
    names = {p.name for p in parameters}
    return {key: value for key, value in batch.items() if key in names}


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # builtins have no signature
        return []
