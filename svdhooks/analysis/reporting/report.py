"""A page about one run or several, written to a file."""

import os
from collections.abc import Sequence
from pathlib import Path

from svdhooks.alarms import resolve_alarms
from svdhooks.alarms.choosing import Choice
from svdhooks.analysis.reporting.run import page_data
from svdhooks.runlog import RunLog, runs
from svdhooks.wholefile import written_whole

PathLike = str | os.PathLike[str]

_MEGABYTE = 10**6
_LEAST = 1.0
_PROGRAM = 0.4 * _MEGABYTE
"""Bytes for what is no data: styles and programs."""
_PACKED = 0.7
"""Share of the page that data may be: base64 makes it 4/3 as large."""
_TRIES = 4


def report(
    logdirs: PathLike | Sequence[PathLike],
    out: PathLike = "report.html",
    *,
    title: str | None = None,
    alarms: Choice = "auto",
    max_mb: int | float = 12,
) -> Path:
    """Write one page that says what runs were like; it opens without a network.

    On top stands a verdict in plain words; below are alarms, a map of ranks, spectra over
    time, local rank, ledger, spectral graph, cost, and what was skipped. Each figure says
    which call gives it from the log. What had no room is listed, with the call too.

    Paths and settings stand on it as they were given: for a page that others shall see,
    give relative paths.

    Args:
        logdirs: A log directory, or several. One that holds several runs gives them all.
        out: The file to write. One that exists is replaced once the new one is complete.
        title: Of the page; None: the names of the runs.
        alarms: Rules to apply to the log, as `svdhooks.watch(alarms=)` takes them; None:
            only what was raised live.
        max_mb: Megabytes (10⁶ bytes) that the page may have; larger logs are thinned.
            Names, alarms and settings are not: 26 runs take a little more than 1.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: If a directory does not exist or holds no run; names runs that
            are near.
        NotADirectoryError: If a path is a file.
        IsADirectoryError: If ``out`` is a directory.
        OSError: If ``out`` cannot be written.
        TypeError: If something in ``alarms`` is neither a name nor a rule.
        ValueError: If no path was given, ``max_mb`` is below 1, or there is no such
            preset or rule.
    """
    found = _runs(logdirs)
    path = _writable(out)
    resolve_alarms(alarms)
    if not max_mb >= _LEAST:
        raise ValueError(f"Found max_mb={max_mb!r}, expected {_LEAST:g} or more.")
    heading = _title(found) if title is None else title
    with written_whole(path) as part:
        page = _page(found, heading, alarms, float(max_mb))
        part.write_text(page, encoding="utf-8")
    return path


def _page(found: dict[str, RunLog], title: str, alarms: Choice, max_mb: float) -> str:
    """The page, not larger than asked for."""
    from svdhooks.web.embedding import embedded_page

    size = (max_mb * _MEGABYTE - _PROGRAM) * _PACKED
    page = ""
    for _ in range(_TRIES):
        page = embedded_page(title, page_data(found, title, alarms, size))
        ratio = len(page.encode()) / (max_mb * _MEGABYTE)
        if ratio <= 1.0:
            break
        size *= 0.8 / ratio  # names and words weigh more than was thought
    return page


def _runs(logdirs: PathLike | Sequence[PathLike]) -> dict[str, RunLog]:
    """The runs that are asked for, by names that tell them apart."""
    given = [logdirs] if isinstance(logdirs, str | os.PathLike) else list(logdirs)
    if not given:
        raise ValueError("Found no log directory, expected one or more.")
    logs: list[RunLog] = []
    for one in given:
        below = list(runs(one).values()) if Path(one).is_dir() else []
        # with none, or a file, RunLog says what is there and what is near
        logs += below or [RunLog(one)]
    unique = {log.directory.resolve(): log for log in logs}
    names: dict[str, RunLog] = {}
    for log in unique.values():
        name = log.name
        if name in names:
            name = str(log.log_dir)
        names[name] = log
    return names


def _writable(out: PathLike) -> Path:
    """The file to write; fails before anything is read."""
    path = Path(out)
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a directory; expected a file: {str(path / 'report.html')!r}."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path.parent} is no directory, so that {path.name} cannot be written "
            "there. Make it first, or give another path."
        )
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(
            f"{path.parent} cannot be written to; give another path for the report."
        )
    return path


def _title(found: dict[str, RunLog]) -> str:
    """The names of the runs."""
    names = list(found)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
