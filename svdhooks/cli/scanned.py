"""``svdhooks scan``: the ranks of a checkpoint, or of a series of them."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from svdhooks.cli.scan_table import plain, print_scan, print_series, write_csv

if TYPE_CHECKING:
    from svdhooks.checkpoint import SeriesScan

DEFAULT_STEP = r"step(\d+)"


def scanned(
    checkpoint: str,
    step: str | None = None,
    vectors: int | str | None = None,
    log: Path | None = None,
    csv: Path | None = None,
    html: Path | None = None,
    layers: str = "*",
    measures: str | None = None,
    console: Console | None = None,
) -> int:
    """Show the ranks of a checkpoint; make a log of a series of them.

    Args:
        checkpoint: A path; a glob means a series.
        step: Regular expression with one group, the step in a path: a series.
        vectors: How many singular vectors to keep in the log, or ``"all"``.
        log: Directory of the log.
        csv: File for one row per layer; what was skipped goes beside it.
        html: File for the report.
        layers: Globs of layer names, with commas between.
        measures: Further measures, with commas between.
        console: Where to print.

    Returns:
        Exit status.
    """
    console = console or Console(emoji=False)
    try:
        asked = _Asked(checkpoint, _split(layers), _split(measures or ""), vectors, log)
        if step is not None or _is_glob(checkpoint):
            _series(asked, step or DEFAULT_STEP, csv, html, console)
        else:
            _single(asked, csv, html, console)
    except (ImportError, OSError, TypeError, ValueError) as error:
        # a name in the message is text, whatever it is
        Console(stderr=True, emoji=False).print(
            f"[red]{escape(plain(str(error), 2000))}[/red]", soft_wrap=True
        )
        return 1
    return 0


class _Asked:
    """What is to be scanned.

    Args:
        path: The checkpoint, or a glob.
        layers: Globs of layer names.
        measures: Further measures.
        vectors: How many to keep.
        log: Directory of the log.

    Raises:
        ValueError: If ``vectors`` is no number, or there is no log for them.
    """

    def __init__(
        self,
        path: str,
        layers: tuple[str, ...],
        measures: tuple[str, ...],
        vectors: int | str | None,
        log: Path | None,
    ) -> None:
        self.path, self.layers, self.measures, self.log = path, layers, measures, log
        self.vectors: int | Literal["all"] | None = None
        if vectors is None:
            return
        if log is None:
            raise ValueError("--vectors needs --log DIR, where they are kept.")
        if vectors == "all":
            self.vectors = "all"
        elif str(vectors).isdecimal() and int(vectors) > 0:
            self.vectors = int(vectors)
        else:
            raise ValueError(
                f"--vectors {vectors!r}: expected a number of singular vectors, or 'all'."
            )


def _split(texts: str) -> tuple[str, ...]:
    return tuple(filter(None, (text.strip() for text in texts.split(","))))


def _is_glob(path: str) -> bool:
    return any(sign in path for sign in "*?") and not Path(path).exists()


def _single(
    asked: _Asked, csv: Path | None, html: Path | None, console: Console
) -> None:
    from svdhooks.checkpoint import log_checkpoint, scan_checkpoint

    options: dict[str, Any] = {
        "layers": asked.layers,
        "measures": asked.measures,
    }
    with _log(asked.log) as where:
        with _progress() as tell:
            if asked.log is None and html is None:
                scan = scan_checkpoint(asked.path, **options, progress=tell)
            else:
                options["vectors"] = asked.vectors
                scan = log_checkpoint(asked.path, where, **options, progress=tell)
        print_scan(scan, asked.measures, console)
        if csv is not None:
            write_csv(csv, scan.rows_table(), scan.skipped)
        _write_report(where, html, Path(asked.path).name)
    _say_written(asked.log, csv, html, console)


def _series(
    asked: _Asked, step: str, csv: Path | None, html: Path | None, console: Console
) -> None:
    from svdhooks.checkpoint import scan_series

    if asked.log is None and csv is None and html is None:
        raise ValueError(
            "A series of checkpoints is written into a log: add --log DIR, and read it "
            "with 'svdhooks summary DIR'."
        )
    with _log(asked.log) as where:
        with _progress() as tell, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say is printed below
            series = scan_series(
                asked.path,
                step,
                log=where,
                vectors=asked.vectors,
                layers=asked.layers,
                measures=asked.measures,
                progress=tell,
            )
        print_series(series, asked.measures, console)
        if csv is not None:
            write_csv(csv, _rows(series), series.skipped)
        _write_report(where, html, asked.path)
    _say_written(asked.log, csv, html, console)


def _rows(series: "SeriesScan") -> list[dict[str, Any]]:
    """One row per step and layer."""
    from svdhooks.checkpoint.table import rows_of_log

    return rows_of_log(series.log)


def _log(log: Path | None) -> Any:
    """The directory of the log; one that is removed afterwards where none was asked for."""
    return nullcontext(log) if log is not None else _temporary()


@contextmanager
def _temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="svdhooks-scan-") as place:
        yield Path(place)


def _write_report(log: Path, html: Path | None, title: str) -> None:
    if html is None:
        return
    from svdhooks.analysis.reporting import report

    report(log, html, title=title)


def _say_written(
    log: Path | None, csv: Path | None, html: Path | None, console: Console
) -> None:
    for path in (log, csv, html):
        if path is not None:
            text = escape(plain(str(path), 500))
            console.print(f"[dim]Written: {text}[/dim]", soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Any]:
    """A progress bar on stderr; None where that is no terminal."""
    console = Console(stderr=True, emoji=False)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("opening", total=None)

        def tell(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=plain(name, 32))

        yield tell
