"""Which layers a state dict holds: names and shapes instead of modules.

Where the kind of a module is known from the names of its tensors, one of that kind is
made on the meta device, without values, and the same rule reads it that reads the
module of a live model. What names and shapes do not tell is taken for granted by the
rules below, and said in the layer's row.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from svdhooks.checkpoint.fused import fused_parts
from svdhooks.checkpoint.kinds import (
    NO_MATRIX,
    Group,
    Kind,
    attribute_of,
    kind_of,
    own_name,
)
from svdhooks.checkpoint.sources import Desk, from_file, joined, unreadable
from svdhooks.checkpoint.stored import Stored, Tensors
from svdhooks.layers import Layer, Skipped
from svdhooks.layers.kinds import rule_for
from svdhooks.layers.parts import split
from svdhooks.layers.site import Site


@dataclass
class Found:
    """Layers of a checkpoint.

    Attributes:
        layers: In the order of the file.
        skipped: What is no layer, and why.
        tensors: Layer -> the tensor that it is in.
        notes: Layer -> what was taken for granted.
    """

    layers: list[Layer] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    tensors: dict[str, Stored] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    claimed: set[str] = field(default_factory=set)

    def add(self, layers: list[Layer], stored: Mapping[str, Stored], note: str) -> None:
        """Take layers in.

        Args:
            layers: The layers.
            stored: Name of the layer -> its tensor.
            note: What was taken for granted of them.
        """
        self.layers += layers
        for layer in layers:
            self.tensors[layer.name] = stored[layer.name]
            if note:
                self.notes[layer.name] = note


def layers_in(tensors: Tensors, config: Mapping[str, Any], desk: Desk) -> Found:
    """Find the layers of a state dict.

    Args:
        tensors: Name -> tensor.
        config: Of the model; empty if it is not known.
        desk: Keeps the last tensor that was read.

    Returns:
        The layers, and what is none.
    """
    found = Found()
    survey = _Survey(tensors, config, desk, found)
    for owner, group in _grouped(tensors).items():
        if not group.keys() <= found.claimed:
            survey.take(owner, group)
    return found


def _grouped(tensors: Tensors) -> dict[str, dict[str, Stored]]:
    """Name of the module -> full name -> tensor."""
    groups: dict[str, dict[str, Stored]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(name.rpartition(".")[0], {})[name] = tensor
    return groups


class _Survey:
    """Goes through the modules of a file.

    Args:
        tensors: Name -> tensor.
        config: Of the model.
        desk: Keeps the last tensor that was read.
        found: Is filled.
    """

    def __init__(
        self, tensors: Tensors, config: Mapping[str, Any], desk: Desk, found: Found
    ) -> None:
        self._tensors = tensors
        self._config = config
        self._desk = desk
        self._found = found
        self._turned = _turned_names(tensors)
        self._channels = 0
        self._mixtures = {
            name.partition(".experts.")[0] for name in tensors if ".experts." in name
        }

    def take(self, owner: str, group: Mapping[str, Stored]) -> None:
        """Find the layers of one module, and list what else it holds."""
        leaves = {
            name.rpartition(".")[2]: tensor
            for name, tensor in group.items()
            if name not in self._found.claimed
        }
        out = {
            f"out_proj.{leaf}": self._tensors[name]
            for leaf in ("weight", "bias")
            if (name := joined(owner, f"out_proj.{leaf}")) in self._tensors
        }
        site = Group(
            owner,
            {**leaves, **out},
            first=not self._found.layers,
            channels=self._channels,
            turned=attribute_of(owner) in self._turned,
            config=self._config,
        )
        kind = kind_of(site)
        used: set[str] = set()
        if kind.module is not None:
            used = self._from_module(site, kind.module, kind.turned, kind.note)
        elif kind.layers is not None:
            used = self._take(site, kind.layers(self._desk), kind.note)
        if isinstance(kind.module, _CONVOLUTIONS):
            self._channels = kind.module.out_channels
        self._found.claimed |= used
        for leaf, tensor in leaves.items():
            if joined(owner, leaf) not in used:
                reason = self._no_layer(leaf, tensor, kind)
                self._found.skipped.append(Skipped(tensor.name, reason))

    def _from_module(
        self, site: Group, module: nn.Module, turned: bool, note: str
    ) -> set[str]:
        name = own_name(site.owner) or type(module).__name__.lower()
        rule = rule_for(module)
        layers = rule(Site(name, module)) if rule else []
        layers = from_file(layers, site.owner, self._tensors, self._desk, turned)
        if isinstance(module, nn.Linear):
            attribute = attribute_of(name)
            if attribute in _ROUTERS and name.rpartition(".")[0] in self._mixtures:
                layers = [replace(layers[0], kind="router")]
            parts, why = fused_parts(attribute, layers[0].shape, turned, self._config)
            layers, note = split(layers[0], parts), note or why
        return self._take(site, layers, note)

    def _take(self, site: Group, layers: list[Layer], note: str) -> set[str]:
        """Take in what can be read; the names of the tensors that are accounted for."""
        kept: list[Layer] = []
        places: dict[str, Stored] = {}
        used: set[str] = set()
        refused: dict[str, str] = {}
        for layer in layers:
            stored = self._tensors[joined(site.owner, layer.parameter)]
            used.add(joined(site.owner, layer.parameter))
            if layer.bias_source is not None:
                used.add(joined(site.owner, layer.bias_source.path))
            if reason := unreadable(stored, self._tensors):
                refused[stored.name] = reason
            else:
                kept.append(layer)
                places[layer.name] = stored
        self._found.skipped += [Skipped(n, why) for n, why in refused.items()]
        self._found.add(kept, places, note)
        return used | {
            joined(site.owner, leaf) for leaf in site.leaves if "bias" in leaf
        }

    def _no_layer(self, leaf: str, tensor: Stored, kind: Kind) -> str:
        """Why a tensor is no layer."""
        if len(tensor.shape) < 2 or _KEYS.fullmatch(leaf):
            return NO_MATRIX
        if kind.known(leaf):
            return kind.why
        shape = "×".join(map(str, tensor.shape))
        return unreadable(tensor, self._tensors) or (
            f"a parameter or buffer of shape {shape}: no known kind of module calls a "
            f"linear map {leaf!r}"
        )


def _turned_names(tensors: Tensors) -> set[str]:
    """Attributes whose weights are stored as in × out, as a Conv1D of transformers.

    The bias of one that is not square tells; the square ones of a GPT-2 follow it.

    Args:
        tensors: Of the file.

    Returns:
        Last parts of module names.
    """
    found = set()
    for name, weight in tensors.items():
        owner, _, leaf = name.rpartition(".")
        bias = tensors.get(f"{owner}.bias")
        if leaf != "weight" or bias is None or len(weight.shape) != 2:
            continue
        if bias.shape == weight.shape[1:] and bias.shape != weight.shape[:1]:
            found.add(attribute_of(owner))
    return found


_ROUTERS = ("gate", "router")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_KEYS = re.compile(r"num_batches_tracked|position_ids|.*running_(mean|var)")
