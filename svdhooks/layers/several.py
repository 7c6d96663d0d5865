"""The layers of one of several models, under names that begin with the model's."""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from svdhooks.layers.layer import Layer, LayerTable, Skipped
from svdhooks.layers.select import Selector, check_selectors, matching
from svdhooks.layers.survey import find_layers, unwrap


def find_layers_of(
    name: str, model: nn.Module, select: Selector | Sequence[Selector] | None
) -> LayerTable:
    """Find the layers of a model that may have a name.

    Args:
        name: Of the model, put before the names of its layers with a dot; empty for
            the only model.
        model: The model; wrappers are looked through.
        select: As of `find_layers`; globs match the whole names.

    Returns:
        The layers and what is skipped; without layers where none of a named model is
        selected.

    Raises:
        TypeError: If ``model`` is not a module or ``select`` is of a wrong kind.
        ValueError: If the model has nothing that can be watched.
    """
    if not name:
        return find_layers(model, select)
    selectors = check_selectors(select)
    try:
        table = find_layers(model)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Model {name!r}: {error}") from error
    renamed = {layer.name: _renamed(layer, name) for layer in table.layers}
    chosen = matching(renamed.values(), selectors)
    kept = {layer.name for layer in chosen}
    skipped = [Skipped(f"{name}.{s.name}", s.reason) for s in table.skipped]
    skipped += [
        Skipped(layer.name, "not selected by layers=")
        for layer in renamed.values()
        if layer.name not in kept
    ]
    pairs = tuple(
        replace(
            pair,
            name=f"{name}.{pair.name}",
            query=renamed[pair.query.name],
            key=renamed[pair.key.name],
        )
        for pair in table.attention
        if {f"{name}.{x.name}" for x in (pair.query, pair.key)} <= kept
    )
    return LayerTable(_owning(chosen), tuple(skipped), table.incomplete, pairs)


def _renamed(layer: Layer, name: str) -> Layer:
    tied = None if layer.tied_to is None else f"{name}.{layer.tied_to}"
    return replace(layer, name=f"{name}.{layer.name}", tied_to=tied)


def _owning(chosen: Sequence[Layer]) -> tuple[Layer, ...]:
    """A tie to a layer that is not watched is none; the next with the weight owns it."""
    owner: dict[str, str] = {}
    names = {layer.name for layer in chosen}
    found = []
    for layer in chosen:
        tied = layer.tied_to
        if tied is not None and tied not in names:
            tied = owner.setdefault(tied, layer.name)
            tied = None if tied == layer.name else tied
        found.append(replace(layer, tied_to=tied))
    return tuple(found)


def modules_of(model: nn.Module) -> dict[int, nn.Module]:
    """The modules of a model by identity; holding them keeps their identities unique.

    Args:
        model: With its wrappers.

    Returns:
        All modules within the wrappers.
    """
    modules = unwrap(model).modules()
    # a part that is wrapped by torch.compile meanwhile is the same part
    return {id(m): m for m in modules if "_orig_mod" not in m._modules}
