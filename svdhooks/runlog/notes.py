"""What is said of a record besides its numbers, as JSON in ``svdhooks/record``.

One object per record: ``run`` holds the values of the whole run (seconds, overhead,
``logged_step`` …) and ``of`` the length of the layer table. The other fields have one
element per measurement: ``layer`` is an index into the layer table; ``point``,
``status``, ``method`` and ``marks`` (joined by spaces) are indices into ``words``;
``seconds`` are rounded.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svdhooks.record import OK
from svdhooks.schema import VERSION


@dataclass(frozen=True, slots=True)
class Entry:
    """What is said of one measurement.

    Attributes:
        step: Optimiser updates contained in the weights.
        layer: Name of the layer, or of the tap.
        point: Which matrix: ``"weight"``, ``"input"`` or ``"output"``.
        status: ``"ok"``, or in words why the values are NaN.
        method: How the spectrum was computed.
        marks: Reservations about the values.
        seconds: Time it took on the training thread.
    """

    step: int
    layer: str
    point: str
    status: str = OK
    method: str = ""
    marks: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the values can be used."""
        return self.status == OK


@dataclass(frozen=True, slots=True)
class Note:
    """The decoded JSON of one record: columns with one element per measurement."""

    run: Mapping[str, float]
    of: int
    layer: Sequence[int]
    point: Sequence[str]
    status: Sequence[str]
    method: Sequence[str]
    marks: Sequence[tuple[str, ...]]
    seconds: Sequence[float]

    def entries(self, step: int, layers: Sequence[str]) -> list[Entry]:
        """One object per measurement.

        Args:
            step: Of the record.
            layers: Names in the order of the layer table.

        Returns:
            In the order in which they were measured; empty without a layer table.
        """
        if len(layers) < self.of:
            return []
        columns = zip(
            self.layer,
            self.point,
            self.status,
            self.method,
            self.marks,
            self.seconds,
            strict=True,
        )
        return [Entry(step, layers[i], *rest) for i, *rest in columns]


def encode(
    run: Mapping[str, float], entries: Sequence[Entry], index: Mapping[str, int]
) -> str:
    """Write a note.

    Args:
        run: Values of the whole run.
        entries: One per measurement.
        index: Layer name -> place in the layer table.

    Returns:
        Compact JSON. Values that are not finite become null, which JSON has.
    """
    words: dict[str, int] = {}

    def code(word: str) -> int:
        return words.setdefault(word, len(words))

    note = {
        "v": VERSION,
        "run": {k: v if math.isfinite(v) else None for k, v in run.items()},
        "of": len(index),
        "layer": [index[e.layer] for e in entries],
        "point": [code(e.point) for e in entries],
        "status": [code(e.status) for e in entries],
        "method": [code(e.method) for e in entries],
        "marks": [code(" ".join(e.marks)) for e in entries],
        "seconds": [float(f"{e.seconds:.3g}") for e in entries],
    }
    return json.dumps({**note, "words": list(words)}, separators=(",", ":"))


def decode(text: str | bytes) -> Note:
    """Read a note.

    Args:
        text: As `encode` wrote it. Fields may be missing.

    Returns:
        The note.
    """
    raw = json.loads(text)
    words = raw.get("words", [])
    layer = raw.get("layer", [])

    def column(name: str, meanings: Sequence[Any], default: Any = "") -> list[Any]:
        return [meanings[code] for code in raw.get(name, [])] or [default] * len(layer)

    return Note(
        run={k: math.nan if v is None else v for k, v in raw.get("run", {}).items()},
        of=raw.get("of", 0),
        layer=layer,
        point=column("point", words),
        status=column("status", words),
        method=column("method", words),
        marks=column("marks", [tuple(word.split()) for word in words], ()),
        seconds=raw.get("seconds") or [0.0] * len(layer),
    )
