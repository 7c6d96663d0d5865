"""Commands that measure: they import torch."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from svdhooks.cli import (
    demo_attention,
    demo_plasticity,
    demo_simsiam,
    demo_words,
)
from svdhooks.cli.demo_kind import Demo, Run
from svdhooks.cli.demo_screen import Screen
from svdhooks.runlog import RunLog

DEMOS = {
    "simsiam": demo_simsiam.DEMO,
    "plasticity": demo_plasticity.DEMO,
    "attention": demo_attention.DEMO,
}


def demo(
    which: str, logdir: Path | None, steps: int | None, seed: int, tensorboard: bool
) -> int:
    """Train two networks that differ in one thing and watch the ranks.

    Args:
        which: A key of ``DEMOS``.
        logdir: Where the two runs are written; None: a directory named after the demo.
        steps: Optimiser steps of each run; None: as many as it takes.
        seed: Random seed.
        tensorboard: Start TensorBoard at the end.

    Returns:
        Exit status.
    """
    chosen, console = DEMOS[which], Console()
    logdir = _default_directory(which) if logdir is None else logdir
    steps = chosen.steps if steps is None else steps
    try:
        from svdhooks.experiments.digits import load_digits_images

        images, labels = load_digits_images()
    except ImportError as error:
        console.print(f"[red]{escape(str(error))}[/red]")
        return 1
    if not _make_room(logdir, chosen, console):
        return 1
    console.print(demo_words.introduction(chosen.introduction(len(images), steps)))
    with one_thread(), Screen(console, chosen, steps) as screen:
        for name in chosen.runs:
            healthy = name == chosen.runs[0]
            sink, tell = screen.sink(name), screen.progress(name)
            run = Run(name, healthy, logdir / name, steps, seed, sink, tell)
            chosen.train(images, labels, run)
    logs = [RunLog(logdir / name) for name in chosen.runs]
    findings = chosen.conclude(*logs)
    first, second = (demo_words.first_alarm(log.alarms(chosen.alarms)) for log in logs)
    row = ("first alarm", first, second)
    told = replace(findings, rows=[*findings.rows, row])
    console.print(demo_words.conclusion(logdir, chosen.runs, told))
    return _tensorboard(logdir, console) if tensorboard else 0


def _default_directory(which: str) -> Path:
    """The first demo has the plain name, which it had when it was the only one."""
    name = "svdhooks-demo"
    return Path(name if which == next(iter(DEMOS)) else f"{name}-{which}")


def _make_room(logdir: Path, chosen: Demo, console: Console) -> bool:
    """Delete the runs of an earlier demo; refuse to touch anything else."""
    known = [logdir / name for demo in DEMOS.values() for name in demo.runs]
    strange = [p for p in logdir.iterdir() if p not in known] if logdir.is_dir() else []
    if strange or logdir.is_file():
        found = strange[0] if strange else logdir
        console.print(
            f"[red]{escape(str(logdir))} holds something that is not of an earlier demo "
            f"({escape(found.name)}).[/red] Choose another --logdir."
        )
        return False
    for name in chosen.runs:
        shutil.rmtree(logdir / name, ignore_errors=True)
    return True


@contextmanager
def one_thread() -> Iterator[None]:
    """So small a network is slower on several threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _tensorboard(logdir: Path, console: Console) -> int:
    """Start TensorBoard in the foreground, until it is interrupted."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir)]
    shown = Panel(escape(" ".join(command)), title="starting (stop with Ctrl-C)")
    console.print(shown)
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 0
