"""What every demo says before and after, and how it words numbers."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from svdhooks.cli.demo_kind import HALF, Findings


def introduction(text: str) -> Panel:
    """Say what is going to happen.

    Args:
        text: The demo's own words.

    Returns:
        A panel.
    """
    return Panel(text, title="svdhooks demo", title_align="left", expand=False)


def conclusion(logdir: Path, runs: Sequence[str], findings: Findings) -> Panel:
    """Say what was seen, and how to look at it.

    Args:
        logdir: Where the two runs are.
        runs: Their names.
        findings: What was read from their logs.

    Returns:
        A panel.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in runs:
        table.add_column(name, justify="right")
    for row in findings.rows:
        table.add_row(*row)
    where = escape(str(logdir))
    grid = Table.grid(padding=(1, 0))
    grid.add_column(overflow="fold")  # a path is there to be copied
    grid.add_row(table)
    grid.add_row(findings.verdict)
    grid.add_row(
        f"Open it:   [bold]tensorboard --logdir {where}[/bold]\n"
        f"One page:  [bold]svdhooks report {where}[/bold]\n"
        f"Read it:   [bold]svdhooks summary {where}[/bold]\n"
        f"In Python: [bold]svdhooks.runs({escape(repr(str(logdir)))})[/bold]"
    )
    return Panel(grid, title="what svdhooks saw", title_align="left", expand=False)


def first_alarm(events: Iterable[Mapping[str, Any]]) -> str:
    """What was raised first, and when.

    Args:
        events: Of a run, in the order of the steps.

    Returns:
        For a cell of a table.
    """
    grave = (event for event in events if event["severity"] == "alarm")
    first = next(grave, None)
    return "none" if first is None else f"{first['alarm']}, step {first['step']:,}"


def cell(trail: Sequence[float], alarming: bool) -> str:
    """A table cell: first → now, bold if it is to be noticed."""
    if not trail:
        return "[dim]–[/dim]"
    text = arrow((trail[0], trail[-1]))
    return f"[bold red]{text}[/bold red]" if alarming else text


def arrow(ends: tuple[float, float]) -> str:
    """First → last, with a decimal where there is room for it."""
    return " → ".join(f"{x:.0f}" if round(x, 1) >= 10 else f"{x:.1f}" for x in ends)


def percent(ends: tuple[float, float]) -> str:
    """First → last, as percentages."""
    return " → ".join(f"{100 * x:.0f} %" for x in ends)


def ends(values: np.ndarray) -> tuple[float, float]:
    """Means over the first and over the last tenth of a series.

    Args:
        values: ``(T,)``; NaNs are left out.

    Returns:
        Both means; NaN if there is no value.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan
    tenth = max(len(values) // 10, 1)
    return float(values[:tenth].mean()), float(values[-tenth:].mean())


def first_apart(
    steps: np.ndarray, healthy: np.ndarray, collapsed: np.ndarray
) -> int | None:
    """The first step from which one rank stays below half of the other.

    Args:
        steps: ``(T,)``.
        healthy: ``(T,)``, the rank to compare with.
        collapsed: ``(T,)``.

    Returns:
        The step, or None if there is none.
    """
    n = min(len(healthy), len(collapsed))
    apart = collapsed[:n] < HALF * healthy[:n]
    if not n or not apart[-1]:
        return None
    return int(steps[n - np.argmin(apart[::-1]) if not apart.all() else 0])
