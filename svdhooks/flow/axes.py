"""Where the features of a layer's output are after an operation that moves axes."""

import itertools
import math
import re
from dataclasses import dataclass, replace

from svdhooks.flow.graph import Operation, Step
from svdhooks.flow.operations import reduces, works_number_by_number

Shape = tuple[int, ...]
Found = tuple["Places", bool]

_VIEWS = frozenset((
    *("transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis"),
    *("T", "mT", "mH", "H", "t", "adjoint"),
    *("getitem", "select", "narrow", "split", "chunk", "tensor_split", "unbind"),
    *("split_with_sizes", "expand", "expand_as", "broadcast_to"),
))
_DROPOUT = re.compile(r"(native_|feature_)?(alpha_)?dropout\d?d?")
_POOL = re.compile(r"pool(\d)d")
_APART = "its features are split over axes (heads?) or mixed with positions"
_PART = "only a part of its features goes on"
_UNTOLD = "the shapes do not tell which axis holds its features"


@dataclass(frozen=True)
class Places:
    """Where features are in a tensor.

    Attributes:
        axis: Which holds them, counted from the end.
        features: How many there are.
        positions: Entries that the axis has for each of them, feature by feature: of a
            map that was flattened.
    """

    axis: int
    features: int
    positions: int = 1

    @property
    def size(self) -> int:
        """Of the axis."""
        return self.features * self.positions

    def fill(self, shape: Shape, result: Shape) -> bool:
        """Whether the axis is there in full, before and after."""
        return all(
            -self.axis <= len(x) and x[self.axis] == self.size for x in (shape, result)
        )

    def miss(self, shape: Shape) -> bool:
        """Whether a tensor has one number for all of the features."""
        return self.size > 1 and (-self.axis > len(shape) or shape[self.axis] == 1)


def moved(
    step: Step, operation: Operation, before: Step, places: Places, statistic: bool
) -> Found | str:
    """Follow the features through an operation on one tensor.

    Args:
        step: The result.
        operation: What was done.
        before: The tensor.
        places: Where they were.
        statistic: Whether it holds one number per position instead of them.

    Returns:
        Where they are and whether it is a statistic now; or why that is not known, which
        is empty if the operation's name says all.
    """
    name, kind = operation.name, operation.kind
    by_number = kind == "copy" or works_number_by_number(name)
    if statistic:
        plain = by_number or kind == "reshape" or name in _VIEWS
        return (places, True) if plain else ""
    if by_number or kind == "normalisation" or _DROPOUT.fullmatch(name):
        return (places, False) if places.fill(before.shape, step.shape) else _APART
    if kind == "reshape":
        return _reshaped(step.shape, before.shape, places)
    if name in _VIEWS:
        return _viewed(step, before.shape, places)
    if reduces(name):
        return _reduced(step, before.shape, places)
    if kind == "pooling" or name in {"interpolate", "pad", "cat", "concat"}:
        beside = _beside(name, step, before.shape, places)
        return (places, False) if beside else ""
    return ""


def _reshaped(after: Shape, before: Shape, places: Places) -> Found | str:
    """Numbers stay in their order: what comes before the features, and they, is known."""
    if math.prod(after) != math.prod(before):
        return _APART
    start = math.prod(before[: places.axis])
    for axis, size in enumerate(after):
        if math.prod(after[:axis]) == start and size % places.features == 0 < size:
            positions = size // places.features
            return Places(axis - len(after), places.features, positions), False
    return _APART


def _viewed(step: Step, before: Shape, places: Places) -> Found | str:
    """A view has the axes of what it shows, with the same strides."""
    if not step.strides:
        return "it is indexed with tensors or lists, which may reorder its features"
    stride = step.before[places.axis]
    found = [
        axis
        for axis, size in enumerate(step.shape)
        if size == places.size and step.strides[axis] == stride
    ]
    if len(found) > 1 or before[places.axis] != places.size or places.size == 1:
        return _UNTOLD
    return (replace(places, axis=found[0] - len(step.shape)), False) if found else _PART


def _reduced(step: Step, before: Shape, places: Places) -> Found | str:
    """Over positions features stay; over features one number per position is left."""
    axis, after = places.axis + len(before), step.shape
    if step.axes is not None:
        gone = {i % len(before) for i in step.axes}
        if axis in gone:
            return places, True
        behind = sum(i > axis for i in gone) if len(after) < len(before) else 0
        return replace(places, axis=places.axis + behind), False
    if len(after) == len(before):
        others = [i for i in range(len(before)) if after[i] not in {before[i], 1}]
        if others or places.size == 1:
            return _UNTOLD
        return places, after[axis] == 1
    found = {
        None if axis not in kept else kept.index(axis) - len(kept)
        for kept in itertools.combinations(range(len(before)), len(after))
        if tuple(before[i] for i in kept) == after
    }
    if len(found) != 1:
        return _UNTOLD
    now = found.pop()
    return (places, True) if now is None else (replace(places, axis=now), False)


def _beside(name: str, step: Step, before: Shape, places: Places) -> bool:
    """Whether an operation works on other axes than that of the features."""
    after = step.shape
    same = len(after) == len(before) and places.fill(before, after)
    if name == "interpolate":
        return same and places.axis + len(before) == 1
    if name in {"cat", "concat"}:
        changed = [i for i, size in enumerate(after) if same and size != before[i]]
        return len(changed) == 1
    if (
        name == "pad"
    ):  # what is moved along an axis is padded on one side, cut on the other
        return same and step.axes is not None and places.axis not in step.axes
    pool = _POOL.search(name)
    # pooling works on the last axes
    return same and pool is not None and -places.axis > int(pool[1])
