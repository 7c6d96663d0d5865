"""Where in the model a module is, and what its class is called."""

import fnmatch
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, eq=False)
class Site:
    """A module and its place, by which rules for fused weights are chosen.

    Attributes:
        name: Canonical name.
        module: The module.
        parent: The module that holds it; None for the model itself.
        attribute: Its name in the parent.
    """

    name: str
    module: Any
    parent: nn.Module | None = None
    attribute: str = ""


def class_is(module: object, *patterns: str) -> bool:
    """Whether a class of this qualified name is the module's or one of its bases.

    So the classes of libraries are recognised without importing the libraries.

    Args:
        module: The module.
        *patterns: Globs such as ``"transformers.models.gpt2.*.GPT2Attention"``.

    Returns:
        Whether any pattern fits any of the classes.
    """
    names = [f"{c.__module__}.{c.__qualname__}" for c in type(module).__mro__]
    return any(fnmatch.fnmatchcase(name, p) for p in patterns for name in names)


def number(module: Any, *paths: str) -> int | None:
    """The first of several attributes that is a positive whole number.

    Args:
        module: Where to look.
        *paths: Attribute paths such as ``"num_heads"`` or ``"config.n_head"``.

    Returns:
        The number; None if there is none.
    """
    for path in paths:
        value = module
        for part in path.split("."):
            try:
                value = getattr(value, part, None)
            except Exception:  # noqa: BLE001  # some configurations raise their own
                value = None
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
