"""The commands that measure models and checkpoints, as they are typed."""

from pathlib import Path
from typing import Annotated

import typer

from svdhooks.cli.root import MEASURE, app, lesson

_PLAN = lesson(
    "Show what would be watched of a model, how, and what it would cost.",
    "Before a long training: which layers are found, which are skipped and why, memory, "
    "time per record, size of the log.",
    "svdhooks plan mypackage.train:make_model",
    "svdhooks plan train.py:make_model --every 500 --layers 'encoder.*'",
    "svdhooks plan train.py:make_model --quantities weight_spectrum,local_rank",
)


@app.command(help=_PLAN, rich_help_panel=MEASURE)
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
    """Show what would be watched of a model."""
    from svdhooks.cli import planned

    raise typer.Exit(planned.plan(target, layers, quantities, every))


_SCAN = lesson(
    "Measure the weights in a checkpoint, tensor by tensor, without building the model.",
    "To see the ranks of a model that was trained elsewhere, or long ago. A series of "
    "checkpoints becomes a log that all other commands read.",
    "svdhooks scan model.safetensors --csv layers.csv",
    "svdhooks scan checkpoints/last.ckpt --html last.html",
    "svdhooks scan 'ckpts/step*/' --step 'step(\\d+)' --log runs/pythia",
    more="Reads safetensors, sharded with an index too; files of torch.save and of "
    "Lightning (weights only, no code is run); peft adapters.",
)


@app.command(help=_SCAN, rich_help_panel=MEASURE)
def scan(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A file or a directory; with --step a quoted pattern of several.",
        ),
    ],
    step: Annotated[
        str | None,
        typer.Option(
            "--step",
            metavar="REGEX",
            help="Finds the step in the path of each checkpoint of a series, in its "
            "first group: 'step(\\d+)'.",
        ),
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(
            "--vectors",
            metavar="K",
            help="Keep so many leading singular vectors, or all, in the log, for "
            "spectral graphs and descrambling.",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option("--log", metavar="DIR", help="Write a log, which RunLog reads."),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", help="Write a row per layer, a column per measure."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page.")
    ] = None,
    layers: Annotated[
        str, typer.Option("--layers", help="Globs of layer names, with commas between.")
    ] = "*",
    measures: Annotated[
        str | None,
        typer.Option(
            "--measures",
            help="Further measures of the spectra, with commas between, such as "
            "power_law_alpha.",
        ),
    ] = None,
) -> None:
    """Measure the weights in a checkpoint."""
    from svdhooks.cli import scanned

    raise typer.Exit(
        scanned.scanned(checkpoint, step, vectors, log, csv, html, layers, measures)
    )
