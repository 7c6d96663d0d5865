"""Which layer feeds which: what was seen of one forward, as a graph of its operations.

`tracing` makes it. It holds no tensor and no module, and pickles.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

INPUT = "(input)"
"""Stands for the model's input where a layer's name is expected."""

UNKNOWN = "(unknown)"
"""Stands for what came from where it cannot be seen: numpy, a kernel of its own, …"""

Kind = Literal[
    "activation",
    "arithmetic",
    "copy",
    "reshape",
    "normalisation",
    "pooling",
    "other",
]


@dataclass(frozen=True)
class Operation:
    """One operation between layers.

    Attributes:
        name: As torch calls it, without the ending of in-place forms: ``"relu"``.
        kind: ``"activation"`` and ``"arithmetic"`` work number by number, on tensors of
            the result's shape and on single numbers, ``"copy"`` changes no number; the
            others are what they are called, by their name.
        parameters: Canonical names, in their model, of the parameters and buffers that
            take part.
    """

    name: str
    kind: Kind = "other"
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """A tensor of the forward: what it is the output of, or what made it.

    Attributes:
        shape: Of the tensor.
        origins: Layers whose output it is (several: the parts of a fused projection),
            or ``INPUT``, or ``UNKNOWN``; empty for the result of an operation.
        operation: What made it.
        parents: Earlier steps that entered the operation.
        feature_axis: The axis that holds the features of a layer's output.
        strides: Of the tensor, where it lies in the memory of what entered the
            operation, so that they say which axis is which; else empty.
        before: The strides of what entered then.
        axes: Those that the call reduces or pads, as it counts them; None: not known.
    """

    shape: tuple[int, ...]
    origins: tuple[str, ...] = ()
    operation: Operation | None = None
    parents: tuple[int, ...] = ()
    feature_axis: int = -1
    strides: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    axes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Arrival:
    """What entered a layer in one of its calls.

    Attributes:
        steps: The tensors at its input points.
        shape: Of the first of them.
        feature_axis: The axis that holds its features, counted from the end.
        plain: Whether the call was ``linear`` of that tensor and nothing else.
    """

    steps: tuple[int, ...]
    shape: tuple[int, ...] = ()
    feature_axis: int = -1
    plain: bool = False


@dataclass(frozen=True)
class Edge:
    """A way from the output of a layer to the input of another, with no layer between.

    Attributes:
        source: A layer, ``INPUT`` or ``UNKNOWN``.
        target: The layer whose input it reaches.
        operations: All that lie on a way from one to the other, in the order in which
            they were computed; one that joins what comes from elsewhere is among them.
        shapes: Of the source's output and of the results of these operations.
        alone: Whether nothing but this source's output reaches that input.
        feature_axis: The axis that holds the features of the source's output.
        call: Number of the target's call, from 0.
    """

    source: str
    target: str
    operations: tuple[Operation, ...]
    shapes: tuple[tuple[int, ...], ...]
    alone: bool
    feature_axis: int = -1
    call: int = 0


@dataclass(frozen=True)
class Flow:
    """Which layer feeds which in one forward of a model.

    Attributes:
        steps: The tensors, in the order in which they were made.
        arrivals: Layer -> what entered it, call by call.
        called: Layer -> how often its output was seen.
    """

    steps: tuple[Step, ...] = ()
    arrivals: Mapping[str, tuple[Arrival, ...]] = field(default_factory=dict)
    called: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything was traced."""
        return bool(self.arrivals)

    def sources(self, name: str) -> tuple[Edge, ...]:
        """What reaches the input of a layer.

        Args:
            name: The layer.

        Returns:
            One edge for each source and call; none for a layer that was not traced.
        """
        return tuple(
            edge
            for call, arrival in enumerate(self.arrivals.get(name, ()))
            for edge in self._edges(name, call, arrival)
        )

    def edges(self) -> Iterator[Edge]:
        """All of them, layer by layer. In a residual stream they are many.

        Yields:
            Edges, those of a target together.
        """
        for name in self.arrivals:
            yield from self.sources(name)

    def activated(self, name: str) -> str | None:
        """The layer that receives this one's output through an activation.

        Between the two there are elementwise operations of this output alone, an
        activation at least, or nothing at all. Where there are several such layers,
        that is the first to be called of those with an activation.

        Args:
            name: The layer.

        Returns:
            The other layer; None if there is none, or if they are not called in turn.
        """
        found = self._receivers.get(name, {})
        return found.get(True, found.get(False))

    @functools.cached_property
    def _receivers(self) -> dict[str, dict[bool, str]]:
        """Layer -> with an activation or without -> the first that receives it so."""
        found: dict[str, dict[bool, str]] = {}
        for target, arrivals in self.arrivals.items():
            edges = [self._only(target, n) for n in range(len(arrivals))]
            ways = {
                (edge.source, _elementwise(edge, arrival))
                for edge, arrival in zip(edges, arrivals, strict=True)
                if edge is not None
            }
            if None in edges or len(ways) != 1:
                continue
            source, activation = ways.pop()
            # each call of the one is followed by one of the other
            if activation is not None and self.called.get(source) == len(arrivals):
                found.setdefault(source, {}).setdefault(activation, target)
        return found

    def relu_chain(self, name: str) -> tuple[str, ...] | None:
        """The layers from the model's input to this one, in a plain ReLU network.

        Between them there is nothing but ReLU and reshaping; each is a matrix that
        multiplies one vector per sample, and is called once. Then the Jacobian of this
        one's output is ``W_l D … W_1 D W_0`` with D of zeros and ones.

        Args:
            name: The layer.

        Returns:
            The layers in order, this one last; None if that is not what was seen.
        """
        chain: list[str] = []
        target = name
        while target != INPUT:
            arrivals = self.arrivals.get(target, ())
            edge = self._only(target, 0) if len(arrivals) == 1 else None
            if edge is None or target in chain or not _is_chain(edge, arrivals[0]):
                return None
            chain.append(target)
            target = edge.source
        return tuple(reversed(chain))

    def _only(self, name: str, call: int) -> Edge | None:
        """The edge to a layer that has no other in that call."""
        arrival = self.arrivals[name][call]
        reached = _between(self.steps, arrival.steps)
        origins = [x for i in reached for x in self.steps[i].origins]
        return self._edges(name, call, arrival)[0] if len(origins) == 1 else None

    def _edges(self, name: str, call: int, arrival: Arrival) -> list[Edge]:
        reached = _between(self.steps, arrival.steps)
        roots = [i for i in reached if self.steps[i].origins]
        found: list[Edge] = []
        for root in roots:
            on_the_way = _after(self.steps, root, reached)
            made = [self.steps[i] for i in on_the_way]
            operations = tuple(s.operation for s in made if s.operation is not None)
            begin = self.steps[root]
            shapes = (begin.shape, *(step.shape for step in made))
            alone = len(roots) == len(begin.origins) == 1
            found += [
                Edge(x, name, operations, shapes, alone, begin.feature_axis, call)
                for x in begin.origins
            ]
        return found


NOTHING = Flow()
"""What is known before anything was traced; one object, so that it is told by identity."""


def _between(steps: Sequence[Step], ends: Sequence[int]) -> list[int]:
    """All steps that lead to these, back to the nearest origins; in order."""
    seen, left = set(ends), list(ends)
    while left:
        step = steps[left.pop()]
        if not step.origins:
            left += [i for i in step.parents if i not in seen]
            seen.update(step.parents)
    return sorted(seen)


def _after(steps: Sequence[Step], root: int, among: Sequence[int]) -> list[int]:
    """Those that come from a root."""
    reached = {root}
    for index in among:
        step = steps[index]
        if not step.origins and not reached.isdisjoint(step.parents):
            reached.add(index)
    return sorted(reached - {root})


def _elementwise(edge: Edge, arrival: Arrival) -> bool | None:
    """Whether there is an activation; None if there is something else, too."""
    kinds = {operation.kind for operation in edge.operations}
    if edge.feature_axis != arrival.feature_axis or set(edge.shapes) != {arrival.shape}:
        return None
    if not kinds <= {"activation", "arithmetic", "copy"}:
        return None
    if "activation" in kinds:
        return True
    return None if "arithmetic" in kinds else False  # a factor is no activation


def _is_chain(edge: Edge, arrival: Arrival) -> bool:
    """Whether one vector per sample went through ReLU and reshaping alone."""
    # the first axis stays that of the samples, and Linear sees no other but features
    samples = {shape[:1] for shape in (*edge.shapes, arrival.shape)}
    return (
        arrival.plain
        and len(arrival.shape) == 2
        and len(samples) == 1
        and all(
            operation.kind in {"copy", "reshape"} or operation.name == "relu"
            for operation in edge.operations
        )
    )
