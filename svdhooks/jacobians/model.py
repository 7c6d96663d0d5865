"""One call of a model with something added at its input point."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from svdhooks.hooks import differentiated
from svdhooks.isolation import same_randomness
from svdhooks.jacobians.restless import Place, Start, places_written
from svdhooks.layers import Call, PointValue
from svdhooks.layers.tap import Watched
from svdhooks.nested import map_tensors, tensors_in
from svdhooks.probe import Forward, ReferenceBatch, placement


@dataclass(frozen=True, eq=False)
class InputPoint:
    """Where the input of the Jacobians is: a tensor of the batch, or a module's output.

    Attributes:
        name: For people.
        index: Which of the tensors that enter the model.
        module: Whose output, at its first call.
    """

    name: str
    index: int | None = None
    module: nn.Module | None = None


class Perturbable:
    """A model that is called on the side of its training, and what its layers return.

    Args:
        model: The plain module.
        forward: How to call it; None: ``model(*args, **kwargs)``.
    """

    def __init__(self, model: nn.Module, forward: Forward | None) -> None:
        self.model = model
        self._forward = forward
        self._place = placement(model)
        self._written: list[Place] = []
        self._start = Start([])

    def entering(self, reference: ReferenceBatch) -> list[Tensor]:
        """The tensors of a batch that the model receives, in order."""
        if self._forward is not None:
            return list(tensors_in(reference.batch))
        return list(tensors_in((reference.args, dict(reference.kwargs))))

    def value(self, reference: ReferenceBatch, point: InputPoint) -> Tensor:
        """The unperturbed value at the input point, in the model's dtype.

        Args:
            reference: The batch.
            point: The input point.

        Returns:
            The tensor, without a graph.

        Raises:
            RuntimeError: If the module at the input point is not called.
        """
        if point.index is not None:
            return self._place(self.entering(reference)[point.index])
        seen: list[Tensor] = []

        def see(x: Tensor) -> Tensor:
            seen.append(x)
            return x

        self._run(reference, [], lambda *_: None, point, see)
        if not seen:
            raise RuntimeError(f"the forward does not call the module {point.name!r}")
        return seen[0].detach().clone()

    def find_writes(self, reference: ReferenceBatch) -> bool:
        """Call the model once, and note where it writes to itself.

        Args:
            reference: The batch.

        Returns:
            Whether it changes parameters.
        """
        parameters, buffers = places_written(
            self.model, lambda: reference.run(self.model, self._forward)
        )
        self._written = [*parameters, *buffers]
        return bool(parameters)

    def begin(self) -> None:
        """Note what every pass has to begin with."""
        self._start = Start(self._written)

    def outputs(
        self,
        reference: ReferenceBatch,
        watched: Sequence[Watched],
        point: InputPoint,
        delta: Tensor | None = None,
        keep: Callable[[str, PointValue], PointValue] | None = None,
    ) -> tuple[dict[str, PointValue], dict[str, Exception]]:
        """Call the model once.

        Args:
            reference: The batch.
            watched: The layers to look at.
            point: The input point.
            delta: What is added there, of its shape.
            keep: Name of a layer, its output -> a copy of what is kept; None: of all.

        Returns:
            Copies of the layers' outputs at their last call, in the order in which
            they came; and why that of a layer cannot be read.
        """
        found: dict[str, PointValue] = {}
        failed: dict[str, Exception] = {}

        def receive(layer: Watched, call: Call) -> None:
            try:
                value = layer.read(call).get("output")
                if value is not None:
                    # a copy: what follows may overwrite it in place
                    found[layer.name] = (keep or _copied)(layer.name, value)
            except Exception as error:  # noqa: BLE001  # another layer can still be read
                failed[layer.name] = error

        def change(x: Tensor) -> Tensor:
            return x if delta is None else x + delta

        self._run(reference, watched, receive, point, change)
        return found, failed

    def _run(
        self,
        reference: ReferenceBatch,
        watched: Sequence[Watched],
        receive: Callable[[Watched, Call], None],
        point: InputPoint,
        change: Callable[[Tensor], Tensor],
    ) -> None:
        calls = 0

        def at_first_call(output: Any) -> Any:
            nonlocal calls
            calls += 1
            return _with_first_changed(output, change) if calls == 1 else output

        if point.index is not None:
            target = self.entering(reference)[point.index]
            changed = change(self._place(target))
            reference = mapped(reference, lambda t: changed if t is target else t)
        self._start.put_back()
        same_randomness()  # a model that draws random numbers is one function
        with differentiated(watched, receive, point.module, at_first_call):
            reference.run(self.model, self._forward)


def _copied(_name: str, value: PointValue) -> PointValue:
    return replace(value, tensor=value.tensor.clone())


def mapped(
    reference: ReferenceBatch, function: Callable[[Tensor], Tensor]
) -> ReferenceBatch:
    """A batch with other tensors; what was the same one in several places stays so.

    Args:
        reference: The batch.
        function: Tensor -> the one that takes its place.

    Returns:
        The batch.
    """
    known: dict[int, Tensor] = {}

    def once(tensor: Tensor) -> Tensor:
        if id(tensor) not in known:
            known[id(tensor)] = function(tensor)
        return known[id(tensor)]

    parts = (reference.batch, reference.args, dict(reference.kwargs))
    return ReferenceBatch(*(map_tensors(once, part) for part in parts))


def _with_first_changed(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An output in which the first floating-point tensor is another."""
    if isinstance(output, Tensor):
        return change(output) if output.is_floating_point() else output
    if isinstance(output, Mapping):
        keys: list[Any] = list(output)
    elif isinstance(output, (tuple, list)):
        keys = list(range(len(output)))
    else:
        return output
    for key in keys:
        changed = _with_first_changed(output[key], change)
        if changed is not output[key]:
            return _with_entry(output, key, changed)
    return output


def _with_entry(output: Any, key: Any, value: Any) -> Any:
    if isinstance(output, tuple):
        entries = [*output[:key], value, *output[key + 1 :]]
        named = hasattr(output, "_fields")
        return type(output)(*entries) if named else tuple(entries)
    other = copy.copy(output)
    other[key] = value
    return other
