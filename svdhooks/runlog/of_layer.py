"""What was recorded of one layer, put together over a run."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from svdhooks.runlog.histories import LedgerHistory, LocalRankHistory
from svdhooks.runlog.scalars import Series

_JACOBIAN = "jacobian_"
_LEDGER = "ledger_"
_NAMED = 5


@runtime_checkable
class Recorded(Protocol):
    """A `RunLog` or a `MemorySink`."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the measures."""
        ...

    def series(self, layer: str, metric: str) -> Series:
        """Steps and values of one measure of one layer."""
        ...


def local_rank_of(
    source: Recorded,
    layer: str,
    relative: bool,
    spectra: Callable[[], tuple[NDArray[np.int64], NDArray[Any]]],
    bounds: Callable[[], Collection[int]],
    run: str,
) -> LocalRankHistory:
    """Put together the local rank of a layer.

    Args:
        source: What was recorded.
        layer: Its name, one of the source's.
        relative: Whether that of the relative threshold.
        spectra: Gives steps and spectra ``(T, r)`` of the layer; may raise a KeyError.
        bounds: Gives the steps whose record is marked as a lower bound.
        run: What the run is called.

    Returns:
        The history.

    Raises:
        KeyError: If the run, or the layer, has none.
    """
    columns = _columns(source, layer, _JACOBIAN)
    name = "relative_local_rank" if relative else "local_rank"
    steps = columns[name][0] if name in columns else np.empty(0, np.int64)
    if not len(steps):
        raise KeyError(_none(source, layer, "local rank", _JACOBIAN + name, run))

    def column(field: str) -> NDArray[np.float64]:
        return _at(steps, columns.get(field))

    bounded = np.fromiter(bounds(), dtype=np.int64)
    return LocalRankHistory(
        layer,
        relative,
        steps,
        column(name),
        column(f"{name}_std"),
        column(f"{name}_min"),
        column(f"{name}_max"),
        np.nan_to_num(column("samples")).astype(np.int64),
        _as_given(column("relative_eps" if relative else "eps")),
        np.nan_to_num(column("directions")).astype(np.int64),
        np.isin(steps, bounded),
        _rows(steps, spectra),
    )


def ledger_of(source: Recorded, layer: str, run: str) -> LedgerHistory:
    """Put together the ledger of a layer.

    Args:
        source: What was recorded.
        layer: Its name, one of the source's.
        run: What the run is called.

    Returns:
        The history: all fields of the run, NaN where the layer has none.

    Raises:
        KeyError: If the run, or the layer, has none.
    """
    columns = _columns(source, layer, _LEDGER)
    steps = sorted({s for at, _ in columns.values() for s in at.tolist()})
    if not steps:
        first = next((m for m in source.metrics if m.startswith(_LEDGER)), "")
        raise KeyError(_none(source, layer, "ledger", first, run))
    at = np.array(steps, dtype=np.int64)
    fields = {name: _at(at, found) for name, found in columns.items()}
    return LedgerHistory(layer, at, fields)


def _columns(source: Recorded, layer: str, prefix: str) -> dict[str, Series]:
    """Field -> steps and values of the layer."""
    return {
        metric.removeprefix(prefix): source.series(layer, metric)
        for metric in source.metrics
        if metric.startswith(prefix)
    }


def _none(source: Recorded, layer: str, what: str, metric: str, run: str) -> str:
    """Say that a run, or a layer, has none."""
    having: Sequence[str] = ()
    if metric in source.metrics:
        having = [n for n in source.layers if len(source.series(n, metric)[0])]
    if not having:
        return f"Run {run!r} recorded no {what}."
    shown = ", ".join(map(repr, having[:_NAMED]))
    more = " …" if len(having) > _NAMED else ""
    return f"Run {run!r} recorded no {what} of layer {layer!r}; of {shown}{more}."


def _at(steps: NDArray[np.int64], found: Series | None) -> NDArray[np.float64]:
    """Values at some steps; NaN where there is none."""
    values = np.full(len(steps), np.nan)
    if found is not None:
        here = np.isin(found[0], steps)
        values[np.searchsorted(steps, found[0][here])] = found[1][here]
    return values


def _rows(
    steps: NDArray[np.int64],
    spectra: Callable[[], tuple[NDArray[np.int64], NDArray[Any]]],
) -> NDArray[Any]:
    """Spectra at some steps ``(T, r)``; NaN where there is none."""
    try:
        at, values = spectra()
    except KeyError:
        return np.full((len(steps), 0), np.nan, dtype=np.float32)
    found = np.full((len(steps), values.shape[1]), np.nan, dtype=values.dtype)
    here = np.isin(at, steps)
    found[np.searchsorted(steps, at[here])] = values[here]
    return found


def _as_given(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Thresholds as people wrote them: logs hold float32, where 0.01 is 0.0099999998."""
    return np.array([
        float(str(np.float32(value))) if value == np.float32(value) else value
        for value in values.tolist()
    ])
