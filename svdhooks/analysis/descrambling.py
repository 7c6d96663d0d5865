"""Descrambled weights of a recorded layer, without the model."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from svdhooks import linalg
from svdhooks.analysis._source import Source
from svdhooks.analysis.snapshots import (
    POINTS,
    LayerSnapshot,
    PointMoment,
    layer_snapshot,
)
from svdhooks.linalg import _solvers
from svdhooks.linalg._smoothness import Operator

Side = Literal["out", "in"]
Data = Literal["measured", "large", "white"]

SIDES = ("out", "in")
DATA = ("measured", "large", "white")

_COMPARED = 32
"""Leading spans that are compared between forms of the data."""

_EXACT = 1e-6
"""Eigengaps below this are lost to the float32 of stored vectors."""


@dataclass(frozen=True, eq=False)
class DescrambledLayer:
    """A layer's weight, and the same descrambled.

    Attributes:
        layer: Its name.
        step: Optimiser updates contained in the weights.
        side: ``"out"``: P of the pre-activations, ``descrambled = P W``. ``"in"``: P of what
            enters, ``descrambled = W Pᵀ``.
        operator: Name of the smoothness operator, or ``"custom"``.
        data: ``"measured"``, ``"large"`` (from W and the moment of the input) or ``"white"``
            (from W alone; that the input is white is an assumption).
        centred: Whether means were taken off.
        weight: ``(out, in)``, of a convolution its flattened kernel.
        descrambled: Of the same shape.
        descrambling: P, its cost, bounds and modes.
        angles: Other form of the data -> the largest principal angle in degrees between
            the leading k eigenvectors of both moments, for k = 1, 2, … (32 at most).
        spans: Ranges of modes inside small gaps, to be compared as spans.
        gap: What counts as small, in units of the largest eigenvalue: ``N^-½`` of the
            samples, or the rounding of stored vectors.
    """

    layer: str
    step: int
    side: Side
    operator: str
    data: Data
    centred: bool
    weight: NDArray[np.float64]
    descrambled: NDArray[np.float64]
    descrambling: linalg.Descrambling
    angles: dict[str, NDArray[np.float64]]
    spans: list[range]
    gap: float


def descrambled(
    source: Source,
    layer: str,
    step: int | None = None,
    *,
    side: Side = "out",
    operator: Operator = "fourier2",
    center: bool = False,
    data: Data = "measured",
) -> DescrambledLayer:
    """Descramble a recorded layer.

    The pre-activations count without the bias, and, by default, not centred (Amey et al.,
    PNAS 118, 2021). Of a convolution they are those of all positions, so that P mixes
    channels; what enters it are its patches.

    Args:
        source: A `svdhooks.RunLog` or `svdhooks.MemorySink` with records of
            ``WeightVectors(k=None)`` and, but for white data, ``PointMoments``.
        layer: Its name.
        step: One with vectors; None: the last of them.
        side: ``"out"``: the layer's own pre-activations. ``"in"``: what enters the layer,
            after the activation before it.
        operator: ``"fourier2"``, ``"difference"`` or a square matrix, as for
            `svdhooks.linalg.smoothness_operator`.
        center: Take the covariance instead of the second moment.
        data: ``"measured"``: the recorded moment. ``"large"``: ``W R Wᵀ`` with the recorded
            moment R of the input. ``"white"``: ``W Wᵀ``, from the weight alone. The
            last two for side ``"out"``.

    Returns:
        The weight before and after, and how far the other forms of the data lead elsewhere.

    Raises:
        KeyError: If no vectors of the layer were recorded.
        ValueError: If an argument is none of these, if the step has no vectors, not all of
            them, or lacks the moments.
        TypeError: If the weight is complex.
    """
    _check(side, data)
    snapshot = layer_snapshot(source, layer, step)
    weight = torch.from_numpy(np.ascontiguousarray(snapshot.weight()))
    moments = _moments(snapshot, weight, side, center)
    if data not in moments:
        raise ValueError(_lacking(source, snapshot, side, data))
    found = linalg.descramble(moments[data], operator)
    turned = found.weight(weight) if side == "out" else found.next_weight(weight)
    gap = _gap(snapshot, side, data)
    return DescrambledLayer(
        layer=layer,
        step=snapshot.step,
        side=side,
        operator=operator if isinstance(operator, str) else "custom",
        data=data,
        centred=center,
        weight=weight.numpy(),
        descrambled=turned.numpy(),
        descrambling=found,
        angles={
            other: _angles(found.U, moment)
            for other, moment in moments.items()
            if other != data
        },
        spans=found.spans(gap),
        gap=gap,
    )


def _moments(
    snapshot: LayerSnapshot, weight: Tensor, side: Side, center: bool
) -> dict[str, Tensor]:
    """Form of the data -> second moment, of those that the snapshot allows."""
    entered, left = snapshot.input, snapshot.output
    if side == "in":
        return {} if entered is None else {"measured": _second(entered, center)}
    found: dict[str, Tensor] = {}
    # a tied layer's own bias, if it has one, is not recorded
    if left is not None and (snapshot.tied_to is None or center):
        bias = None if snapshot.bias is None else torch.from_numpy(snapshot.bias)
        covariance, mean = (
            torch.from_numpy(left.covariance),
            torch.from_numpy(left.mean),
        )
        found["measured"] = linalg.preactivation_moment(covariance, mean, bias, center)
    if entered is not None:
        R = _second(entered, center)
        found["large"] = linalg.large_data_moment(weight, R)
    found["white"] = linalg.large_data_moment(weight)
    return found


def _second(moment: PointMoment, center: bool) -> Tensor:
    return torch.from_numpy(moment.second_moment(center=center))


def _angles(U: Tensor, moment: Tensor) -> NDArray[np.float64]:
    """Largest angle between leading spans of U and of the eigenvectors of a moment."""
    other = _solvers.eigenpairs(moment)[1].flip(1)
    largest = [
        float(linalg.principal_angles(U[:, :k], other[:, :k])[-1])
        for k in range(1, min(len(U), _COMPARED) + 1)
    ]
    return np.array([math.degrees(angle) for angle in largest])


def _gap(snapshot: LayerSnapshot, side: Side, data: Data) -> float:
    """Eigengaps that cannot be told from none."""
    measured = snapshot.output if side == "out" else snapshot.input
    point = {"measured": measured, "large": snapshot.input, "white": None}[data]
    return _EXACT if point is None else max(_EXACT, point.count**-0.5)


def _check(side: str, data: str) -> None:
    for name, given, known in (("side", side, SIDES), ("data", data, DATA)):
        if given not in known:
            raise ValueError(
                f"Found {name}={given!r}, expected one of {', '.join(known)}."
            )
    if side == "in" and data != "measured":
        raise ValueError(
            f"Found data={data!r} for side='in', expected 'measured': the weight does "
            "not tell what enters it, and of white input every P is as good."
        )


def _lacking(source: Source, snapshot: LayerSnapshot, side: Side, data: Data) -> str:
    """What to do about moments that were not recorded."""
    point = "output" if side == "out" and data == "measured" else "input"
    if (
        snapshot.tied_to is not None
        and point == "output"
        and snapshot.output is not None
    ):
        return (
            f"Layer {snapshot.layer!r} shares the weight of {snapshot.tied_to!r}, and a "
            "bias of its own is not in the log. Give center=True, data='large', or "
            "data='white'."
        )
    try:
        steps = source.vectors(snapshot.layer, POINTS[point])[0]
    except KeyError:
        steps = np.empty(0, dtype=np.int64)
    there = ", ".join(map(str, steps)) or "none"
    instead = " data='white' needs the weight alone." if side == "out" else ""
    return (
        f"Layer {snapshot.layer!r} has no moments of its {point} at step "
        f"{snapshot.step}; there are some at steps {there}. Record them at the steps of "
        f"the vectors with quantities=[svdhooks.PointMoments(), ...].{instead}"
    )
