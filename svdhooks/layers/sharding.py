"""Parameters of which each process holds a part, and what modules show of them.

Nothing here communicates.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

from torch import Tensor, nn

from svdhooks.layers.flat import Swap, flat_units, stand_ins


def is_dtensor(value: Any) -> TypeGuard[Any]:
    """Whether a tensor is spread over a mesh of devices.

    Args:
        value: Anything.

    Returns:
        True for DTensors; torch's package of them is not imported.
    """
    return isinstance(value, Tensor) and hasattr(value, "device_mesh")


def is_whole(dtensor: Any) -> bool:
    """Whether every process of the mesh holds all of a DTensor.

    Args:
        dtensor: The DTensor.

    Returns:
        True where it is replicated on all dimensions of the mesh with two processes or
        more.
    """
    mesh = dtensor.device_mesh
    return all(
        placement.is_replicate() or (mesh.size(dim) == 1 and not placement.is_partial())
        for dim, placement in enumerate(dtensor.placements)
    )


def local(value: Any) -> Any:
    """What this process holds of a value that every process holds whole.

    Args:
        value: A tensor, or whatever stands for a weight.

    Returns:
        A plain tensor; the value itself if it is no DTensor.

    Raises:
        RuntimeError: If this process holds a part only.
    """
    if not is_dtensor(value):
        return value
    if not is_whole(value):
        raise RuntimeError(
            f"found a weight sharded as {value.placements}; expected to read it where "
            "all processes have gathered it: svdhooks.distributed.shards.gathered"
        )
    return value.detach().to_local()


def is_partitioned(parameter: Any) -> bool:
    """Whether DeepSpeed ZeRO-3 left this process an empty tensor in its place.

    Args:
        parameter: A parameter.

    Returns:
        True if it knows its real shape by another name only.
    """
    return hasattr(parameter, "ds_id") and hasattr(parameter, "ds_shape")


def axes(parameter: Tensor) -> int:
    """How many axes a parameter has, whatever is left of it here.

    Args:
        parameter: The parameter.

    Returns:
        Their number.
    """
    if is_partitioned(parameter):
        return len(parameter.ds_shape)  # type: ignore[attr-defined]
    return parameter.ndim


# --- what modules hold for a while ---------------------------------------------------


@contextmanager
def original_shapes(model: nn.Module) -> Iterator[None]:
    """Show each parameter in its global shape, whatever a process holds of it.

    In place of FSDP1's flattened parameters the modules hold tensors of their original
    shapes without data. FSDP2's are those that the optimiser updates.

    Args:
        model: With its wrappers.

    Yields:
        Nothing. The modules hold afterwards what they held before.
    """
    swaps = []
    for unit in flat_units(model):
        swaps += stand_ins(unit)
    with swapped(swaps), as_stored(model):
        yield


@contextmanager
def as_stored(model: nn.Module) -> Iterator[None]:
    """Let modules of FSDP2 hold the shards that the optimiser updates.

    FSDP2 leaves gathered parameters in place for a while: those of the root after a
    forward pass, all of them between micro-batches where it was told so; with mixed
    precision they are rounded.

    Args:
        model: With its wrappers.

    Yields:
        Nothing. The modules hold afterwards what they held before.
    """
    swaps: list[Swap] = []
    for group in parameter_groups(model):
        if not group.is_sharded:
            for parameter in group.fsdp_params:
                info, shard = parameter._module_info, parameter.sharded_param
                swaps.append((info.module, info.param_name, shard))
                places = zip(info.shared_modules, info.shared_param_names, strict=True)
                swaps += [(module, name, shard) for module, name in places]
    with swapped(swaps):
        yield


def shard_states(model: nn.Module) -> list[Any]:
    """The states of FSDP2 in a model, each once, in the model's order.

    Args:
        model: The model.

    Returns:
        What ``fully_shard`` keeps of each module, or modules, that it was given.
    """
    modules: Iterator[Any] = model.modules()
    found = [
        m._get_fsdp_state() for m in modules if hasattr(type(m), "_get_fsdp_state")
    ]
    states = {id(state): state for state in found}
    return list(states.values())


def groups_of(state: Any) -> list[Any]:
    """The groups of parameters that a state of FSDP2 gathers together.

    Args:
        state: The state.

    Returns:
        Usually one; none where a module has no parameters of its own.
    """
    several = getattr(state, "_fsdp_param_groups", None)  # torch 2.11 and later
    if several is not None:
        return list(several)
    return [] if state._fsdp_param_group is None else [state._fsdp_param_group]


def parameter_groups(model: nn.Module) -> list[Any]:
    """All groups of parameters that FSDP2 gathers together.

    Args:
        model: The model.

    Returns:
        In the model's order.
    """
    return [group for state in shard_states(model) for group in groups_of(state)]


@contextmanager
def swapped(swaps: list[Swap]) -> Iterator[None]:
    """Put other tensors in place of parameters or buffers, for this process only.

    Args:
        swaps: What to put where; a parameter may also be a plain attribute, as FSDP1
            leaves it.

    Yields:
        Nothing. The modules hold afterwards what they held before.
    """
    before: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for module, name, tensor in swaps:
            parameters: dict[str, Any] = module._parameters
            buffers: dict[str, Any] = module._buffers
            table = buffers if name in buffers else parameters
            # as FSDP1 leaves it; inside it is registered as in a model without wrappers
            if name in module.__dict__:
                before.append((module.__dict__, name, module.__dict__.pop(name)))
            before.append((table, name, table.get(name, _NOTHING)))
            table[name] = tensor
        yield
    finally:
        for table, name, held in reversed(before):
            if held is _NOTHING:
                del table[name]
            else:
                table[name] = held


_NOTHING = object()
