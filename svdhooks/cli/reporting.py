"""``svdhooks report``: one page about runs."""

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from svdhooks.cli.telling import (
    check_output,
    guarded,
    hint,
    open_runs,
    plain,
    progress,
    size_of,
)


@dataclass(frozen=True)
class Page:
    """The options.

    Attributes:
        out: The file.
        title: Stands on top; None: the names of the runs.
        preset: Rules of the alarms.
        max_mb: Largest size.
        force: Whether a file that is there is replaced.
        open_it: Whether it is opened in the browser.
    """

    out: Path
    title: str | None = None
    preset: str = "auto"
    max_mb: float = 12
    force: bool = False
    open_it: bool = False


def report(logdirs: Sequence[Path], page: Page, console: Console | None = None) -> int:
    """Write a page about the runs at and below some directories.

    Args:
        logdirs: Directories of runs, or of several each.
        page: What is written where.
        console: Where to say what was written.

    Returns:
        Exit status.
    """
    console = console or Console(emoji=False, highlight=False)
    return guarded(lambda: _report(logdirs, page, console))


def _report(logdirs: Sequence[Path], page: Page, console: Console) -> int:
    check_output(page.out, page.force)
    found = open_runs(logdirs)
    count = f"{len(found)} runs" if len(found) > 1 else next(iter(found))
    with progress(f"report on {count}"):
        from svdhooks.analysis.reporting import report as write

        path = write(
            list(logdirs),
            page.out,
            title=page.title,
            alarms=page.preset,
            max_mb=page.max_mb,
        )
    console.print(f"{plain(str(path))}  {size_of(path)}", soft_wrap=True)
    if page.open_it and not webbrowser.open(path.resolve().as_uri()):
        hint("No browser was found; open the page by hand.")
    return 0
