"""What is known of a run at a glance, and its layers."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from svdhooks.analysis.reporting.measures import Maxima
from svdhooks.analysis.reporting.reading import Remarks
from svdhooks.display.overview import count, figure
from svdhooks.eventfile.writer import event_files
from svdhooks.runlog import RunLog

Tree = dict[str, Any]


def facts_of(log: RunLog, said: Remarks) -> list[list[str]]:
    """Label and text of what is worth knowing at a glance."""
    steps = log.steps.tolist()
    reach = f", steps {steps[0]:,} to {steps[-1]:,}" if len(steps) > 1 else ""
    found = [
        [
            "Records",
            f"{len(steps):,}{reach or (f', step {steps[0]:,}' if steps else '')}",
        ],
        ["Layers", f"{len(log.layers):,}"],
    ]
    points = (("input", "entering"), ("output", "leaving"))
    counts = [
        f"{point}_count" for point, _ in points if f"{point}_count" in log.metrics
    ]
    if counts:
        found += _samples(log, counts)
    for name, label, form in _COSTS:
        if name in log.run_metrics:
            value = float(log.run_series(name)[1][-1])
            if text := form(value):
                found.append([label, text])
    if said.failed:
        found.append(["Failed", count(said.failed, "measurement")])
    found.append(["Recorded by", f"svdhooks {log.meta.get('svdhooks', '(unknown)')}"])
    if written := _written(log):
        found.append(["Last written", written])
    return found


def _samples(log: RunLog, counts: list[str]) -> list[list[str]]:
    """How many samples the covariances rest on."""
    seen: set[int] = set()
    for layer in log.layers[:50]:
        for metric in counts:
            values = log.series(layer, metric)[1]
            seen |= {int(v) for v in values[-1:].tolist() if v == v}
    if not seen:
        return []
    low, high = min(seen), max(seen)
    text = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return [["Samples in the reference batch", text]]


def _share(value: float) -> str:
    if value >= 1:
        return f"{figure(value)} times as long as the training"
    return f"{value:.2%} of the training time"


def _seconds(value: float) -> str:
    return f"{figure(value)} s"


def _stretched(value: float) -> str:
    return f"{figure(value)} times, to keep within the budget" if value > 1 else ""


_COSTS = (
    ("overhead", "Recording took", _share),
    ("spent", "In all", _seconds),
    ("interval_stretch", "Interval stretched", _stretched),
)


def _written(log: RunLog) -> str:
    """When the run last wrote something."""
    times = []
    for path in event_files(log.directory):
        try:
            times.append(path.stat().st_mtime)
        except OSError:  # removed since the directory was listed
            continue
    if not times:
        return ""
    latest = dt.datetime.fromtimestamp(max(times)).astimezone()
    return latest.isoformat(sep=" ", timespec="seconds")


def layer_rows(log: RunLog, layers: tuple[str, ...], bounds: Maxima) -> list[Tree]:
    """The layers that are shown, with their place in the model."""
    rows = log.described
    found = []
    for name in layers:
        row = rows.get(name, {})
        shape = [int(n) for n in row.get("shape") or ()]
        found.append({
            "name": name,
            "kind": str(row.get("kind", "")),
            "shape": shape or None,
            "group": name.rpartition(".")[0],
            "note": _remark(row),
            "maximum": dict(bounds[name]),
        })
    return found


def _remark(row: Mapping[str, Any]) -> str:
    """What should be known of a layer's spectrum."""
    parts = []
    kind = str(row.get("kind", ""))
    if kind.startswith("conv"):
        parts.append("flattened kernel")
    if int(row.get("groups") or 1) > 1:
        parts.append(f"{row['groups']} blocks")
    if row.get("experts"):
        parts.append("median over the experts")
    if row.get("tied_to"):
        parts.append(f"shares its weight with {row['tied_to']}")
    if not row:
        parts.append("not in the layer table of the log")
    return ", ".join(parts)
