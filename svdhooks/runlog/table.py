"""A run's records decoded: which layers, which steps, what was measured of what."""

import json
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks import schema
from svdhooks.record import OK
from svdhooks.runlog.known import Known, make_room
from svdhooks.runlog.notes import Entry, Note, listed
from svdhooks.runlog.placing import blocks
from svdhooks.runlog.scalars import Series
from svdhooks.runlog.tagstore import TagStore


class RunTable:
    """What a tag store holds, in the terms of a run.

    Args:
        store: As it is now; a table made earlier does not follow it.
        known: Notes decoded before; added to.
    """

    def __init__(self, store: TagStore, known: Known) -> None:
        self._store = store
        self._known = known

    @cached_property
    def metas(self) -> list[tuple[int, Mapping[str, Any]]]:
        """The layer tables with the steps from which on they hold."""
        column = self._store.column(schema.META_TAG)
        if column is None:
            return []
        metas = [json.loads(text) for text in column.values]
        newest = max(meta.get("schema", 1) for meta in metas)
        if newest > schema.VERSION:
            warnings.warn(
                f"The log in {self._store.directory} was written by a later version of "
                f"svdhooks (schema {newest}; this one reads {schema.VERSION}). What it "
                "does not know is left out; upgrade svdhooks to read it.",
                stacklevel=2,
            )
        return list(zip(column.steps.tolist(), metas, strict=True))

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names in the model's order; those of the latest layer table first."""
        names: dict[str, None] = {}
        for _, meta in reversed(self.metas):
            names |= dict.fromkeys(_names(meta))
        scalars = set(self._store.scalar_tags)
        for tag in self._store.tags:  # a spectrum is worth reading without its meta
            if tag not in scalars and (found := schema.layer_of(tag)) is not None:
                names.setdefault(found[1])
        return tuple(names)

    @cached_property
    def described(self) -> dict[str, Mapping[str, Any]]:
        """Layer -> its row in the latest layer table that has it."""
        rows: dict[str, Mapping[str, Any]] = {}
        for _, meta in self.metas:
            rows |= {row["name"]: row for row in meta.get("layers", [])}
        return rows

    @cached_property
    def notes(self) -> dict[int, Note]:
        """Step -> what is said of its record; without those that are damaged."""
        rows = self._store.rows(schema.RECORD_TAG)
        return {} if rows is None else self._known.read(rows)

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """The recorded steps."""
        rows = self._store.rows(schema.RECORD_TAG)
        return np.empty(0, dtype=np.int64) if rows is None else rows.steps

    def statuses(self, layer: str) -> Iterator[Entry]:
        """What is said of every measurement of a layer."""
        for step, note in self.notes.items():
            names = self._names_at(step, note.of)
            if layer in names:
                index = names.index(layer)
                mine = [i for i, place in enumerate(note.layer) if place == index]
                yield from note.entries(step, names, mine)

    def events(self) -> Iterator[Entry]:
        """The measurements that failed or carry a mark."""
        for step, note in self.notes.items():
            if found := note.remarkable:
                yield from note.entries(step, self._names_at(step, note.of), found)

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of the measures, those of weights first."""
        prefix = schema.MEASURE_PREFIX
        found = [
            tag.removeprefix(prefix)
            for tag in self._store.tags
            if tag.startswith(prefix) and self._store.rows(tag) is not None
        ]
        order = {point: i for i, point in enumerate(schema.POINTS)}
        return tuple(
            sorted(
                found, key=lambda name: order.get(name.partition("_")[0], len(order))
            )
        )

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """The alarms that were raised, each with its step."""
        column = self._store.column(schema.ALARM_TAG)
        if column is None:
            return []
        raised = zip(column.steps.tolist(), column.values, strict=True)
        return [{"step": s, **event} for s, text in raised for event in listed(text)]

    @property
    def present(self) -> bool:
        """Whether any record is there, readable or superseded."""
        return bool({schema.META_TAG, schema.RECORD_TAG} & set(self._store.tags))

    @property
    def scalar_tags(self) -> list[str]:
        """Our own stock scalars."""
        return self._store.scalar_tags

    @cached_property
    def logged_steps(self) -> NDArray[np.float64]:
        """The logger's x coordinate of each record; its step if none was given."""
        steps = self.steps.astype(np.float64)
        runs = {step: note.run for step, note in self.notes.items()}
        told = np.array([
            runs.get(step, {}).get("logged_step", np.nan)
            for step in self.steps.tolist()
        ])
        return np.where(np.isfinite(told), told, steps)

    @cached_property
    def run_metrics(self) -> tuple[str, ...]:
        """Names of the values of the whole run."""
        return tuple(dict.fromkeys(k for note in self.notes.values() for k in note.run))

    def run_series(self, metric: str) -> Series:
        """Steps and values of one value of the whole run."""
        notes = self.notes.items()
        found = {step: note.run[metric] for step, note in notes if metric in note.run}
        steps = np.array(list(found), dtype=np.int64)
        return steps, np.array(list(found.values()), dtype=np.float64)

    def measure(self, metric: str) -> NDArray[np.float64]:
        """One measure of every layer at every step, ``(T, L)``; NaN: not measured."""
        return self._kept(metric)[0]

    def measured(self, metric: str) -> NDArray[np.bool_]:
        """At which step which layer has a measure, ``(T, L)``, also if it failed."""
        return self._kept(metric)[1]

    def _kept(self, metric: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """What `measure` and `measured` return; of large logs the last few are kept."""
        if metric not in self._measures:
            found = self._measure(metric)
            make_room(self._measures, found[0].nbytes)
            self._measures[metric] = found
        return self._measures[metric]

    def _measure(self, metric: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """What `measure` and `measured` return."""
        shape = len(self.steps), len(self.layers)
        values, there = np.full(shape, np.nan), np.zeros((len(self.steps), 1), bool)
        column = self._store.column(schema.MEASURE_PREFIX + metric)
        same = len({names for _, names in self._tables}) == 1
        for rows, places, found in blocks(column, self.steps, same, self._places_at):
            values[np.ix_(rows, places)] = found
            there[rows] = True
        told = ~np.isnan(values)  # infinite is a condition number, not a failure
        if told[there[:, 0]].all():  # then the notes, which say why not, can wait
            return values, there & told
        return values, there & (self._in_vain(metric, told) | told)

    def _in_vain(self, metric: str, told: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """At which step a layer has a measure by the notes, ``(T, L)``, or NaN."""
        # a point's name may begin with another's
        points = {point for point, _ in self._recorded}
        owner = max(
            (p for p in points if metric.startswith(f"{p}_")), key=len, default=""
        )
        field = metric.removeprefix(f"{owner}_")
        made = np.zeros((len(self.steps), len(self.layers)), dtype=bool)
        for (point, quantity), mask in self._recorded.items():
            has = self._fields.get(quantity)
            if point == owner and (has is None or field in has):
                made |= mask
        # what a layer never has (a rank of adapters, extremes of experts) did not fail
        return made & (told.any(axis=0) | self._failed.get(owner, False))

    @cached_property
    def _failed(self) -> dict[str, NDArray[np.bool_]]:
        """Point -> at which step it failed of which layer, ``(T, L)``."""
        shape = len(self.steps), len(self.layers)
        failed: dict[str, NDArray[np.bool_]] = {}
        row_of = {step: row for row, step in enumerate(self.steps.tolist())}
        for step, note in self.notes.items():
            columns = zip(note.layer, note.point, note.status, strict=True)
            bad = [(i, point) for i, point, status in columns if status != OK]
            places = self._places_at(step, note.of) if bad else None
            if places is None:
                continue
            for layer, point in bad:
                mask = failed.setdefault(point, np.zeros(shape, dtype=bool))
                mask[row_of[step], places[layer]] = True
        return failed

    @cached_property
    def _fields(self) -> dict[str, set[str]]:
        """Quantity -> names of its measures, of those that say so."""
        fields: dict[str, set[str]] = {}
        for note in self.notes.values():
            for quantity, names in note.fields.items():
                fields.setdefault(quantity, set()).update(names)
        return fields

    @cached_property
    def _recorded(self) -> dict[tuple[str, str], NDArray[np.bool_]]:
        """Point, quantity -> when which layer was measured, ``(T, L)``, also in vain."""
        shape = len(self.steps), len(self.layers)
        masks: dict[tuple[str, str], NDArray[np.bool_]] = {}
        row_of = {step: row for row, step in enumerate(self.steps.tolist())}
        for step, note in self.notes.items():
            places = self._places_at(step, note.of)
            if places is None:
                continue
            for what, layers in self._measured_by(note).items():
                if what not in masks:
                    masks[what] = np.zeros(shape, dtype=bool)
                masks[what][row_of[step], places[layers]] = True
        return masks

    def _measured_by(self, note: Note) -> dict[tuple[str, str], NDArray[np.intp]]:
        """Point, quantity -> indices of layers; notes share columns that are equal."""
        key = id(note.layer), id(note.point), id(note.quantity)
        if key not in self._sorted_out:
            found: dict[tuple[str, str], list[int]] = {}
            columns = zip(note.layer, note.point, note.quantity, strict=True)
            for layer, point, quantity in columns:
                found.setdefault((point, quantity), []).append(layer)
            self._sorted_out[key] = {
                what: np.array(layers, dtype=np.intp) for what, layers in found.items()
            }
        return self._sorted_out[key]

    def _names_at(self, step: int, count: int) -> tuple[str, ...]:
        """The layer table of a record, if it is known and has ``count`` layers."""
        tables = self._tables
        if not tables:
            return ()
        # in force; else (its own is damaged) the nearest later, then any that fits
        place = max(bisect_right([start for start, _ in tables], step) - 1, 0)
        for _, names in (*tables[place:], *reversed(tables[:place])):
            if len(names) == count:
                return names
        return ()

    def _places_at(self, step: int, count: int) -> NDArray[np.intp] | None:
        """Where the layers of a record stand in ``layers``; None if not known."""
        names = self._names_at(step, count)
        if names not in self._places:
            place = {name: i for i, name in enumerate(self.layers)}
            self._places[names] = np.array([place[n] for n in names], dtype=np.intp)
        return self._places[names] if names else None

    @cached_property
    def _measures(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
        return {}

    @cached_property
    def _sorted_out(
        self,
    ) -> dict[tuple[int, int, int], dict[tuple[str, str], NDArray[np.intp]]]:
        return {}  # by identity: the notes live as long as this table

    @cached_property
    def _tables(self) -> list[tuple[int, tuple[str, ...]]]:
        return [(start, _names(meta)) for start, meta in self.metas]

    @cached_property
    def _places(self) -> dict[tuple[str, ...], NDArray[np.intp]]:
        return {}


def _names(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The layers of a layer table."""
    return tuple(row["name"] for row in meta.get("layers", []))
