"""Spectra over the run, with the edge that noise alone would have."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks import derived
from svdhooks.analysis.reporting.gathering import Gathering, chosen
from svdhooks.analysis.reporting.meanings import meaning_of
from svdhooks.analysis.reporting.reading import Room, thinned
from svdhooks.runlog import RunLog
from svdhooks.schema import display_index

EDGE = "marchenko_pastur_edge"

_ORDER = ("weight", "output", "input", "jacobian", "update", "drift", "heads")
_WITH_SPECTRA = ("stable_rank", "effective_rank")
_MOST_VALUES = 256
_FEW_VALUES, _FEW_STEPS = 48, 24
_SLIDER = 200
"""Largest number of steps: more than a slider on a screen tells apart."""
_WIDE = 4
_WORDS = 300
"""Bytes of an entry besides its arrays and its name."""

Entry = dict[str, Any]
Cut = Callable[[tuple[int, ...]], tuple[NDArray[np.int64], NDArray[np.int64]]]


def spectra(gathering: Gathering) -> dict[str, dict[str, Entry]]:
    """The spectra that there is room for: of layers that alarms name first.

    Args:
        gathering: The run.

    Returns:
        Layer -> point -> entry, as the page has it.
    """
    log, room = gathering.log, gathering.room.share(0.95)
    points = _points(log)
    least = _WIDE * _FEW_VALUES * _FEW_STEPS
    longest = max((len(name) for name in gathering.layers), default=0)
    most = int(room.left / (max(len(points), 1) * (least + 3 * longest + _WORDS)))
    layers = chosen(gathering.layers, gathering.named, max(most, 1))
    each = room.left / max(len(layers) * len(points), 1)
    found: dict[str, dict[str, Entry]] = {}
    for layer in layers:
        several: dict[str, Entry] = {}
        for point in points:
            cut = functools.partial(_cut, size=each)
            entry = spectrum(gathering, layer, point, cut, room)
            if entry is not None:
                several[point] = entry
        if several:
            found[layer] = several
    gathering.room.left += room.left
    gathering.note(
        len(layers),
        len(log.layers),
        "layers have their spectra on this page: those that alarms name, then evenly "
        "spread ones",
        "log.spectra(layer, point) has the others.",
    )
    return found


def _points(log: RunLog) -> list[str]:
    """The points that may have spectra."""
    named = [meaning_of(metric) for metric in (*log.metrics, *log.derived)]
    found = {m.point for m in named if m.field in _WITH_SPECTRA and m.point}
    return sorted(found, key=[*_ORDER, *sorted(found)].index)


def spectrum(
    gathering: Gathering, layer: str, point: str, cut: Cut, room: Room
) -> Entry | None:
    """One spectrum over the run.

    Args:
        gathering: The run.
        layer: Which layer.
        point: Which matrix of it.
        cut: Shape of the values -> which rows and columns of them are shown.
        room: For its arrays and words.

    Returns:
        An entry, as the page has it; None if there is none, or no room.
    """
    log = gathering.log
    call = f"log.spectra({layer!r}, {point!r})"
    try:
        steps, values = log.spectra(layer, point)
    except KeyError:
        return None
    if not values.size or not room.take(len(call) * 2 + len(layer) + _WORDS):
        return None
    index = log.spectrum_index(layer, point)
    rows, columns = cut(values.shape)
    edge = _edge(log, layer, point, steps[rows], values[rows], index)
    shown = np.ascontiguousarray(values[np.ix_(rows, columns)])
    if not room.take(shown.size * _WIDE):
        return None
    add = gathering.page.add
    return {
        "steps": add(steps[rows]),
        "index": add(index[columns]),
        "values": add(shown),
        "edge": None if edge is None else add(edge),
        "thinned": shown.shape != values.shape,
        "of": len(steps),
        "entries": int(index[-1]) + 1,
        "call": call,
        "edge_call": f"log.series({layer!r}, {f'{point}_{EDGE}'!r})",
    }


def _cut(
    shape: tuple[int, ...], size: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which steps, and which values of a spectrum, make no more than a size."""
    steps, n = shape
    cells = max(size / _WIDE, 1.0)
    wanted = max(int(cells / max(min(steps, 2 * _FEW_STEPS), 1)), _FEW_VALUES)
    k = min(n, _MOST_VALUES, wanted)
    most = min(max(int(cells / k), _FEW_STEPS), _SLIDER)
    return thinned(steps, most), display_index(n, k)


def _edge(
    log: RunLog,
    layer: str,
    point: str,
    steps: NDArray[np.int64],
    values: NDArray[Any],
    index: NDArray[np.int64],
) -> NDArray[np.float64] | None:
    """Where noise alone would end, at some steps; None where that is not defined."""
    if not derived.applicable(EDGE, point) or len(index) != int(index[-1]) + 1:
        return None
    whole = np.isfinite(values).all(axis=1)
    shape = log.described.get(layer, {}).get("shape", ())
    count: NDArray[np.float64] | None = None
    if f"{point}_count" in log.metrics:
        at, samples = log.series(layer, f"{point}_count")
        known = dict(zip(at.tolist(), samples.tolist(), strict=True))
        count = np.array([known.get(step, np.nan) for step in steps[whole].tolist()])
    edge = np.full(len(steps), np.nan)
    if not whole.any():
        return None
    try:
        edge[whole] = derived.derive(
            EDGE,
            values[whole],
            point=point,
            shape=(int(shape[-2]), int(shape[-1])) if len(shape) > 1 else None,
            count=count,
        )
    except ValueError:  # a log that does not say how many samples there were
        return None
    return edge if np.isfinite(edge).any() else None
