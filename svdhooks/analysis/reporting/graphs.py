"""How layers meet: spectral graph, internal dimensions, descrambled weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from svdhooks.analysis.reporting.gathering import Gathering, chosen
from svdhooks.analysis.reporting.reading import thinned

if TYPE_CHECKING:
    from svdhooks.analysis.descrambling import DescrambledLayer
    from svdhooks.analysis.graph import PairAdjacency

_MOST_PAIRS = 24
_MOST_NEURONS = 96
_MOST_STEPS = 300
_DESCRAMBLED = 4
_CELLS = 2**16
_WIDE = 4
_EDGES = {
    "out": "internal_out",
    "in": "internal_in",
    "significant": "significant",
    "expected_false": "expected_false",
    "top": "top",
}

Entry = dict[str, Any]


def internal(gathering: Gathering) -> list[Entry]:
    """What the recorder measured of pairs of layers, over the run.

    Args:
        gathering: The run.

    Returns:
        One entry for each pair, as the page has it.
    """
    log, found = gathering.log, []
    room = gathering.room.share(0.1)
    pairs = log.edges if "edges_internal_in" in log.metrics else ()
    for pair in pairs:
        steps = log.series(pair, "edges_internal_in")[0]
        steps = steps[thinned(len(steps), _MOST_STEPS)]
        if not len(steps) or not room.take(len(steps) * 6 * _WIDE + 8 * len(pair)):
            continue
        curves: Entry = {}
        for key, field in _EDGES.items():
            at, values = log.series(pair, f"edges_{field}")
            curves[key] = gathering.page.add(values[np.isin(at, steps)])
        calls = {k: f"log.series({pair!r}, 'edges_{f}')" for k, f in _EDGES.items()}
        entry = {"pair": pair, "steps": gathering.page.add(steps), **curves}
        found.append(entry | {"calls": calls})
    gathering.room.left += room.left
    gathering.note(
        len(found),
        len(pairs),
        "pairs of layers have their measures on this page",
        "log.edges names all, and log.series(pair, 'edges_significant') has them.",
    )
    return found


def has_vectors(gathering: Gathering) -> bool:
    """Whether the run stored singular vectors, as far as names of files say."""
    return any(gathering.log.directory.glob("vectors-*.safetensors"))


def pairs(gathering: Gathering) -> list[Entry]:
    """The spectral graph at the last step that has vectors.

    Args:
        gathering: The run.

    Returns:
        One entry for each pair of layers, as the page has it.
    """
    log = gathering.log
    if not log.pairs or not has_vectors(gathering):
        return []
    from svdhooks.analysis.graph import spectral_graph  # it loads torch

    rows = {(row["source"], row["target"]): row for row in log.pairs}
    names = {f"{a}->{b}": (a, b) for a, b in rows}
    first = [n for n, pair in names.items() if not {*pair}.isdisjoint(gathering.named)]
    kept = chosen(tuple(names), first, _MOST_PAIRS)
    found = []
    for name in kept:
        try:
            graph = spectral_graph(log, pairs=[rows[names[name]]])
        except (KeyError, ValueError) as error:
            gathering.notes.append(_without("spectral graph", name, error))
            continue
        if (entry := _pair(gathering, graph.pairs[0], graph.step)) is not None:
            found.append(entry)
    gathering.note(
        len(found),
        len(rows),
        "pairs of layers are in the spectral graph on this page",
        "svdhooks.analysis.spectral_graph(log) has all.",
    )
    return found


def one_pair(
    gathering: Gathering, source: str, target: str, step: int | None
) -> Entry | None:
    """The spectral graph between two layers.

    Args:
        gathering: The run, which has vectors.
        source: The earlier layer.
        target: The later layer.
        step: One with vectors; None: the last.

    Returns:
        An entry, as the page has it; None if there is no room.

    Raises:
        KeyError: If a layer has no vectors.
        ValueError: If the step has none.
    """
    from svdhooks.analysis.graph import spectral_graph  # it loads torch

    rows = {(row["source"], row["target"]): row for row in gathering.log.pairs}
    graph = spectral_graph(gathering.log, step, pairs=[rows[source, target]])
    return _pair(gathering, graph.pairs[0], graph.step)


def one_descrambled(gathering: Gathering, layer: str, step: int | None) -> Entry:
    """The weight of a layer, before and after descrambling.

    Args:
        gathering: The run, which has vectors and moments.
        layer: Its name.
        step: One with vectors; None: the last.

    Returns:
        An entry, as the page has it.

    Raises:
        KeyError: If the layer has no vectors.
        TypeError: If its weight is complex.
        ValueError: If the step lacks vectors or moments.
    """
    from svdhooks.analysis.descrambling import descrambled  # it loads torch

    return _descrambled(gathering, descrambled(gathering.log, layer, step))


def _pair(gathering: Gathering, pair: "PairAdjacency", step: int) -> Entry | None:
    leading = pair.adjacency[:_MOST_NEURONS, :_MOST_NEURONS]
    call = (
        f"svdhooks.analysis.spectral_graph(log, {step}, "
        f"pairs=[({pair.source!r}, {pair.target!r})]).pairs[0]"
    )
    if leading.size * _WIDE + len(call) > gathering.room.left * 0.2:
        return None
    out, into = pair.internal_dimensions
    return {
        "source": pair.source,
        "target": pair.target,
        "kind": pair.kind,
        "stream": pair.stream,
        "step": step,
        "adjacency": gathering.add(leading),
        "shrunk": 1,  # nothing is averaged; the leading neurons are shown
        "of": list(pair.adjacency.shape),
        "threshold": pair.threshold,
        "significant": pair.significant,
        "expected_false": pair.expected_false,
        "internal": [int(out), int(into)],
        "call": f"{call}.adjacency",
    }


def descrambled_layers(gathering: Gathering) -> list[Entry]:
    """The weights of some layers, before and after descrambling.

    Args:
        gathering: The run.

    Returns:
        One entry for each of the first that allow it, as the page has it.
    """
    log, found = gathering.log, []
    if not has_vectors(gathering) or "output_moments_count" not in log.metrics:
        return []
    from svdhooks.analysis.descrambling import descrambled  # it loads torch

    rows = log.described
    small = [n for n in gathering.layers if 0 < _cells(rows.get(n, {})) <= _CELLS]
    for layer in chosen(small, gathering.named, _DESCRAMBLED):
        try:
            layer_found = descrambled(log, layer)
        except (KeyError, ValueError, TypeError):
            continue  # not all vectors, no moments, or a weight that is complex
        if layer_found.weight.size * 2 * _WIDE <= gathering.room.left * 0.2:
            found.append(_descrambled(gathering, layer_found))
    if found:
        gathering.note(
            len(found),
            len(gathering.layers),
            "layers are descrambled on this page",
            "svdhooks.analysis.descrambled(log, layer) does it for those of which all "
            "vectors and moments are recorded.",
        )
    return found


def _descrambled(gathering: Gathering, found: "DescrambledLayer") -> Entry:
    return {
        "layer": found.layer,
        "step": found.step,
        "operator": found.operator,
        "raw": gathering.add(found.weight),
        "descrambled": gathering.add(found.descrambled),
        "call": f"svdhooks.analysis.descrambled(log, {found.layer!r}, {found.step})",
    }


def _cells(row: Mapping[str, Any]) -> int:
    """Entries of a layer's weight."""
    shape = row.get("shape") or ()
    return int(np.prod(shape)) if len(shape) == 2 else 0


def _without(what: str, name: str, error: Exception) -> str:
    """Why something is missing on the page."""
    reason = error.args[0] if error.args else type(error).__name__
    return f"The {what} of {name} is missing: {reason}"
