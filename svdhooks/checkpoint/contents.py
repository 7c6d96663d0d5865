"""The layers of a checkpoint, before any of them is read."""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from svdhooks.checkpoint.adapters import take_adapters
from svdhooks.checkpoint.computed import with_computed
from svdhooks.checkpoint.kinds import own_name
from svdhooks.checkpoint.modules import Found, layers_in
from svdhooks.checkpoint.opening import open_checkpoint
from svdhooks.checkpoint.sources import Desk
from svdhooks.checkpoint.stored import Checkpoint
from svdhooks.layers import Layer, Skipped


@dataclass(frozen=True, eq=False)
class Contents:
    """The layers of a checkpoint, before anything is measured.

    Attributes:
        checkpoint: Where they are.
        layers: Those that are chosen and measured.
        table: The same with those that share the weight of another.
        rows: Layer -> its row; of the chosen ones.
        skipped: What is no layer, not chosen or tied, and why.
    """

    checkpoint: Checkpoint
    layers: tuple[Layer, ...]
    table: tuple[Layer, ...]
    rows: Mapping[str, Mapping[str, Any]]
    skipped: tuple[Skipped, ...]


def contents_of(path: Path, globs: str | Sequence[str] = "*") -> Contents:
    """Find the layers of a checkpoint.

    Args:
        path: File or directory.
        globs: Of layer names.

    Returns:
        The layers, none of which is read yet.

    Raises:
        ValueError: If there are none, or no name fits.
    """
    checkpoint = open_checkpoint(path)
    found, desk = Found(), Desk()
    tensors, unknown = with_computed(checkpoint.tensors)
    rest = take_adapters(tensors, checkpoint.adapter, found)
    others = layers_in(rest, checkpoint.config, desk)
    found.layers += others.layers
    found.tensors |= others.tensors
    found.notes |= others.notes
    found.skipped += [*unknown, *others.skipped]
    if not found.layers:
        reasons = "; ".join(f"{x.name}: {x.reason}" for x in found.skipped[:3])
        raise ValueError(
            f"{path} holds no weight matrix that is read. Found {reasons}."
        )
    several = _with_ties(found)
    chosen = _chosen(path, several, (globs,) if isinstance(globs, str) else globs)
    left = [
        *checkpoint.left_out,
        *found.skipped,
        *(
            Skipped(x.name, "not selected by layers=")
            for x in several
            if x not in chosen
        ),
        *_ties(chosen),
    ]
    rows = {layer.name: _row(layer, found) for layer in chosen}
    own = tuple(layer for layer in chosen if layer.tied_to is None)
    return Contents(checkpoint, own, tuple(chosen), rows, tuple(left))


def _chosen(path: Path, several: Sequence[Layer], globs: Sequence[str]) -> list[Layer]:
    """The layers that any of the globs matches."""
    chosen = [x for x in several if any(fnmatch.fnmatchcase(x.name, g) for g in globs)]
    if not chosen:
        names = [layer.name for layer in several]
        shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        raise ValueError(
            f"layers={','.join(globs)!r} matches no layer. {path} has {len(names)}: "
            f"{shown}. Globs match whole names, for example 'encoder.*'."
        )
    return chosen


def _with_ties(found: Found) -> list[Layer]:
    """Mark the layers whose tensor an earlier one holds too."""
    first: dict[tuple[object, str], str] = {}
    layers = []
    for layer in found.layers:
        stored = found.tensors[layer.name]
        # of a tensor that is several layers, which of them
        part = layer.name.removeprefix(own_name(stored.name.rpartition(".")[0]))
        key = stored.memory, part
        alone = stored.memory is None or layer.factors is not None
        owner = layer.name if alone else first.setdefault(key, layer.name)
        tied = None if owner == layer.name else owner
        layers.append(replace(layer, tied_to=tied))
    return layers


def _ties(layers: Sequence[Layer]) -> Iterator[Skipped]:
    for layer in layers:
        if layer.tied_to is not None:
            yield Skipped(layer.name, f"tied to {layer.tied_to}, and measured there")


def _row(layer: Layer, found: Found) -> dict[str, Any]:
    row = {**layer.describe(), "tensor": found.tensors[layer.name].name}
    note = found.notes.get(layer.name)
    return {**row, "note": note} if note else row
