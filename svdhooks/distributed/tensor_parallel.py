"""Tensor parallelism: which models have it, and what passes their layers as a whole."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from svdhooks.layers.sharding import is_dtensor, parameter_groups


def is_tensor_parallel(model: nn.Module) -> bool:
    """Whether processes compute parts of a layer's output.

    Args:
        model: The model, with its wrappers.

    Returns:
        True if it has DTensors beyond those that FSDP2 made. No communication.
    """
    managed: set[tuple[int, str]] = set()
    for group in parameter_groups(model):
        for parameter in group.fsdp_params:
            if parameter.is_dtensor:
                return True
            info = parameter._module_info
            managed.add((id(info.module), info.param_name))
            places = zip(info.shared_modules, info.shared_param_names, strict=True)
            managed |= {(id(module), name) for module, name in places}
    return any(
        is_dtensor(parameter) and (id(module), name) not in managed
        for module in model.modules()
        for name, parameter in module._parameters.items()
    )


def whole_values(value: Any) -> Any:
    """What a module received or returned, with every DTensor gathered.

    A collective where there are DTensors: all processes of their mesh call the module.

    Args:
        value: Tensors in nested tuples, lists and mappings.

    Returns:
        The same of plain tensors.
    """
    return tree_map(_whole, value) if _is_spread(value) else value


def _is_spread(value: Any) -> bool:
    """Whether there is anything to gather; most calls have nothing."""
    if isinstance(value, Tensor):
        return _is_waiting(value) or is_dtensor(value)
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return isinstance(value, (tuple, list)) and any(map(_is_spread, value))


def _whole(value: Any) -> Any:
    if is_dtensor(value):
        for placement in value.placements:
            # an embedding's mask lasts for one reduction, which is that of the model
            mask = getattr(placement, "mask_buffer", None)
            if mask is not None and mask.data is not None:
                mask.refcount += 1
        value = value.detach().full_tensor()
    return value.wait() if _is_waiting(value) else value


def _is_waiting(value: Any) -> bool:
    """Whether a tensor is the result of a collective that may still be under way."""
    return type(value).__name__ == "AsyncCollectiveTensor"


def is_rearranged(module: nn.Module) -> bool:
    """Whether torch changes what a module returns, by a hook of its own.

    Args:
        module: The module.

    Returns:
        True where tensor parallelism hands out a local part, or FSDP2 reshards the
        parameters and rounds: what passes the module is seen before that.
    """
    hooks = module._forward_hooks.values()
    return any(_name(hook).startswith("torch.distributed.") for hook in hooks)


def _name(hook: Any) -> str:
    return str(getattr(hook, "__module__", ""))
