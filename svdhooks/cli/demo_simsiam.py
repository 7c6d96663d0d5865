"""A collapse that the loss does not show: SimSiam without its stop-gradient."""

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from svdhooks.cli.demo_kind import Column, Demo, Findings, Run
from svdhooks.cli.demo_words import first_apart
from svdhooks.runlog import RunLog

if TYPE_CHECKING:
    from torch import Tensor

HEALTHY, COLLAPSED = "with-stop-gradient", "without-stop-gradient"
EMBEDDING = "model.predictor.0"
"""What enters the predictor is the embedding that the loss compares."""
EVERY = 10
PROBE_SAMPLES = 1024


def introduction(images: int, steps: int) -> str:
    """What is going to happen."""
    return (
        f"Two SimSiam networks learn from {images:,} handwritten digits without labels, "
        f"{steps:,} steps each. They differ in one line: the second one lacks the "
        "[bold]stop-gradient[/bold] that keeps all images from getting the same "
        "embedding.\n\nWatch the loss, and watch the ranks."
    )


def train(images: "Tensor", labels: "Tensor", run: Run) -> None:
    """Train one of the two with Lightning.

    Args:
        images: The digits.
        labels: What each shows; the network does not see them.
        run: Which one, and where to.
    """
    with _quiet():
        from svdhooks.experiments.collapse_lightning import SimSiamTraining, fit
        from svdhooks.lightning import SpectrumMonitor

        monitor = SpectrumMonitor(
            every_n_steps=EVERY,
            probe=images[:PROBE_SAMPLES],
            max_overhead=None,
            on_error="raise",
            sinks=[run.sink],
        )
        fit(
            SimSiamTraining(run.healthy, run.seed),
            images,
            labels,
            steps=run.steps,
            seed=run.seed,
            log_dir=run.log_dir,
            callbacks=[monitor],
            progress=run.tell,
        )


def conclude(healthy: RunLog, collapsed: RunLog) -> Findings:
    """Read loss, rank of the embedding and its use from both logs.

    Args:
        healthy: With stop-gradient.
        collapsed: Without.

    Returns:
        What the numbers show.
    """
    logs = {HEALTHY: healthy, COLLAPSED: collapsed}
    ranks = {
        name: log.series(EMBEDDING, "input_effective_rank")
        for name, log in logs.items()
    }
    losses = {name: log.scalars("train_loss")[1] for name, log in logs.items()}
    accuracy = {
        name: log.scalars("nearest_neighbour_accuracy")[1] for name, log in logs.items()
    }
    loss, of_loss = (f"{losses[name][-1]:+.3f}" for name in logs)
    rank, of_rank = (
        f"{values[0]:.1f} → {values[-1]:.1f}" for _, values in ranks.values()
    )
    right, of_right = (f"{accuracy[name][-1]:.3f}" for name in logs)
    return Findings(
        rows=[
            ("loss (lower looks better)", loss, of_loss),
            ("effective rank of the embedding", rank, of_rank),
            ("nearest-neighbour accuracy", right, of_right),
        ],
        verdict=verdict(ranks, losses),
    )


def verdict(
    ranks: Mapping[str, tuple[np.ndarray, np.ndarray]], losses: Mapping[str, np.ndarray]
) -> str:
    """When the two runs came apart, in words; or that they did not.

    Args:
        ranks: Run -> steps and ranks of its embedding.
        losses: Run -> its losses.

    Returns:
        A sentence or three.
    """
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


@contextmanager
def _quiet() -> Iterator[None]:
    """None of Lightning's notes on hardware and loaders."""
    # the import sets levels of its own
    importlib.import_module("svdhooks.experiments.collapse_lightning")
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


DEMO = Demo(
    runs=(HEALTHY, COLLAPSED),
    steps=1650,
    introduction=introduction,
    number="loss {number:+.3f}",
    columns=(
        Column("weight", "stable_rank", "weight\nstable rank"),
        Column("input", "effective_rank", "input\neff. rank"),
    ),
    marked=EMBEDDING,
    caption="what enters here is the embedding that the loss compares",
    train=train,
    conclude=conclude,
    alarms="ssl",
)
