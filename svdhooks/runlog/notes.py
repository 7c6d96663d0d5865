"""What is said of a record besides its numbers, as JSON in ``svdhooks/record``.

One object per record: ``run`` holds the values of the whole run (seconds, overhead,
``logged_step`` …) and ``of`` the length of the layer table. The other fields have one
element per measurement: ``layer`` is an index into the layer table; ``point``,
``status``, ``method``, ``marks`` (joined by spaces) and ``quantity`` are indices into
``words``; ``seconds`` are rounded. ``fields`` says which measures a quantity has, so
that one that failed is told from one that was not made.
"""

import hashlib
import json
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from svdhooks.record import OK
from svdhooks.schema import VERSION


@dataclass(frozen=True, slots=True)
class Entry:
    """What is said of one measurement.

    Attributes:
        step: Optimiser updates contained in the weights.
        layer: Name of the layer, or of the tap.
        point: Which matrix: ``"weight"``, ``"input"``, ``"output"`` or another.
        status: ``"ok"``, or in words why the values are NaN.
        method: How the spectrum was computed.
        marks: Reservations about the values.
        seconds: Time it took on the training thread.
        quantity: What was measured; empty in logs of early versions.
    """

    step: int
    layer: str
    point: str
    status: str = OK
    method: str = ""
    marks: tuple[str, ...] = ()
    seconds: float = 0.0
    quantity: str = ""

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
    quantity: Sequence[str]
    fields: Mapping[str, Sequence[str]]

    def entries(
        self, step: int, layers: Sequence[str], places: Iterable[int] | None = None
    ) -> list[Entry]:
        """One object per measurement.

        Args:
            step: Of the record.
            layers: Names in the order of the layer table.
            places: Which measurements; None: all.

        Returns:
            In the order in which they were measured; empty without a layer table.
        """
        if len(layers) < self.of:
            return []
        return [
            Entry(
                step,
                layers[self.layer[i]],
                self.point[i],
                self.status[i],
                self.method[i],
                self.marks[i],
                self.seconds[i],
                self.quantity[i],
            )
            for i in (range(len(self.layer)) if places is None else places)
        ]

    @property
    def remarkable(self) -> list[int]:
        """The measurements that failed or carry a mark."""
        pairs = enumerate(zip(self.status, self.marks, strict=True))
        return [i for i, (status, marks) in pairs if status != OK or marks]


def encode(
    run: Mapping[str, float],
    entries: Sequence[Entry],
    index: Mapping[str, int],
    fields: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Write a note.

    Args:
        run: Values of the whole run.
        entries: One per measurement.
        index: Layer name -> place in the layer table.
        fields: Quantity -> names of its measures.

    Returns:
        Compact JSON. Values that are not finite become null, which JSON has.
    """
    columns = {
        "point": [e.point for e in entries],
        "status": [e.status for e in entries],
        "method": [e.method for e in entries],
        "marks": [" ".join(e.marks) if e.marks else "" for e in entries],
        "quantity": [e.quantity for e in entries],
    }
    words = list(dict.fromkeys(chain.from_iterable(columns.values())))
    code = {word: place for place, word in enumerate(words)}
    coded = {name: [code[word] for word in found] for name, found in columns.items()}
    note = {
        "v": VERSION,
        "run": {k: v if math.isfinite(v) else None for k, v in run.items()},
        "of": len(index),
        "layer": [index[e.layer] for e in entries],
        **{name: coded[name] for name in ("point", "status", "method", "marks")},
        "seconds": [float(f"{e.seconds:.3g}") for e in entries],
        "quantity": coded["quantity"],
        "fields": {name: list(names) for name, names in (fields or {}).items()},
        "words": words,
    }
    return json.dumps(note, separators=(",", ":"))


class Decoder:
    """Reads notes; of those that differ in numbers alone the words are read once."""

    def __init__(self) -> None:
        self._known: dict[bytes, Note] = {}
        self._shared: dict[Any, Any] = {}

    def decode(self, text: bytes) -> Note:
        """Read a note.

        Args:
            text: As `encode` wrote it. Fields may be missing.

        Returns:
            The note. Columns that are equal to those of another note are kept once.
        """
        # A quotation mark in a string is escaped, so these are keys; and the first of
        # their kind, since the names of measures stand behind them.
        run, of, rest = text.partition(b'},"of":')
        constant, seconds, last = rest.partition(b',"seconds":[')
        numbers, end, words = last.partition(b"]")
        if not (of and seconds and end and run.startswith(_RUN)):
            return decode(text, self._shared)
        key = hashlib.blake2b(constant + end + words, digest_size=16).digest()
        if key not in self._known:
            self._known[key] = decode(text, self._shared)
            return self._known[key]
        known = self._known[key]
        told = json.loads(run.removeprefix(_RUN) + b"}")
        times = array(
            "d", json.loads(b"[" + numbers + b"]") or [0.0] * len(known.layer)
        )
        return replace(known, run=_floats(told), seconds=times)


def decode(text: str | bytes, shared: dict[Any, Any] | None = None) -> Note:
    """Read a note.

    Args:
        text: As `encode` wrote it. Fields may be missing.
        shared: Columns of other notes; those that are equal are kept once.

    Returns:
        The note.
    """
    raw = json.loads(text)
    words = raw.get("words", [])
    layer = raw.get("layer", [])
    shared = {} if shared is None else shared

    def share(column: Iterable[Any]) -> tuple[Any, ...]:
        found = tuple(column)
        same: tuple[Any, ...] = shared.setdefault(found, found)
        return same

    def column(name: str, meanings: Sequence[Any], default: Any = "") -> Sequence[Any]:
        codes = raw.get(name, [])
        return share([meanings[c] for c in codes] or [default] * len(layer))

    fields = raw.get("fields", {})
    return Note(
        run=_floats(raw.get("run", {})),
        of=raw.get("of", 0),
        layer=share(layer),
        point=column("point", words),
        status=column("status", words),
        method=column("method", words),
        marks=column("marks", [tuple(word.split()) for word in words], ()),
        seconds=array("d", raw.get("seconds") or [0.0] * len(layer)),
        quantity=column("quantity", words),
        fields={name: share(names) for name, names in fields.items()},
    )


def _floats(run: Mapping[str, float | None]) -> dict[str, float]:
    """Values of the run; JSON has null for those that are not finite."""
    return {name: math.nan if v is None else v for name, v in run.items()}


_RUN = f'{{"v":{VERSION},"run":'.encode()


def listed(text: str | bytes) -> list[dict[str, Any]]:
    """What JSON says of a step: a list of mappings, or in earlier logs a single one.

    Args:
        text: The JSON.

    Returns:
        The list.
    """
    found = json.loads(text)
    return found if isinstance(found, list) else [found]
