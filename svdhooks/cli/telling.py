"""What all commands tell in the same way: errors in one line, progress, names."""

import difflib
import fnmatch
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from svdhooks.cli.root import FAILED
from svdhooks.runlog import RunLog, runs

_SHOWN = 8
_LONG = 200

Tell = Callable[[str, int, int], None]
"""What is being done; how much of it is done; how much there is."""


def guarded(work: Callable[[], int]) -> int:
    """Run a command; say in one line what is wrong, if anything is.

    Args:
        work: Returns an exit code.

    Returns:
        That code, or that of errors.
    """
    try:
        with _warnings_in_words():
            return work()
    except (OSError, ValueError, KeyError, ImportError) as error:
        complain(reason(error))
        return FAILED


def complain(text: str) -> None:
    """Print an error, or a warning, to stderr; its names are text and no markup."""
    _stderr().print(f"[red]{plain(text)}[/red]", soft_wrap=True)


def hint(text: str) -> None:
    """Print something worth knowing to stderr."""
    _stderr().print(f"[yellow]{plain(text)}[/yellow]", soft_wrap=True)


def reason(error: BaseException) -> str:
    """What an error says.

    Args:
        error: Ours, or one of the system with a file's name.

    Returns:
        A sentence.
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'Writing'}: {error.strerror}."
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])
    return str(error) or type(error).__name__


def plain(text: str, most: int | None = None) -> str:
    """Text for the terminal.

    Args:
        text: Of anyone's making.
        most: Characters after which it is cut.

    Returns:
        One line, in which nothing is markup or a control character.
    """
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if most is not None and len(line) > most:
        line = f"{line[: most - 1]}…"
    return escape(line)


def open_runs(logdirs: Sequence[Path]) -> dict[str, RunLog]:
    """The runs at and below some directories.

    Args:
        logdirs: Where to look.

    Returns:
        Name -> run. If two have the same name, their paths are the names.

    Raises:
        FileNotFoundError: If there is no such directory, or no run in it.
        NotADirectoryError: If it is a file.
    """
    found: list[RunLog] = []
    for logdir in logdirs:
        if not logdir.exists():
            raise FileNotFoundError(
                f"{logdir} is no directory: nothing has that name.{_near(logdir)}"
            )
        if not logdir.is_dir():
            raise NotADirectoryError(
                f"{logdir} is no directory but a file; give the one that holds it: "
                f"{logdir.parent}."
            )
        there = runs(logdir)
        if not there:
            raise FileNotFoundError(
                f"No svdhooks log below {logdir}. Expected a run directory with a "
                "directory 'svdhooks' of event files, as svdhooks.watch(model, log_dir) "
                "or a callback writes it."
            )
        found += there.values()
    names = [log.name for log in found]
    return {
        name if names.count(name) == 1 else str(log.log_dir): log
        for name, log in zip(names, found, strict=True)
    }


def matching(
    kind: str, names: Sequence[str], globs: str, also: Sequence[str] = ()
) -> list[str]:
    """The names that are asked for.

    Args:
        kind: Of the names, for example ``"layer"``.
        names: What there is.
        globs: Globs with commas between; or one name in full, whatever is in it.
        also: Names that are taken if they are given in full.

    Returns:
        At least one name, in the order of ``names``.

    Raises:
        ValueError: If nothing matches; says what comes close.
    """
    wanted = [globs] if globs in names else [g.strip() for g in globs.split(",")]
    found = [
        name
        for name in names
        if any(name == glob or fnmatch.fnmatchcase(name, glob) for glob in wanted)
    ]
    found += [name for name in also if name in wanted and name not in found]
    if found:
        return found
    raise ValueError(f"No {kind} matches {globs!r}. {suggestion(wanted, names, also)}")


def suggestion(
    wanted: Iterable[str], names: Sequence[str], also: Sequence[str] = ()
) -> str:
    """What somebody may have meant.

    Args:
        wanted: What was given.
        names: What there is.
        also: What there is besides.

    Returns:
        A sentence.
    """
    everything = [*names, *also]
    close = [
        name
        for glob in wanted
        for name in difflib.get_close_matches(glob.strip("*?"), everything, n=3)
        or [n for n in everything if glob.strip("*?") and glob.strip("*?") in n][:3]
    ]
    if close:
        return f"Did you mean {' or '.join(map(_cut, dict.fromkeys(close)))}?"
    shown = ", ".join(map(_cut, names[:_SHOWN])) or "none"
    return f"There are: {shown}{' …' if len(names) > _SHOWN else ''}."


@contextmanager
def progress(what: str) -> Iterator[Tell]:
    """A bar on stderr while something is done; nothing where that is no terminal.

    Args:
        what: Is being done.

    Yields:
        What to tell it.
    """
    console = _stderr()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(plain(what), total=None)

        def tell(now: str, done: int, whole: int) -> None:
            shown = plain(now, 40)
            bar.update(task, description=shown, completed=done, total=whole)

        yield tell


def size_of(path: Path) -> str:
    """The size of a file in words."""
    size = float(path.stat().st_size)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def check_output(path: Path, force: bool) -> None:
    """Refuse a place where no file can be, or where one is.

    Args:
        path: Of a file that is to be written.
        force: Whether one that is there is replaced.

    Raises:
        FileExistsError: If a file is there.
        IsADirectoryError: If a directory is there.
        FileNotFoundError: If its directory is not there.
    """
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a directory; give the name of a file in it with -o."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"There is no directory {path.parent} for {path.name}; make it first."
        )
    if path.exists() and not force:
        raise FileExistsError(
            f"{path} is already there. Choose another -o, or replace it with --force."
        )


def _stderr() -> Console:
    # ":smile:" may be a layer's name, and numbers in paths are no numbers
    return Console(stderr=True, emoji=False, highlight=False)


def _near(path: Path) -> str:
    """Directories beside one that is not there, if their names are like it."""
    parent = path.parent
    there = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
    close = difflib.get_close_matches(path.name, there, n=3)
    return (
        f" Did you mean {' or '.join(str(parent / c) for c in close)}?" if close else ""
    )


def _cut(name: str) -> str:
    shown = repr(name)
    return shown if len(shown) <= _LONG else f"{shown[:_LONG]}…'"


@contextmanager
def _warnings_in_words() -> Iterator[None]:
    """Show warnings as sentences, without the line of source that gave them."""

    def show(
        message: Warning | str,
        category: type[Warning],  # noqa: ARG001
        filename: str,  # noqa: ARG001
        lineno: int,  # noqa: ARG001
        file: TextIO | None = None,  # noqa: ARG001
        line: str | None = None,  # noqa: ARG001
    ) -> None:
        hint(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
