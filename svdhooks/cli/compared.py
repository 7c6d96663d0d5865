"""``svdhooks compare``: which layers differ between runs; no torch."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from svdhooks.analysis.comparison import Comparison, compare
from svdhooks.analysis.comparison.rows import Difference
from svdhooks.analysis.comparison.text import lettered, since_cell, step
from svdhooks.cli.telling import guarded, plain
from svdhooks.display.overview import count, figure, title_of

_SHOWN = 20
_ABSENT = 8
_NARROWEST, _LONGEST = 14, 40
# what all columns but the first take, without and with a spread
_PLAIN, _TESTED, _INTERVAL = 34, 58, 20
_WIDE = 100
_LONGEST_GROUP = 60
_WORDS = {"end": "yes", "way": "on the way", "": "no"}


def compared(
    logdirs: list[Path],
    by: str | None,
    seeds: str | None,
    metrics: str | None,
    layers: str,
    align: str,
    console: Console | None = None,
) -> int:
    """Print which layers differ between groups of runs, since when, and by how much.

    Args:
        logdirs: Runs, or directories that hold runs.
        by: Hyper-parameters that tell groups apart, with commas between; None: those
            that differ, or the names of the runs.
        seeds: The hyper-parameter that tells replicates apart; None: ``"seed"``.
        metrics: Globs of measures, with commas between; None: the headline ranks.
        layers: Globs of layers.
        align: ``"step"``, ``"epoch"``, ``"loss"``, or the name of a value that falls.
        console: Where to print.

    Returns:
        Exit status.
    """
    console = console or Console(emoji=False)  # ":smile:" may be a layer's name

    def work() -> int:
        found = compare(
            logdirs[0] if len(logdirs) == 1 else [*logdirs],
            metric=metrics,
            align=align,
            by=by,
            seeds=seeds or "seed",
            layers=layers,
        )
        _print(found, console)
        return 0

    return guarded(work)


def _print(found: Comparison, console: Console) -> None:
    """The groups, what was found, a table for each group and measure, and notes."""
    runs = sum(len(group.runs) for group in found.groups)
    letters = lettered(found)
    console.print(
        f"[bold]{count(runs, 'run')} in {count(len(found.groups), 'group')}[/bold], "
        f"aligned by {plain(found.align)}",
        soft_wrap=True,
    )
    console.print(_group_table(found, letters))
    console.print()
    for sentence in found.sentences():
        console.print(plain(sentence))
    for group in found.groups:
        for metric in found.metrics:
            rows = [
                row
                for row in found.differences
                if (row.group, row.metric) == (group.name, metric)
            ]
            if rows:
                against = f"{letters[group.name]} against {letters[found.reference]}"
                name = plain(title_of(metric))
                console.print(f"\n[bold]{name}[/bold], {against}", soft_wrap=True)
                _print_table(rows, found, console)
    _print_notes(found, console)


def _group_table(found: Comparison, letters: Mapping[str, str]) -> Table:
    """A letter for each group, its name, its runs."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold", ratio=2)
    table.add_column(overflow="fold", ratio=5, style="dim")
    for group in found.groups:
        reference = " [dim](reference)[/dim]" if group.name == found.reference else ""
        runs = "" if group.runs == (group.name,) else _names(group.runs)
        name = f"{plain(group.name, _LONGEST_GROUP)}{reference}"
        table.add_row(letters[group.name], name, runs)
    return table


def _print_table(
    rows: Sequence[Difference], found: Comparison, console: Console
) -> None:
    """One measure of one group against the reference, the surest first."""
    letters = lettered(found)
    tested = any(row.differs is not None for row in rows)
    wide = tested and console.width >= _WIDE
    table = Table(
        header_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    room = console.width - (_TESTED + _INTERVAL * wide if tested else _PLAIN)
    longest = max(len(row.layer) for row in rows)
    least = max(min(longest, room, _LONGEST), _NARROWEST)
    table.add_column("layer", overflow="fold", min_width=least)
    right = [letters[found.reference], letters[rows[0].group], "change"]
    for name in right + ["95 %"] * wide + ["spreads"] * tested:
        table.add_column(name, justify="right", no_wrap=True)
    if tested:
        table.add_column("differs", no_wrap=True)
        table.add_column(f"since {plain(found.align, 12)}", no_wrap=True)
    for row in rows[:_SHOWN]:
        style = "" if row.differs or not tested else "dim"
        table.add_row(plain(row.layer), *_cells(row, tested, wide), style=style)
    console.print(table)
    if len(rows) > _SHOWN:
        rest = rows[_SHOWN:]
        differ = sum(bool(row.differs) for row in rest)
        told = f", {differ} of which differ" if tested else ""
        console.print(f"[dim]… and {len(rest)} more layers{told}: see --layers.[/dim]")


def _cells(row: Difference, tested: bool, wide: bool) -> list[str]:
    """All columns but the name."""
    cells = [
        figure(row.reference_value),
        figure(row.value),
        step(row.change, row.scale),
    ]
    if not tested:
        return cells
    if wide:
        low, high = step(row.low, row.scale), step(row.high, row.scale)
        cells.append("–" if math.isnan(row.low) else f"{low} … {high}")
    effect = "–" if math.isnan(row.effect) else f"{abs(row.effect):.1f}"
    verdict = "–" if row.differs is None else _WORDS[row.when]
    return [*cells, effect, verdict, since_cell(row)]


def _print_notes(found: Comparison, console: Console) -> None:
    """What the columns mean, and what should be known."""
    rows = found.differences
    console.print()
    if any(row.differs is not None for row in rows):
        console.print(
            "[dim]Means over the last quarter of the records. spreads: their distance in "
            "standard deviations over single runs. differs: beyond what seeds do, "
            f"corrected for {count(len(rows), 'comparison')}; on the way: over the whole "
            "run, but not at the end.[/dim]"
        )
    for note in found.notes:
        console.print(f"[yellow]{plain(note)}[/yellow]")
    absent = list(found.absent.items())
    for layer, names in absent[:_ABSENT]:
        console.print(f"[yellow]{plain(layer)} is not in {_names(names)}.[/yellow]")
    if len(absent) > _ABSENT:
        rest = len(absent) - _ABSENT
        console.print(f"[yellow]{rest} more layers are not in all runs.[/yellow]")


def _names(names: Sequence[str]) -> str:
    """Some names, cut."""
    shown = ", ".join(plain(name, 60) for name in names[:_ABSENT])
    more = len(names) - _ABSENT
    return f"{shown} and {more} more" if more > 0 else shown
