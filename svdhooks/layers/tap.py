"""Points at the output of any module, named by the user: covariance, but no weight."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from svdhooks.layers.layer import Layer
from svdhooks.layers.points import Call, PointValue

TapChoice = Mapping[str, "str | tuple[str, int]"]
"""Name -> module, or module and the axis of its output that holds the features."""


@dataclass(frozen=True, eq=False)
class Tap:
    """A point at the output of a module that need not be a linear map.

    Attributes:
        name: Given by the user.
        source: Canonical name of the module.
        module: Whose output is observed.
        feature_axis: The axis of the output that holds the features; None: the last
            one, and the second where there are four or more (channels of a map).
        features: How many; 0 before they are known from a first forward.
    """

    name: str
    source: str
    module: nn.Module
    feature_axis: int | None = None
    features: int = 0

    @property
    def points(self) -> Mapping[str, int]:
        """Its one point -> number of features, 0 while unknown."""
        return {"output": self.features}

    def read(self, call: Call) -> dict[str, PointValue]:
        """Find the point in one call of the module."""
        tensor, axis = call.result, self.feature_axis
        if axis is None:
            axis = 1 if tensor.ndim >= 4 and not tensor.is_nested else -1
        from_end = axis if axis < 0 else axis - tensor.ndim
        return {"output": PointValue(tensor, from_end)}

    def describe(self) -> dict[str, Any]:
        """The tap's row in the log's table of layers."""
        known = dict(self.points) if self.features else {}
        return {
            "name": self.name,
            "kind": "tap",
            "module": self.source,
            "points": known,
            "tied_to": None,
        }


Watched = Layer | Tap
"""What a point belongs to."""


def check_taps(taps: object) -> dict[str, tuple[str, int | None]]:
    """Bring ``taps=`` into one form.

    Args:
        taps: As given by the user.

    Returns:
        Name -> name of the module, and the axis that holds the features or None.

    Raises:
        TypeError: If it is no mapping of names to modules.
    """
    if taps is not None and not isinstance(taps, Mapping):
        raise TypeError(
            f"Found {type(taps).__name__} as taps=; expected a mapping of your names to "
            "modules of the model, such as {'embedding': 'backbone'}."
        )
    found: dict[str, tuple[str, int | None]] = {}
    for name, choice in (taps or {}).items():
        given = choice if isinstance(choice, tuple) else (choice, None)
        source, axis = given if len(given) == 2 else ("", None)
        whole = isinstance(axis, int) and not isinstance(axis, bool)
        named = all(isinstance(x, str) and x for x in (name, source))
        if not (named and (whole or axis is None)):
            raise TypeError(
                f"taps={{{name!r}: {choice!r}}}: expected the name of a module, such as "
                "{'embedding': 'backbone'}, or that and the axis of its features, "
                "{'map': ('stem', 1)}."
            )
        found[name] = source, axis
    return found


def find_taps(
    taps: TapChoice | None,
    modules: Mapping[str, nn.Module],
    taken: Collection[str],
) -> tuple[Tap, ...]:
    """Find the modules that the user wants to tap.

    Args:
        taps: As given by the user.
        modules: Canonical name -> module.
        taken: Names of layers, which a tap must not bear.

    Returns:
        The taps, in the given order.

    Raises:
        TypeError: If it is no mapping of names to modules.
        ValueError: If there is no such module, or a name is taken.
    """
    found = []
    for name, (source, axis) in check_taps(taps).items():
        if source not in modules:
            close = difflib.get_close_matches(source, modules, 3, 0.4)
            raise ValueError(
                f"taps={{{name!r}: {source!r}}}: the model has no such module; "
                f"{'did you mean' if close else 'it has'} "
                f"{', '.join(close or list(modules)[:8])}?"
            )
        if name in taken:
            raise ValueError(
                f"taps={{{name!r}: …}}: a layer has that name; choose another one."
            )
        found.append(Tap(name, source, modules[source], axis))
    return tuple(found)


def taps_left(
    taps: TapChoice, modules: Mapping[str, nn.Module], taken: Collection[str]
) -> tuple[tuple[Tap, ...], dict[str, ValueError]]:
    """Find the taps of a model that was changed since; that is no error.

    Args:
        taps: As given by the user.
        modules: Canonical name -> module.
        taken: Names of layers, which a tap must not bear.

    Returns:
        The taps that are still there; name -> why, of those that are not.
    """
    found: list[Tap] = []
    lost: dict[str, ValueError] = {}
    for name, choice in taps.items():
        try:
            found += find_taps({name: choice}, modules, taken)
        except ValueError as error:
            lost[name] = error
    return tuple(found), lost
