"""Why a model that is spread over processes is not watched, or not probed."""

from collections.abc import Callable
from typing import Any

from torch import distributed, nn

from svdhooks.distributed.tensor_parallel import is_tensor_parallel
from svdhooks.layers.flat import is_flat_unit
from svdhooks.layers.sharding import is_dtensor, is_partitioned
from svdhooks.layers.site import class_is
from svdhooks.layers.uncovered import ZERO_3

_PIPELINE = (
    "svdhooks does not watch models in pipeline parallelism: each process holds other "
    "layers, so that no two make the same records, and a batch passes in parts that are "
    "on their way while others are computed. Watch the module of one stage without "
    "probe= and without a process group, or scan checkpoints with svdhooks.scan"
)
_FLAT = (
    "FSDP1 (FullyShardedDataParallel) frees and restores its flattened parameters by "
    "hooks of the training, which cannot be run on the side of it: weights are recorded, "
    "inputs and outputs of layers are not. Use FSDP2, "
    "torch.distributed.fsdp.fully_shard, whose models can be probed"
)


_SPREAD = (
    "The model is in tensor parallelism, whose operations on DTensors have no forward-mode "
    "derivative: its Jacobians are not measured. Weights, inputs and outputs are; or take "
    "svdhooks.local_rank of an unsharded copy, such as one loaded from a checkpoint"
)


def why_refused(model: Any, observe: str = "probe") -> str | None:
    """Why a model that is spread over processes cannot be watched; None if it can.

    Args:
        model: The object that the training calls, with its wrappers.
        observe: What is observed, ``"probe"`` or ``"training"``.

    Returns:
        The reason, and what to do. No communication.
    """
    if class_is(model, "torch.distributed.pipelining.*"):
        return _PIPELINE
    if not isinstance(model, nn.Module):
        return None  # what is no module is refused elsewhere
    if any(map(is_partitioned, model.parameters())):
        return f"The model's weights are {ZERO_3}."
    if observe == "training" and is_tensor_parallel(model):
        return (
            'observe="training" is not possible with tensor parallelism: in the '
            "training each process sees parts of what passes a layer, and gathering "
            'them would slow down every step. Use observe="probe"'
        )
    return _meshes_do_not_fit(model)


def why_not_probed(model: nn.Module) -> str | None:
    """Why a model cannot be run on the side of its training; None if it can.

    Args:
        model: The object that the training calls, with its wrappers.

    Returns:
        The reason, and what to do. No communication.
    """
    return _FLAT if any(map(is_flat_unit, model.modules())) else None


def why_not_differentiated(model: nn.Module) -> str | None:
    """Why the Jacobians of a model cannot be measured; None if they can.

    Args:
        model: The object that the training calls, with its wrappers, or without.

    Returns:
        The reason, and what to do. No communication.
    """
    if is_tensor_parallel(model):
        return _SPREAD
    return why_not_probed(model)


def needs_all(model: nn.Module) -> bool:
    """Whether a forward of a model communicates, so that all processes have to run it.

    Args:
        model: The object that the training calls, with its wrappers.

    Returns:
        True for FSDP and tensor parallelism. No communication.
    """
    parameters = any(is_dtensor(parameter) for parameter in model.parameters())
    return parameters or any(map(is_flat_unit, model.modules()))


def one_model(model: Any) -> bool:
    """Whether processes are known to train one model together.

    Args:
        model: The object that the training calls, with its wrappers.

    Returns:
        True for DDP, FSDP and tensor parallelism. No communication.
    """
    ddp = nn.parallel.DistributedDataParallel
    if not isinstance(model, nn.Module):
        return False  # which is told elsewhere
    return needs_all(model) or any(isinstance(x, ddp) for x in model.modules())


def _meshes_do_not_fit(model: nn.Module) -> str | None:
    meshes = {id(p.device_mesh): p for p in model.parameters() if is_dtensor(p)}
    if not meshes or not distributed.is_initialized():
        return None
    world = distributed.get_world_size()
    for parameter in meshes.values():
        mesh = root_mesh(parameter.device_mesh)
        if mesh.size() != world or mesh.get_coordinate() is None:
            return (
                f"Found parameters on a mesh of {mesh.size()} of the {world} processes; "
                "expected all processes to hold parts of each layer, since all take part "
                "in reading it. Make one mesh of all processes, for example "
                "init_device_mesh(device, (data, tensor)), and take its dimensions"
            )
    return None


def root_mesh(mesh: Any) -> Any:
    """The mesh of which another is a dimension.

    Args:
        mesh: A mesh.

    Returns:
        The whole mesh; the same one if it is no part.
    """
    find: Callable[[], Any] | None = getattr(mesh, "_get_root_mesh", None)
    if find is None:  # before torch 2.8
        from torch.distributed.device_mesh import _mesh_resources

        return _mesh_resources.get_root_mesh(mesh)
    return find()
