"""What each tensor of a forward still says of the layers it comes from.

Forwards through the steps, once: whose output a tensor holds, on which axis the features
lie, what was added, and from where on it cannot be said any more, with the reason.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from svdhooks.flow.axes import Places, moved
from svdhooks.flow.graph import INPUT, UNKNOWN, Operation, Step
from svdhooks.flow.operations import works_number_by_number

_SUMS = frozenset(("add", "radd", "sub", "subtract", "rsub"))
_SCALED = frozenset((
    *("mul", "multiply", "rmul", "div", "divide", "true_divide", "truediv"),
    *("neg", "negative", "positive"),
))
_REASONS = {
    "scaled_dot_product_attention": "softmax attention is between them",
    "softmax": "a softmax is between them",
    "cat": "it is concatenated with something else",
    "concat": "it is concatenated with something else",
    "concatenate": "it is concatenated with something else",
    "stack": "it is stacked with something else",
    "index_add": "it is scattered among other things (experts?)",
    "scatter_add": "it is scattered among other things (experts?)",
    **dict.fromkeys(
        ("linear", "conv1d", "conv2d", "conv3d", "addmm"),
        "a linear map that is not watched is between them",
    ),
    **dict.fromkeys(
        ("matmul", "rmatmul", "bmm", "baddbmm", "einsum", "mm"),
        "a matrix product is between them (attention, or a map of no watched layer)",
    ),
    **dict.fromkeys(
        ("lstm", "gru", "rnn_tanh", "rnn_relu"), "a recurrent cell is between them"
    ),
}


@dataclass(frozen=True, eq=False)
class Content:
    """Where what a tensor holds began.

    Attributes:
        names: The layer whose output it is, or ``INPUT``, or ``UNKNOWN``.
        members: Without names: what was added up, or what entered the operation from
            which on nothing can be said.
        reason: Why nothing can be said; empty for a sum.
    """

    names: tuple[str, ...] = ()
    members: tuple["Value", ...] = ()
    reason: str = ""

    @property
    def outside(self) -> bool:
        """Whether it comes from no layer."""
        return self.names in {(INPUT,), (UNKNOWN,)}

    @property
    def is_sum(self) -> bool:
        """Whether it is a stream: several things added up."""
        return not self.names and not self.reason


@dataclass(frozen=True, eq=False)
class Value:
    """What a tensor says of a content.

    Attributes:
        content: What it comes from.
        places: Where the features are; None where there are none to follow.
        statistic: Whether it has one number per position instead: a mean of squares.
        bent: Whether anything but linear maps feature by feature lies before.
        norms: The batch norms on the way; None for one that cannot be folded.
    """

    content: Content
    places: Places | None = None
    statistic: bool = False
    bent: bool = False
    norms: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class Leaf:
    """A layer that something comes from.

    Attributes:
        name: The layer, or ``UNKNOWN``.
        content: Its output.
        reason: Why the way from there cannot be followed; empty if it can.
        norms: The batch norms on the way.
    """

    name: str
    content: Content
    reason: str = ""
    norms: tuple[str | None, ...] = ()


def follow(steps: Sequence[Step], features: Mapping[str, int]) -> list[Value]:
    """Go through the steps.

    Args:
        steps: In the order in which they were made.
        features: Layer -> how many outputs it has.

    Returns:
        One value for each step.
    """
    values: list[Value] = []
    for step in steps:
        entering = [(steps[i], values[i]) for i in step.parents]
        if step.origins or not entering or step.operation is None:
            values.append(_origin(step, features))
        elif all(value.content.outside for _, value in entering):
            known = all(value.content.names == (INPUT,) for _, value in entering)
            values.append(Value(Content((INPUT if known else UNKNOWN,))))
        elif len(entering) == 1:
            values.append(_alone(step, step.operation, *entering[0]))
        else:
            values.append(_several(step, step.operation, entering))
    return values


def leaves(value: Value, stops: frozenset[Content]) -> Iterator[Leaf]:
    """The layers that a value comes from.

    Args:
        value: What is read.
        stops: Sums that are not entered.

    Yields:
        Each origin once for each reason; the model's input is none.
    """
    left = [(value, "", False, value.norms)]
    seen: set[tuple[Content, bool]] = set()
    while left:
        now, reason, late, norms = left.pop()
        content = now.content
        if (content, bool(reason)) in seen or (
            late and content.is_sum and content in stops
        ):
            continue
        seen.add((content, bool(reason)))
        if content.names:
            for name in content.names:
                if name != INPUT:
                    yield Leaf(name, content, reason, norms)
        for member in reversed(content.members):
            # what bends before a norm keeps it from being folded
            after = (None,) * len(norms) if member.bent else norms
            why = content.reason or reason
            left.append((member, why, True, (*member.norms, *after)))


def refused(reason: str, *members: Value) -> Value:
    """A value of which nothing can be said.

    Args:
        reason: Why.
        members: What it was made of.

    Returns:
        The value.
    """
    return Value(Content((), members, reason))


def _origin(step: Step, features: Mapping[str, int]) -> Value:
    """The output of a layer."""
    names = step.origins or (UNKNOWN,)
    content = Content(names)
    if content.outside:
        return Value(content)
    if len(names) > 1:
        return refused(
            "the parts of a fused projection are taken apart", Value(content)
        )
    axis, found = step.feature_axis, features.get(names[0])
    size = step.shape[axis] if -axis <= len(step.shape) else None
    if found is None or size != found:
        return refused(
            f"its output has {size} features on the axis of its features, expected "
            f"{found}",
            Value(content),
        )
    return Value(content, Places(axis, found))


def _alone(step: Step, operation: Operation, before: Step, value: Value) -> Value:
    """After an operation on one thing."""
    if value.places is None:
        return value  # nothing to follow, or refused already
    found = moved(step, operation, before, value.places, value.statistic)
    if isinstance(found, str):
        return refused(_reason(operation, found), value)
    bent, norms = value.bent, value.norms
    if operation.name in {"batch_norm", "native_batch_norm"}:
        owners = {name.rpartition(".")[0] for name in operation.parameters}
        single = len(owners) == 1 and not bent
        norms = (*norms, owners.pop() if single else None)
    elif operation.kind in {"activation", "pooling", "normalisation", "other"}:
        scaled = operation.name in _SUMS or operation.name in _SCALED
        bent = bent or not scaled
    places, statistic = found
    return replace(value, places=places, statistic=statistic, bent=bent, norms=norms)


def _several(
    step: Step, operation: Operation, entering: Sequence[tuple[Step, Value]]
) -> Value:
    """After an operation on several things."""
    values = [value for _, value in entering]
    if not works_number_by_number(operation.name):
        return refused(_reason(operation, ""), *values)
    bodies = [(s, v) for s, v in entering if v.places is not None and not v.statistic]
    if not bodies:
        contents = {value.content for value in values}
        same = len(contents) == 1 and all(value.statistic for value in values)
        return values[0] if same else refused(_product(operation), *values)
    lead = bodies[0][1]
    places = lead.places
    if places is None or any(
        v.places != places or not places.fill(s.shape, step.shape) for s, v in bodies
    ):
        return refused("it meets something whose features lie elsewhere", *values)
    contents = {value.content for _, value in bodies}
    rest = [(s, v) for s, v in entering if v.places is None or v.statistic]
    adds = operation.name in _SUMS
    for shape, value in ((s.shape, v) for s, v in rest):
        if value.statistic or not adds:
            # one factor per position leaves directions as they are; of another layer
            # it would be a product of the two all the same
            own = value.statistic and contents == {value.content}
            mask = value.content.names == (INPUT,)
            if not (own or mask) or not places.miss(shape):
                return refused(_product(operation), *values)
    if adds:
        rest = [(s, v) for s, v in rest if not v.statistic]
        if len(contents) > 1 or rest:
            return Value(Content((), tuple(values)), places)
    elif len(contents) > 1:
        return refused(_product(operation), *values)
    norms = (
        lead.norms if all(v.norms == lead.norms for _, v in bodies) else (None, None)
    )
    return replace(lead, bent=True, norms=norms)


def _product(operation: Operation) -> str:
    return f"it meets the output of another layer in {operation.name!r}: a gate?"


def _reason(operation: Operation, found: str) -> str:
    name = operation.name
    return found or _REASONS.get(
        name, f"{name!r} is between them, which may move or mix features"
    )
