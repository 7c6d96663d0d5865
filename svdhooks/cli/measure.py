"""Commands that measure: they import torch."""

import importlib
import logging
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from svdhooks.cli import demo_words
from svdhooks.record import Record

if TYPE_CHECKING:
    from torch import Tensor

EVERY = 10
PROBE_SAMPLES = 1024
VARIANTS = {demo_words.HEALTHY: True, demo_words.COLLAPSED: False}


def demo(logdir: Path, steps: int, seed: int, tensorboard: bool) -> int:
    """Train SimSiam with and without stop-gradient and watch the ranks.

    Args:
        logdir: Where the two runs are written.
        steps: Optimiser steps of each run.
        seed: Random seed.
        tensorboard: Start TensorBoard at the end.

    Returns:
        Exit status.
    """
    console = Console()
    try:
        images, labels = _digits()
    except ImportError as error:
        console.print(f"[red]{escape(str(error))}[/red]")
        return 1
    if not _make_room(logdir, console):
        return 1
    console.print(demo_words.introduction(len(images), steps))
    accuracy = {}
    with _quiet_and_small(), _Dashboard(console, steps) as dashboard:
        for name, stop_gradient in VARIANTS.items():
            accuracy[name] = _train(
                name, stop_gradient, images, labels, logdir, seed, dashboard
            )
    console.print(demo_words.conclusion(logdir, accuracy))
    if tensorboard:
        return _tensorboard(logdir, console)
    return 0


def _digits() -> "tuple[Tensor, Tensor]":
    from svdhooks.experiments.collapse import load_digits_images

    return load_digits_images()


def _make_room(logdir: Path, console: Console) -> bool:
    """Delete the runs of an earlier demo; refuse to touch anything else."""
    own = [logdir / name for name in VARIANTS]
    strange = [p for p in logdir.iterdir() if p not in own] if logdir.is_dir() else []
    if strange or logdir.is_file():
        found = strange[0] if strange else logdir
        console.print(
            f"[red]{escape(str(logdir))} holds something that is not of an earlier demo "
            f"({escape(found.name)}).[/red] Choose another --logdir."
        )
        return False
    for path in own:
        shutil.rmtree(path, ignore_errors=True)
    return True


def _train(
    name: str,
    stop_gradient: bool,
    images: "Tensor",
    labels: "Tensor",
    logdir: Path,
    seed: int,
    dashboard: "_Dashboard",
) -> float:
    """Train one variant and return its nearest-neighbour accuracy."""
    from svdhooks.experiments import collapse
    from svdhooks.experiments.collapse_lightning import SimSiamTraining, fit
    from svdhooks.lightning import SpectrumMonitor

    module = SimSiamTraining(stop_gradient, seed)
    monitor = SpectrumMonitor(
        every_n_steps=EVERY,
        probe=images[:PROBE_SAMPLES],
        max_overhead=None,
        on_error="raise",
        sinks=[dashboard.sink(name)],
    )
    fit(
        module,
        images,
        steps=dashboard.steps,
        seed=seed,
        log_dir=logdir / name,
        callbacks=[monitor],
        progress=dashboard.progress(name),
    )
    return collapse.nearest_neighbour_accuracy(module.model.embed(images), labels)


class _Trails:
    """A sink that remembers the headline ranks of every layer."""

    def __init__(self) -> None:
        self.ranks: dict[tuple[str, str], list[float]] = {}

    def write(self, records: Sequence[Record]) -> None:
        """Take the headline rank of each record."""
        for record in records:
            if field := demo_words.MEASURES.get(record.point):
                key = (record.layer, record.point)
                self.ranks.setdefault(key, []).append(float(record.values[field]))

    def close(self) -> None:
        """There is nothing to let go of."""


class _Dashboard:
    """Progress bars and a table of ranks, while both variants train."""

    def __init__(self, console: Console, steps: int) -> None:
        self.steps = steps
        self._progress = Progress(
            TextColumn("{task.description}", table_column=None),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:+.3f}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks = {
            name: self._progress.add_task(
                f"{name:<22}", total=steps, loss=0.0, start=False
            )
            for name in VARIANTS
        }
        self._trails: dict[str, _Trails] = {}
        self._live = Live(self._render(), console=console, refresh_per_second=8)

    def __enter__(self) -> "_Dashboard":
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.update(self._render())
        self._live.__exit__(*error)

    def sink(self, name: str) -> "_Trails":
        """Where the records of one variant go."""
        return self._trails.setdefault(name, _Trails())

    def progress(self, name: str) -> Callable[[int, float], None]:
        """What to call with step and loss while one variant trains."""
        task = self._tasks[name]

        def show(step: int, loss: float) -> None:
            if step == 0:
                self._progress.start_task(task)
            self._progress.update(task, completed=step, loss=loss)
            if step == self.steps:
                self._progress.stop_task(task)
            self._live.update(self._render())

        return show

    def _render(self) -> Group:
        table = Table(
            title="ranks of every layer, first → now",
            caption="● what enters here is the embedding that the loss compares",
            title_style="dim",
            title_justify="left",
            caption_justify="left",
            header_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        table.add_column("  layer", no_wrap=True)
        for point, field in demo_words.MEASURES.items():
            for words in ("with", "without"):
                title = (
                    f"{point}\n{field.replace('effective', 'eff.').replace('_', ' ')}"
                )
                title += f"\n[dim]{words}[/dim]"
                table.add_column(title, justify="right", no_wrap=True)
        trails = [self.sink(name).ranks for name in VARIANTS]
        layers = list(dict.fromkeys(layer for layer, _ in trails[0]))
        for layer in layers:
            cells = [
                demo_words.cell(ranks.get((layer, point), []))
                for point in demo_words.MEASURES
                for ranks in trails
            ]
            mark = "●" if layer == demo_words.EMBEDDING else " "
            table.add_row(f"{mark} {layer}", *cells)
        return Group(self._progress, table, "") if layers else Group(self._progress)


@contextmanager
def _quiet_and_small() -> Iterator[None]:
    """One thread, and none of Lightning's notes on hardware and loaders."""
    import torch

    # the import sets levels of its own
    importlib.import_module("svdhooks.experiments.collapse_lightning")
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    # so small a network is slower on several threads
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        torch.set_num_threads(threads)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _tensorboard(logdir: Path, console: Console) -> int:
    """Start TensorBoard in the foreground, until it is interrupted."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir)]
    console.print(Panel(" ".join(command), title="starting (stop with Ctrl-C)"))
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 0
