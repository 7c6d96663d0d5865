"""LiDAR of each layer's output: do directions separate samples from their views?"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from svdhooks.distributed.team import Team
from svdhooks.distributed.uniting import gathered
from svdhooks.layers import PointValue, Samples, samples_of
from svdhooks.layers.tap import Watched
from svdhooks.linalg._lidar import lidar
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.quantities.values import NON_FINITE
from svdhooks.record import OK, Record
from svdhooks.reports import status_of
from svdhooks.schedule import Schedule

LIDAR_MEASURES = ("lidar", "lidar_limit")


@dataclass(frozen=True)
class LiDAR:
    """The rank that separates samples from their augmented views (Thilak et al. 2024).

    Needs a reference batch made for it: n clean samples, of each q views, the views of
    one sample next to each other (``x.repeat_interleave(q, 0)``, then augmented).
    Published at n of about 1,000 and q of 50, which is a large probe; n bounds the
    result. Each view is one embedding: the mean over the positions of a map, and over
    the tokens of a sequence (or its last token, with ``samples="last"``).

    Records ``lidar``, 1 … ``lidar_limit`` = min(n - 1, features). A batch that is no
    multiple of ``views`` and a layer that is called more than once are an error status.

    Attributes:
        views: The q, 2 or more.
        points: ``"input"``, ``"output"``, or both.
        max_features: Points with more features are left out: it takes d × d matrices.
        delta: Added to the variance within a sample, in units of the activations
            squared.
        schedule: Its own schedule; None: the recorder's.
    """

    views: int
    points: tuple[str, ...] = ("output",)
    max_features: int = 8192
    delta: float = 1e-4
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            ValueError: If a point is unknown or a number is too small.
        """
        if self.views < 2:
            raise ValueError(
                f"LiDAR(views={self.views}): expected 2 or more views of each sample."
            )
        if not self.points or not set(self.points) <= {"input", "output"}:
            raise ValueError(
                f"LiDAR(points={self.points!r}): expected some of ('input', 'output')."
            )
        if self.max_features < 1 or not self.delta >= 0:
            raise ValueError(
                f"LiDAR(max_features={self.max_features}, delta={self.delta}): expected "
                "at least 1 and 0."
            )

    @property
    def name(self) -> str:
        """Under which its records are filed."""
        return "lidar"

    def observer(
        self, layers: Sequence[Watched], context: ProbeContext
    ) -> "LidarObserver":
        """Start to observe one probe.

        Args:
            layers: Those chosen for this record.
            context: What is known about the probe.

        Returns:
            The observer.
        """
        return LidarObserver(self, layers, context)

    def measured_points(self, layer: Watched) -> list[str]:
        """The points of a layer that are measured."""
        skipped = self.skipped_points(layer)
        return [p for p in self.points if p in layer.points and p not in skipped]

    def skipped_points(self, layer: Watched) -> dict[str, str]:
        """Point name -> reason, for those asked for that are too wide."""
        return {
            point: self.too_wide(features)
            for point, features in layer.points.items()
            if point in self.points and features > self.max_features
        }

    def too_wide(self, features: int) -> str:
        """Why a point with so many features is left out."""
        return f"{features} features exceed max_features={self.max_features}"


_Rows = dict[tuple[str, str], Tensor]


class LidarObserver:
    """Measures each point at its one call of a probe.

    Args:
        quantity: The options.
        layers: Those chosen for this record.
        context: What is known about the probe.
    """

    def __init__(
        self, quantity: LiDAR, layers: Sequence[Watched], context: ProbeContext
    ) -> None:
        self._quantity = quantity
        self._context = context
        self._wanted = [
            (layer.name, point)
            for layer in layers
            for point in quantity.measured_points(layer)
        ]
        self._calls: dict[str, int] = {}
        self._found: dict[tuple[str, str], tuple[float, float]] = {}
        self._rows: _Rows = {}
        self._problems: dict[tuple[str, str], str] = {}
        self._seconds: dict[tuple[str, str], float] = {}

    def receive(self, layer: Watched, values: Mapping[str, PointValue]) -> None:
        """Measure what one call of a layer's module showed.

        Args:
            layer: The layer or tap.
            values: Point name -> value.
        """
        calls = self._calls[layer.name] = self._calls.get(layer.name, 0) + 1
        for point, value in values.items():
            key = (layer.name, point)
            if key not in self._wanted:
                continue
            if calls > 1:
                self._problems[key] = (
                    f"called {calls} times: which views belong together is not known"
                )
                continue
            begun = time.perf_counter()
            rows = _one_per_view(value, self._context)
            if self._context.together:  # other processes have more of them
                self._rows[key] = rows.clone()
            else:
                self._found[key] = self._measure(rows)
            self._seconds[key] = time.perf_counter() - begun

    def _measure(self, rows: Float[Tensor, "n d"]) -> tuple[float, float]:
        """LiDAR, and the most that it can be."""
        count, features, views = *rows.shape, self._quantity.views
        if features > self._quantity.max_features:  # of a tap: not known before
            raise ValueError(self._quantity.too_wide(features))
        if count % views:
            raise ValueError(
                f"found {count} embeddings, expected a multiple of views={views}: the "
                "reference batch has to hold the views of each sample one after another"
            )
        grouped = rows.reshape(count // views, views, features)
        found = lidar(grouped, delta=self._quantity.delta)
        return float(found), float(min(len(grouped) - 1, features))

    def fail(self, layer: Watched, error: Exception) -> None:
        """Note that reading or measuring a layer's points failed.

        Args:
            layer: The layer or tap.
            error: Why.
        """
        for key in self._wanted:
            seen = key in self._found or key in self._rows
            if key[0] == layer.name and not seen:
                self._problems[key] = status_of(error)

    def unite(self, team: Team, counts: bool) -> None:
        """Measure the embeddings that all processes saw; collective.

        Args:
            team: The processes. Each has all views of its samples.
            counts: Whether what this process saw counts.
        """

        def state() -> tuple[_Rows, dict[tuple[str, str], str]]:
            rows = {key: each.cpu() for key, each in self._rows.items()}
            return rows, self._problems

        united = gathered(team, state, counts)
        if united is None:  # another process records them
            self._wanted = []
            return
        states, problem = united
        if problem is not None:
            self._problems |= dict.fromkeys(self._wanted, problem)
        for _, problems in states:
            self._problems |= problems
        for key in self._wanted:
            rows = [several[key] for several, _ in states if key in several]
            if rows and key not in self._problems:
                self._measure_all(key, rows)

    def _measure_all(self, key: tuple[str, str], rows: list[Tensor]) -> None:
        try:
            if any(len(each) % self._quantity.views for each in rows):
                raise ValueError(f"not all ranks have all {self._quantity.views} views")
            self._found[key] = self._measure(torch.cat(rows))
        except Exception as error:  # noqa: BLE001  # that of one point, not of all
            self._problems[key] = status_of(error)

    def records(self) -> list[Record]:
        """One record per chosen layer and point, also where nothing was seen."""
        return [self._record(key) for key in self._wanted]

    def _record(self, key: tuple[str, str]) -> Record:
        unseen = OK if key in self._found else f"not called in {self._context.source}"
        status = self._problems.get(key, unseen)
        values = (np.nan, np.nan) if status != OK else self._found[key]
        if status == OK and not np.isfinite(values).all():
            status = NON_FINITE
        return Record(
            self._context.step,
            key[0],
            self._quantity.name,
            {
                field: np.asarray(number)
                for field, number in zip(LIDAR_MEASURES, values, strict=True)
            },
            status=status,
            method="cholesky",
            seconds=self._seconds.get(key, 0.0),
            point=key[1],
        )


def _one_per_view(value: PointValue, context: ProbeContext) -> Tensor:
    """One embedding for each element of the batch, ``(batch, d)``."""
    x, axis, mask = value.tensor.detach(), value.feature_axis, context.mask
    if x.is_nested:
        raise TypeError("found a nested tensor, expected one row for each view")
    if not x.is_floating_point():
        raise TypeError(f"found {x.dtype}, expected real floating-point numbers")
    # a mean over many positions needs more digits than bfloat16 has
    x = x if x.dtype == torch.float64 else x.float()
    if axis != -1:
        x = x.movedim(axis, -1)
        x = x.unsqueeze(0) if x.ndim == -axis else x
        return x.flatten(1, -2).mean(1) if x.ndim > 2 else x
    if x.ndim == 2 and mask is not None and len(x) == mask.numel() != len(mask):
        x = x.reshape(*mask.shape, x.shape[1])
    if x.ndim <= 2:
        return x.reshape(-1, x.shape[-1])
    batch = x.shape[0 if value.batch_first else 1]
    pooled: Samples = "last" if context.samples == "last" else "mean"
    rows = samples_of(PointValue(x, -1, value.batch_first), pooled, mask)
    if len(rows) != batch and (mask is None or len(rows) != len(mask)):
        raise ValueError(
            f"found {len(rows)} of {batch} sequences with a token that counts; without "
            "all of them it is not known which views belong together"
        )
    return rows
