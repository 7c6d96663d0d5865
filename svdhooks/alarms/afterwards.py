"""A log gone through as if it were being recorded."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from svdhooks.alarms.choosing import Choice, resolve_alarms
from svdhooks.alarms.event import Alarm, AlarmEvent
from svdhooks.alarms.reading import LIMITING, Key, Reading, in_order
from svdhooks.alarms.suspects import Column, suspects
from svdhooks.alarms.watching import Watcher

Series = tuple[NDArray[np.int64], NDArray[np.float64]]

_TRAINING = re.compile(r"train", re.IGNORECASE)
_OTHER = re.compile(r"val|eval|test|dev|best|grad|scale|regular|aux", re.IGNORECASE)
_LOSS = re.compile(r"(^|[/_.\s-])loss($|[/_.\s-])", re.IGNORECASE)


@runtime_checkable
class Log(Protocol):
    """What is needed of a `RunLog`; a `MemorySink` has it, too."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of layers and taps."""
        ...

    @property
    def edges(self) -> tuple[str, ...]:
        """Names of pairs of layers."""
        ...

    @property
    def steps(self) -> NDArray[np.int64]:
        """The recorded steps."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of measures."""
        ...

    @property
    def run_metrics(self) -> tuple[str, ...]:
        """Names of values of the whole run."""
        ...

    @property
    def described(self) -> Mapping[str, Mapping[str, Any]]:
        """The layer table."""
        ...

    @property
    def events(self) -> Sequence[Any]:
        """Measurements that failed or carry a mark."""
        ...

    def series(self, layer: str, metric: str) -> Series:
        """One measure of one layer."""
        ...

    def run_series(self, metric: str) -> Series:
        """One value of the whole run."""
        ...


def alarms_of(
    log: Log, choice: Choice = "auto", loss: str | None = None
) -> list[AlarmEvent]:
    """What the rules would have said during a run, from its log.

    Args:
        log: A `RunLog` or a `MemorySink`.
        choice: As `svdhooks.watch(alarms=)` takes it.
        loss: Tag of the training loss among ``log.scalar_tags`` or name of one of
            ``log.run_metrics``; None: as `loss_source` finds it.

    Returns:
        In the order in which they would have been raised.

    Raises:
        KeyError: If there is no such scalar.
    """
    chosen = resolve_alarms(choice)
    if chosen is None:
        return []
    watcher = Watcher(chosen)
    several = readings(log, loss, watcher.measures, watcher.rules)
    return [event for reading in several for event in watcher.observe(reading)]


def loss_source(log: Log) -> str | None:
    """Where a run's training loss stands.

    Args:
        log: A `RunLog` or a `MemorySink`.

    Returns:
        ``"loss"``: it was given to the recorder. Otherwise the tag of a scalar in the
        logger's directory whose name says that it is a training loss, one of every step
        rather than one of every epoch. None: there is none.
    """
    if "loss" in log.run_metrics:
        return "loss"
    tags = [t for t in getattr(log, "scalar_tags", ()) if _LOSS.search(t)]
    tags = [t for t in tags if not _OTHER.search(t) and not t.startswith("svd_")]
    return min(tags, key=_order, default=None)


def _order(tag: str) -> tuple[bool, bool, int, str]:
    """Of the training rather than of nothing; not of epochs; the shortest name."""
    return not _TRAINING.search(tag), "epoch" in tag.lower(), len(tag), tag


def readings(
    log: Log,
    loss: str | None = None,
    measures: Collection[str] | None = None,
    rules: Sequence[Alarm] | None = None,
) -> Iterator[Reading]:
    """The records of a log, one after another, as rules saw them live.

    Args:
        log: A `RunLog` or a `MemorySink`.
        loss: Tag of the training loss among ``log.scalar_tags``, joined by
            ``log.align``; None: as `loss_source` finds it; empty: only what was given to
            the recorder.
        measures: Which to read; None: all.
        rules: Layers of which none of these could ever speak are left out, which spares
            most of the time of long logs; None: all layers are in.

    Yields:
        One for each step, in order.

    Raises:
        KeyError: If there is no such scalar.
    """
    rows = dict(log.described)
    columns = _columns(log, measures)
    failed, limited = _reservations(log)
    if rules is not None:
        columns = _of_suspects(columns, rules, rows, failed)
    run = _run_values(log, loss)
    steps = log.steps.tolist()
    for start in range(0, len(steps), _CHUNK):
        chunk = steps[start : start + _CHUNK]
        values = _values(columns, chunk[0], chunk[-1])
        for step in chunk:
            yield Reading(
                step,
                in_order(values.get(step, {}), rows),
                failed.get(step, {}),
                frozenset(limited.get(step, ())),
                run.get(step, {}),
                rows,
            )


_CHUNK = 128
"""Records that are held as dictionaries at a time: these take ten times their arrays."""

_Column = tuple[str, str, NDArray[np.int64], NDArray[np.float32]]
"""Layer, measure, steps and values."""


def _columns(log: Log, measures: Collection[str] | None) -> list[_Column]:
    """The series of all layers as float32, without what is NaN."""
    found = []
    metrics = [m for m in log.metrics if measures is None or m in measures]
    names = (*log.layers, *log.edges)
    # measure by measure: a log decodes each for all layers at once
    for metric in metrics:
        for layer in names:
            steps, values = log.series(layer, metric)
            with np.errstate(over="ignore"):
                rounded = values.astype(np.float32)
            there = ~np.isnan(rounded)
            if there.any():
                found.append((layer, metric, steps[there], rounded[there]))
    return found


def _of_suspects(
    columns: Sequence[_Column],
    rules: Sequence[Alarm],
    rows: Mapping[str, Mapping[str, Any]],
    failed: Mapping[int, Mapping[Key, str]],
) -> list[_Column]:
    """The series of the layers that rules must see."""
    layers: dict[str, dict[str, Column]] = {}
    for layer, metric, steps, values in columns:
        layers.setdefault(layer, {})[metric] = steps, values
    broken = {layer for several in failed.values() for layer, _ in several}
    kept = suspects(rules, layers, rows, broken)
    return [column for column in columns if column[0] in kept]


def _values(
    columns: Sequence[_Column], first: int, last: int
) -> dict[int, dict[str, dict[str, float]]]:
    """Step -> layer -> measure -> value, from one step to another."""
    found: dict[int, dict[str, dict[str, float]]] = {}
    for layer, metric, steps, values in columns:
        start, end = np.searchsorted(steps, (first, last + 1)).tolist()
        told = zip(steps[start:end].tolist(), values[start:end].tolist(), strict=True)
        for step, value in told:
            found.setdefault(step, {}).setdefault(layer, {})[metric] = value
    return found


def _reservations(
    log: Log,
) -> tuple[dict[int, dict[Key, str]], dict[int, set[Key]]]:
    """Step -> what failed and why; step -> what is limited."""
    failed: dict[int, dict[Key, str]] = {}
    limited: dict[int, set[Key]] = {}
    keys: dict[Key, Key] = {}
    several = getattr(log, "each_event", None)
    for entry in log.events if several is None else several():
        key = entry.layer, entry.point or entry.quantity
        key = keys.setdefault(key, key)  # one object, however often it is limited
        if not entry.ok:
            failed.setdefault(entry.step, {})[key] = entry.status
        if not LIMITING.isdisjoint(entry.marks):
            limited.setdefault(entry.step, set()).add(key)
    return failed, limited


def _run_values(log: Log, loss: str | None) -> dict[int, dict[str, float]]:
    """Step -> values of the whole run, the loss among them if it is known."""
    source = loss_source(log) if loss is None else loss
    found: dict[int, dict[str, float]] = {}
    for metric in log.run_metrics:
        _add(found, metric, log.run_series(metric))
    if source in log.run_metrics:
        _add(found, "loss", log.run_series(source))
    elif source:  # a scalar may be called "loss", too
        _add(found, "loss", _aligned(log, source))
    return found


def _aligned(log: Log, tag: str) -> Series:
    """A scalar of others; none before its first value."""
    align = getattr(log, "align", None)
    if align is None:
        raise KeyError(
            f"loss={tag!r}: records in memory have no scalars of others; give the loss "
            'to the recorder, recorder.step(loss=loss), or leave out "loss".'
        )
    steps, values = align(tag)
    if not len(values):
        return steps, values
    begun = np.maximum.accumulate(~np.isnan(values))  # a NaN later on is a loss of NaN
    return steps[begun], values[begun]


def _add(found: dict[int, dict[str, float]], name: str, series: Series) -> None:
    steps, values = series
    finite = np.where(np.isfinite(values), values, np.nan)
    for step, value in zip(steps.tolist(), finite.tolist(), strict=True):
        found.setdefault(step, {})[name] = value
