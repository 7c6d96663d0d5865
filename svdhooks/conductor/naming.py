"""The names of several models: given by the user, and checked here."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import nn

from svdhooks.conductor.settings import Settings
from svdhooks.flow.pairs import user_pairs
from svdhooks.layers import LayerTable
from svdhooks.layers.tap import check_taps
from svdhooks.quantities import Quantity, SpectralEdges


def by_name(model: object) -> Mapping[str, nn.Module]:
    """Bring the models into one form.

    Args:
        model: As given by the user.

    Returns:
        One model under the empty name, or several.

    Raises:
        TypeError: If a name or a model is of a wrong kind.
        ValueError: If there is none, or a name has a dot.
    """
    if not isinstance(model, Mapping):
        return {"": model}  # type: ignore[dict-item]  # find_layers tells what is no module
    for name, module in model.items():
        if not (isinstance(name, str) and name and isinstance(module, nn.Module)):
            raise TypeError(
                f"Found {{{name!r}: {type(module).__name__}}} among the models; expected "
                "names and modules, such as {'generator': G, 'discriminator': D}."
            )
        if "." in name:
            raise ValueError(
                f"Model name {name!r}: a dot separates it from the names of its layers; "
                "expected a name without dots."
            )
    if not model:
        raise ValueError("Found an empty mapping as the models; expected at least one.")
    return model


def check_distinct(names: Sequence[str]) -> None:
    """Refuse taps that bear the name of a layer of another model.

    Args:
        names: Of all layers and taps.

    Raises:
        ValueError: If one of them appears twice.
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(
            f"taps= gives {repeated} the name of a layer of another model; choose another "
            "name."
        )


def check_pairs(quantities: Sequence[Quantity], tables: Sequence[LayerTable]) -> None:
    """Refuse given pairs of layers that are not there or do not fit.

    Args:
        quantities: What is measured.
        tables: What is watched of each model.

    Raises:
        ValueError: If a layer is unknown, or two cannot be compared.
    """
    for _, error in misfits(quantities, tables):
        raise error


def misfits(
    quantities: Sequence[Quantity], tables: Sequence[LayerTable]
) -> Iterator[tuple[str, ValueError]]:
    """Find given pairs of layers that are not there or do not fit.

    Args:
        quantities: What is measured.
        tables: What is watched of each model.

    Yields:
        Name of a pair, and what is wrong with it.
    """
    if any(table.incomplete for table in tables):
        return  # lazy modules have no shapes yet
    layers = [layer for table in tables for layer in table.layers]
    named = [{layer.name for layer in table.layers} for table in tables]
    for quantity in quantities:
        given = quantity.pairs if isinstance(quantity, SpectralEdges) else None
        for pair in given or ():
            try:
                user_pairs([pair], layers)
                _check_of_one(pair, named)
            except ValueError as error:
                yield "->".join(pair), error


def _check_of_one(pair: Sequence[str], named: Sequence[set[str]]) -> None:
    """Refuse layers of two models."""
    if not any(names.issuperset(pair) for names in named):
        raise ValueError(
            f"SpectralEdges(pairs=[{tuple(pair)!r}]): found layers of two models; "
            "expected both of one."
        )


def check_several(named: Mapping[str, nn.Module], settings: Settings) -> None:
    """Check what is given for each of several models.

    Args:
        named: The models.
        settings: Of the recorder.

    Raises:
        ValueError: If a name is that of none of them.
    """
    _check_names("probe", settings.probe, named, None)
    _check_names("forward", settings.forward, named, callable)
    for tap, (source, _) in check_taps(settings.taps).items():
        if source.partition(".")[0] not in named:
            raise ValueError(
                f"taps={{{tap!r}: {source!r}}}: expected a module whose name begins with "
                f"that of a model: {', '.join(f'{n}.…' for n in named)}."
            )


def _check_names(
    argument: str,
    value: object,
    named: Mapping[str, nn.Module],
    alone: Callable[[object], bool] | None,
) -> None:
    if value is None or (alone is not None and alone(value)):
        return
    keys = set(value) if isinstance(value, Mapping) else {type(value).__name__}
    if not isinstance(value, Mapping) or not keys <= named.keys():
        raise ValueError(
            f"{argument}= for several models: found {sorted(map(str, keys))}; expected a "
            f"mapping with some of the keys {sorted(named)}."
        )
