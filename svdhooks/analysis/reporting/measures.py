"""The measures of a run, layers × steps, and what bounds them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.analysis.reporting.gathering import Gathering
from svdhooks.analysis.reporting.meanings import Meaning, meaning_of
from svdhooks.analysis.reporting.reading import Remarks, matrix
from svdhooks.display.overview import HEADLINES
from svdhooks.runlog import RunLog

Maxima = Mapping[str, Mapping[str, float]]
"""Layer -> point -> the largest rank that is possible there."""

_OF_WEIGHT = ("weight", "update", "drift")
_OF_POINT = ("input", "output")


def maxima(log: RunLog, layers: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """The largest rank that each matrix of each layer can have.

    Args:
        log: The run.
        layers: Names.

    Returns:
        Layer -> ``"weight"``, ``"input"``, ``"output"`` -> rank, where it is known. Of a
        covariance also the samples bound it.
    """
    rows, metrics = log.described, set(log.metrics)
    found: dict[str, dict[str, float]] = {}
    for layer in layers:
        row = rows.get(layer, {})
        mine = found[layer] = {}
        if row.get("rank_limit"):
            mine["weight"] = float(row["rank_limit"])
        for point, features in dict(row.get("points", {})).items():
            mine[str(point)] = float(features)
        for point in _OF_POINT:
            if f"{point}_rank_limit" in metrics:
                limits = log.series(layer, f"{point}_rank_limit")[1]
                if np.isfinite(limits).any():
                    mine[point] = float(np.nanmax(limits))
    return found


def maximum_of(meaning: Meaning, bounds: Mapping[str, float]) -> float:
    """The largest value that a measure of a layer can have; NaN if it is not known."""
    if meaning.share:
        return 1.0
    if not meaning.rank:
        return np.nan
    if meaning.point in _OF_WEIGHT:
        return bounds.get("weight", np.nan)
    if meaning.point in _OF_POINT:
        return bounds.get(meaning.point, np.nan)
    return np.nan


def measures(
    gathering: Gathering, bounds: Maxima, remarks: Remarks
) -> list[dict[str, Any]]:
    """The measures that there is room for, the telling ones first.

    Args:
        gathering: The run.
        bounds: Of its layers.
        remarks: With the marks at its steps.

    Returns:
        One entry for each, as the page has it.
    """
    log, shown, left_out = gathering.log, [], []
    room = gathering.room.share(0.6)
    edges = tuple(f"{point}_" for point in ("edges",))
    for metric in gathering.metrics:
        if metric.startswith(edges):
            continue  # of pairs of layers, which have a place of their own
        values = matrix(log, gathering.layers, metric, gathering.steps)
        there = np.isfinite(values).any(axis=0)
        if not there.any() and metric not in HEADLINES:
            continue
        if not room.take(values.nbytes * max(float(there.mean()), 0.05)):
            left_out.append(metric)
            break
        meaning = meaning_of(metric)
        most = [maximum_of(meaning, bounds[layer]) for layer in gathering.layers]
        shown.append({
            "name": metric,
            "title": meaning.title,
            "meaning": meaning.text,
            "unit": meaning.unit,
            "point": meaning.point,
            "call": f"log.series(layer, {metric!r})",
            "values": gathering.page.add(values),
            "limited": _limited(gathering, meaning, remarks),
            "maximum": _maximum(gathering, np.array(most, dtype=np.float32)),
            "headline": metric in HEADLINES,
        })
    gathering.room.left += room.left
    if left_out:
        first = gathering.metrics.index(left_out[0])
        rest = gathering.metrics[first:]
        gathering.notes.append(
            f"{len(rest)} measures had no room on this page: {', '.join(rest[:8])}"
            f"{' …' if len(rest) > 8 else ''}. log.series(layer, metric) has them."
        )
    return shown


def _limited(
    gathering: Gathering, meaning: Meaning, remarks: Remarks
) -> dict[str, int] | None:
    """Where too few samples, or directions, limit what a measure says."""
    if not meaning.rank and "local_rank" not in meaning.field:
        return None
    places = {step: row for row, step in enumerate(gathering.steps.tolist())}
    shape = len(gathering.steps), len(gathering.layers)
    limited: NDArray[np.uint8] = np.zeros(shape, dtype=np.uint8)
    for column, layer in enumerate(gathering.layers):
        for step in remarks.limited.get((layer, meaning.point), ()):
            if step in places:
                limited[places[step], column] = 1
    return gathering.page.add(limited) if limited.any() else None


def _maximum(gathering: Gathering, most: NDArray[np.float32]) -> dict[str, int] | None:
    return gathering.page.add(most) if np.isfinite(most).any() else None
