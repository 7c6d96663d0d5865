"""Runs with curves that are known: in memory, and written to disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.record import Record
from svdhooks.runlog import RunLog
from svdhooks.sinks.tensorboard import TensorBoardSink
from tests.logs import meta_record, run_record

RANK = "weight_stable_rank"


class Planted:
    """A run in memory: one measure of some layers."""

    def __init__(
        self,
        curves: Mapping[str, Any],
        steps: Sequence[int] | None = None,
        *,
        metric: str = RANK,
        run: Mapping[str, Any] | None = None,
        hparams: Mapping[str, Any] | None = None,
    ) -> None:
        self.curves = {k: np.asarray(v, dtype=np.float64) for k, v in curves.items()}
        length = len(next(iter(self.curves.values()), ()))
        given = range(0, 10 * length, 10) if steps is None else steps
        self.steps = np.array(list(given), dtype=np.int64)
        self.layers = tuple(self.curves)
        self.metrics = (metric,)
        self.run = {k: np.asarray(v, dtype=np.float64) for k, v in (run or {}).items()}
        self.run_metrics = tuple(self.run)
        self.events: tuple[Any, ...] = ()
        self.edges: tuple[str, ...] = ()
        self.described: dict[str, Any] = {}
        self.hparams = dict(hparams or {})

    def series(
        self, layer: str, metric: str
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        if layer not in self.curves or metric not in self.metrics:
            raise KeyError(f"{layer} {metric}")
        return self.steps, self.curves[layer]

    def run_series(self, metric: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        return self.steps, self.run[metric]


def seeds(
    random: np.random.Generator,
    count: int,
    layers: int,
    shift: Mapping[int, float] | None = None,
    *,
    since: int = 0,
    spread: float = 0.1,
    noise: float = 0.03,
    records: int = 30,
) -> list[Planted]:
    """Runs that differ by chance: a level and a slope of each, and noise of records.

    ``shift``: layer -> by how much its logarithm is moved from record ``since`` on.
    """
    t = np.linspace(0, 1, records)
    found = []
    for _ in range(count):
        curves = {}
        for i in range(layers):
            level, slope = random.standard_normal(2) * spread
            y = (
                np.log(40)
                - t
                + level
                + slope * t
                + noise * random.standard_normal(records)
            )
            y[since:] += (shift or {}).get(i, 0.0)
            curves[f"layer{i}"] = np.exp(y)
        found.append(Planted(curves))
    return found


def write_planted(
    path: Path,
    curves: Mapping[str, Sequence[float]],
    steps: Sequence[int] | None = None,
    *,
    hparams: Mapping[str, Any] | None = None,
    run: Mapping[str, Sequence[float]] | None = None,
) -> RunLog:
    """The same on disk, as the stable ranks of weights."""
    length = len(next(iter(curves.values())))
    at = list(range(0, 10 * length, 10) if steps is None else steps)
    sink = TensorBoardSink(path)
    sink.write([meta_record(list(curves), settings={"hparams": dict(hparams or {})})])
    for i, step in enumerate(at):
        values = {name: float(series[i]) for name, series in (run or {}).items()}
        sink.write([
            run_record(step, logged_step=step, **values),
            *(
                Record(
                    step,
                    layer,
                    "weight_spectrum",
                    {"stable_rank": np.asarray(series[i])},
                    point="weight",
                )
                for layer, series in curves.items()
            ),
        ])
    sink.close()
    return RunLog(path)
