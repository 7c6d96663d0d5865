"""Commands that read logs; no torch."""

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from svdhooks.cli.columns import (
    TREND_WIDTH,
    chosen,
    fitting,
    longest,
    spark_width,
    title_of,
    trend,
)
from svdhooks.cli.telling import guarded, open_runs
from svdhooks.display.bounds import BOUND, SKETCHED, bounded_steps, sign_of
from svdhooks.record import OK
from svdhooks.runlog import RunLog

_BORDER = 2
_NAME_WIDTH = 24
_SHORTEST_NAME = 12
_SHOWN = 5


def summary(
    logdir: Path,
    layers: str,
    console: Console | None = None,
    metrics: str | None = None,
) -> int:
    """Print a table per run: every layer's headline ranks over training.

    Args:
        logdir: Directory of a run, or of several.
        layers: Glob on layer names.
        console: Where to print.
        metrics: Globs on names of measures, with commas between, instead of the
            headline ranks.

    Returns:
        Exit status.
    """
    console = console or Console(emoji=False)  # ":smile:" may be a layer's name
    return guarded(lambda: _summary(logdir, layers, metrics, console))


def _summary(logdir: Path, layers: str, metrics: str | None, console: Console) -> int:
    for log in open_runs([logdir]).values():
        _print_run(log, layers, metrics, console)
    return 0


@dataclass(frozen=True)
class _Sheet:
    """What the tables of a run have in common.

    Attributes:
        log: The run.
        names: Layers that match.
        shapes: Layer -> shape in words; of those that are layers or taps.
        states: Layer -> whether something went wrong, in a word or two.
        bounded: Layer -> steps at which its local rank is marked as a lower bound.
        width: Of the console.
        every: Whether layers are shown that have none of the measures.
    """

    log: RunLog
    names: Sequence[str]
    shapes: Mapping[str, str]
    states: Mapping[str, str]
    bounded: Mapping[str, set[int]]
    width: int
    every: bool

    @property
    def room(self) -> int:
        """Characters for names and measures."""
        shape = max(longest(self.shapes.values()), len("shape"))
        status = max(longest(self.states.values()), len("status"))
        return self.width - shape - status - _BORDER * 3

    @property
    def column(self) -> int:
        """Characters that a measure needs."""
        return TREND_WIDTH + _BORDER + (2 if self.bounded else 0)


def _print_run(log: RunLog, layers: str, metrics: str | None, console: Console) -> None:
    recorded = (*log.layers, *log.edges)
    names = [name for name in recorded if fnmatch.fnmatchcase(name, layers)]
    sheet = _Sheet(
        log,
        names,
        _shapes(log),
        {name: _status(log, name) for name in names},
        bounded_steps(log.events),
        console.width,
        metrics is None,
    )
    steps = log.steps
    span = f"steps {steps[0]}–{steps[-1]}" if len(steps) else "no steps"
    noun = "record" if len(steps) == 1 else "records"
    heading = f"{escape(log.name)}   [dim]{len(steps)} {noun}, {span}[/dim]"
    columns, spared = chosen(log, metrics), list[str]()
    room = sheet.room - min(longest(names), _SHORTEST_NAME)
    if metrics is None:
        columns, spared = fitting(columns, room, sheet.column)
        console.print(_table(sheet, columns, heading))
    else:
        each = max(room // sheet.column, 1)
        for first in range(0, len(columns), each):
            console.print(_table(sheet, columns[first : first + each], heading))
            heading = ""
    _print_signs(sheet, columns, spared, console)
    if metrics is not None and not columns:
        console.print(f"{heading}\nNo measure matches --metrics. There are:")
        console.print(f"[dim]{escape(', '.join(log.metrics))}[/dim]", soft_wrap=True)
    _print_notes(log, names, console)


def _table(sheet: _Sheet, columns: Sequence[str], heading: str) -> Table:
    """A row per layer, a column per measure."""
    table = Table(
        title=heading or None,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    left = sheet.room - sheet.column * len(columns)
    # long names are folded rather than numbers cut off
    names = max(min(longest(sheet.names), _NAME_WIDTH, left), len("layer"))
    table.add_column("layer", overflow="fold", min_width=names)
    table.add_column("shape", justify="right", no_wrap=True)
    for metric in columns:
        table.add_column(escape(title_of(metric)), no_wrap=True)
    table.add_column("status", no_wrap=True)
    width = min(spark_width(left - names, len(columns)), len(sheet.log.steps))
    for name in sheet.names:
        cells = [_finite(sheet.log, name, metric) for metric in columns]
        # a pair of projections, or of layers, is no layer and has none of these ranks
        if (
            (sheet.every and name in sheet.shapes)
            or sheet.states[name] != OK
            or any(len(values) for _, values in cells)
        ):
            table.add_row(
                escape(name),
                sheet.shapes.get(name, ""),
                *(
                    trend(*cell, width, _signs(sheet, name, metric))
                    for cell, metric in zip(cells, columns, strict=True)
                ),
                sheet.states[name],
            )
    return table


def _signs(sheet: _Sheet, layer: str, metric: str) -> Mapping[int, str]:
    """Step -> what stands before a number."""
    return dict.fromkeys(sheet.bounded.get(layer, ()), sign_of(metric).strip())


def _print_signs(
    sheet: _Sheet, columns: Sequence[str], spared: Sequence[str], console: Console
) -> None:
    """Say what signs mean, and what there was no room for."""
    if not sheet.bounded.keys().isdisjoint(sheet.names):
        meanings = {SKETCHED: "an estimate", BOUND: "a lower bound"}
        signs = {sign_of(metric) for metric in columns}
        told = [f"{sign}{what}" for sign, what in meanings.items() if sign in signs]
        if told:
            console.print(
                f"[dim]{', '.join(told)}, by some random directions of the input."
                "[/dim]",
                soft_wrap=True,
            )
    if spared:
        console.print(
            f"[dim]Too narrow for {', '.join(spared)}: see --metrics.[/dim]",
            soft_wrap=True,
        )


def _shapes(log: RunLog) -> dict[str, str]:
    """Those of layers and taps; what a record alone has named is neither."""
    rows = log.meta.get("layers", [])
    known = [row for row in rows if "shape" in row or row.get("points")]
    return {row["name"]: _shape(row) for row in known}


def _shape(row: Mapping[str, Any]) -> str:
    """``out×in``, and how many such blocks or experts; the features of a tap."""
    if "shape" not in row:
        return "×".join(map(str, row.get("points", {}).values()))
    shape = "×".join(map(str, row["shape"]))
    blocks = max(row.get("groups", 1), row.get("experts", 0))
    return f"{blocks}·({shape})" if blocks > 1 else shape


def _print_notes(log: RunLog, chosen: list[str], console: Console) -> None:
    if hidden := len(log.layers) - len(set(log.layers).intersection(chosen)):
        does = "layer does" if hidden == 1 else "layers do"
        console.print(f"[dim]{hidden} {does} not match --layers.[/dim]")
    failures = [text for name in chosen if (text := _failures(log, name))]
    for text in failures[:_SHOWN]:
        console.print(f"[yellow]{escape(text)}[/yellow]", soft_wrap=True)
    if len(failures) > _SHOWN:
        rest = len(failures) - _SHOWN
        console.print(f"[yellow]… and in {rest} more.[/yellow]")
    if log.skipped:
        shown = "; ".join(f"{k}: {v}" for k, v in islice(log.skipped.items(), _SHOWN))
        rest = len(log.skipped) - _SHOWN
        more = f" and {rest} more" if rest > 0 else ""
        console.print(f"[dim]Not watched: {escape(shown)}{more}[/dim]", soft_wrap=True)
    noisy = sum(
        any("below_noise" in entry.marks for entry in log.statuses(layer))
        for layer in log.layers
    )
    if noisy:
        console.print(
            f"[dim]{noisy} of {len(log.layers)} layers have values below the noise floor "
            "of their precision.[/dim]",
            soft_wrap=True,
        )
    damage = {name: count for name, count in log.damage.items() if count}
    if damage:
        counts = ", ".join(f"{count} {name}" for name, count in damage.items())
        console.print(f"[yellow]Log: {counts}.[/yellow]")


def _finite(
    log: RunLog, layer: str, metric: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    try:
        steps, values = log.series(layer, metric)
    except KeyError:
        return np.empty(0, np.int64), np.empty(0)
    keep = np.isfinite(values)
    return steps[keep], np.asarray(values[keep], np.float64)


def _status(log: RunLog, layer: str) -> str:
    """Whether something went wrong with a layer, in a word or two."""
    entries = log.statuses(layer)
    if failed := sum(not entry.ok for entry in entries):
        return f"{failed} failed"
    limited = any("sample_limited" in entry.marks for entry in entries)
    return "few samples" if limited else OK


def _failures(log: RunLog, layer: str) -> str:
    """What failed of a layer and why; empty if nothing did."""
    counts = Counter(
        (entry.point, entry.status) for entry in log.statuses(layer) if not entry.ok
    )
    reasons = (f"{point} {n} × {why}" for (point, why), n in counts.most_common(3))
    return f"{layer}: {'; '.join(reasons)}" if counts else ""
