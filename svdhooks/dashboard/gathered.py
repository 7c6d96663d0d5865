"""What the page shows of a run, from its log: the report's parts, in smaller portions."""

from typing import Any

import numpy as np

from svdhooks.alarms import loss_source
from svdhooks.analysis.reporting import graphs, histories
from svdhooks.analysis.reporting.facts import layer_rows
from svdhooks.analysis.reporting.gathering import Gathering
from svdhooks.analysis.reporting.judging import Alarmed, as_rows, judged
from svdhooks.analysis.reporting.meanings import meaning_of
from svdhooks.analysis.reporting.measures import maxima, measures
from svdhooks.analysis.reporting.reading import Remarks, Room, remarks, thinned
from svdhooks.analysis.reporting.run import FAILURES, told
from svdhooks.analysis.reporting.spectra import spectrum
from svdhooks.dashboard.thinning import with_fewer_spectra
from svdhooks.eventfile.vectors import VectorName
from svdhooks.runlog import RunLog
from svdhooks.runlog.spectra import points_of
from svdhooks.schema import display_index
from svdhooks.web.page import PageData

SIZE = 8_000_000
"""Bytes of an overview: measures are thinned to some hundred steps first."""

_ENOUGH = 2**40
_MOST_VALUES = 256
_CELLS = 2**16

Tree = dict[str, Any]


def gathering_of(log: RunLog, found: Alarmed | None = None) -> Gathering:
    """A run on its way to the page, with room for an overview.

    Args:
        log: The run.
        found: Its alarms, whose layers are shown first.

    Returns:
        The gathering, with layers and steps chosen.
    """
    named = found.named if found is not None else []
    gathering = Gathering(log, PageData(), Room(SIZE), named)
    gathering.choose()
    return gathering


def remarks_of(gathering: Gathering) -> Remarks:
    """What is said of the measurements that are shown."""
    return remarks(gathering.log, gathering.steps.tolist(), FAILURES)


def overview(gathering: Gathering, found: Alarmed, said: Remarks) -> Tree:
    """A run but for what belongs to single layers and pairs.

    Args:
        gathering: The run; takes the arrays.
        found: Its alarms.
        said: What is said of its measurements.

    Returns:
        The report's tree of a run without ``verdict``, ``spectra``, ``local_rank``,
        ``ledger``, ``pairs``, ``internal`` and ``descrambled``; with ``has``, which says
        what of these there is.
    """
    log = gathering.log
    bounds = maxima(log, gathering.layers)
    return {
        **told(gathering, found, said),
        "layers": layer_rows(log, gathering.layers, bounds),
        **beside(gathering),
        "measures": measures(gathering, bounds, said),
        "has": _has(gathering),
        "notes": gathering.notes,
    }


def beside(gathering: Gathering) -> Tree:
    """What may grow between two records: scalars that others log."""
    return {
        "scalars": histories.scalars(gathering, loss_source(gathering.log)),
        "run_measures": histories.run_measures(gathering),
    }


def alarms(gathering: Gathering, found: Alarmed, said: Remarks, ready: bool) -> Tree:
    """The alarms and the verdict.

    Args:
        gathering: The run.
        found: Its alarms.
        said: What is said of its measurements.
        ready: Whether rules have gone through the log.

    Returns:
        A part of the run's tree.
    """
    if ready:
        bounds = maxima(gathering.log, gathering.layers)
        verdict = judged(gathering, found, bounds, said).as_dict()
    else:
        verdict = {
            "level": "unknown",
            "headline": "The rules are going through the log; the verdict follows.",
            "sentences": [],
            "figures": [],
        }
    return {
        "alarms": as_rows(found),
        "alarms_call": found.call,
        "verdict": verdict,
        "pending": not ready,
    }


def layer(log: RunLog, name: str, said: Remarks, most: int) -> PageData:
    """What belongs to one layer.

    Args:
        log: The run.
        name: Of the layer.
        said: What is said of its measurements.
        most: Largest number of steps of each curve and spectrum.

    Returns:
        ``spectra``, ``local_rank``, ``ledger`` as in the report, of this layer alone, and
        ``measures``: all of them, each at its own steps.
    """
    log.describe(name)
    page = PageData()
    one = Gathering(log, page, Room(_ENOUGH), layers=(name,))
    page.tree = {
        "layer": name,
        "row": layer_rows(log, (name,), maxima(log, (name,)))[0],
        "spectra": _spectra(one, name, most),
        "local_rank": histories.local_ranks(one, said).get(name, {}),
        "ledger": histories.ledgers(one).get(name),
        "measures": [_curve(one, name, metric, most) for metric in _metrics(log, name)],
    }
    return page


def pairs(log: RunLog) -> PageData:
    """How layers meet, but for the matrices: these are asked for one by one."""
    gathering = Gathering(log, PageData(), Room(SIZE))
    keys = ("source", "target", "kind", "stream")
    steps = vector_steps(log)
    gathering.page.tree = {
        "pairs": [{key: row.get(key) for key in keys} for row in log.pairs],
        "vector_steps": steps,
        "internal": graphs.internal(gathering),
        "descrambled": _descramblable(log) if steps else [],
        "notes": gathering.notes,
    }
    return gathering.page


def vector_steps(log: RunLog) -> list[int]:
    """The steps at which singular vectors were stored."""
    try:
        names = [VectorName.of(path.name) for path in log.directory.iterdir()]
    except OSError:  # somewhere else, or gone
        return []
    return sorted({name.step for name in names if name is not None})


def _has(gathering: Gathering) -> Tree:
    """What can be asked for besides."""
    log = gathering.log
    metrics = log.metrics
    return {
        "local_rank": any(m.startswith("jacobian_") for m in metrics),
        "ledger": any(m.startswith("ledger_") for m in metrics),
        "pairs": len(log.pairs),
        "internal": "edges_internal_in" in metrics,
        "vectors": len(vector_steps(log)),
    }


def _spectra(gathering: Gathering, layer: str, most: int) -> dict[str, Tree]:
    """The spectra of a layer: point -> entry."""
    found: dict[str, Tree] = {}
    whole = gathering.log
    for point in points_of(whole._store, layer):
        gathering.log, of = with_fewer_spectra(whole, layer, point, most)
        entry = spectrum(gathering, layer, point, _columns, gathering.room)
        if entry is not None:
            fewer = gathering.log is not whole
            found[point] = entry | {"of": of, "thinned": entry["thinned"] or fewer}
    gathering.log = whole
    return found


def _columns(shape: tuple[int, ...]) -> Any:
    """All rows, and as many columns as a spectrum's display form has."""
    return np.arange(shape[0]), np.array(display_index(shape[1], _MOST_VALUES))


def _metrics(log: RunLog, layer: str) -> list[str]:
    """The measures of a layer, the telling ones first."""
    meanings = sorted(map(meaning_of, log.metrics), key=lambda m: m.order)
    names = (m.metric for m in meanings if m.point != "edges")
    return [name for name in names if len(log.series(layer, name)[0])]


def _curve(gathering: Gathering, layer: str, metric: str, most: int) -> Tree:
    """One measure of a layer, at its own steps."""
    steps, values = gathering.log.series(layer, metric)
    kept = thinned(len(steps), most)
    meaning = meaning_of(metric)
    return {
        "name": metric,
        "title": meaning.title,
        "meaning": meaning.text,
        "unit": meaning.unit,
        "point": meaning.point,
        "steps": gathering.page.add(steps[kept]),
        "values": gathering.page.add(values[kept]),
        "of": len(steps),
        "call": f"log.series({layer!r}, {metric!r})",
    }


def _descramblable(log: RunLog) -> list[str]:
    """Layers whose weights may be descrambled: small matrices with moments."""
    if "output_moments_count" not in log.metrics:
        return []
    found = []
    for name, row in log.described.items():
        shape = row.get("shape") or ()
        if len(shape) == 2 and 0 < int(np.prod(shape)) <= _CELLS:
            found.append(name)
    return found
