"""What is exported, piece by piece: blocks of measures and of spectra."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.cli.telling import Tell
from svdhooks.runlog import RunLog
from svdhooks.runlog.window import measure_windows, spectrum_windows


@dataclass(frozen=True)
class Chosen:
    """What is exported of a run.

    Attributes:
        log: The run.
        layers: Names.
        metrics: Names of measures.
        points: Layer -> points of its spectra.
    """

    log: RunLog
    layers: Sequence[str]
    metrics: Sequence[str]
    points: Mapping[str, Sequence[str]]

    @property
    def has_derived(self) -> bool:
        """Whether a measure is computed now, in float64."""
        return not set(self.metrics) <= set(self.log.metrics)

    @property
    def matrices(self) -> list[tuple[str, str]]:
        """Layer and point of each spectrum, in the order of the layers."""
        return [(layer, p) for layer in self.layers for p in self.points.get(layer, ())]


@dataclass(frozen=True)
class MeasurePart:
    """The measures at some steps.

    Attributes:
        run: Name of the run.
        layers: ``L`` names.
        metrics: ``M`` names.
        steps: ``(t,)``.
        values: ``(t, L, M)``.
        there: ``(t, L, M)``, which of them were measured, also in vain.
    """

    run: str
    layers: Sequence[str]
    metrics: Sequence[str]
    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    there: NDArray[np.bool_]


@dataclass(frozen=True)
class SpectraPart:
    """Spectra of one matrix at some steps.

    Attributes:
        run: Name of the run.
        layer: Name of the layer.
        point: Which matrix.
        steps: ``(t,)``.
        index: ``(k,)``, which entry of the spectrum each column is.
        values: ``(t, k)``; NaN between the entries of display forms.
    """

    run: str
    layer: str
    point: str
    steps: NDArray[np.int64]
    index: NDArray[np.int64]
    values: NDArray[Any]

    @property
    def there(self) -> NDArray[np.bool_]:
        """Which values are told; a spectrum that failed is NaN throughout, and told."""
        lacking = np.isnan(self.values)
        there: NDArray[np.bool_] = ~lacking | lacking.all(axis=1, keepdims=True)
        return there


def measure_parts(chosen: Chosen, tell: Tell) -> Iterator[MeasurePart]:
    """The measures of a run.

    Args:
        chosen: Which.
        tell: Is told how many of the steps are done.

    Yields:
        Blocks of steps, in order.
    """
    if not chosen.metrics:
        return
    done, whole = 0, len(chosen.log.steps)
    for window in measure_windows(chosen.log, chosen.metrics):
        order = {name: place for place, name in enumerate(window.layers)}
        places = [order[name] for name in chosen.layers]
        yield MeasurePart(
            chosen.log.name,
            chosen.layers,
            chosen.metrics,
            window.steps,
            _stacked([window.measure(m)[:, places] for m in chosen.metrics]),
            _stacked([window.measured(m)[:, places] for m in chosen.metrics]),
        )
        done += len(window.steps)
        tell("measures", done, whole)


def spectra_parts(chosen: Chosen, tell: Tell) -> Iterator[SpectraPart]:
    """The spectra of a run.

    Args:
        chosen: Which.
        tell: Is told how many of the matrices are done.

    Yields:
        Matrix by matrix, blocks of steps in order.
    """
    matrices = chosen.matrices
    for done, (layer, point) in enumerate(matrices, 1):
        yield from parts_of(chosen.log, layer, point)
        tell("spectra", done, len(matrices))


def parts_of(log: RunLog, layer: str, point: str) -> Iterator[SpectraPart]:
    """The spectra of one matrix.

    Args:
        log: The run.
        layer: Name of the layer.
        point: Which matrix.

    Yields:
        Blocks of steps in order.
    """
    for found in spectrum_windows(log, layer, point):
        steps, index, values = found.steps, found.index, found.values
        yield SpectraPart(log.name, layer, point, steps, index, values)


def _stacked(matrices: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Matrices ``(t, L)`` as ``(t, L, M)``."""
    return np.stack(matrices, axis=2)
