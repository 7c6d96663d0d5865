"""A run read through TensorBoard, where its files are not on this machine.

TensorBoard keeps a sample of the records, and none of the full spectra. What is there is
shown to `RunLog` as if it came from files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard import context
from tensorboard.data import provider as data

from svdhooks import schema
from svdhooks.runlog import RunLog
from svdhooks.runlog.derive import DerivedMeasures
from svdhooks.runlog.hparams import flat
from svdhooks.runlog.known import Known
from svdhooks.runlog.scalars import LoggedScalars, Series
from svdhooks.runlog.table import RunTable
from svdhooks.runlog.tagrows import Tag
from svdhooks.runlog.tagstore import TagStore
from svdhooks.runlog.tagvalues import Rows, Values
from svdhooks.runlog.vectors import VectorStore

ALL = 1_000_000
"""More values than TensorBoard keeps."""

_KEPT = 128 * 2**20
"""Bytes of values that a run keeps."""

_NOWHERE = Path("/dev/null")
"""Below it there is no file, and none can be made."""


class Provided:
    """TensorBoard's data, as far as it is asked for here.

    Args:
        provider: TensorBoard's, a `tensorboard.data.provider.DataProvider`.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def runs(self, experiment: str) -> list[str]:
        """TensorBoard's names of the runs that we recorded."""
        found = self._provider.list_tensors(
            context.RequestContext(),
            experiment_id=experiment,
            plugin_name=schema.PLUGIN,
            run_tag_filter=data.RunTagFilter(tags=[schema.META_TAG]),
        )
        return list(found or {})

    def tensors(self, experiment: str, run: str) -> Mapping[str, Any]:
        """Tag -> what there is of it."""
        found = self._provider.list_tensors(
            context.RequestContext(),
            experiment_id=experiment,
            plugin_name=schema.PLUGIN,
            run_tag_filter=data.RunTagFilter(runs=[run]),
        )
        return dict((found or {}).get(run, {}))

    def read(self, experiment: str, run: str, tag: str) -> list[Any]:
        """Values of a tag, each with step and time."""
        found = self._provider.read_tensors(
            context.RequestContext(),
            experiment_id=experiment,
            plugin_name=schema.PLUGIN,
            downsample=ALL,
            run_tag_filter=data.RunTagFilter(runs=[run], tags=[tag]),
        )
        return list((found or {}).get(run, {}).get(tag, ()))

    def scalars(self, experiment: str, run: str) -> Mapping[str, Any]:
        """Tag -> what there is of a scalar."""
        # a directory that was given a name is the run ``name/.`` to TensorBoard
        found = self._provider.list_scalars(
            context.RequestContext(),
            experiment_id=experiment,
            plugin_name="scalars",
            run_tag_filter=data.RunTagFilter(runs=[run, f"{run}/."]),
        )
        return {tag: s for tags in (found or {}).values() for tag, s in tags.items()}

    def read_scalar(self, experiment: str, run: str, tag: str) -> list[Any]:
        """Values of a scalar, each with its step."""
        found = self._provider.read_scalars(
            context.RequestContext(),
            experiment_id=experiment,
            plugin_name="scalars",
            downsample=ALL,
            run_tag_filter=data.RunTagFilter(runs=[run, f"{run}/."], tags=[tag]),
        )
        return next((list(t[tag]) for t in (found or {}).values() if tag in t), [])


class ProvidedStore(TagStore):
    """The tags of a run, as TensorBoard has them.

    Args:
        provider: TensorBoard's data.
        experiment: TensorBoard's.
        run: TensorBoard's name of the run.
    """

    def __init__(self, provider: Provided, experiment: str, run: str) -> None:
        super().__init__(_NOWHERE)
        self._provider, self._experiment, self._run = provider, experiment, run
        self._offered: Mapping[str, Any] = {}
        self._state: dict[str, tuple[int, float]] = {}
        self._kept: dict[str, tuple[tuple[int, float], Rows | None]] = {}

    def refresh(self) -> bool:
        """Ask what there is; whether anything is new."""
        self._offered = self._provider.tensors(self._experiment, self._run)
        state = {
            tag: (series.max_step, series.max_wall_time)
            for tag, series in self._offered.items()
        }
        new, self._state = state != self._state, state
        return new

    def verify(self) -> None:
        """Nothing: TensorBoard has checked what it has."""

    @property
    def tags(self) -> list[str]:
        """All tags."""
        return list(self._offered)

    @property
    def scalar_tags(self) -> list[str]:
        """None: they have another owner."""
        return []

    def rows(self, tag: str) -> Rows | None:
        """The values of a tag, asked for once for each state."""
        if tag not in self._offered:
            return None
        state = self._state[tag]
        if tag not in self._kept or self._kept[tag][0] != state:
            self._make_room()
            self._kept[tag] = state, self._read(tag)
        return self._kept[tag][1]

    def dropped(self, tag: str) -> int:  # noqa: ARG002
        """None are known."""
        return 0

    def concurrent(self, tag: str) -> int:  # noqa: ARG002
        """None are known."""
        return 0

    def _read(self, tag: str) -> Rows | None:
        found = {
            d.step: d for d in self._provider.read(self._experiment, self._run, tag)
        }
        if not found:
            return None
        told = [found[step] for step in sorted(found)]
        content = self._offered[tag].plugin_content or b""
        steps = np.array([d.step for d in told], dtype=np.int64)
        # what tells a value from another of its step: when it was written
        events = np.stack([np.zeros_like(steps), _microseconds(told)], axis=1)
        blocks = np.zeros((len(steps), 4), dtype=np.int64)
        owner = Tag(tag, schema.PLUGIN, content, number=False)
        return Rows(owner, steps, events, blocks, (), 0, _values(told))

    def _make_room(self) -> None:
        sizes = {tag: _size(rows) for tag, (_, rows) in self._kept.items()}
        total = sum(sizes.values())
        for tag, size in sizes.items():
            if total <= _KEPT:
                return
            del self._kept[tag]
            total -= size


class ProvidedScalars(LoggedScalars):
    """Scalars that others logged beside the run.

    Args:
        provider: TensorBoard's data.
        experiment: TensorBoard's.
        run: TensorBoard's name of the run that they are in.
    """

    def __init__(self, provider: Provided, experiment: str, run: str) -> None:
        super().__init__(_NOWHERE)
        self._provider, self._experiment, self._run = provider, experiment, run
        self._state: dict[str, tuple[int, float]] = {}

    @property
    def tags(self) -> tuple[str, ...]:
        """Their tags, sorted."""
        if not self._state:
            self.refresh()
        return tuple(sorted(self._state))

    def series(self, tag: str) -> Series:
        """One of ``tags``."""
        found = self._provider.read_scalar(self._experiment, self._run, tag)
        steps = np.array([d.step for d in found], dtype=np.int64)
        return steps, np.array([d.value for d in found], dtype=np.float64)

    def refresh(self) -> bool:
        """Ask what there is; whether anything is new."""
        there = self._provider.scalars(self._experiment, self._run)
        state = {tag: (s.max_step, s.max_wall_time) for tag, s in there.items()}
        new, self._state = state != self._state, state
        return new


class ProvidedLog(RunLog):
    """A `RunLog` of what TensorBoard has; vectors it has not.

    Args:
        provider: TensorBoard's data.
        experiment: TensorBoard's.
        run: TensorBoard's name of the run.
        name: What the run is called.
    """

    def __init__(
        self, provider: Provided, experiment: str, run: str, name: str
    ) -> None:
        self.directory = self.log_dir = _NOWHERE
        self.name = name
        self._store = ProvidedStore(provider, experiment, run)
        self._scalars = ProvidedScalars(provider, experiment, name)
        self._known = Known()
        self._current: RunTable | None = None
        self._derivable: DerivedMeasures | None = None
        self._vectors = VectorStore(self._store)
        self._said: set[str] = set()

    @property
    def hparams(self) -> dict[str, bool | int | float | str]:
        """Those that the run itself tells."""
        return flat(self.settings.get("hparams") or {})


def _values(told: list[Any]) -> Values:
    """Texts as a list; vectors of one length as one array."""
    found = [np.asarray(d.numpy) for d in told]
    if found[0].dtype.kind in "OSU":
        return [_text(array.reshape(-1)[0]) for array in found]
    rows = [array.reshape(-1) for array in found]
    if len({row.shape for row in rows}) == 1:
        return np.stack(rows)
    return rows


def _text(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _microseconds(told: list[Any]) -> NDArray[np.int64]:
    return np.array([round(d.wall_time * 1e6) for d in told], dtype=np.int64)


def _size(rows: Rows | None) -> int:
    """Bytes of values, about."""
    if rows is None or rows.held is None:
        return 0
    if isinstance(rows.held, np.ndarray):
        return int(rows.held.nbytes)
    return sum(len(one) for one in rows.held)
