"""Pairs of layers of which one reads the other, found in what was seen of a forward."""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from torch import nn

from svdhooks.flow.following import Content, Leaf, Value, follow, leaves, refused
from svdhooks.flow.graph import UNKNOWN, Arrival, Flow
from svdhooks.layers.layer import Layer
from svdhooks.layers.pairs import LayerPair, make_pair
from svdhooks.layers.survey import named_modules

Streams = Literal["next", "all", "none"]

_IN_STREAM = "it is a part of a residual stream, and streams are not asked for"
_HIDDEN = (
    "what joined the stream after it comes from where it cannot be seen (tensor "
    "parallelism, numpy); streams='all' takes it"
)
_ORIGIN = "it comes from where it cannot be seen (numpy, a kernel of its own)"


@dataclass(frozen=True)
class FoundPairs:
    """What was found.

    Attributes:
        pairs: In the order of the layers that read.
        refused: Layer that writes, layer that reads, and why the two are no pair.
    """

    pairs: tuple[LayerPair, ...] = ()
    refused: tuple[tuple[str, str, str], ...] = ()


def find_pairs(
    flow: Flow,
    layers: Sequence[Layer],
    *,
    streams: Streams = "next",
    model: nn.Module | None = None,
) -> FoundPairs:
    """Find the pairs that the data flow shows; nothing is guessed.

    A plain pair: what enters the later layer is the earlier one's output, after
    activations, norms, pooling, dropout and reshaping that keeps the order of features.
    Of a residual stream, a sum of several outputs, what was added and who reads the sum
    are pairs of their own kind. Concatenations, products of two outputs, attention and
    whatever else may move or mix features are refused. Of a layer that is called several
    times, a pair is what was seen in any of its calls.

    Args:
        flow: What was seen of a forward.
        layers: Those to connect.
        streams: ``"next"``: what joined the stream since a layer last read it, so that
            the pairs grow with the depth; ``"all"``: whatever is in the sum;
            ``"none"``.
        model: Whose batch norms the pairs name; None: they name none.

    Returns:
        The pairs, and what was refused, with the reasons.

    Raises:
        ValueError: If ``streams`` is none of these.
    """
    if streams not in get_args(Streams):
        raise ValueError(
            f"Found streams={streams!r}, expected one of {', '.join(get_args(Streams))}."
        )
    finding = _Finding({layer.name: layer for layer in layers}, _modules(model))
    sizes = {x.name: x.points.get("output", x.shape[0]) for x in layers}
    values = follow(flow.steps, sizes)
    arrived = [
        (layer, _arriving(arrival, values))
        for layer in layers
        for arrival in flow.arrivals.get(layer.name, ())
        if arrival.steps
    ]
    read = frozenset(value.content for _, value in arrived)
    for layer, value in arrived:
        writers = leaves(value, frozenset()) if streams == "all" else _next(value, read)
        why = _IN_STREAM if streams == "none" and value.content.is_sum else ""
        for leaf in writers:
            finding.add(leaf, layer, value.content.is_sum, leaf.reason or why)
    return finding.result()


def user_pairs(
    given: Sequence[tuple[str, str]], layers: Sequence[Layer]
) -> tuple[LayerPair, ...]:
    """Pairs that the user names.

    Args:
        given: Names of an earlier layer and of a later one, pair by pair.
        layers: The layers that there are.

    Returns:
        One pair for each.

    Raises:
        ValueError: If a layer does not exist, or two do not fit.
    """
    by_name = {layer.name: layer for layer in layers}
    pairs = []
    for both in given:
        if isinstance(both, str) or len(both) != 2:
            raise ValueError(
                f"Found {both!r}, expected the names of two layers: (earlier, later)."
            )
        for name in both:
            if name not in by_name:
                near = difflib.get_close_matches(name, by_name, 3, 0.4)
                raise ValueError(
                    f"Found no layer {name!r} for the pair {tuple(both)!r}; expected one "
                    f"of {', '.join(near or list(by_name)[:5]) or 'none'}. "
                    "svdhooks.plan(model) lists the layers."
                )
        pairs.append(make_pair(by_name[both[0]], by_name[both[1]]))
    return tuple(pairs)


@dataclass
class _Finding:
    """Collects pairs and refusals; a pair that was found in one way is none refused."""

    layers: Mapping[str, Layer]
    modules: Mapping[str, nn.Module]
    pairs: dict[tuple[str, str], LayerPair] = field(default_factory=dict)
    refused: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, leaf: Leaf, later: Layer, stream: bool, reason: str) -> None:
        """Note one way from a layer to another."""
        both = leaf.name, later.name
        earlier = self.layers.get(leaf.name)
        if leaf.name == UNKNOWN or earlier is None:
            reason = reason or _ORIGIN
        elif not reason:
            before = self.pairs.get(both)
            if before is not None and not before.stream:
                return
            try:
                norm = self._norm(leaf, earlier)
                self.pairs[both] = make_pair(earlier, later, stream, norm)
            except ValueError as error:
                reason = str(error)
        if reason:
            self.refused.setdefault(both, reason)

    def result(self) -> FoundPairs:
        """All that was noted."""
        left = (
            (*both, reason)
            for both, reason in self.refused.items()
            if both not in self.pairs
        )
        return FoundPairs(tuple(self.pairs.values()), tuple(left))

    def _norm(self, leaf: Leaf, earlier: Layer) -> nn.Module | None:
        """The batch norm between the two, if there is exactly one that can be folded."""
        if len(leaf.norms) != 1 or leaf.norms[0] is None:
            return None
        norm = self.modules.get(leaf.norms[0])
        # of a flattened map it may have factors of its own for every position
        fits = getattr(norm, "num_features", None) == earlier.shape[0]
        return norm if fits else None


def _modules(model: nn.Module | None) -> dict[str, nn.Module]:
    return {} if model is None else dict(named_modules(model))


def _arriving(arrival: Arrival, values: Sequence[Value]) -> Value:
    """What entered a layer, if it can read that feature by feature."""
    if len(arrival.steps) > 1:
        several = (values[i] for i in arrival.steps)
        return refused("the layer reads several inputs at once", *several)
    value = values[arrival.steps[0]]
    places = value.places
    if places is None:
        return value
    if value.statistic:
        return refused("the layer reads a statistic of it", value)
    if places.axis != arrival.feature_axis:
        return refused(
            f"its features lie on axis {places.axis} of what the layer reads, whose own "
            f"are those of axis {arrival.feature_axis}",
            value,
        )
    return value


def _next(value: Value, read: frozenset[Content]) -> Iterator[Leaf]:
    """What joined a stream since it was last read; of what is no stream, everything."""
    found = list(leaves(value, read))
    if not value.content.is_sum:
        yield from found
        why = value.content.reason
        for member in () if found or not why else value.content.members:
            yield from (replace(leaf, reason=why) for leaf in _next(member, read))
        return
    found += _unseen(value, read)
    # an output that others read by itself is the stream, and what they wrote joins it
    new = [leaf for leaf in found if leaf.content not in read]
    if new or found:
        yield from _in_sight(new or found)
        return
    for member in value.content.members:
        yield from _next(member, read)


def _in_sight(joined: list[Leaf]) -> Iterator[Leaf]:
    """What joined a stream last, unless something joined that was not seen."""
    # who read the stream on the way there was not seen, either
    hidden = any(leaf.content.names == (UNKNOWN,) for leaf in joined)
    for leaf in joined:
        seen = not hidden or leaf.name == UNKNOWN
        yield leaf if seen else replace(leaf, reason=leaf.reason or _HIDDEN)


def _unseen(value: Value, read: frozenset[Content]) -> Iterator[Leaf]:
    """What joined a stream and came from it in a way that shows no layer: experts."""
    for member in value.content.members:
        content = member.content
        if content.reason and not any(leaves(member, read)):
            yield Leaf(UNKNOWN, content, content.reason)
        elif content.is_sum and content not in read:
            yield from _unseen(member, read)


def check_names(pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse what is given as pairs and is not pairs of names.

    Args:
        pairs: As given by the user.

    Raises:
        ValueError: If it is something else, empty, or has a pair twice.
    """
    fitting = not isinstance(pairs, str) and all(
        isinstance(pair, (tuple, list))
        and len(pair) == 2
        and all(isinstance(name, str) for name in pair)
        for pair in pairs
    )
    if not fitting or not pairs:
        raise ValueError(
            f"SpectralEdges(pairs={pairs!r}): expected pairs of layer names, such as "
            "[('fc1', 'fc2'), ('fc2', 'head')]."
        )
    repeated = [pair for pair, n in Counter(map(tuple, pairs)).items() if n > 1]
    if repeated:
        raise ValueError(
            f"SpectralEdges(pairs=...): found {repeated} more than once; give each pair a "
            "single time."
        )
