"""The refit on the command line: progress, one table, its files, one figure."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from svdhooks.cli.measure import one_thread

if TYPE_CHECKING:
    from svdhooks.experiments.refit import RefitResult, RefitSettings
    from svdhooks.experiments.refit.result import Row
    from svdhooks.experiments.refit.summary import Summary

ARMS = {
    "original": "original",
    "fixed_s": "S fixed",
    "free": "W free",
    "perturbed": "S near by",
    "shuffled_s": "S shuffled",
    "flat_s": "S flat",
    "haar": "not trained",
}
"""What the table calls each arm, in its order."""
FIGURE = "refit.png"
_NOTHING = "[dim]–[/dim]"
_EVERY = 10
"""Steps between two updates of the bar."""


def refit(
    out: Path,
    seeds: int,
    restarts: int,
    steps: int,
    widths: str,
    weight_decay: float,
) -> int:
    """Run the refit on digits, or go on with it, and show what came out.

    Args:
        out: Directory of the results.
        seeds: How many originals.
        restarts: Networks of each arm and seed.
        steps: Optimiser steps of each training.
        widths: Of the originals, with commas between.
        weight_decay: Of whole weights.

    Returns:
        Exit status.
    """
    from svdhooks.experiments.refit import RefitSettings, run_refit

    console = Console()
    try:
        settings = RefitSettings(
            seeds=seeds,
            restarts=restarts,
            steps=steps,
            widths=tuple(int(width) for width in widths.split(",")),
            weight_decay=weight_decay,
        )
        console.print(introduction(settings), highlight=False)
        with one_thread(), _bar(console) as tell:
            result = run_refit(settings, out, tell=tell)
    except (ImportError, ValueError, FloatingPointError) as error:
        console.print(f"[red]{escape(str(error))}[/red]")
        return 1
    show(result, out, console)
    return 0


def introduction(settings: "RefitSettings") -> str:
    """What is going to happen.

    Args:
        settings: Of the run.

    Returns:
        A paragraph.
    """
    network = "-".join(map(str, settings.widths))
    return (
        f"Each of {settings.seeds} ReLU networks {network} learns digits. Then every S of "
        "its W = U S Vᵀ is kept, all U and V are drawn at random, and they alone learn "
        f"again. Do the original ones come back? {settings.restarts} restarts, and five "
        "controls.\n"
    )


def show(result: "RefitResult", out: Path, console: Console) -> None:
    """Print the table, and write the rows and the figure.

    Args:
        result: The scores.
        out: Where files go.
        console: Where to print.
    """
    from svdhooks.experiments.refit.summary import summarise

    summary = summarise(result)
    console.print(table_of(summary))
    console.print(words(summary), highlight=False)
    for path in result.write(out):
        console.print(
            f"[dim]{escape(str(path))}[/dim]", highlight=False, soft_wrap=True
        )
    if find_spec("matplotlib") is None:
        console.print(
            "No figure: matplotlib is not installed. Run: pip install "
            "svdhooks\\[analysis]",
            highlight=False,
        )
        return
    draw(result, out / FIGURE)
    console.print(f"[dim]{escape(str(out / FIGURE))}[/dim]", soft_wrap=True)


def draw(result: "RefitResult", path: Path) -> None:
    """Draw how similar the vectors of each layer are, above chance, over k.

    Args:
        result: The scores.
        path: Of the picture.
    """
    from svdhooks.analysis.plots import plot_refit
    from svdhooks.experiments.refit.summary import rows_to_draw

    plot_refit(rows_to_draw(result)).savefig(path, dpi=150)


def table_of(summary: "Summary") -> Table:
    """The arms, and by how much S fixed is closer than two of them.

    Args:
        summary: The headlines.

    Returns:
        A table of 80 columns at most.
    """
    from svdhooks.experiments.refit import scores as scored
    from svdhooks.experiments.refit import summary as names

    titles = {
        scored.GAP: "loss\ngap",
        scored.ACCURACY: "test\nacc.",
        names.FIRST: _with_k("V of\nfirst", summary.ks[names.FIRST]),
        names.LAST: _with_k("U of\nlast", summary.ks[names.LAST]),
        names.ADJACENCY: _with_k("adja-\ncency", summary.ks.get(names.ADJACENCY)),
        names.UNITS: "matched\nunits",
        names.SIGNAL: _with_k("signal\nof first", summary.ks[names.SIGNAL]),
    }
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("", no_wrap=True)
    for title in titles.values():
        table.add_column(title, justify="right", no_wrap=True)
    for arm, name in ARMS.items():
        cells = [_cell(summary.cells.get((arm, title))) for title in titles]
        table.add_row(name, *cells, end_section=arm == "haar")
    for arm in ("free", "flat_s"):
        cells = [_cell(summary.differences.get((arm, title)), "+") for title in titles]
        table.add_row(f"fixed − {ARMS[arm].split()[1]}", *cells)
    return table


def words(summary: "Summary") -> str:
    """How to read the table, and what it says.

    Args:
        summary: The headlines.

    Returns:
        Paragraphs.
    """
    few = " Fewer than five make them too narrow." if summary.seeds < 5 else ""
    seeds = "1 seed" if summary.seeds == 1 else f"{summary.seeds} seeds"
    lines = [
        "From V on: 0 is chance, 1 is equal to the original. ±: half of the 95 % "
        f"interval over {seeds} (bootstrap).{few} Gap: training loss less that of the "
        "original. Signal: principal components of the layer's outputs. A flat S has no "
        "leading vectors.\n"
    ]
    for arm in ("free", "flat_s"):
        closer, farther = summary.verdict(arm)
        lines.append(
            f"S fixed against {ARMS[arm]}: closer to the original in "
            f"{_listed(closer)}, farther in {_listed(farther)}."
        )
    return "\n".join(lines) + "\n"


def _listed(names: list[str]) -> str:
    return f"[bold]{', '.join(names)}[/bold]" if names else "none"


def _with_k(title: str, k: int | None) -> str:
    return title if k is None else f"{title}\nk = {k}"


def _cell(row: "Row | None", sign: str = "") -> str:
    """Mean, and half of its interval beneath."""
    if row is None:
        return _NOTHING
    mean, half = f"{row['mean']:{sign}.2f}", (row["high"] - row["low"]) / 2
    return f"{mean}\n[dim]±{half:.2f}[/dim]" if half else mean


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar, and what to tell it."""
    bar = Progress(
        TextColumn("{task.description}", justify="left"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=None)

        def tell(what: str, done: int, whole: int) -> None:
            if done % _EVERY == 0 or done == whole:
                bar.update(task, description=what, completed=done, total=whole)

        yield tell
