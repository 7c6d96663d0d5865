"""What Accelerate puts around the forward of a model; nothing of it is imported here."""

from types import MethodType
from typing import Any

from torch import nn

_OUTERMOST = "ConvertOutputsToFp32"


def without_autocast(model: nn.Module) -> Any:
    """The forward of a model as it was before Accelerate gave it mixed precision.

    Accelerate replaces ``model.forward`` by one that enters autocast by itself, once
    more at every ``prepare``, so that autocast cannot be turned off from outside.

    Args:
        model: The plain module.

    Returns:
        The bound forward; None if Accelerate did not replace it.
    """
    chain: list[Any] = [model.__dict__.get("forward")]
    while (inner := getattr(chain[-1], "__wrapped__", None)) is not None:
        chain.append(inner)
    replaced = [i for i, f in enumerate(chain) if type(f).__name__ == _OUTERMOST]
    # below it are the one that enters autocast, and then the original
    if not replaced or replaced[-1] + 2 >= len(chain):
        return None
    original = chain[replaced[-1] + 2]
    bound = hasattr(model.__dict__["forward"], "__func__")
    return MethodType(original, model) if bound else original
