"""Records in a list, found again by layer and measure."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.record import Record
from svdhooks.sinks.summary import point_of

Series = tuple[NDArray[np.int64], NDArray[np.float64]]


class Index:
    """What a list of records holds, in the terms of a run.

    Attributes:
        events: The measurements that failed or carry a mark.
        pairs: The layers that feed each other.
        alarms: What was raised.
    """

    def __init__(self) -> None:
        self.events: list[Record] = []
        self.pairs: tuple[dict[str, Any], ...] = ()
        self.alarms: list[dict[str, Any]] = []
        self._taken: list[Record] = []
        self._layers: dict[str, None] = {}
        self._metrics: dict[str, tuple[str, str]] = {}
        self._matrices: dict[tuple[str, str], list[Record]] = {}
        self._runs: list[Record] = []
        self._run_metrics: dict[str, None] = {}
        self._steps: set[int] = set()
        self._described: dict[str, Mapping[str, Any]] = {}
        self._paired: set[str] = set()

    def follows(self, records: Sequence[Record]) -> bool:
        """Whether a list is the one known here, perhaps with more at its end."""
        known = len(self._taken)
        return known <= len(records) and (
            not known
            or (records[0] is self._taken[0] and records[known - 1] is self._taken[-1])
        )

    def take(self, records: Sequence[Record]) -> None:
        """Take in what a list that `follows` has at its end."""
        new = records[len(self._taken) :]
        self._taken.extend(new)
        for record in new:
            if record.quantity == "meta":
                meta = json.loads(record.values["json"].item())
                rows = meta.get("layers", [])
                self._layers = dict.fromkeys(row["name"] for row in rows) | self._layers
                self._described |= {row["name"]: row for row in rows}
                self.pairs = tuple(meta.get("pairs", ())) or self.pairs
                self._paired |= {row["name"] for row in self.pairs}
            elif record.quantity == "alarm":
                self.alarms += json.loads(record.values["json"].item())
            elif record.layer:
                self._take_layer(record)
            else:
                self._runs.append(record)
                self._run_metrics |= dict.fromkeys(record.measures)
                self._steps.add(record.step)

    def _take_layer(self, record: Record) -> None:
        point = point_of(record)
        self._steps.add(record.step)
        self._layers.setdefault(record.layer)
        self._matrices.setdefault((record.layer, point), []).append(record)
        for name, value in record.values.items():
            if np.ndim(value) == 0:
                self._metrics.setdefault(f"{point}_{name}", (point, name))
        if record.marks or not record.ok:
            self.events.append(record)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names, in the model's order."""
        return tuple(self._layers)

    @property
    def described(self) -> Mapping[str, Mapping[str, Any]]:
        """Layer -> its row in the latest layer table that has it."""
        return dict(self._described)

    def named(self, *, pairs: bool) -> tuple[str, ...]:
        """Those that are pairs of layers, or those that are not."""
        known = self._paired - self._described.keys()
        return tuple(name for name in self._layers if (name in known) == pairs)

    @property
    def steps(self) -> NDArray[np.int64]:
        """The recorded steps, increasing."""
        return np.array(sorted(self._steps), dtype=np.int64)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the measures."""
        return tuple(self._metrics)

    @property
    def run_metrics(self) -> tuple[str, ...]:
        """Names of the values of the whole run."""
        return tuple(self._run_metrics)

    def series(self, layer: str, metric: str) -> Series:
        """One measure of one layer; a later record of the same step counts."""
        point, name = self._metrics[metric]
        return _by_step(self._matrices.get((layer, point), ()), name)

    def spectra(self, layer: str, point: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The spectra of one matrix ``(T, n)``; shorter ones have zeros behind them."""
        from svdhooks.runlog.spectra import pad  # loads the readers of logs

        records = self._matrices.get((layer, point), ())
        found = {r.step: r.spectrum for r in records if len(r.spectrum)}
        steps = np.array(sorted(found), dtype=np.int64)
        n = max(map(len, found.values()), default=0)
        rows = [pad(found[step], n) for step in steps.tolist()]
        return steps, np.array(rows).reshape(len(steps), n)

    def vectors(
        self, layer: str, point: str
    ) -> tuple[NDArray[np.int64], dict[str, list[NDArray[Any] | None]]] | None:
        """The arrays of one matrix, step by step; None if there are none."""
        rows: dict[int, dict[str, NDArray[Any]]] = {}
        for record in self._matrices.get((layer, point), ()):
            if found := _arrays(record):
                rows.setdefault(record.step, {}).update(found)
        steps = sorted(rows)
        fields = dict.fromkeys(field for step in steps for field in rows[step])
        columns = {f: [rows[step].get(f) for step in steps] for f in fields}
        return (np.array(steps, dtype=np.int64), columns) if rows else None

    def recorded_vectors(
        self, layer: str, point: str
    ) -> tuple[NDArray[np.int64], dict[str, list[NDArray[Any] | None]]]:
        """The same, or a KeyError."""
        found = self.vectors(layer, point)
        if found is None:
            points = ", ".join(self.points(layer)) or "none"
            raise KeyError(
                f"No vectors of {point} of layer {layer!r} were recorded; recorded: "
                f"{points}."
            )
        return found

    def recorded_spectra(
        self, layer: str, point: str
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The spectra of one matrix, or a KeyError."""
        steps, values = self.spectra(layer, point)
        if not len(steps):
            raise KeyError(f"No spectra of {point} of layer {layer!r} were recorded.")
        return steps, values

    def points(self, layer: str) -> list[str]:
        """The points of a layer that have arrays besides spectra."""
        of_layer = ((p, r) for (name, p), r in self._matrices.items() if name == layer)
        return sorted(p for p, records in of_layer if any(map(_arrays, records)))

    def run_series(self, metric: str) -> Series:
        """One value of the whole run."""
        return _by_step(self._runs, metric)

    def measured(self, metric: str) -> NDArray[np.bool_]:
        """Which layers were measured at which step, ``(steps, layers)``."""
        there = np.zeros((len(self._steps), len(self._layers)), dtype=bool)
        for place, rows, _ in self._columns(metric):
            there[rows, place] = True
        return there

    def measure(self, metric: str) -> NDArray[np.float64]:
        """The values ``(steps, layers)``, NaN where there is none."""
        values = np.full((len(self._steps), len(self._layers)), np.nan)
        for place, rows, found in self._columns(metric):
            values[rows, place] = found
        return values

    def _columns(
        self, metric: str
    ) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.float64]]]:
        """For each layer its place, the places of its steps, and its values."""
        steps = self.steps
        for place, layer in enumerate(self._layers):
            at, found = self.series(layer, metric)
            yield place, np.searchsorted(steps, at), found


def _arrays(record: Record) -> dict[str, NDArray[Any]]:
    """What is neither a measure nor the spectrum."""
    several = record.values.items()
    return {k: v for k, v in several if k != "spectrum" and np.ndim(v)}


def _by_step(records: Sequence[Record], name: str) -> Series:
    found = {r.step: float(r.values[name]) for r in records if name in r.values}
    steps = np.array(sorted(found), dtype=np.int64)
    return steps, np.array([found[step] for step in steps.tolist()], dtype=np.float64)


def check_recorded(kind: str, name: str, known: Sequence[str]) -> None:
    """Refuse a name of what was not recorded.

    Args:
        kind: What it names.
        name: As given by the user.
        known: Those that there are.

    Raises:
        KeyError: If it is none of them.
    """
    if name not in known:
        close = difflib.get_close_matches(name, known, 3) or list(known)[:8]
        raise KeyError(f"No {kind} {name!r} was recorded; there is {', '.join(close)}.")


def latest(records: Sequence[Record], most: int) -> list[Record]:
    """What is left of a list when the oldest steps, whole, are forgotten.

    Args:
        records: In the order in which they were made.
        most: How many, without layer tables; the latest step is always kept.

    Returns:
        All, if there are no more.
    """
    metas = [r for r in records if r.quantity == "meta"]
    kept = [r for r in records if r.quantity != "meta"]
    cut = len(kept) - most
    if cut <= 0:
        return list(records)
    last = next(i for i, r in enumerate(kept) if r.step == kept[-1].step)
    while cut < last and kept[cut].step == kept[cut - 1].step:
        cut += 1
    # the last layer table holds for what is left
    return [*metas[-1:], *kept[min(cut, last) :]]
