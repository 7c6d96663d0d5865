"""Names resolved on first use, so that importing a package stays cheap."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(
    package: str, table: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Build the module-level ``__getattr__`` and ``__dir__`` of a lazy package.

    Args:
        package: The ``__name__`` of the package.
        table: Public name -> module that defines it. A name equal to the last
            part of its module stands for the module itself.

    Returns:
        The two functions, to be bound as ``__getattr__`` and ``__dir__``.
    """

    def get(name: str) -> Any:
        if name not in table:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(table[name])
        if table[name] == f"{package}.{name}":
            return module
        return getattr(module, name)

    def names() -> list[str]:
        return sorted(table)

    return get, names
