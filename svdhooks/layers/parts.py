"""Parts of a fused projection: their rows in the weight, their features in the output."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from svdhooks.layers.layer import Layer
from svdhooks.layers.points import Call, PointValue


@dataclass(frozen=True)
class Part:
    """One of the maps that a fused projection holds.

    Attributes:
        suffix: Of the name, for example ``"q"``.
        features: How many outputs are its own.
        pick: Takes its features out of the last axis.
    """

    suffix: str
    features: int
    pick: Callable[[Tensor], Tensor]


def consecutive(suffixes: Sequence[str], sizes: Sequence[int]) -> list[Part]:
    """Parts that follow each other.

    Args:
        suffixes: One for each part.
        sizes: Features of each part.

    Returns:
        The parts.
    """
    found, first = [], 0
    for suffix, size in zip(suffixes, sizes, strict=True):
        found.append(Part(suffix, size, _slice(first, first + size)))
        first += size
    return found


def equal(suffixes: Sequence[str], features: int) -> list[Part]:
    """Parts of one size that follow each other.

    Args:
        suffixes: One for each part.
        features: Of all together.

    Returns:
        The parts; none if the features cannot be divided so.
    """
    size, rest = divmod(features, len(suffixes))
    return [] if rest else consecutive(suffixes, [size] * len(suffixes))


def by_head(groups: int, queries: int, size: int) -> list[Part]:
    """Query, key and value of each head, or group of heads, after one another.

    Args:
        groups: Number of keys; of heads, if each has its own key.
        queries: Heads per key.
        size: Features of one head.

    Returns:
        The parts q, k, v, with the features of each ordered head by head.
    """
    return [
        Part("q", groups * queries * size, _of_heads(groups, size, slice(queries))),
        Part("k", groups * size, _of_heads(groups, size, slice(queries, queries + 1))),
        Part("v", groups * size, _of_heads(groups, size, slice(queries + 1, None))),
    ]


def every_other(suffixes: Sequence[str], features: int) -> list[Part]:
    """Parts whose features alternate.

    Args:
        suffixes: One for each part.
        features: Of all together.

    Returns:
        The parts.
    """
    n = len(suffixes)
    return [
        Part(suffix, features // n, _strided(i, n)) for i, suffix in enumerate(suffixes)
    ]


def split(layer: Layer, parts: Sequence[Part]) -> list[Layer]:
    """The parts of a fused layer, each a layer of its own.

    Args:
        layer: The fused layer, whose features are the last axis of its output.
        parts: Its parts.

    Returns:
        One layer per part; the fused layer itself if its features are not theirs.
    """
    if not parts or sum(part.features for part in parts) != layer.shape[0]:
        return [layer]
    return [_part_of(layer, part) for part in parts]


def _part_of(layer: Layer, part: Part) -> Layer:
    def view(weight: Tensor) -> Tensor:
        return part.pick(layer.view(weight).mT).mT

    def read(call: Call) -> dict[str, PointValue]:
        values = layer.read(call)
        if "output" in values:
            output = values["output"]
            values["output"] = replace(output, tensor=part.pick(output.tensor))
        return values

    points = dict(layer.points)
    if "output" in points:
        points["output"] = part.features
    return replace(
        layer,
        name=f"{layer.name}.{part.suffix}",
        view=view,
        shape=(part.features, layer.shape[1]),
        points=points,
        read=read,
        bias_source=layer.bias_source and layer.bias_source.part(part.pick),
    )


def _slice(first: int, last: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x[..., first:last]


def _strided(first: int, step: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x[..., first::step]


def _of_heads(groups: int, size: int, wanted: slice) -> Callable[[Tensor], Tensor]:
    def pick(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], groups, -1, size)[..., wanted, :].flatten(-3)

    return pick
