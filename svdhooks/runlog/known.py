"""Names that a run has, and notes of it that were decoded."""

import difflib
from collections.abc import Iterable
from typing import Any

import numpy as np

from svdhooks.runlog import notes
from svdhooks.runlog.notes import Note
from svdhooks.runlog.tagvalues import Rows, read

_KEPT = 2**29
"""Bytes of measures that a run keeps decoded."""


class Known:
    """Notes that were decoded, so that a growing log is not decoded again."""

    def __init__(self) -> None:
        self._notes: dict[tuple[int, int], Note] = {}
        self._decoder = notes.Decoder()

    def read(self, rows: Rows) -> dict[int, Note]:
        """Read those that are new.

        Args:
            rows: Where the notes are.

        Returns:
            Step -> note.
        """
        keys = rows.keys()
        new = [i for i, key in enumerate(keys) if key not in self._notes]
        places = np.array(new, dtype=np.intp)
        for i, text in zip(new, read(rows.take(places)), strict=True):
            if isinstance(text, bytes):
                self._notes[keys[i]] = self._decoder.decode(text)
        found = zip(rows.steps.tolist(), keys, strict=True)
        return {step: self._notes[key] for step, key in found if key in self._notes}


def check_known(
    kind: str, name: str, known: Iterable[str], run: str, also: Iterable[str] = ()
) -> None:
    """Raise unless a run has what is asked for.

    Args:
        kind: Of the name, for example ``"layer"``.
        name: What was asked for.
        known: What there is.
        run: What the run is called.
        also: What there is besides, named if nothing else comes close.

    Raises:
        KeyError: If it has not; names what comes close, or what there is.
    """
    known, also = list(known), list(also)
    if name in known or name in also:
        return
    close = difflib.get_close_matches(name, known, n=3)
    close = close or [other for other in known if name and name in other][:3]
    close = close or difflib.get_close_matches(name, also, n=3)
    if close:
        hint = f"Did you mean {' or '.join(map(repr, close))}?"
    else:
        shown = ", ".join(map(repr, known[:10])) or "none"
        hint = f"It has {shown}{' …' if len(known) > 10 else ''}."
    raise KeyError(f"Run {run!r} has no {kind} {name!r}. {hint}")


def make_room(kept: dict[str, Any], size: int) -> None:
    """Drop what was decoded first, until one more of a size fits in.

    Args:
        kept: What is kept decoded, each about as large.
        size: In bytes.
    """
    while kept and (len(kept) + 1) * size > _KEPT:
        del kept[next(iter(kept))]
