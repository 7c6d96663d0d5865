"""The commands that look at runs, as they are typed."""

from pathlib import Path
from typing import Annotated

import typer

from svdhooks.cli.kinds import Align, Format, What
from svdhooks.cli.root import FAILED, FOUND, LOOK, app, lesson

LogDir = Annotated[
    Path,
    typer.Argument(metavar="LOGDIR", help="Directory of a run, or of several runs."),
]
LogDirs = Annotated[
    list[Path],
    typer.Argument(
        metavar="LOGDIR", help="Directories of runs, or of several runs each."
    ),
]
Layers = Annotated[
    str, typer.Option("--layers", help="Only layers whose name matches this glob.")
]

_SUMMARY = lesson(
    "Show every layer's ranks, first → last, with a sparkline over training.",
    "The first look at a run, also while it is still training.",
    "svdhooks summary runs/exp1",
    "svdhooks summary runs/exp1 --layers 'encoder.*'",
    "svdhooks summary runs/exp1 --metrics 'ledger_*,jacobian_*'",
)


@app.command(help=_SUMMARY, rich_help_panel=LOOK)
def summary(
    logdir: LogDir,
    layers: Layers = "*",
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="Globs of measures instead of the ranks, with commas between: "
            "'ledger_*', 'weight_stable_rank,jacobian_*'.",
        ),
    ] = None,
) -> None:
    """Show every layer's ranks."""
    from svdhooks.cli import read

    raise typer.Exit(read.summary(logdir, layers, metrics=metrics))


_ALARMS = lesson(
    "List what went wrong in a run: collapse, dead units, non-finite values, …",
    "After a training, or as a step of CI: --fail-on makes the exit code "
    f"{FOUND} if there was such an alarm.",
    "svdhooks alarms runs/exp1",
    "svdhooks alarms runs/exp1 --preset ssl --fail-on collapse",
    "svdhooks alarms runs/exp1 --loss train/loss --json",
    more="The rules are run over the log again, and alarms that the training itself "
    "raised are marked [bold]live[/bold]. Rules that look at the loss take that of "
    "recorder.step(loss=loss), or a training loss logged beside the run.\n"
    f"Exit codes: 0 none to fail on, {FAILED} error, {FOUND} found.",
)


@app.command(help=_ALARMS, rich_help_panel=LOOK)
def alarms(
    logdir: LogDir,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            help="Rules: auto (nothing is known of the task), supervised, ssl, lm.",
        ),
    ] = "auto",
    loss: Annotated[
        str | None,
        typer.Option(
            "--loss",
            metavar="TAG",
            help="The scalar, logged beside the run, that is its loss.",
            show_default="found by its name",
        ),
    ] = None,
    layers: Layers = "*",
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            metavar="RULE",
            help=f"End with exit code {FOUND} if there is an alarm of this rule, such as "
            "collapse; of this severity, alarm or info; or any. Can be given again.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object instead of tables.")
    ] = False,
) -> None:
    """List what went wrong in a run."""
    from svdhooks.cli import alarmed

    asked = alarmed.Asked(preset, loss, layers, tuple(fail_on or ()), as_json)
    raise typer.Exit(alarmed.alarms(logdir, asked))


_COMPARE = lesson(
    "Say in which layers runs differ, since when, and by how much.",
    "After a sweep, or to see what one change did. With several seeds of each setting "
    "the differences are measured against the spread over seeds.",
    "svdhooks compare runs/with runs/without",
    "svdhooks compare runs/ --by lr,wd --seeds seed",
    "svdhooks compare runs/ --by lr --metrics 'output_*' --align loss",
)


@app.command(help=_COMPARE, rich_help_panel=LOOK)
def compare(
    logdirs: LogDirs,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            help="Hyper-parameters that tell groups of runs apart, with commas between.",
            show_default="those that differ, else names without seeds",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds", help="The hyper-parameter that is the seed of a repetition."
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="Globs of measures, with commas between.",
            show_default="the ranks",
        ),
    ] = None,
    layers: Layers = "*",
    align: Annotated[
        Align, typer.Option("--align", help="Where runs are compared: at equal …")
    ] = Align.STEP,
) -> None:
    """Say in which layers runs differ."""
    from svdhooks.cli import compared

    raise typer.Exit(
        compared.compared(logdirs, by, seeds, metrics, layers, align.value)
    )


_REPORT = lesson(
    "Write one HTML page about a run, or about several side by side.",
    "To look closely, to keep, or to send to somebody: the page holds all it needs and "
    "opens offline.",
    "svdhooks report runs/exp1 -o report.html --open",
    "svdhooks report runs/with runs/without -o both.html",
    more="A verdict in plain words, alarms, a map of ranks, spectra over time, what "
    "enters and leaves every layer, overhead, what was skipped.",
)


@app.command(help=_REPORT, rich_help_panel=LOOK)
def report(
    logdirs: LogDirs,
    out: Annotated[Path, typer.Option("-o", "--out", help="The page.")] = Path(
        "report.html"
    ),
    title: Annotated[
        str | None, typer.Option("--title", help="Stands at the top of the page.")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset", help="Rules of the alarms: auto, supervised, ssl, lm."
        ),
    ] = "auto",
    max_mb: Annotated[
        float,
        typer.Option(
            "--max-mb",
            min=1,
            help="Largest size; steps and spectra are thinned, and the page says so.",
        ),
    ] = 12,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a page that is already there.")
    ] = False,
    open_it: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.")
    ] = False,
) -> None:
    """Write one HTML page about runs."""
    from svdhooks.cli import reporting

    page = reporting.Page(out, title, preset, max_mb, force, open_it)
    raise typer.Exit(reporting.report(logdirs, page))


_EXPORT = lesson(
    "Write the numbers of a run to a csv, parquet or npz file.",
    "For your own analysis elsewhere: pandas, R, polars, a spreadsheet, numpy.",
    "svdhooks export runs/exp1 -o ranks.csv",
    "svdhooks export runs/ -o ranks.parquet --metrics '*_rank'",
    "svdhooks export runs/exp1 -o exp1.npz --what all",
    more="csv, parquet: one row for each value. Columns of measures: run, step, layer, "
    "metric, value; of spectra: run, step, layer, point, index, value. With --what all "
    "two files are written: for ranks.csv ranks.measures.csv and ranks.spectra.csv.\n\n"
    "npz: steps, layers, measures/METRIC (steps × layers, NaN where not measured), "
    "spectra/LAYER/POINT/steps, /index and /values; of several runs below RUN/. "
    "Characters other than letters, digits and _.-~ are written as in URLs.\n\n"
    "Values are those of the log, float32 as a rule. However large the log, memory stays "
    "below some hundred megabytes.",
)


@app.command(help=_EXPORT, rich_help_panel=LOOK)
def export(
    logdir: LogDir,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="PATH", help="The file to write.")
    ],
    form: Annotated[
        Format | None,
        typer.Option(
            "--format", help="Of the file.", show_default="the ending of PATH"
        ),
    ] = None,
    what: Annotated[
        What,
        typer.Option("--what", help="Measures (ranks and the like), spectra, or both."),
    ] = What.MEASURES,
    layers: Annotated[
        str, typer.Option("--layers", help="Globs of layers, with commas between.")
    ] = "*",
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="Globs of measures, with commas between. One that was not recorded but "
            "follows from the spectra is added if it is named in full.",
            show_default="all that were recorded",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that are already there.")
    ] = False,
) -> None:
    """Write the numbers of runs to a file."""
    from svdhooks.cli import export as exporting

    asked = exporting.Asked(out, form, what, layers, metrics, force)
    raise typer.Exit(exporting.export(logdir, asked))
