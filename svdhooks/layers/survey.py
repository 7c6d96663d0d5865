"""Which layers a model has, and what is skipped and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from svdhooks.layers.kinds import rule_for
from svdhooks.layers.layer import Layer, LayerTable, Skipped
from svdhooks.layers.select import Selector, check_selectors, matching


def unwrap(model: nn.Module) -> nn.Module:
    """Look through torch.compile, DistributedDataParallel and DataParallel.

    Args:
        model: Possibly wrapped model.

    Returns:
        The module inside.
    """
    parallel = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    while True:
        if isinstance(
            inner := model.__dict__.get("_modules", {}).get("_orig_mod"), nn.Module
        ):
            model = inner
        elif isinstance(model, parallel):
            model = model.module
        else:
            return model


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
    survey = _survey(unwrap(model))
    chosen = _with_ties(matching(survey.layers, check_selectors(select)))
    if not chosen and not survey.incomplete:
        raise ValueError(_nothing_to_watch(survey, select))
    kept = {layer.name for layer in chosen}
    left = [
        Skipped(layer.name, "not selected by layers=")
        for layer in survey.layers
        if layer.name not in kept
    ]
    return LayerTable(chosen, (*survey.skipped, *left), survey.incomplete)


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


def _survey(model: nn.Module) -> _Survey:
    survey = _Survey()
    claimed: set[int] = set()
    covered: set[int] = set()
    for name, module in named_modules(model):
        if id(module) in covered:
            continue
        rule = rule_for(module)
        if rule is None:
            _list_uncovered(survey, name, module, claimed)
            continue
        covered.update(id(child) for child in module.modules())
        claimed.update(id(p) for p in module.parameters())
        for layer in rule(name, module):
            reason = _unreadable(layer)
            survey.incomplete |= reason == _LAZY
            if reason:
                survey.skipped.append(Skipped(layer.name, reason))
            else:
                survey.layers.append(layer)
    return survey


_LAZY = "uninitialised (lazy); looked for again at every record until the first forward"


def _unreadable(layer: Layer) -> str | None:
    """Why the weight of a layer cannot be read; None if it can."""
    if "weight" in layer.module.__dict__ and not parametrize.is_parametrized(
        layer.module
    ):
        old = {"weight_g", "weight_orig"} & set(layer.module._parameters)
        if old:
            return (
                f"{old.pop()}: the old torch.nn.utils hook form; use "
                "torch.nn.utils.parametrizations, whose weight is always current"
            )
    weight = layer.parameter_value()
    if not isinstance(weight, Tensor):
        return f"its weight is a {type(weight).__name__}, not a tensor (quantised?)"
    if is_lazy(weight):
        return _LAZY
    if weight.is_meta:
        return "on the meta device: it has no values yet"
    if hasattr(weight, "placements"):  # a DTensor: reading it would communicate
        return "sharded over several processes, which this version does not read"
    if weight.layout != torch.strided:
        return f"its weight is {weight.layout}, not dense"
    if not (weight.is_floating_point() or weight.is_complex()) or weight.itemsize < 2:
        return f"its weight is {weight.dtype}: quantised weights are not supported"
    return None


def _with_ties(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Mark the layers whose weight an earlier one of them holds too."""
    first_name: dict[tuple[Any, ...], str] = {}
    return tuple(_with_tie(layer, first_name) for layer in layers)


def _with_tie(layer: Layer, first_name: dict[tuple[Any, ...], str]) -> Layer:
    """Mark a layer whose weight an earlier layer holds too."""
    if parametrize.is_parametrized(layer.module, layer.parameter):
        return layer  # computed anew at each reading: no storage to compare
    weight = layer.weight()
    # strides sorted: an embedding and a head may hold one weight transposed
    key = (
        weight.untyped_storage().data_ptr(),
        weight.storage_offset(),
        *sorted(zip(weight.shape, weight.stride(), strict=True)),
    )
    if weight.numel() == 0 or key[0] == 0:
        return layer
    owner = first_name.setdefault(key, layer.name)
    return layer if owner == layer.name else replace(layer, tied_to=owner)


def _list_uncovered(
    survey: _Survey, name: str, module: nn.Module, claimed: set[int]
) -> None:
    """List the matrices which a module without a rule holds directly."""
    for parameter, value in module._parameters.items():
        if value is None or id(value) in claimed:
            continue
        claimed.add(id(value))
        if is_lazy(value):
            survey.incomplete = True
            survey.skipped.append(Skipped(f"{name}.{parameter}", _LAZY))
        elif value.ndim >= 2:
            survey.skipped.append(
                Skipped(f"{name}.{parameter}", _uncovered_reason(module))
            )


def _uncovered_reason(module: nn.Module) -> str:
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return f"{type(module).__name__}: a scale per element, not a linear map"
    return f"a parameter of {type(module).__name__}, for which this version has no rule"


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
