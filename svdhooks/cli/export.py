"""``svdhooks export``: the numbers of runs as csv, parquet or npz, in little memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from svdhooks.cli.export_arrays import Archive
from svdhooks.cli.export_parts import Chosen, measure_parts, spectra_parts
from svdhooks.cli.export_tables import CsvTable, ParquetTable, Table, need_pyarrow
from svdhooks.cli.kinds import Format, What
from svdhooks.cli.telling import (
    Tell,
    check_output,
    guarded,
    hint,
    matching,
    open_runs,
    plain,
    progress,
    size_of,
    suggestion,
)
from svdhooks.runlog import RunLog
from svdhooks.runlog.window import spectra_there
from svdhooks.wholefile import written_whole

_FORMULA = tuple("=+-@\t\r")
"""What a spreadsheet takes for the begin of a formula."""


@dataclass(frozen=True)
class Asked:
    """The options.

    Attributes:
        out: The file; of two tables what their names are made of.
        form: Of the file; None: as its ending says.
        what: Measures, spectra, or both.
        layers: Globs, with commas between.
        metrics: Globs, with commas between; None: all that were recorded.
        force: Whether files that are there are replaced.
    """

    out: Path
    form: Format | None = None
    what: What = What.MEASURES
    layers: str = "*"
    metrics: str | None = None
    force: bool = False


def export(logdir: Path, asked: Asked, console: Console | None = None) -> int:
    """Write the numbers of the runs at and below a directory.

    Args:
        logdir: Directory of a run, or of several.
        asked: What is written where.
        console: Where to say what was written.

    Returns:
        Exit status.
    """
    console = console or Console(emoji=False, highlight=False)
    return guarded(lambda: _export(logdir, asked, console))


def _export(logdir: Path, asked: Asked, console: Console) -> int:
    form = asked.form or _format_of(asked.out)
    if form is Format.PARQUET:
        need_pyarrow()
    outputs = _outputs(asked, form)
    for path in outputs.values():
        check_output(path, asked.force)
    chosen = _choose(list(open_runs([logdir]).values()), asked)
    if form is Format.CSV:
        _warn_of_formulas(chosen)
    with progress("export") as tell:
        if form is Format.NPZ:
            _write_archive(chosen, asked, tell)
        else:
            _write_tables(chosen, outputs, form, tell)
    for path in outputs.values():
        console.print(f"{plain(str(path))}  {size_of(path)}", soft_wrap=True)
    _say_what_is_damaged(chosen)
    return 0


def _format_of(out: Path) -> Format:
    """The format that a file's ending says."""
    ending = out.suffix.removeprefix(".").lower()
    known = [form.value for form in Format]
    if ending in known:
        return Format(ending)
    raise ValueError(
        f"{out} does not end in a format. {suggestion([ending], known)} "
        "Give --format, or another -o."
    )


def _outputs(asked: Asked, form: Format) -> dict[What, Path]:
    """What is written -> where; one archive holds everything."""
    if asked.what is not What.ALL or form is Format.NPZ:
        return {asked.what: asked.out}
    known = asked.out.suffix.lower() == f".{form}"
    stem = asked.out.with_suffix("") if known else asked.out
    return {
        what: stem.with_name(f"{stem.name}.{what}.{form}")
        for what in (What.MEASURES, What.SPECTRA)
    }


def _choose(logs: Sequence[RunLog], asked: Asked) -> list[Chosen]:
    """What is exported of each run; refuses names that no run has."""
    measured = asked.what is not What.SPECTRA
    layers = _among("layer", [(*log.layers, *log.edges) for log in logs], asked.layers)
    metrics: list[list[str]] = [[] for _ in logs]
    if measured and asked.metrics is not None:
        there, derived = [log.metrics for log in logs], [log.derived for log in logs]
        metrics = _among("measure", there, asked.metrics, derived)
    elif measured:
        metrics = [list(log.metrics) for log in logs]
    points: list[dict[str, list[str]]] = [{} for _ in logs]
    if asked.what is not What.MEASURES:
        points = [
            {k: v for k, v in spectra_there(log).items() if k in names}
            for log, names in zip(logs, layers, strict=True)
        ]
    if not any(metrics) and not any(points):
        raise ValueError(f"Nothing to export: no {asked.what.value} recorded (yet).")
    both = zip(logs, layers, metrics, points, strict=True)
    return [Chosen(*of_run) for of_run in both]


def _among(
    kind: str,
    there: Sequence[Sequence[str]],
    globs: str,
    also: Sequence[Sequence[str]] = (),
) -> list[list[str]]:
    """For each run the names that match; at least one of some run."""
    besides = also or [()] * len(there)
    everything = list(dict.fromkeys(name for names in there for name in names))
    further = list(dict.fromkeys(name for names in besides for name in names))
    found = matching(kind, everything, globs, further)
    return [
        [name for name in found if name in names or name in more]
        for names, more in zip(there, besides, strict=True)
    ]


def _write_archive(chosen: Sequence[Chosen], asked: Asked, tell: Tell) -> None:
    """All arrays of all runs in one file."""
    with written_whole(asked.out) as part, Archive(part, chosen) as archive:
        for place, of_run in enumerate(chosen):
            archive.write(place, _told(tell, of_run))


def _write_tables(
    chosen: Sequence[Chosen], outputs: dict[What, Path], form: Format, tell: Tell
) -> None:
    """A table for each thing that is asked for."""
    for what, path in outputs.items():
        with _table(path, form, what, chosen) as table:
            for of_run in chosen:
                telling = _told(tell, of_run)
                if what is What.MEASURES:
                    for measures in measure_parts(of_run, telling):
                        table.measures(measures)
                else:
                    for spectra in spectra_parts(of_run, telling):
                        table.spectra(spectra)


@contextmanager
def _table(
    path: Path, form: Format, what: What, chosen: Sequence[Chosen]
) -> Iterator[Table]:
    """A table that is there whole or not at all."""
    double = any(of_run.has_derived for of_run in chosen) and what is What.MEASURES
    names = list(dict.fromkeys(of_run.log.name for of_run in chosen))
    kind: type[CsvTable | ParquetTable]
    kind = CsvTable if form is Format.CSV else ParquetTable
    with written_whole(path) as part, kind(part, what, names, double) as table:
        yield table


def _told(tell: Tell, of_run: Chosen) -> Tell:
    """Progress with the name of the run."""

    def of_this(what: str, done: int, whole: int) -> None:
        tell(f"{of_run.log.name}: {what}", done, whole)

    return of_this


def _warn_of_formulas(chosen: Sequence[Chosen]) -> None:
    """Quotes do not keep a spreadsheet from running a name."""
    names = [n for c in chosen for n in (c.log.name, *c.layers, *c.metrics)]
    bad = [name for name in names if name.startswith(_FORMULA)]
    if bad:
        hint(
            f"Names such as {bad[0][:60]!r} look like formulas to a spreadsheet. They "
            "are written as they are: import those columns as text."
        )


def _say_what_is_damaged(chosen: Sequence[Chosen]) -> None:
    for of_run in chosen:
        bad = of_run.log.damage["bad"]
        if bad:
            hint(f"{of_run.log.name}: {bad} damaged records were left out.")
