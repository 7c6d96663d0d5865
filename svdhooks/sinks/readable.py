"""Where what went to sinks can be read again, to be shown."""

from collections.abc import Sequence
from typing import Any

from svdhooks import display
from svdhooks.display import Source
from svdhooks.runlog import RunLog


def source_of(sinks: Sequence[Any]) -> Source | None:
    """Where a recorder's records can be read again.

    Args:
        sinks: Of a recorder.

    Returns:
        The first that can be read itself, such as a `MemorySink`; else the run log in
        the directory of the first that writes one; None: nowhere, or nothing yet.
    """
    for sink in sinks:
        if isinstance(sink, Source):
            return sink
    for sink in sinks:
        if (directory := getattr(sink, "directory", None)) is not None:
            try:
                return RunLog(directory, name=directory.parent.name)
            except FileNotFoundError:
                continue
    return None


def html_of(sinks: Sequence[Any]) -> str | None:
    """What a notebook shows of a recorder.

    Args:
        sinks: Of the recorder.

    Returns:
        A small table; None if nobody remembers the records.
    """
    source = source_of(sinks)
    return None if source is None else display.html(source)
