"""What TensorBoard shows without any plugin: scalars, statistics, histograms, layout."""

from collections.abc import Iterable, Sequence

import numpy as np

from svdhooks import schema
from svdhooks.eventfile import values as eventvalues
from svdhooks.eventfile.values import Chart
from svdhooks.record import Record
from svdhooks.sinks._step import StepTable
from svdhooks.sinks.summary import over_layers, point_of

_TITLES = {
    ("tokens", "effective_rank"): "effective rank within a sequence",
    ("update", "relative_norm"): "size of updates, relative to the weights",
    ("attention_logits", "scaled_max"): (
        "largest attention logit for unit vectors (bound)"
    ),
    ("jacobian", "relative_local_rank"): "local rank (relative threshold)",
    ("jacobian", "local_rank"): "local rank (absolute threshold)",
    ("ledger", "input_null_share"): "share of the input that the weight ignores",
    ("ledger", "nonlinearity_removed_share"): "share that the nonlinearity removes",
    ("edges", "significant_share"): "share of significant edges between layers",
    ("edges", "internal_in"): "internal dimension between layers (earlier side)",
    ("subspace", "left_overlap_start"): "left leading subspace: overlap with the start",
    (
        "subspace",
        "right_overlap_start",
    ): "right leading subspace: overlap with the start",
}


def layer_scalars(table: StepTable, records: Sequence[Record]) -> list[bytes]:
    """The headline measures of each layer.

    Args:
        table: What the step measured.
        records: Those of layers that are written now.

    Returns:
        Values of a Summary, at most four per layer unless the user asked for more.
    """
    now = {
        (record.layer, point, field)
        for record in records
        for point, field in schema.STOCK
        if point_of(record) == point and field in record.values
    }
    return [
        eventvalues.scalar(schema.stock_tag(point, field, layer), value)
        for point, field in schema.STOCK
        for layer, value in table.measure(point, field).items()
        if (layer, point, field) in now
    ]


def statistics(table: StepTable) -> list[bytes]:
    """The headline measures' statistics over layers, and the share of time spent.

    Args:
        table: What the step measured.

    Returns:
        Values of a Summary. Layers whose measure is not finite do not count.
    """
    overhead = table.run.get("overhead")
    found = (
        [] if overhead is None else [eventvalues.scalar(schema.OVERHEAD_TAG, overhead)]
    )
    found += [
        eventvalues.scalar(f"svd_summary/{name}", table.run[name])
        for name in ("alarms_open", "alarms_raised")
        if name in table.run
    ]
    for point, field in schema.STOCK:
        levels = over_layers(table.measure(point, field).values())
        found += [
            eventvalues.scalar(schema.summary_tag(point, field, name), level)
            for name, level in levels.items()
        ]
    return found


def histograms(records: Sequence[Record]) -> list[bytes]:
    """The singular values of each weight, drawn over their index.

    Args:
        records: Of layers.

    Returns:
        Values of a Summary; none for spectra that failed throughout.
    """
    return [
        eventvalues.histogram(schema.histogram_tag(record.layer), record.spectrum)
        for record in records
        if point_of(record) == "weight" and np.isfinite(record.spectrum).any()
    ]


def layout(quantities: Iterable[str] = ()) -> bytes:
    """The Custom Scalars dashboard: all layers of a measure in one chart, and a band.

    Args:
        quantities: Names of those that are recorded; some have charts of their own.

    Returns:
        A value of a Summary.
    """
    asked = [more for name in quantities for more in schema.ON_REQUEST.get(name, ())]
    lines, bands = [], []
    for point, field in dict.fromkeys((*schema.HEADLINES, *asked)):
        title = _title(point, field)
        pattern = schema.stock_tag(point, field, "") + ".+"
        lines.append(Chart(title, lines=(pattern,)))
        median, low, high = (
            schema.summary_tag(point, field, name) for name in ("median", "p10", "p90")
        )
        bands.append(Chart(title, band=(median, low, high)))
    return eventvalues.layout({
        "svdhooks: median and 10 % to 90 % of the layers": bands,
        "svdhooks: every layer": lines,
    })


def _title(point: str, field: str) -> str:
    """What a chart shows, for people."""
    plain = f"{field.replace('_', ' ')} of {point}s"
    return _TITLES.get((point, field), plain)
