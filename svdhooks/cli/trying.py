"""The commands that train something small, as they are typed."""

from pathlib import Path
from typing import Annotated

import typer

from svdhooks.cli.kinds import Which
from svdhooks.cli.root import TRY, app, lesson

_DEMO = lesson(
    "Train two networks on real digits and watch one of them lose its rank.",
    "The quickest way to see what this package is for; a minute or two on a CPU.",
    "svdhooks demo",
    "svdhooks demo --which plasticity --tensorboard",
    "svdhooks demo --which attention --logdir /tmp/attention --seed 1",
    more="simsiam: a collapse without stop-gradient. plasticity: a network that stops "
    "learning. attention: tokens that become the same.",
)


@app.command(help=_DEMO, rich_help_panel=TRY)
def demo(
    which: Annotated[
        Which,
        typer.Option(
            "--which", metavar="NAME", help="simsiam, plasticity or attention."
        ),
    ] = Which.SIMSIAM,
    logdir: Annotated[
        Path | None,
        typer.Option(
            "--logdir",
            help="Where the two runs are written.",
            show_default="svdhooks-demo, or svdhooks-demo-WHICH",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            min=100,
            help="Optimiser steps of each run.",
            show_default="1650, 8400 or 600",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Random seed.")] = 0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Start TensorBoard at the end.")
    ] = False,
) -> None:
    """Train two networks and watch one of them lose its rank."""
    from svdhooks.cli import measure

    raise typer.Exit(measure.demo(which, logdir, steps, seed, tensorboard))


_REFIT = lesson(
    "Learn U and V again with every S fixed: does the network come back?",
    "An experiment to play with; it takes some minutes.",
    "svdhooks refit",
    "svdhooks refit --seeds 2 --restarts 1 --out /tmp/refit",
    more="A comment of 2020 predicts it: take a trained network, keep the singular "
    "values of every layer's W = U S Vᵀ, draw all U and V at random, train them alone, "
    "and they come back. The table compares them with the original in ways that "
    "renumbered hidden units, turned signs and nearly equal singular values do not "
    "change.\n\n"
    "The controls: W free (trained from scratch), S shuffled among layers, S flat, S "
    "fixed from near by, and random U and V without training. The prediction says "
    "something only if S fixed comes closer than W free and S flat.\n\n"
    "Results, tables (csv) and a figure are in --out.",
)


@app.command("refit", help=_REFIT, rich_help_panel=TRY)
def refit_command(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Directory of the results. A run that was stopped goes on from there.",
        ),
    ] = Path("svdhooks-refit"),
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", min=1, help="Networks to begin with; more can be added later."
        ),
    ] = 5,
    restarts: Annotated[
        int, typer.Option("--restarts", min=1, help="Random U and V for each network.")
    ] = 3,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Optimiser steps of each training.")
    ] = 1000,
    widths: Annotated[
        str, typer.Option("--widths", help="Features from input (64) to output (10).")
    ] = "64,48,32,10",
    weight_decay: Annotated[
        float,
        typer.Option("--weight-decay", min=0, help="Of AdamW, for the originals."),
    ] = 0.5,
) -> None:
    """Learn U and V again with every S fixed, and compare with the original."""
    from svdhooks.cli import refit

    raise typer.Exit(refit.refit(out, seeds, restarts, steps, widths, weight_decay))
