"""Where runs are: from the path that a user gives to the directory of event files."""

import os
from pathlib import Path

from svdhooks.eventfile.writer import event_files
from svdhooks.schema import SUBDIRECTORY

_NAMED = 5
_LEVELS = 2


def find_run(path: str | os.PathLike[str]) -> Path:
    """The directory that holds the event files of a run.

    Args:
        path: A log directory with a sub-run ``svdhooks``, or that sub-run, under
            whatever name.

    Returns:
        The sub-run.

    Raises:
        FileNotFoundError: If there is no such directory, or nothing is recorded in it.
        NotADirectoryError: If ``path`` is a file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist. Expected a log directory, as given to "
            "svdhooks.watch(model, log_dir), or the log_dir of a Lightning logger."
        )
    if not path.is_dir():
        raise NotADirectoryError(
            f"{path} is a file; expected the directory that holds it: "
            f"svdhooks.RunLog({str(path.parent)!r})."
        )
    for candidate in (path / SUBDIRECTORY, path):
        if event_files(candidate):
            return candidate
    if path.name == SUBDIRECTORY or (path / SUBDIRECTORY).is_dir():
        raise FileNotFoundError(
            f"{path} was set up by svdhooks but holds no event file. Either no step was "
            "scheduled yet, or nothing could be written."
        )
    raise FileNotFoundError(no_records(path, "no event files"))


def no_records(path: Path, found: str) -> str:
    """Say that a directory is no run, and which runs are near.

    Args:
        path: The directory.
        found: What is in it.

    Returns:
        A message that names runs one or two levels below, if there are any.
    """
    message = f"{path} holds no svdhooks records (found: {found})."
    below = [run.relative_to(path) for run in find_runs(path, _LEVELS) if run != path]
    if not below:
        return (
            f"{message} Expected a directory with a sub-directory {SUBDIRECTORY!r} of "
            "event files, as svdhooks.watch(model, log_dir) makes it in log_dir."
        )
    named = ", ".join(map(str, below[:_NAMED]))
    more = f" and {len(below) - _NAMED} more" if len(below) > _NAMED else ""
    return (
        f"{message} Runs below it: {named}{more}. Read one with svdhooks.RunLog("
        f"{str(path / below[0])!r}), or all with svdhooks.runs({str(path)!r})."
    )


def find_runs(root: Path, levels: int | None = None) -> list[Path]:
    """The log directories at and below ``root`` that hold a run.

    Args:
        root: A directory.
        levels: How far down to look; None: all the way.

    Returns:
        Sorted paths of directories with a sub-run ``svdhooks``, also one that cannot be
        read; ``root`` itself if it is such a sub-run.
    """
    if root.name == SUBDIRECTORY and event_files(root):
        return [root]
    found = []
    for directory, children, _ in os.walk(root):
        path = Path(directory)
        if SUBDIRECTORY in children and _may_hold_a_run(path / SUBDIRECTORY):
            children.remove(SUBDIRECTORY)
            found.append(path)
        if levels is not None and len(path.relative_to(root).parts) >= levels:
            children.clear()
    return sorted(found)


def _may_hold_a_run(directory: Path) -> bool:
    """Whether there are event files; one that is not ours to read hides no others."""
    try:
        return bool(event_files(directory))
    except OSError:
        return True
