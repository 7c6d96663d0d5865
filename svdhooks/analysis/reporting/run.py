"""One run, and several, as the data of a page."""

import datetime as dt
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from svdhooks import __version__
from svdhooks.alarms import loss_source
from svdhooks.alarms.choosing import Choice
from svdhooks.analysis.reporting import graphs, histories
from svdhooks.analysis.reporting.facts import facts_of, layer_rows
from svdhooks.analysis.reporting.gathering import Gathering
from svdhooks.analysis.reporting.judging import Alarmed, alarmed, as_rows, judged
from svdhooks.analysis.reporting.measures import maxima, measures
from svdhooks.analysis.reporting.reading import Remarks, Room, as_json, remarks
from svdhooks.analysis.reporting.spectra import spectra
from svdhooks.runlog import RunLog
from svdhooks.web.page import PageData

FAILURES = 200
"""Measurements that failed, at most, of which a page tells."""
_SKIPPED = 1000
_DIFFERENCES = 300
_CURVES = 60

Tree = dict[str, Any]


def page_data(
    runs: Mapping[str, RunLog], title: str, alarms: Choice, size: int | float
) -> PageData:
    """Gather everything that a page shows.

    Args:
        runs: Name -> run.
        title: Of the page.
        alarms: Rules to apply, as `svdhooks.watch(alarms=)` takes them.
        size: Bytes that arrays and text may take, all runs together.

    Returns:
        The data.

    Raises:
        TypeError: If something in ``alarms`` is neither a name nor a rule.
        ValueError: If there is no such preset or rule.
    """
    page = PageData()
    each = size / max(len(runs), 1)
    found = [_run(page, name, log, alarms, each) for name, log in runs.items()]
    made = dt.datetime.now().astimezone().isoformat(timespec="seconds")
    page.tree = {
        "v": 1,
        "title": title,
        "made": made,
        "svdhooks": __version__,
        "runs": found,
        "comparison": _comparison(runs, found),
    }
    return page


def _run(page: PageData, name: str, log: RunLog, alarms: Choice, size: float) -> Tree:
    """One run."""
    found = alarmed(log, alarms)
    gathering = Gathering(log, page, Room(size), found.named)
    gathering.choose()
    said = remarks(log, gathering.steps.tolist(), FAILURES)
    bounds = maxima(log, gathering.layers)
    tree: Tree = {"name": name, "path": str(log.log_dir)}
    tree |= told(gathering, found, said)
    tree |= {
        "verdict": judged(gathering, found, bounds, said).as_dict(),
        "layers": layer_rows(log, gathering.layers, bounds),
        "scalars": histories.scalars(gathering, loss_source(log)),
        "run_measures": histories.run_measures(gathering),
        "local_rank": histories.local_ranks(gathering, said),
        "ledger": histories.ledgers(gathering),
        "pairs": graphs.pairs(gathering),
        "internal": graphs.internal(gathering),
        "descrambled": graphs.descrambled_layers(gathering),
        "measures": measures(gathering, bounds, said),
        "spectra": spectra(gathering),
        "notes": gathering.notes,
    }
    return tree


def told(gathering: Gathering, found: Alarmed, said: Remarks) -> Tree:
    """What a run says of itself.

    Args:
        gathering: The run.
        found: Its alarms.
        said: What is said of its measurements.

    Returns:
        A part of its tree.
    """
    log = gathering.log
    skipped = log.skipped
    gathering.note(
        min(len(skipped), _SKIPPED),
        len(skipped),
        "skipped modules are listed",
        "log.skipped has all.",
    )
    gathering.note(
        len(said.failures),
        said.failed,
        "failed measurements are listed",
        "log.each_event() gives all.",
    )
    kept = list(itertools.islice(skipped.items(), _SKIPPED))
    gathering.room.left -= sum(len(a) + len(b) + 10 for a, b in kept)
    return {
        "hparams": as_json(dict(log.hparams)),
        "facts": facts_of(log, said),
        "steps": gathering.add(gathering.steps),
        "logged_steps": gathering.add(logged_steps(gathering)),
        "alarms": as_rows(found),
        "alarms_call": found.call,
        "failures": [list(row) for row in said.failures],
        "failed": said.failed,
        "skipped": [list(row) for row in kept],
        "settings": as_json(log.settings),
        "damage": dict(log.damage),
    }


def logged_steps(gathering: Gathering) -> Any:
    """The logger's x coordinate at the steps that are shown."""
    log, steps = gathering.log, gathering.steps
    if "logged_step" not in log.run_metrics:
        return steps
    at, values = log.run_series("logged_step")
    known = dict(zip(at.tolist(), values.tolist(), strict=True))
    shown = [known.get(step, step) for step in steps.tolist()]
    whole = [int(x) if float(x).is_integer() else x for x in shown]
    return np.array(whole)


def _comparison(runs: Mapping[str, RunLog], found: list[Tree]) -> Tree | None:
    """The runs against each other; why not, as a note, where that cannot be."""
    if len(runs) < 2:
        return None
    from svdhooks.analysis.comparison import compare

    try:
        compared = compare(runs).as_dict(curves=_CURVES)
    except (ValueError, KeyError) as error:
        found[0]["notes"].append(f"The runs are not compared: {error.args[0]}")
        return None
    rows = compared["rows"]
    if len(rows) > _DIFFERENCES:
        compared["rows"] = rows[:_DIFFERENCES]
        compared["notes"].append(
            f"{_DIFFERENCES} of {len(rows):,} differences are listed, the surest first. "
            "svdhooks.compare(runs).rows() has all."
        )
    for curve in compared["curves"]:
        layer, metric = curve["layer"], curve["metric"]
        curve["call"] = (
            "compared = svdhooks.compare(runs)\n"
            f"[compared.curve({layer!r}, {metric!r}).bands(g) for g in compared.groups]"
        )
    return compared | {"call": "svdhooks.compare(runs)"}
