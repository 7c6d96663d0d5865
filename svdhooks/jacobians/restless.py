"""Models whose forward writes to their own weights and buffers."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from svdhooks.originals import point_to, set_version

Place = tuple[nn.Module, str]
"""A module and the name of a parameter or buffer of it."""


def places_written(
    model: nn.Module, run: Callable[[], None]
) -> tuple[list[Place], list[Place]]:
    """Call a model once, and look what of itself it writes to.

    Args:
        model: The model.
        run: Calls it.

    Returns:
        Parameters; buffers. Those that a context around this puts back count.
    """
    before = [(place, _state(place)) for place in _places(model)]
    run()
    written = [place for place, state in before if _state(place) != state]
    parameters = [(m, name) for m, name in written if name in m._parameters]
    return parameters, [place for place in written if place not in parameters]


class Start:
    """What a model holds where its forward writes, so that each begins with the same.

    It is put back before a forward and not after it: a graph of the one before may still
    need what it has written, which the next one writes again.

    Args:
        places: Where it writes.
    """

    def __init__(self, places: list[Place]) -> None:
        self._held = [
            (place, tensor, tensor.detach(), tensor.detach().clone(), tensor._version)
            for place in places
            if (tensor := _tensor(place)) is not None
        ]

    def put_back(self) -> None:
        """Begin anew."""
        with torch.no_grad():
            for (module, name), tensor, original, content, version in self._held:
                if name in module._buffers:
                    module._buffers[name] = tensor
                point_to(tensor, original)
                if tensor._version != version:
                    tensor.data.copy_(content)
                    set_version(tensor, version)


def _places(model: nn.Module) -> Iterator[Place]:
    for module in model.modules():
        for name in (*module._parameters, *module._buffers):
            yield module, name


def _tensor(place: Place) -> Tensor | None:
    module, name = place
    tensor = module._parameters.get(name, module._buffers.get(name))
    # inference tensors track no version and refuse updates in place
    return None if tensor is None or tensor.is_inference() else tensor


def _state(place: Place) -> tuple[int, int, int] | None:
    tensor = _tensor(place)
    if tensor is None or tensor.is_meta:
        return None
    return id(tensor), tensor._version, tensor.data_ptr()
