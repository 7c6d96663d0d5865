"""How far the leading singular subspaces of a weight have turned."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from svdhooks import linalg
from svdhooks.layers import Layer
from svdhooks.linalg.angles import principal_angles, subspace_overlap
from svdhooks.quantities.values import NON_FINITE, check_positive
from svdhooks.record import OK, Record
from svdhooks.schedule import Schedule

SINCE = ("last", "start")
DRIFT_MEASURES = (
    *(
        f"{side}_{what}_{since}"
        for since in SINCE
        for what in ("overlap", "angle")
        for side in ("left", "right")
    ),
    "gap",
    "chance_left",
    "chance_right",
    "since_step",
)


@dataclass
class _Kept:
    """Leading singular vectors as they were, on the CPU: ``(m, k)`` and ``(n, k)``."""

    step: int
    U: Tensor
    V: Tensor


@dataclass(frozen=True)
class SubspaceDrift:
    """How far the k leading singular subspaces turned since the last record and the start.

    One record per layer, of point ``"subspace"``; none at the first, which only keeps the
    vectors. ``left`` is the span of the leading left singular vectors, in the space of
    outputs, ``right`` that of inputs.

    - ``left_overlap_last``, ``right_overlap_last``, ``…_start``: share of the span now
      that lies in the span then, the mean squared cosine of the principal angles, 0 … 1.
      Of spans that know nothing of each other ``chance_left`` = k/m and ``chance_right``
      = k/n on average, for a weight m × n.
    - ``left_angle_last`` and so on: the largest principal angle, degrees, 0 … 90.
    - ``gap``: (σ_k - σ_{k+1})/σ₁ now. Where it is small, the subspace is ill defined and
      turns though nothing happens.
    - ``since_step``: the step of the last record; NaN, as what is measured since then, at
      the first record after a restart.

    Where the weight has fewer than k singular values above ``3e-8·√n·σ₁``, the spans are
    of those, and of two spans of different dimension the smaller counts. Layers of several
    blocks (groups, experts) are left out.

    The vectors alone are kept, on the CPU in float64, k·(m + n) numbers twice; those of
    the start are stored with the run, for the time after a restart.

    Attributes:
        k: Dimension of the subspaces; at most min(m, n).
        schedule: Its own schedule; None: the recorder's.
    """

    k: int = 8
    schedule: Schedule | None = None
    _last: dict[str, _Kept] = field(default_factory=dict, repr=False, compare=False)
    _base: dict[str, _Kept] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            TypeError: If it is no whole number.
            ValueError: If it is not positive.
        """
        check_positive(self, "k")

    @property
    def name(self) -> str:
        """Under which its records are filed."""
        return "subspace_drift"

    def fresh(self) -> "SubspaceDrift":
        """The same for another run: remembers nothing."""
        return replace(self, _last={}, _base={})

    def measure(self, layer: Layer, step: int) -> list[Record]:
        """Measure one layer, and keep its leading vectors for the next time.

        Args:
            layer: The layer.
            step: Optimiser updates contained in the weights.

        Returns:
            One record; none at the first time, nor of a layer of several blocks.
        """
        weight = layer.weight()
        if weight.ndim != 2:
            return []
        if not bool(weight.isfinite().all()):
            return [self.failed(layer, step, NON_FINITE)]
        k = min(self.k, *weight.shape)
        found = linalg.leading_triplets(weight, k + 1)
        U, V = found.U[:, :k].cpu(), found.Vh[:k].mH.cpu()
        now = _Kept(step, U.contiguous(), V.contiguous())
        last, base = (_alike(x.get(layer.name), now) for x in (self._last, self._base))
        self._last[layer.name] = now
        if base is None:
            self._base[layer.name] = now
            return []
        m, n = weight.shape
        values = {
            **_since("last", now, last),
            **_since("start", now, base),
            "gap": _gap(found.sigma, k),
            "chance_left": k / m,
            "chance_right": k / n,
            "since_step": math.nan if last is None else float(last.step),
        }
        return [self._record(layer, step, values, OK)]

    def failed(self, layer: Layer, step: int, status: str) -> Record:
        """The record of a measurement that failed: NaN values."""
        return self._record(
            layer, step, dict.fromkeys(DRIFT_MEASURES, math.nan), status
        )

    def bases(self) -> dict[str, tuple[int, Tensor]]:
        """The step and the vectors with which the drift of each layer begins."""
        return dict(_stored(self._base))

    def restore(self, bases: Mapping[str, tuple[int, Tensor]]) -> None:
        """Go on with the drifts of an earlier process.

        Args:
            bases: As `bases` gave them.
        """
        for key, (step, U) in bases.items():
            side, _, name = key.partition("/")
            if side == "U" and f"V/{name}" in bases:
                self._base[name] = _Kept(step, U, bases[f"V/{name}"][1])

    def _record(
        self, layer: Layer, step: int, values: Mapping[str, float], status: str
    ) -> Record:
        return Record(
            step,
            layer.name,
            self.name,
            {name: np.asarray(values[name], np.float64) for name in DRIFT_MEASURES},
            status=status,
            method="gram",
            point="subspace",
        )


def _stored(kept: Mapping[str, _Kept]) -> Iterator[tuple[str, tuple[int, Tensor]]]:
    for name, each in kept.items():
        yield f"U/{name}", (each.step, each.U)
        yield f"V/{name}", (each.step, each.V)


def _alike(before: _Kept | None, now: _Kept) -> _Kept | None:
    """What was kept, if it is of a weight of the same shape."""
    same = (
        before is not None
        and len(before.U) == len(now.U)
        and len(before.V) == len(now.V)
    )
    return before if same else None


def _since(since: str, now: _Kept, before: _Kept | None) -> dict[str, float]:
    """Overlaps and largest angles of both sides."""
    found: dict[str, float] = {}
    for side, name in (("left", "U"), ("right", "V")):
        overlap = angle = math.nan
        if before is not None:
            spans = getattr(now, name), getattr(before, name)
            overlap = subspace_overlap(*spans)
            angles = principal_angles(*spans)
            angle = math.degrees(float(angles[-1])) if len(angles) else math.nan
        found[f"{side}_overlap_{since}"] = overlap
        found[f"{side}_angle_{since}"] = angle
    return found


def _gap(sigma: Tensor, k: int) -> float:
    """``(σ_k - σ_{k+1})/σ₁``; values that were not resolved count as 0."""
    padded = torch.zeros(k + 1, dtype=torch.float64)
    padded[: len(sigma)] = sigma.cpu()
    first = float(padded[0])
    return float(padded[k - 1] - padded[k]) / first if first > 0 else math.nan
