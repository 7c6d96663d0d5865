"""What the demo says before and after, read back from the two logs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.panel import Panel
from rich.table import Table

from svdhooks.runlog import RunLog

HEALTHY, COLLAPSED = "with-stop-gradient", "without-stop-gradient"
EMBEDDING = "model.predictor.0"
"""What enters the predictor is the embedding that the loss compares."""
MEASURES = {"weight": "stable_rank", "input": "effective_rank"}
_APART = 0.5


def introduction(images: int, steps: int) -> Panel:
    """Say what is going to happen.

    Args:
        images: How many there are.
        steps: Optimiser steps of each run.

    Returns:
        A panel.
    """
    return Panel(
        f"Two SimSiam networks learn from {images:,} handwritten digits without labels, "
        f"{steps:,} steps each. They differ in one line: the second one lacks the "
        "[bold]stop-gradient[/bold] that keeps all images from getting the same "
        "embedding.\n\nWatch the loss, and watch the ranks.",
        title="svdhooks demo",
        title_align="left",
        expand=False,
    )


def conclusion(logdir: Path, accuracy: Mapping[str, float]) -> Panel:
    """Say what was seen, when, and how to look at it.

    Args:
        logdir: Where the two runs are.
        accuracy: Run -> nearest-neighbour accuracy of its embedding.

    Returns:
        A panel.
    """
    logs = {name: RunLog(logdir / name) for name in (HEALTHY, COLLAPSED)}
    ranks = {
        name: log.series(EMBEDDING, "input_effective_rank")
        for name, log in logs.items()
    }
    losses = {name: log.scalars("train_loss")[1] for name, log in logs.items()}
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in logs:
        table.add_column(name, justify="right")
    table.add_row("loss (lower looks better)", *_last(losses, "+.3f"))
    first_and_last = [
        f"{values[0]:.1f} → {values[-1]:.1f}" for _, values in ranks.values()
    ]
    table.add_row("effective rank of the embedding", *first_and_last)
    table.add_row(
        "nearest-neighbour accuracy", *(f"{accuracy[name]:.3f}" for name in logs)
    )
    grid = Table.grid(padding=(1, 0))
    grid.add_row(table)
    grid.add_row(_verdict(ranks, losses))
    grid.add_row(
        f"Open it:   [bold]tensorboard --logdir {logdir}[/bold]\n"
        f"Read it:   [bold]svdhooks summary {logdir}[/bold]\n"
        f"In Python: [bold]svdhooks.runs({str(logdir)!r})[/bold]"
    )
    return Panel(grid, title="what svdhooks saw", title_align="left", expand=False)


def _last(series: Mapping[str, np.ndarray], form: str) -> list[str]:
    return [f"{values[-1]:{form}}" for values in series.values()]


def _verdict(
    ranks: Mapping[str, tuple[np.ndarray, np.ndarray]], losses: Mapping[str, np.ndarray]
) -> str:
    """When the two runs came apart, in words; or that they did not."""
    steps, healthy = ranks[HEALTHY]
    _, collapsed = ranks[COLLAPSED]
    seen = first_apart(steps, healthy, collapsed)
    if seen is None:
        return (
            "In this run the embedding's rank without stop-gradient did not stay below "
            "half of the healthy one. Try more steps or another --seed."
        )
    better = losses[COLLAPSED][-1] < losses[HEALTHY][-1]
    loss = (
        "The loss does not show it: without stop-gradient it even looks better."
        if better
        else "The loss alone would not have told you why."
    )
    share = 100 * seen / steps[-1]
    return (
        f"[bold]From step {seen} on[/bold], {share:.0f} % of the way, the embedding's rank "
        "without stop-gradient is less than half of the healthy one, and stays there. "
        f"{loss}"
    )


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
    apart = collapsed[:n] < _APART * healthy[:n]
    if not n or not apart[-1]:
        return None
    return int(steps[n - np.argmin(apart[::-1]) if not apart.all() else 0])


def cell(trail: Sequence[float]) -> str:
    """A table cell: first → now, bold once it has halved."""
    if not trail:
        return "[dim]–[/dim]"
    text = " → ".join(
        f"{x:.0f}" if x >= 10 else f"{x:.1f}" for x in (trail[0], trail[-1])
    )
    return f"[bold red]{text}[/bold red]" if trail[-1] < _APART * trail[0] else text
