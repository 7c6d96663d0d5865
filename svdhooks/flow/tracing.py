"""Follows the tensors of one forward from operation to operation.

A mode of torch sees every function that gets tensors, ``nn`` modules included, whatever
the model is written like. What it does not see, say a way through numpy, is known to be
unknown: a tensor that nobody made.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from svdhooks.flow.graph import INPUT, UNKNOWN, Arrival, Flow, Operation, Step
from svdhooks.flow.operations import (
    axes_of,
    kind_of,
    memory_of,
    name_of,
    rounds,
    strides_of_view,
    valued,
)
from svdhooks.layers import PointValue
from svdhooks.layers.layer import Layer
from svdhooks.layers.survey import named_modules
from svdhooks.layers.tap import Tap, Watched
from svdhooks.nested import tensors_in

MOST_STEPS = 100_000
"""A forward of more operations is not traced: a recurrence written in Python."""

_CONSTANT = -1
_LOG = logging.getLogger(__name__)


class Tracer(TorchFunctionMode):
    """A mode under which one forward runs, with hooks on the layers that call `receive`.

    An error of its own never reaches the forward: there is no flow then.

    Args:
        model: The plain module.
        layers: Those to connect.
        inputs: What the forward is given.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[Layer], inputs: Iterable[Tensor]
    ) -> None:
        super().__init__()
        self._steps: list[Step] = []
        # tensor -> its step, and its version then
        self._at: Any = WeakTensorKeyDictionary()
        self._arrivals: dict[str, list[Arrival]] = {}
        self._called: dict[str, int] = {}
        self._inside: list[tuple[Layer, Arrival | None, PointValue | None]] = []
        self._names = _names(model)
        self._held = {id(x): x for x in _attributes(model)}
        self._broken = False
        modules = {id(layer.module): layer.module for layer in layers}
        # after the layers of a module comes what it returned
        ends = [Tap("", "", module) for module in modules.values()]
        self.watched: tuple[Watched, ...] = (*layers, *ends)
        for tensor in inputs:
            self._set(tensor, Step(tuple(tensor.shape), (INPUT,)))

    def flow(self) -> Flow:
        """What was seen; empty if something went wrong."""
        if self._broken:
            return Flow()
        arrivals = {name: tuple(found) for name, found in self._arrivals.items()}
        return Flow(tuple(self._steps), arrivals, dict(self._called))

    # --- the operations -----------------------------------------------------------

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._broken:
            return func(*args, **kwargs)
        entering: list[Tensor] = []
        versions: list[int] = []
        with self._safely():
            entering = list(tensors_in((args, kwargs)))
            versions = [_version(x) for x in entering]
        result = func(*args, **kwargs)
        if result is None or isinstance(result, (Tensor, tuple, list, dict)):
            with self._safely():
                self._note(func, (args, kwargs), entering, versions, result)
        return result

    def _note(
        self,
        func: Any,
        call: tuple[Sequence[Any], Mapping[str, Any]],
        entering: Sequence[Tensor],
        versions: Sequence[int],
        result: Any,
    ) -> None:
        """Remember where the results of an operation come from."""
        written = [
            tensor
            for tensor, version in zip(entering, versions, strict=True)
            if _version(tensor) != version
        ]
        if getattr(func, "__name__", "") == "__set__" and entering:
            written = [entering[0]]  # x.data = y
        known = {id(x) for x in entering}
        # what is returned as it came is the same tensor, and needs no entry
        made = [x for x in tensors_in(result) if id(x) not in known]
        if not made and not written:
            return
        name = name_of(func)
        before = dict(zip(map(id, entering), versions, strict=True))
        values = valued(name, entering)
        indices = [self._index(x, before.get(id(x))) for x in values]
        parents = tuple(dict.fromkeys(i for i in indices if i != _CONSTANT))
        data = [x for x, i in zip(values, indices, strict=True) if i != _CONSTANT]
        constants = [x for x, i in zip(values, indices, strict=True) if i == _CONSTANT]
        named = (self._names.get(id(x)) for x in entering)
        parameters = tuple(dict.fromkeys(filter(None, named)))
        for tensor in (*made, *_distinct(written)):
            shape = tuple(tensor.shape)
            kind = kind_of(name, shape, data, constants)
            operation = Operation(name, kind, parameters)
            if not tensor.is_floating_point() and rounds(name):
                operation = Operation(f"{name} to integers", "other", parameters)
            seen = strides_of_view(entering[0], tensor) if entering else ((), ())
            step = Step(shape, (), operation, parents, -1, *seen, axes_of(name, *call))
            self._set(tensor, step)
        for tensor in _distinct(written):
            self._spread(tensor, {id(x) for x in (*made, *written)})

    def _spread(self, written: Tensor, besides: Collection[int]) -> None:
        """What shares memory with a tensor that was written to has changed with it."""
        memory, (new, _) = memory_of(written), self._at[written]
        for other in list(self._at) if memory is not None else ():
            if id(other) in besides or memory_of(other) != memory:
                continue
            both = (self._at[other][0], new)
            parents = tuple(dict.fromkeys(i for i in both if i != _CONSTANT))
            step = Step(tuple(other.shape), (), Operation("write"), parents)
            self._set(other, step)

    def _index(self, tensor: Tensor, version: int | None = None) -> int:
        """The step of a tensor; `_CONSTANT` for what depends on no input."""
        version = _version(tensor) if version is None else version
        index, then = self._at.get(tensor, (None, version))
        if index is not None and then == version:
            return int(index)
        parameter = isinstance(tensor, nn.Parameter) and index in (None, _CONSTANT)
        if parameter or (index is None and id(tensor) in self._held):
            self._at[tensor] = (_CONSTANT, version)
            return _CONSTANT
        # nobody made it, or something that was not seen wrote to it
        unknown = self._add(Step(tuple(tensor.shape), (UNKNOWN,)))
        self._at[tensor] = (unknown, version)
        return unknown

    def _set(self, tensor: Tensor, step: Step) -> None:
        """Note what a tensor is now; without origin and parents it is a constant."""
        known = step.parents or step.origins
        index = self._add(step) if known else _CONSTANT
        self._at[tensor] = (index, _version(tensor))

    def _add(self, step: Step) -> int:
        if len(self._steps) >= MOST_STEPS:
            raise OverflowError(f"more than {MOST_STEPS} operations")
        self._steps.append(step)
        return len(self._steps) - 1

    # --- the layers -----------------------------------------------------------------

    def receive(self, watched: Watched, values: Mapping[str, PointValue]) -> None:
        """Take in one call of a layer's module; then, under a tap, what it returned.

        Args:
            watched: The layer, or the tap of its module.
            values: Point name -> value, as it passed.
        """
        if self._broken:
            return
        with self._safely():
            if isinstance(watched, Layer):
                self._arrive(watched, values)
            else:
                self._leave(values["output"].tensor)

    def fail(self, watched: Watched, error: Exception) -> None:  # noqa: ARG002
        """A layer that cannot be read has no edges."""
        if isinstance(watched, Tap):
            self._inside = []

    def _arrive(self, layer: Layer, values: Mapping[str, PointValue]) -> None:
        entering = [v for name, v in values.items() if name.startswith("input")]
        indices = [self._index(value.tensor) for value in entering]
        arrival = None
        if entering:
            steps = tuple(i for i in indices if i != _CONSTANT)
            axis = entering[0].feature_axis
            arrival = Arrival(steps, tuple(entering[0].tensor.shape), axis)
        output = values.get("output")
        self._inside.append((layer, arrival, output))

    def _leave(self, result: Tensor) -> None:
        """Whose output it is: of the layers whose output was read from it."""
        inside, self._inside = self._inside, []
        made = self._index(result)
        names: list[str] = []
        axis = -1
        for layer, arrival, output in inside:
            if arrival is not None:
                found = self._arrivals.setdefault(layer.name, [])
                found.append(self._judged(arrival, made))
            if output is not None and self._read_from(output.tensor, result, made):
                names.append(layer.name)
                axis = output.feature_axis
                self._called[layer.name] = self._called.get(layer.name, 0) + 1
        if names:
            shape = tuple(result.shape)
            self._set(result, Step(shape, tuple(names), feature_axis=axis))

    def _judged(self, arrival: Arrival, made: int) -> Arrival:
        """With what is known of the operation that made the output."""
        step = self._steps[made] if made != _CONSTANT else None
        operation = step.operation if step is not None else None
        plain = (
            step is not None
            and operation is not None
            and operation.name == "linear"
            and step.parents == arrival.steps
        )
        return Arrival(arrival.steps, arrival.shape, arrival.feature_axis, plain)

    def _read_from(self, part: Tensor, whole: Tensor, made: int) -> bool:
        """Whether a point is what the module returned, or was picked out of it."""
        if part is whole:
            return True
        index = self._index(part)
        while index != made:
            step = self._steps[index] if index > made >= 0 else None
            if step is None or len(step.parents) != 1:
                return False
            index = step.parents[0]
        return made != _CONSTANT

    @contextmanager
    def _safely(self) -> Iterator[None]:
        """Let no error of ours reach the model; there is no flow then."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # the model is another's
            _LOG.debug("the forward could not be traced", exc_info=error)
            self._broken = True


# --- tensors ---------------------------------------------------------------------------


def _version(tensor: Tensor) -> int:
    try:
        return tensor._version
    except RuntimeError:  # an inference tensor tracks none
        return 0


def _distinct(tensors: Sequence[Tensor]) -> list[Tensor]:
    return list({id(x): x for x in tensors}.values())


def _names(model: nn.Module) -> dict[int, str]:
    """Parameters and buffers by identity."""
    found: dict[int, str] = {}
    for name, module in named_modules(model):
        for table in (module._parameters, module._buffers):
            for own, value in table.items():
                found.setdefault(id(value), f"{name}.{own}")
    return found


def _attributes(model: nn.Module) -> Iterator[Tensor]:
    """Tensors that a model holds: they were there before the forward."""
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, (Tensor, tuple, list, dict)):
                yield from tensors_in(value)
