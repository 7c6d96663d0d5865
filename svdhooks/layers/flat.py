"""Parameters that FSDP1 keeps flattened to one per wrapped module.

Nothing here communicates.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Swap = tuple[nn.Module, str, Tensor]
"""Module, name of a parameter or buffer in it, the tensor to put in place."""


@dataclass(frozen=True, eq=False)
class FlatUnit:
    """A module of FSDP1 that holds parameters of its own, flattened to one.

    Attributes:
        root: The outermost module of FSDP1 around it.
        module: The module.
    """

    root: Any
    module: Any

    @property
    def dtype(self) -> torch.dtype:
        """In which the parameters are stored."""
        dtype: torch.dtype = self.module._handle.flat_param.dtype
        return dtype

    @property
    def bytes(self) -> int:
        """Of all its parameters together, gathered."""
        flat = self.module._handle.flat_param
        return int(flat._unpadded_unsharded_size.numel()) * int(flat.itemsize)


def is_flat_unit(module: nn.Module) -> bool:
    """Whether a module is a wrapper of FSDP1.

    Args:
        module: The module.

    Returns:
        True for ``FullyShardedDataParallel``.
    """
    return any(c.__name__ == "FullyShardedDataParallel" for c in type(module).__mro__)


def flat_units(model: nn.Module) -> list[FlatUnit]:
    """All of FSDP1's modules that hold parameters of their own.

    Args:
        model: With its wrappers.

    Returns:
        In the model's order.
    """
    found: list[FlatUnit] = []
    roots: list[tuple[Any, set[int]]] = []
    for module in model.modules():
        if not is_flat_unit(module):
            continue
        root = next((r for r, inside in roots if id(module) in inside), None)
        if root is None:
            root = module
            roots.append((module, {id(m) for m in module.modules()}))
        if getattr(module, "_handle", None) is not None:
            found.append(FlatUnit(root, module))
    return found


@dataclass(frozen=True, eq=False)
class FlatPlace:
    """Where a parameter is that FSDP1 keeps flattened.

    Attributes:
        unit: Gathered as a whole.
        module: Which holds the parameter.
        name: Of the parameter in it.
        shared: Further modules that hold it, and its name there.
    """

    unit: FlatUnit
    module: nn.Module
    name: str
    shared: tuple[tuple[nn.Module, str], ...] = ()


def flat_place(tensor: Any) -> FlatPlace | None:
    """The parameter for which a tensor stands in.

    Args:
        tensor: A tensor that `original_shapes` shows.

    Returns:
        The place; None if it is no stand-in.
    """
    place: FlatPlace | None = getattr(tensor, "_flat_place", None)
    return place


def stand_ins(unit: FlatUnit) -> list[Swap]:
    """Parameters of the original shapes without data, and where they stand.

    Args:
        unit: Whose parameters.

    Returns:
        What to put where.
    """
    flat = unit.module._handle.flat_param
    shared: dict[tuple[int, str], list[tuple[nn.Module, str]]] = {}
    for also in flat._shared_param_infos:
        first = id(also.prim_module), also.prim_param_name
        shared.setdefault(first, []).append((also.module, also.param_name))
    swaps: list[Swap] = []
    for info, shape in zip(flat._param_infos, flat._shapes, strict=True):
        others = tuple(shared.get((id(info.module), info.param_name), ()))
        empty = torch.empty(shape, dtype=unit.dtype, device="meta")
        parameter = nn.Parameter(empty, requires_grad=empty.is_floating_point())
        place = FlatPlace(unit, info.module, info.param_name, others)
        parameter._flat_place = place  # type: ignore[attr-defined]
        several = ((info.module, info.param_name), *others)
        swaps += [(module, name, parameter) for module, name in several]
    return swaps
