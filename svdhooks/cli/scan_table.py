"""What a scan of checkpoints prints, and its csv."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from svdhooks.cli.columns import longest, number
from svdhooks.record import OK
from svdhooks.wholefile import written_whole

if TYPE_CHECKING:
    from svdhooks.checkpoint import CheckpointScan, SeriesScan

_TITLES = {
    "numerical_rank": "numerical\nrank",
    "stable_rank": "stable\nrank",
    "effective_rank": "effective\nrank",
    "spectral_norm": "spectral\nnorm",
}
_SPARED = ("dtype", "spectral_norm", "effective_rank")
"""What is left out first where the terminal is narrow."""

_GAP = 2
_SHORTEST_NAME = 16
_SHOWN = 3
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def plain(text: str, most: int = 200) -> str:
    """A name as text: without control characters, and not longer than a screen.

    Args:
        text: Anything, such as the name of a tensor.
        most: Characters.

    Returns:
        The text with an escape in place of what cannot be printed.
    """
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def print_scan(
    scan: "CheckpointScan", measures: Sequence[str], console: Console
) -> None:
    """Print a row per layer.

    Args:
        scan: What was found.
        measures: Further measures that have columns.
        console: Where.
    """
    rows = [_cells(row, measures) for row in scan.rows_table()]
    width = console.width
    columns = ["shape", "dtype", *_TITLES, *measures, "status"]
    if all(row["status"] == OK for row in rows):
        columns.remove("status")
    for spared in _SPARED:
        if _room(rows, columns, width) < _SHORTEST_NAME:
            columns.remove(spared)
    heading = (
        f"{escape(plain(str(scan.path)))}   "
        f"[dim]{escape(scan.format)}, {len(rows)} layers[/dim]"
    )
    console.print(heading, soft_wrap=True)
    table = Table(
        header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    most = max(_room(rows, columns, width), _SHORTEST_NAME)
    table.add_column("layer", overflow="fold", max_width=most)
    for column in columns:
        left = column in ("dtype", "status")
        table.add_column(
            _title(column), justify="left" if left else "right", no_wrap=True
        )
    for row in rows:
        table.add_row(escape(row["layer"]), *(escape(row[c]) for c in columns))
    console.print(table)
    _print_notes(scan, console)


def print_series(
    series: "SeriesScan", measures: Sequence[str], console: Console
) -> None:
    """Print the log of a series, and what became of its checkpoints.

    Args:
        series: What was found.
        measures: Further measures that have columns.
        console: Where.
    """
    from svdhooks.cli.read import summary

    ranks = ("numerical_rank", "stable_rank", "effective_rank")
    names = ",".join(f"weight_{name}" for name in (*ranks, *measures))
    summary(series.log, "*", console, metrics=names)
    if series.unchanged:
        several = len(series.steps) - 1
        same = [n for n, steps in series.unchanged.items() if len(steps) == several]
        some = [n for n in series.unchanged if n not in same]
        for label, layers in (
            ("Unchanged through all checkpoints", same),
            ("Unchanged between some checkpoints", some),
        ):
            if layers:
                console.print(f"[dim]{label}: {_names(layers)}[/dim]", soft_wrap=True)
    for path, why in series.failed:
        text = escape(plain(f"Passed over {path}: {why}", 2000))
        console.print(f"[yellow]{text}[/yellow]", soft_wrap=True)


def write_csv(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    skipped: Iterable[tuple[str, str]],
) -> None:
    """Write a table, and beside it what was skipped.

    Text that a spreadsheet would take for a formula gets an apostrophe in front.

    Args:
        path: Of the table; what was skipped goes to ``<name>.skipped.csv``.
        rows: All with the same keys.
        skipped: Names and reasons.

    Raises:
        OSError: If they cannot be written.
    """
    _write(path, list(rows[0]) if rows else [], [list(row.values()) for row in rows])
    beside = path.with_name(f"{path.stem}.skipped{path.suffix or '.csv'}")
    _write(beside, ["tensor", "reason"], [list(pair) for pair in skipped])


def _write(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with (
        written_whole(path) as part,
        part.open("w", encoding="utf-8", newline="", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows([_safe(cell) for cell in row] for row in rows)


def _safe(cell: object) -> object:
    if isinstance(cell, str) and cell.startswith(_FORMULA):
        return f"'{cell}"
    return cell


def _cells(row: Mapping[str, Any], measures: Sequence[str]) -> dict[str, str]:
    blocks = row["blocks"]
    shape = row["shape"].replace("x", "×")
    cells = {name: _number(row.get(name)) for name in (*_TITLES, *measures)}
    rank = row["numerical_rank"]
    return {
        **cells,
        "layer": plain(row["layer"]),
        "shape": f"{blocks}·({shape})" if blocks > 1 else shape,
        "dtype": row["dtype"],
        "numerical_rank": "–" if rank is None else f"{rank:g}/{row['rank_limit']}",
        "status": plain(row["status"], 40),
    }


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else number(value)


def _title(column: str) -> str:
    return _TITLES.get(column, column.replace("_", "\n"))


def _room(rows: Sequence[Mapping[str, str]], columns: Sequence[str], width: int) -> int:
    """Characters that are left for names."""
    taken = 0
    for column in columns:
        lines = _title(column).split("\n")
        taken += max(longest(lines), longest(row[column] for row in rows)) + _GAP
    return width - taken


def _print_notes(scan: "CheckpointScan", console: Console) -> None:
    """What was taken for granted, and what was skipped: one line for each reason."""
    notes: dict[str, list[str]] = {}
    for name, row in scan.rows.items():
        if row.get("note"):
            notes.setdefault(row["note"], []).append(name)
    for note, names in notes.items():
        text = f"[dim]{escape(note)}: {_names(names)}[/dim]"
        console.print(text, soft_wrap=True)
    if "note" in scan.facts:
        console.print(f"[dim]{escape(str(scan.facts['note']))}[/dim]", soft_wrap=True)
    reasons: dict[str, list[str]] = {}
    for name, reason in scan.skipped:
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        text = f"Skipped {len(names)}, {escape(plain(reason))}: {_names(names)}"
        console.print(f"[dim]{text}[/dim]", soft_wrap=True)
    noisy = sum("below_noise" in record.marks for record in scan.layers)
    if noisy:
        console.print(
            f"[dim]{noisy} of {len(scan.layers)} layers have values below the noise "
            "floor of their precision.[/dim]",
            soft_wrap=True,
        )


def _names(names: Sequence[str]) -> str:
    """Some of the names, as text."""
    shown = ", ".join(plain(name, 60) for name in islice(names, _SHOWN))
    rest = len(names) - _SHOWN
    return escape(f"{shown} and {rest} more" if rest > 0 else shown)
