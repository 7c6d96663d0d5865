"""A run that is looked through: what there is, what was said of it, what is damaged."""

import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from svdhooks import schema
from svdhooks.runlog.derive import DerivedMeasures
from svdhooks.runlog.find import find_run, no_records
from svdhooks.runlog.hparams import find_hparams
from svdhooks.runlog.known import Known, check_known
from svdhooks.runlog.notes import Entry
from svdhooks.runlog.scalars import LoggedScalars
from svdhooks.runlog.table import RunTable
from svdhooks.runlog.tagstore import TagStore
from svdhooks.runlog.vectors import VectorStore


class Run:
    """What a directory of event files says of a run, but for the numbers.

    See `svdhooks.RunLog` for arguments and errors.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, name: str | None = None
    ) -> None:
        self.directory = find_run(path)
        named = self.directory.name == schema.SUBDIRECTORY
        self.log_dir = self.directory.parent if named else self.directory
        self.name = self.log_dir.resolve().name if name is None else name
        self._store = TagStore(self.directory)
        self._scalars = LoggedScalars(self.log_dir)
        self._known = Known()
        self._current: RunTable | None = None
        self._derivable: DerivedMeasures | None = None
        self._vectors = VectorStore(self._store)
        self._said: set[str] = set()
        if not named and self.refresh() and not self._table.present:
            raise ValueError(no_records(self.directory, "other event files"))

    def __repr__(self) -> str:
        steps = self.steps
        reach = f"steps {steps[0]} … {steps[-1]}" if len(steps) else "no step yet"
        return f"<RunLog {self.name!r}: {len(self.layers)} layers, {reach}>"

    def refresh(self) -> bool:
        """Read what was added since the last time; return whether anything was."""
        new = self._store.refresh()
        beside = self._scalars.refresh()
        if new or self._current is None:
            self._current = RunTable(self._store, self._known)
            self._derivable = DerivedMeasures(self._store, self._current)
            self._say_what_is_wrong()
        return new or beside

    def verify(self) -> dict[str, int]:
        """Read and check everything; ``damage`` is complete from then on.

        Returns:
            The damage.
        """
        _ = self._table
        self._store.verify()
        self._vectors.verify()
        return self.damage

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers and taps, in the model's order."""
        pairs = self._paired
        return tuple(name for name in self._table.layers if name not in pairs)

    @property
    def edges(self) -> tuple[str, ...]:
        """Names of the pairs of layers that have measures of their own."""
        pairs = self._paired
        return tuple(name for name in self._table.layers if name in pairs)

    @property
    def steps(self) -> NDArray[np.int64]:
        """The recorded steps, increasing."""
        return self._table.steps.copy()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the measures, for example ``"output_effective_rank"``."""
        return self._table.metrics

    @property
    def meta(self) -> Mapping[str, Any]:
        """What the run said of itself last: versions, layer table, settings."""
        metas = self._table.metas
        return metas[-1][1] if metas else {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The recorder's settings."""
        return dict(self.meta.get("settings", {}))

    @property
    def hparams(self) -> dict[str, bool | int | float | str]:
        """Hyper-parameters, nested names with dots; see `svdhooks.runlog.hparams`.

        Of ``watch(..., hparams=...)``, the LightningModule, Lightning's ``hparams.yaml``;
        where there are none, of TensorBoard's HParams dashboard.
        """
        return find_hparams(self.settings, self.log_dir)

    @property
    def skipped(self) -> dict[str, str]:
        """What was not watched -> why."""
        return {row["name"]: row["reason"] for row in self.meta.get("skipped", [])}

    @property
    def described(self) -> Mapping[str, Mapping[str, Any]]:
        """Layer -> its row in the latest layer table that has it."""
        return dict(self._table.described)

    def describe(self, layer: str) -> Mapping[str, Any]:
        """The row of a layer in the layer table: kind, shape, rank limit, points.

        Returns:
            A mapping; empty if the layer table is lost.
        """
        self._check(layer)
        return dict(self._table.described.get(layer, {}))

    @property
    def pairs(self) -> tuple[dict[str, Any], ...]:
        """The layers that feed each other, with ``source``, ``target``, ``kind``, ``stream``.

        Known where ``"spectral_edges"`` were recorded, or vectors and a probe.
        """
        metas = reversed(self._table.metas)
        latest = next((m["pairs"] for _, m in metas if "pairs" in m), ())
        return tuple(dict(row) for row in latest)

    @property
    def damage(self) -> dict[str, int]:
        """What could not be read, or no longer counts, as far as it was met.

        Large records are read in parts, when these are asked for, so that damage in
        others is not known yet; ``verify`` reads everything.

        ``bad``: damaged records; ``resynced``: those after which the next had to be
        searched; ``truncated``: files that end inside a record; ``dropped``: records
        superseded by those of a resumed run. Further entries are there only if they
        are not zero. ``concurrent``: records of an earlier file from while a later one
        was written, by two processes; the later file's count. ``unreadable``: event
        files that could not be read. ``vectors``: damaged files of vectors.
        """
        _ = self._table  # which looks through the files
        counts = self._store.damage
        del counts["records"]
        counts["dropped"] = self._store.dropped(schema.RECORD_TAG)
        rare = {
            "concurrent": self._store.concurrent(schema.RECORD_TAG),
            "unreadable": len(self._store.unreadable),
            "vectors": self._vectors.damaged,
        }
        return counts | {name: count for name, count in rare.items() if count}

    def statuses(self, layer: str) -> tuple[Entry, ...]:
        """Status, method, marks and cost of every measurement of a layer.

        Returns:
            In the order of the steps.
        """
        self._check(layer)
        return tuple(self._table.statuses(layer))

    @property
    def events(self) -> tuple[Entry, ...]:
        """The measurements that failed or carry a mark, of all layers."""
        return tuple(self._table.events())

    def each_event(self) -> Iterator[Entry]:
        """What ``events`` holds, one by one: of a large log that is too much at once."""
        return self._table.events()

    @property
    def _paired(self) -> set[str]:
        """Names of pairs at any time; a layer of the same name stays a layer."""
        rows = (row for _, meta in self._table.metas for row in meta.get("pairs", ()))
        layers = {n for n, row in self._table.described.items() if "kind" in row}
        return {row["name"] for row in rows} - layers

    @property
    def _table(self) -> RunTable:
        """The records decoded; reads the files the first time."""
        if self._current is None:
            self.refresh()
        return cast("RunTable", self._current)

    def _check(self, layer: str) -> None:
        """Raise a KeyError unless the run has such a layer."""
        check_known("layer", layer, self._table.layers, self.name)

    def _say_what_is_wrong(self) -> None:
        """Warn once of each thing that makes the log less than it seems."""
        said = {
            f"{path} could not be read: {reason}."
            for path, reason in self._store.unreadable.items()
        }
        if self._store.concurrent(schema.RECORD_TAG):
            said.add(
                f"Two processes wrote to {self.directory} at the same time. Of steps "
                "that both recorded, what the file with the later name holds counts."
            )
        for message in sorted(said - self._said):
            self._said.add(message)
            warnings.warn(message, stacklevel=3)
