"""Which layers a model has, and what is skipped and why."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from svdhooks.layers.attention import attention_pairs, find_heads, with_heads
from svdhooks.layers.flat import flat_place
from svdhooks.layers.kinds import bare_parameter, rule_for
from svdhooks.layers.kinds_lora import is_lora, lora
from svdhooks.layers.layer import Layer, LayerTable, Skipped
from svdhooks.layers.select import Selector, check_selectors, matching
from svdhooks.layers.sharding import axes, is_dtensor, original_shapes
from svdhooks.layers.site import Site, class_is
from svdhooks.layers.uncovered import LAZY, reason_for, refused, unreadable


def unwrap(model: nn.Module) -> nn.Module:
    """Look through torch.compile, DDP, FSDP1, DataParallel, Fabric and DeepSpeed.

    Args:
        model: Possibly wrapped model.

    Returns:
        The module inside.
    """
    while (inner := _inside(model)) is not None:
        model = inner
    return model


_WRAPPED_BY = (
    # where a wrapper keeps the module, and patterns of the wrapper's class
    ("_orig_mod", ("*",)),
    ("module", ("torch.nn.parallel.*.DistributedDataParallel",)),
    ("module", ("torch.nn.parallel.*.DataParallel",)),
    ("module", ("deepspeed.*.DeepSpeedEngine",)),
    ("_forward_module", ("lightning*fabric.wrappers._FabricModule",)),
    ("_fsdp_wrapped_module", ("torch.distributed.fsdp.*.FullyShardedDataParallel",)),
)


def _inside(model: nn.Module) -> nn.Module | None:
    """The module in a wrapper; None if it is none."""
    held = model.__dict__.get("_modules", {})
    for attribute, patterns in _WRAPPED_BY:
        inner = held.get(attribute)
        if isinstance(inner, nn.Module) and class_is(model, *patterns):
            return inner
    return None


def find_layers(
    model: nn.Module, select: Selector | Sequence[Selector] | None = None
) -> LayerTable:
    """Find the linear maps of a model.

    Args:
        model: The model; wrappers are looked through.
        select: Which layers to watch: a glob on the canonical name
            (``"encoder.*"``), a module type, a predicate ``(name, module) -> bool``,
            or several of them (any may match). None: all.

    Returns:
        The layers and what is skipped.

    Raises:
        TypeError: If ``model`` is not a module or ``select`` is of a wrong kind.
        ValueError: If nothing can be watched.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"Found {type(model).__name__} as the model; expected a torch.nn.Module."
        )
    plain = unwrap(model)
    with original_shapes(model):
        modules = dict(named_modules(plain))
        survey = _survey(modules, plain)
        heads = find_heads(modules, survey.layers)
        layers = with_heads(survey.layers, heads)
        chosen = _with_ties(matching(layers, check_selectors(select)))
        chosen = tuple(map(_with_places, chosen))
    if not chosen and not survey.incomplete:
        raise ValueError(_nothing_to_watch(survey, select))
    kept = {layer.name for layer in chosen}
    left = [
        Skipped(layer.name, "not selected by layers=")
        for layer in survey.layers
        if layer.name not in kept
    ]
    pairs = attention_pairs(chosen, heads)
    return LayerTable(chosen, (*survey.skipped, *left), survey.incomplete, pairs)


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules once, in order, with canonical names.

    Args:
        model: The unwrapped model.

    Yields:
        Canonical name and module; the model itself is named after its class.
    """
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    inner = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
    names: dict[int, str] = {}
    for raw, module in model.named_modules():
        parent_raw, _, last = raw.rpartition(".")
        if not raw:
            name = ""
        else:
            parent = model.get_submodule(parent_raw)
            hidden = last in inner or (
                last == "module" and isinstance(parent, wrappers)
            )
            name = ".".join(filter(None, (names[id(parent)], "" if hidden else last)))
        names.setdefault(id(module), name)
        yield name or type(model).__name__.lower(), module


# --- the survey ------------------------------------------------------------------


@dataclass
class _Survey:
    """Everything found in a model, before selection."""

    layers: list[Layer] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    incomplete: bool = False
    claimed: set[int] = field(default_factory=set)
    covered: set[int] = field(default_factory=set)

    def skip(self, name: str, reason: str) -> None:
        self.incomplete |= reason == LAZY
        self.skipped.append(Skipped(name, reason))

    def take(self, site: Site, layers: Sequence[Layer]) -> None:
        """Take in what a rule found, and list what it left of the module."""
        self.covered.update(id(child) for child in site.module.modules())
        for layer in layers:
            reason = unreadable(layer)
            self.claimed.update(map(id, layer.sources()))
            if reason:
                self.skip(layer.name, reason)
            else:
                self.layers.append(layer)
        for name, child in site.module.named_modules(prefix=site.name):
            self.list_uncovered(name, child)
        if layers and not any(layer.factors is None for layer in layers):
            kind = type(site.module.base_layer).__name__
            self.skip(site.name, f"adapted by LoRA, but there is no rule for {kind}")

    def refuse(self, site: Site, reason: str) -> None:
        """List a module, or what it holds, with one reason."""
        self.covered.update(id(child) for child in site.module.modules())
        held = [
            (name, value)
            for name, value in site.module.named_parameters(prefix=site.name)
            if is_lazy(value) or axes(value) >= 2
        ]
        for name, value in held:
            if id(value) not in self.claimed:
                self.claimed.add(id(value))
                self.skip(name, reason)
        if not held:
            self.skip(site.name, reason)

    def list_uncovered(self, name: str, module: nn.Module) -> None:
        """List the matrices which a module holds directly and no rule reads."""
        for parameter, value in module._parameters.items():
            if value is None or id(value) in self.claimed:
                continue
            self.claimed.add(id(value))
            if is_lazy(value):
                if not parameter.startswith("bias"):  # no matrix, whatever its shape
                    self.skip(f"{name}.{parameter}", LAZY)
            elif axes(value) >= 2:
                self.take_bare(name, module, parameter)

    def take_bare(self, name: str, module: nn.Module, parameter: str) -> None:
        """A matrix that no rule for its module reads."""
        layer = bare_parameter(name, module, parameter)
        reason = unreadable(layer) if layer else reason_for(module, parameter)
        if layer and not reason:
            self.layers.append(layer)
        else:
            self.skip(f"{name}.{parameter}", reason or "")


def _survey(modules: Mapping[str, nn.Module], model: nn.Module) -> _Survey:
    survey = _Survey()
    for name, module in named_modules(model):
        if id(module) in survey.covered:
            continue
        above, _, attribute = name.rpartition(".")
        parent = None if module is model else modules.get(above, model)
        site = Site(name, module, parent, attribute)
        reason = refused(module)
        if reason:
            survey.refuse(site, reason)
            continue
        try:
            layers = _layers_at(site)
        except Exception as error:  # noqa: BLE001  # another version of its library
            survey.refuse(site, f"its rule failed: {type(error).__name__}: {error}")
            continue
        if layers:
            survey.take(site, layers)
        else:
            survey.list_uncovered(name, module)
    return survey


def _layers_at(site: Site) -> list[Layer]:
    """What the rules find at one module; nothing where there is no rule."""
    if is_lora(site.module):
        return lora(site, rule_for(site.module.base_layer))
    rule = rule_for(site.module)
    return rule(site) if rule else []


def _with_places(layer: Layer) -> Layer:
    """Note which of its parameters FSDP1 keeps flattened."""
    found = (flat_place(source) for source in layer.sources())
    places = tuple(place for place in found if place is not None)
    if not places:
        return layer
    bias = layer.bias_source
    tensors = () if bias is None else bias.tensors()
    place = next(filter(None, map(flat_place, tensors)), None)
    bias = bias if bias is None or place is None else replace(bias, flat=place)
    return replace(layer, flat=places, bias_source=bias)


def _with_ties(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Mark the layers whose weight an earlier one of them holds too."""
    first_name: dict[tuple[Any, ...], str] = {}
    return tuple(_with_tie(layer, first_name) for layer in layers)


def _with_tie(layer: Layer, first_name: dict[tuple[Any, ...], str]) -> Layer:
    """Mark a layer whose weight an earlier layer holds too."""
    if layer.computed:
        return layer  # computed anew at each reading: no storage to compare
    held = layer.sources()[0]
    if layer.sources()[0] is not held:  # a property may make it anew
        return layer
    if is_dtensor(held) or flat_place(held) is not None:
        # its memory is not all here: the parameter is known by its identity
        whole = torch.empty_strided(held.shape, held.stride(), device="meta")
        memory = id(held)
    else:
        whole = held.detach()
        memory = whole.untyped_storage().data_ptr()
    weight = layer.view(whole)
    if weight.numel() == 0 or memory == 0:
        return layer
    if weight.untyped_storage()._cdata != whole.untyped_storage()._cdata:
        # the view had to copy: what tells it apart is its parameter and its name there
        place = layer.name.removeprefix(layer.name.rpartition(".")[0])
        key: tuple[Any, ...] = (memory, whole.storage_offset(), *held.shape, place)
    else:
        # strides sorted: an embedding and a head may hold one weight transposed
        key = (
            memory,
            weight.storage_offset(),
            *sorted(zip(weight.shape, weight.stride(), strict=True)),
        )
    owner = first_name.setdefault(key, layer.name)
    return layer if owner == layer.name else replace(layer, tied_to=owner)


def _nothing_to_watch(survey: _Survey, select: object) -> str:
    if survey.layers:
        names = [layer.name for layer in survey.layers]
        shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        return (
            f"layers={select!r} matches no layer. The model has {len(names)}: {shown}. "
            "Globs match whole canonical names, for example 'encoder.*'."
        )
    if survey.skipped:
        reasons = "; ".join(f"{s.name}: {s.reason}" for s in survey.skipped[:5])
        advice = (
            " Materialise the model first (for example model.to_empty(device=...) and "
            "initialise it)."
            if "meta device" in reasons
            else ""
        )
        return f"The model has no layer that can be watched. Found {reasons}.{advice}"
    return (
        "The model has no layer that can be watched: no weight matrix was found in it. "
        "Expected at least one Linear, Conv, Embedding or MultiheadAttention."
    )
