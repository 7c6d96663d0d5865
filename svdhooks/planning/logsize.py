"""How large one record is in the log: written for real, with values of no meaning."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks import linalg
from svdhooks.conductor.meta import Described, meta_record, run_record
from svdhooks.layers import Layer
from svdhooks.layers.tap import Watched
from svdhooks.planning.trial import Trial
from svdhooks.quantities import (
    COVARIANCE_MEASURES,
    Covariance,
    JacobianSpectrum,
    Ledger,
    Quantity,
    WeightQuantity,
)
from svdhooks.quantities.drift import DRIFT_MEASURES, SubspaceDrift
from svdhooks.quantities.ledger_seen import LEDGER_MEASURES
from svdhooks.quantities.local_rank import POINT, measures_of
from svdhooks.quantities.moments import PointMoments, features_of
from svdhooks.quantities.values import pack
from svdhooks.quantities.vectors import WeightVectors
from svdhooks.record import Record
from svdhooks.sinks.tensorboard import TensorBoardSink

_RUN = {"seconds": 0.1, "spent": 0.1, "elapsed": 1.0, "overhead": 0.01}


def bytes_per_record(
    watched: Sequence[Watched],
    quantities: Sequence[Quantity],
    trial: Trial,
    samples: int,
) -> float:
    """Write a few records to a temporary directory and look how it grows.

    Args:
        watched: Layers and taps.
        quantities: What is measured.
        trial: What was seen of a record.
        samples: Assumed where they were not counted.

    Returns:
        Bytes of one record of everything, without what is written once per file.
    """
    seen = {record.quantity for record in trial.records}
    assumed = [quantity for quantity in quantities if quantity.name not in seen]
    with tempfile.TemporaryDirectory() as directory:
        sink = TensorBoardSink(directory, max_log_gb=None)
        sizes = []
        for step in range(4):  # the layer table is written in the first two
            found = [
                record
                for quantity in assumed
                for layer in watched
                for record in _records(step, quantity, layer, trial.counts, samples)
            ]
            found += [replace(record, step=step) for record in trial.records]
            head = [meta_record(0, Described(watched), {})] if step == 0 else []
            sink.write([*head, run_record(step, _RUN), *found])
            sizes.append(_size(Path(directory)))
        sink.close()
    return float(sizes[-1] - sizes[-2])


def _records(
    step: int,
    quantity: Quantity,
    layer: Watched,
    counts: Mapping[tuple[str, str], int],
    samples: int,
) -> list[Record]:
    """What a quantity records of a layer, as to its size."""
    if isinstance(quantity, Covariance):
        return [
            _record(
                step,
                layer,
                quantity,
                point,
                min(counts.get((layer.name, point), samples), layer.points[point]),
                COVARIANCE_MEASURES,
            )
            for point in quantity.measured_points(layer)
        ]
    if isinstance(quantity, JacobianSpectrum):
        if not quantity.differentiated(layer):
            return []
        # no more than the basis has; of a sketch, or a first layer, it has fewer
        length = min(layer.points["output"], quantity.max_directions)
        return [_record(step, layer, quantity, POINT, length, measures_of(layer))]
    if isinstance(quantity, Ledger):
        some = quantity.measured_points(layer)
        found = _record(step, layer, quantity, "ledger", 0, LEDGER_MEASURES)
        return [found] if some else []
    if isinstance(quantity, PointMoments):
        points = quantity.measured_points(layer)
        return [_moments(step, layer, quantity, point) for point in points]
    if not isinstance(quantity, WeightQuantity) or not isinstance(layer, Layer):
        return []
    if layer.tied_to is not None:
        return []
    if isinstance(quantity, WeightVectors):
        return [_vectors(step, layer, quantity)] if _single(layer) else []
    if isinstance(quantity, SubspaceDrift):
        found = _record(step, layer, quantity, "subspace", 0, DRIFT_MEASURES)
        return [found] if _single(layer) else []
    length, points = layer.rank_limit, ["weight"]
    if quantity.name == "update_spectrum":
        points = ["update", "drift"]
    if quantity.name == "light":
        length = 0
    return [
        _record(step, layer, quantity, point, length, linalg.MEASURES)
        for point in points
    ]


def _record(
    step: int,
    layer: Watched,
    quantity: Quantity,
    point: str,
    length: int,
    measures: Sequence[str],
) -> Record:
    spectrum = np.linspace(1.0, 0.5, length, dtype=np.float32)
    values = pack(spectrum, dict.fromkeys(measures, 0.5))
    return Record(
        step, layer.name, quantity.name, values, method="gram", seconds=0.1, point=point
    )


def _vectors(step: int, layer: Layer, quantity: WeightVectors) -> Record:
    out, in_ = layer.shape
    most = min(out, in_)
    k = most if quantity.k is None else min(quantity.k, most)
    values: dict[str, NDArray[Any]] = {
        "U": np.zeros((out, k), np.float32),
        "sigma": np.zeros(k, np.float32),
        "Vh": np.zeros((k, in_), np.float32),
        "residual": np.zeros(1),
    }
    if layer.bias_source is not None:
        values["bias"] = np.zeros(out, np.float32)
    return Record(step, layer.name, quantity.name, values, point="weight")


def _moments(step: int, layer: Watched, quantity: PointMoments, point: str) -> Record:
    d = features_of(layer, point)
    values: dict[str, NDArray[Any]] = {
        "count": np.asarray(0.5),
        "samples": np.zeros(1, np.int64),
        "mean": np.zeros(d),
        "covariance": np.zeros(d * (d + 1) // 2),
    }
    return Record(step, layer.name, quantity.name, values, point=f"{point}_moments")


def _single(layer: Layer) -> bool:
    return layer.groups == 1 and not layer.experts


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
