"""The command line. Reading a log loads no torch; each command imports what it needs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="svdhooks",
    help="Watch the rank of every layer of a PyTorch model while it trains.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import svdhooks

        typer.echo(f"svdhooks {svdhooks.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version and leave.",
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command()
def summary(
    logdir: Annotated[
        Path, typer.Argument(help="Directory of a run, or of several runs.")
    ],
    layers: Annotated[
        str, typer.Option("--layers", help="Only layers whose name matches this glob.")
    ] = "*",
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="Globs of measures instead of the ranks, with commas between: "
            "'ledger_*', 'weight_stable_rank,jacobian_*'.",
        ),
    ] = None,
) -> None:
    """Show every layer's ranks, first -> last, with a sparkline over training."""
    from svdhooks.cli import read

    raise typer.Exit(read.summary(logdir, layers, metrics=metrics))


@app.command()
def plan(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FACTORY",
            help="Makes the model, or the model and a reference batch, without "
            "arguments: mypackage.train:make_model, or train.py:make_model.",
        ),
    ],
    layers: Annotated[
        str | None,
        typer.Option("--layers", help="Globs of layer names, with commas between."),
    ] = None,
    quantities: Annotated[
        str | None,
        typer.Option("--quantities", help="What to measure, with commas between."),
    ] = None,
    every: Annotated[
        int, typer.Option("--every", min=1, help="Interval in optimiser steps.")
    ] = 100,
) -> None:
    """Show what would be watched of a model, how, and what it would cost."""
    from svdhooks.cli import planned

    raise typer.Exit(planned.plan(target, layers, quantities, every))


class Which(StrEnum):
    """The demos."""

    SIMSIAM = "simsiam"
    PLASTICITY = "plasticity"
    ATTENTION = "attention"


@app.command()
def demo(
    which: Annotated[
        Which,
        typer.Option(
            "--which",
            help="A collapse without stop-gradient; a network that stops learning; "
            "tokens that become the same.",
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
    """Train two networks on real digits and watch one of them lose its rank."""
    from svdhooks.cli import measure

    raise typer.Exit(measure.demo(which, logdir, steps, seed, tensorboard))


_REFIT = (
    "Learn U and V again with every S fixed: does the network come back?\n\n"
    "A comment of 2020 predicts it: take a trained network, keep the singular values of "
    "every layer's W = U S Vᵀ, draw all U and V at random, train them alone, and they "
    "come back. The table compares them with the original in ways that renumbered hidden "
    "units, turned signs and nearly equal singular values do not change.\n\n"
    "The controls: W free (trained from scratch), S shuffled among layers, S flat, S "
    "fixed from near by, and random U and V without training. The prediction says "
    "something only if S fixed comes closer than W free and S flat.\n\n"
    "Results, tables (csv) and a figure are in --out. It takes some minutes."
)


@app.command("refit", help=_REFIT)
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


def main() -> None:
    """Run the command line."""
    app()
