"""Tensors in nested tuples, lists and mappings: batches, as loaders give them."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (int, float, complex, str, bytes, type(None))


def _same(value: Any) -> Any:
    return value


def map_tensors(
    function: Callable[[Tensor], Tensor],
    value: Any,
    other: Callable[[Any], Any] = _same,
) -> Any:
    """Apply a function to all tensors; mappings become plain dicts.

    Args:
        function: Applied to tensors.
        value: A tensor, or containers of them.
        other: Applied to what is neither a tensor nor a container.

    Returns:
        The same containers with new entries.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {k: map_tensors(function, entry, other) for k, entry in value.items()}
    if isinstance(value, (tuple, list)):
        entries = (map_tensors(function, entry, other) for entry in value)
        named = hasattr(value, "_fields")
        return type(value)(*entries) if named else type(value)(entries)
    return other(value)


def leaves(value: Any) -> Iterator[Any]:
    """What nested containers hold, in order."""
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        yield value
        return
    for entry in value:
        yield from leaves(entry)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested containers, in order."""
    return (leaf for leaf in leaves(value) if isinstance(leaf, Tensor))


def private(value: Any) -> Any:
    """A copy that later changes in the training loop do not reach.

    Args:
        value: A batch; objects of other classes in it are copied deeply, modules
            (a teacher that is passed along) are not.

    Returns:
        The copy; its tensors belong to no graph and are no inference tensors.
    """
    with torch.inference_mode(False), torch.no_grad():
        return map_tensors(lambda t: t.detach().clone(), value, _copied)


def _copied(value: Any) -> Any:
    return value if isinstance(value, nn.Module) else copy.deepcopy(value)


def with_data(value: Any) -> Any:
    """Return ``value`` if it can be a batch.

    Args:
        value: Anything.

    Returns:
        The same object.

    Raises:
        TypeError: If it holds neither a tensor nor an object of some class.
    """
    if all(isinstance(leaf, _PLAIN) for leaf in leaves(value)):
        raise TypeError(
            f"found {value!r}, which holds no data; expected a batch as the loader "
            "gives it, or as the model takes it"
        )
    return value
