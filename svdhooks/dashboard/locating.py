"""Where runs are: from TensorBoard's names of runs to directories on this machine."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from svdhooks.eventfile.writer import event_files
from svdhooks.runlog.find import find_runs
from svdhooks.schema import SUBDIRECTORY

_URI = re.compile(r"[a-zA-Z][0-9a-zA-Z.]*://.*")
HERE = "."
"""Name of the run that the directory itself is."""


@dataclass(frozen=True)
class Root:
    """A directory that TensorBoard was pointed at.

    Attributes:
        group: What its runs' names begin with; empty: nothing.
        path: As it was given; local ones absolute.
        local: The directory on this machine; None if it is elsewhere.
    """

    group: str
    path: str
    local: Path | None

    def directory(self, run: str) -> Path | None:
        """Where one of TensorBoard's runs would be; None if it is not below.

        Args:
            run: As TensorBoard names it.

        Returns:
            A directory that need not exist.
        """
        if self.local is None:
            return None
        if not self.group:
            return self.local / run
        if run == self.group:
            return self.local
        if run.startswith(f"{self.group}/"):
            return self.local / run[len(self.group) + 1 :]
        return None


def roots(logdir: str | None, spec: str | None) -> tuple[Root, ...]:
    """The directories of ``--logdir`` or ``--logdir_spec``, as TensorBoard reads them.

    Args:
        logdir: One directory.
        spec: ``name1:path1,path2``.

    Returns:
        In their order; none if neither was given.
    """
    if logdir:
        return (_root("", logdir),)
    found: dict[str, Root] = {}
    for part in spec.split(",") if spec else ():
        named = not _URI.match(part) and ":" in part and not part.startswith("/")
        if named and not os.path.splitdrive(part)[0]:
            group, _, path = part.partition(":")
            root = _root(group, path)
        else:
            root = _root("", part)
        found[root.path] = root
    return tuple(found.values())


def _root(group: str, path: str) -> Root:
    if _URI.match(path):
        return Root(group, path, None)
    local = Path(path).expanduser().resolve()
    return Root(group, str(local), local)


def name_of(run: str) -> str:
    """What a run of TensorBoard's is called here: without our sub-run's own name.

    Args:
        run: For example ``"exp1/svdhooks"``.

    Returns:
        ``"exp1"``; `HERE` for the directory itself. Bytes of a directory's name that
        are no text are written out, so that a page can ask for it.
    """
    run = os.fsencode(run).decode(errors="backslashreplace")
    parts = [part for part in run.split("/") if part not in {"", HERE}]
    if parts and parts[-1] == SUBDIRECTORY:
        parts.pop()
    return "/".join(parts) or HERE


def directory_of(run: str, known: tuple[Root, ...]) -> Path | None:
    """Where one of TensorBoard's runs is.

    Args:
        run: As TensorBoard names it.
        known: The directories it was pointed at.

    Returns:
        A directory with event files that can be read; None if there is none here.
    """
    for root in known:
        path = root.directory(run)
        try:
            if path is not None and event_files(path):
                return path
        except OSError:  # not ours to read
            continue
    return None


def found_on_disk(known: tuple[Root, ...]) -> Iterator[tuple[str, Path]]:
    """The runs below directories, whether or not TensorBoard has come to them.

    Args:
        known: The directories.

    Yields:
        Name, and log directory or sub-run.
    """
    for root in known:
        if root.local is None or not root.local.is_dir():
            continue
        for path in find_runs(root.local):
            inner = path.relative_to(root.local).as_posix()
            yield name_of(f"{root.group}/{inner}" if root.group else inner), path
