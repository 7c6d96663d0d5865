"""Weights of which each process holds a part: gathered one by one, or as sums of Grams.

All functions that communicate are called by every process, with the same layers in the
same order. Before each collective the processes agree that all of them can take part, so
an exception or missing memory in one of them cannot leave the others waiting.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

from svdhooks.distributed.rounds import Agree, Rounds, ShardError
from svdhooks.layers import Layer
from svdhooks.layers.flat import FlatPlace, Swap
from svdhooks.layers.sharding import (
    is_dtensor,
    is_whole,
    local,
    swapped,
)
from svdhooks.linalg._solvers import in_double, product

__all__ = [
    "Agree",
    "ShardError",
    "gathered",
    "gram_is_smaller",
    "is_sharded",
    "summed_gram",
]


def is_sharded(layer: Layer) -> bool:
    """Whether reading the weight of a layer needs communication.

    Args:
        layer: The layer.

    Returns:
        True if it is computed from a DTensor that no process holds whole, or from
        parameters of FSDP1. No communication.
    """
    return bool(layer.flat) or any(_is_part(x) for x in layer.sources())


def _is_part(value: Any) -> bool:
    return is_dtensor(value) and not is_whole(value)


@contextmanager
def gathered(
    layers: Sequence[Layer], keep: bool, agree: Agree, biases: bool = False
) -> Iterator[None]:
    """Gather everything that the weights of some layers are computed from.

    A collective. The tensors are gathered one after the other; FSDP1 gathers all that
    one of its modules holds. Inside, the modules of these layers hold whole tensors
    where ``keep`` is True, so that ``layer.weight()``, ``layer.factors()`` and all else
    that reads weights works as in one process. They are on the device of the mesh, also
    where shards are offloaded to the CPU.

    Args:
        layers: Equal on all processes, in the same order.
        keep: Whether this process wants them; the others free each at once.
        agree: Called once before each collective.
        biases: Whether their biases are gathered, too.

    Yields:
        Nothing. The modules hold their shards again afterwards.

    Raises:
        ShardError: On all processes, if one of them cannot take part.
    """
    rounds = Rounds(agree)
    swaps: list[Swap] = []
    for places in _by_unit(layers, biases):
        swaps += _of_unit(places, keep, rounds)
    done: dict[int, Tensor] = {}
    for module, name, held in _dtensors(layers, biases):
        if id(held) not in done:
            done[id(held)] = _whole(held, keep, rounds)
        swaps.append((module, name, done[id(held)]))
    rounds.finish()
    with swapped(swaps if keep else []):
        yield


def _reserve(size: int, device: Any) -> None:
    """Find out now whether there is memory for what a collective will take."""
    torch.empty(size, dtype=torch.uint8, device=device)


def _dtensors(layers: Sequence[Layer], biases: bool) -> list[Swap]:
    """Where the modules hold the DTensors of these layers; each place once."""
    found: dict[tuple[int, str], Swap] = {}
    for layer in layers:
        sources = (*layer.sources(), *(_of_bias(layer) if biases else ()))
        wanted = {id(x) for x in sources if is_dtensor(x)}
        for module in layer.module.modules() if wanted else ():
            for table in (module._parameters, module._buffers):
                for name, held in table.items():
                    if id(held) in wanted and held is not None:
                        found[id(module), name] = (module, name, held)
    return list(found.values())


def _whole(dtensor: Any, keep: bool, rounds: Rounds) -> Any:
    """All of a DTensor; None for a process that does not want it."""
    if is_whole(dtensor):
        return rounds.attempt(lambda: local(dtensor))
    mesh = dtensor.device_mesh

    def prepare() -> Any:
        # what is gathered, and what it is put together from
        _reserve(2 * dtensor.numel() * dtensor.itemsize, mesh.device_type)
        return _on_mesh(dtensor.detach())

    ready = rounds.attempt(prepare)
    rounds.enter()
    with torch.no_grad():
        whole = ready.full_tensor()
    return whole if keep else None


def _on_mesh(dtensor: Any) -> Any:
    """The same with its shard on the device of the mesh, if it is offloaded."""
    mesh, shard = dtensor.device_mesh, dtensor.to_local()
    if shard.device.type == mesh.device_type:
        return dtensor
    return type(dtensor).from_local(
        shard.to(mesh.device_type),
        mesh,
        dtensor.placements,
        run_check=False,
        shape=dtensor.shape,
        stride=dtensor.stride(),
    )


def _of_bias(layer: Layer) -> tuple[Any, ...]:
    return () if layer.bias_source is None else layer.bias_source.tensors()


def _by_unit(layers: Sequence[Layer], biases: bool) -> list[list[FlatPlace]]:
    """The flattened parameters of these layers, unit by unit."""
    units: dict[int, dict[tuple[int, str], FlatPlace]] = {}
    places = [place for layer in layers for place in layer.flat]
    if biases:
        known = (layer.bias_source for layer in layers)
        places += [x.flat for x in known if x is not None and x.flat is not None]
    for place in places:
        inside = units.setdefault(id(place.unit.module), {})
        inside[id(place.module), place.name] = place
    return [list(places.values()) for places in units.values()]


def _of_unit(places: Sequence[FlatPlace], keep: bool, rounds: Rounds) -> list[Swap]:
    """Copies of the parameters of one of FSDP1's modules."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp._runtime_utils import _lazy_init

    unit = places[0].unit

    def prepare() -> None:
        _reserve(2 * unit.bytes, unit.module.compute_device)
        # the first module to be unsharded would be taken for the root
        _lazy_init(unit.root, unit.root)

    def copies() -> list[Swap]:
        found: list[Swap] = []
        for place in places:
            whole = getattr(place.module, place.name).detach().clone()
            several = ((place.module, place.name), *place.shared)
            found += [(module, name, whole) for module, name in several]
        return found

    rounds.attempt(prepare)
    rounds.enter()
    with FullyShardedDataParallel.summon_full_params(
        unit.module, recurse=False, writeback=False
    ):
        return (rounds.attempt(copies) or []) if keep else []


# --- Grams -----------------------------------------------------------------------


def gram_is_smaller(layer: Layer) -> bool:
    """Whether the Gram of a sharded weight is smaller than the weight itself.

    Args:
        layer: The layer.

    Returns:
        True if it is the sum of the Grams of the shards, which are whole rows or whole
        columns, and takes fewer bytes, in float64, than the weight. No communication.
    """
    return _summed_axis(layer) is not None


def summed_gram(layer: Layer, keep: bool, agree: Agree) -> Tensor | None:
    """The Gram of a sharded weight, without gathering the weight.

    A collective over the dimensions of the mesh that shard. NaN and infinity stay.

    Args:
        layer: One of which `gram_is_smaller` says True.
        keep: Whether this process wants it.
        agree: Called once before the collective.

    Returns:
        The Gram of the smaller side, ``(k, k)`` in float64 on the device of the mesh;
        None where ``keep`` is False.

    Raises:
        ShardError: On all processes, if one of them cannot take part.
        ValueError: If it is not such a layer.
    """
    axis = _summed_axis(layer)
    if axis is None:
        raise ValueError(f"The shards of layer {layer.name!r} are not summed as Grams.")
    weight = layer.sources()[0]
    rounds = Rounds(agree)
    gram = rounds.attempt(lambda: _own_gram(weight, axis))
    rounds.enter()
    mesh = weight.device_mesh
    for dim in _sharding_dims(weight):
        distributed.all_reduce(gram, group=mesh.get_group(dim))
    return gram if keep else None


def _summed_axis(layer: Layer) -> int | None:
    """0 if each process holds rows, 1 if columns; None if the Gram is not the way."""
    if layer.factors or layer.computed or layer.groups > 1 or layer.experts:
        return None
    weight, *more = layer.sources()
    if more or not _is_part(weight) or not _is_flattened(layer, weight):
        return None
    if weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return None
    # strided shards are no shards to torch, but they have an axis, too
    placements = [weight.placements[dim] for dim in _sharding_dims(weight)]
    axes = {getattr(placement, "dim", None) for placement in placements}
    rows, columns = weight.shape[0], math.prod(weight.shape[1:])
    itemsize = int(weight.itemsize)
    if axes == {0}:
        return 0 if 8 * columns < itemsize * rows else None
    if axes & {0, None}:
        return None
    return 1 if 8 * rows < itemsize * columns else None


def _sharding_dims(dtensor: Any) -> list[int]:
    """Dimensions of the mesh along which processes hold different parts."""
    return [
        dim
        for dim, placement in enumerate(dtensor.placements)
        if dtensor.device_mesh.size(dim) > 1 and not placement.is_replicate()
    ]


def _is_flattened(layer: Layer, weight: Tensor) -> bool:
    """Whether a layer is its parameter as (rows, all other axes), or the transpose."""
    if weight.ndim < 2:
        return False
    flat = torch.empty(weight.shape, device="meta").flatten(1)
    seen = layer.view(torch.empty(weight.shape, device="meta"))
    known = {(x.shape, x.stride()) for x in (flat, flat.mT)}
    return seen.storage_offset() == 0 and (seen.shape, seen.stride()) in known


def _own_gram(weight: Any, axis: int) -> Tensor:
    """The share of this process, which may hold nothing."""
    sides = (weight.shape[0], math.prod(weight.shape[1:]))
    side = sides[1 - axis]
    shard = weight.detach().to_local()
    device = weight.device_mesh.device_type
    gram = torch.zeros(side, side, dtype=torch.float64, device=device)
    if shard.numel():
        tall = shard.flatten(1) if axis == 0 else shard.flatten(1).mT
        for rows in in_double(tall):
            gram += product(rows).to(gram.device)
    return gram
