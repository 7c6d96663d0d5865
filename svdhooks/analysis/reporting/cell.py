"""One run as the data of a view in a notebook: rank map and layer view, no more."""

from svdhooks import __version__
from svdhooks.alarms import loss_source
from svdhooks.analysis.reporting import histories
from svdhooks.analysis.reporting.facts import layer_rows
from svdhooks.analysis.reporting.gathering import Gathering
from svdhooks.analysis.reporting.judging import alarmed, as_rows
from svdhooks.analysis.reporting.measures import maxima, measures
from svdhooks.analysis.reporting.reading import Room, remarks
from svdhooks.analysis.reporting.run import FAILURES, logged_steps
from svdhooks.analysis.reporting.spectra import spectra
from svdhooks.runlog import RunLog
from svdhooks.web.page import PageData


def cell_data(log: RunLog, layer: str | None, key: str, size: int | float) -> PageData:
    """Gather what a view in a notebook shows.

    Alarms are those that were raised live: applying rules takes longer than a redraw may.

    Args:
        log: The run.
        layer: Looked at first, and never left out; None: any.
        key: Under which the view remembers what is looked at.
        size: Bytes that arrays and text may take.

    Returns:
        The data.
    """
    page, found = PageData(), alarmed(log, None)
    first = [layer, *found.named] if layer is not None else found.named
    gathering = Gathering(log, page, Room(size), first)
    gathering.choose()
    said = remarks(log, gathering.steps.tolist(), FAILURES)
    bounds = maxima(log, gathering.layers)
    run = {
        "name": log.name,
        "steps": gathering.add(gathering.steps),
        "logged_steps": gathering.add(logged_steps(gathering)),
        "layers": layer_rows(log, gathering.layers, bounds),
        "alarms": as_rows(found),
        "scalars": histories.scalars(gathering, loss_source(log)),
        "local_rank": histories.local_ranks(gathering, said),
        "ledger": histories.ledgers(gathering),
        "measures": measures(gathering, bounds, said),
        "spectra": spectra(gathering),
        "notes": gathering.notes,
    }
    cell = {"key": key, "layer": layer, "records": len(log.steps)}
    page.tree = {"v": 1, "svdhooks": __version__, "runs": [run], "cell": cell}
    return page
