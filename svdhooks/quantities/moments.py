"""Moments of what enters and what leaves each layer, for what is computed afterwards."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from svdhooks import linalg
from svdhooks.distributed.merging import Key
from svdhooks.layers import Layer, PointValue
from svdhooks.layers.patches import convolution_of, patches, why_not_alone
from svdhooks.layers.tap import Watched
from svdhooks.quantities.accumulating import Accumulation, by_point
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.quantities.values import NON_FINITE, check_positive
from svdhooks.record import Record
from svdhooks.schedule import Schedule, log_spaced

MOMENT_MEASURES = ("count",)


@dataclass(frozen=True)
class PointMoments:
    """Mean and covariance of each layer's input and output, whole, at a coarser cadence.

    One record for each point, ``"input_moments"`` and ``"output_moments"``. Their arrays
    go to safetensors files beside the event file: ``covariance``, float64, the upper
    triangle of the centred covariance (1/N) row by row, d(d + 1)/2 numbers; ``mean``
    ``(d,)``, float64; ``samples`` ``(1,)``, the exact number of samples, whose measure is
    ``count``. `svdhooks.analysis.layer_snapshot` reads them.

    The input is what the weight multiplies: of a convolution all patches of its padded
    input, flattened as its kernel is, so that ``W R Wᵀ`` with the input's second moment R
    is the second moment of the output without its bias. It is left out where each expert
    or group sees an input of its own, and of bilinear layers; complex samples are not
    recorded.

    Attributes:
        points: ``"input"``, ``"output"``, or both.
        max_features: Points with more features are left out: d = 2,048 takes 17 MB in
            the log at each record, and 34 MB of memory.
        schedule: Its own schedule; three records per factor of ten in steps.
    """

    points: tuple[str, ...] = ("input", "output")
    max_features: int = 2048
    schedule: Schedule | None = field(default_factory=lambda: log_spaced(3))

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            TypeError: If ``max_features`` is no whole number.
            ValueError: If a point is unknown or ``max_features`` is not positive.
        """
        if not self.points or not set(self.points) <= {"input", "output"}:
            raise ValueError(
                f"PointMoments(points={self.points!r}): expected some of "
                "('input', 'output')."
            )
        check_positive(self, "max_features")

    @property
    def name(self) -> str:
        """Under which its records are filed."""
        return "moments"

    def observer(
        self, layers: Sequence[Watched], context: ProbeContext
    ) -> "MomentsObserver":
        """Start to observe one probe.

        Args:
            layers: Those chosen for this record.
            context: What is known about the probe.

        Returns:
            The observer.
        """
        wanted = by_point(layers, self.measured_points)
        return MomentsObserver(self, wanted, context)

    def skipped_points(self, layer: Watched) -> dict[str, str]:
        """Point name -> reason, for the points of a layer that are not measured."""
        found = {}
        for point in self.points:
            if point not in layer.points:
                continue
            features, most = features_of(layer, point), self.max_features
            if point == "input" and isinstance(layer, Layer):
                reason = why_not_alone(layer)
                if reason is not None:
                    found[point] = reason
                    continue
            if features > most:
                found[point] = f"{features} features exceed max_features={most}"
        return found

    def measured_points(self, layer: Watched) -> list[str]:
        """The points of a layer that are measured."""
        skipped = self.skipped_points(layer)
        return [p for p in self.points if p in layer.points and p not in skipped]


def features_of(layer: Watched, point: str) -> int:
    """How many features a point has here.

    Args:
        layer: A layer or tap.
        point: One of its points.

    Returns:
        Those of a patch where a convolution is entered; 0 of a tap not seen yet.
    """
    return layer.shape[1] if _patched(layer, point) else layer.points[point]  # type: ignore[union-attr]  # a layer


class MomentsObserver(Accumulation):
    """Adds up what passes the points of one probe, patches of convolutions one by one."""

    def _samples(
        self, layer: Watched, point: str, value: PointValue
    ) -> Iterable[Tensor]:
        if value.tensor.is_complex():
            raise TypeError(f"found {value.tensor.dtype}, moments are of real samples")
        if _patched(layer, point):
            module = convolution_of(layer)  # type: ignore[arg-type]  # a layer
            return patches(module, value.tensor, self._context.mask)
        return super()._samples(layer, point, value)

    def _features(self, layer: Watched, point: str) -> int:
        return features_of(layer, point)

    def _as_it_is(self, layer: Watched, point: str) -> bool:
        return not _patched(layer, point)

    def _filed(self, point: str) -> str:
        return f"{point}_moments"

    def _solve(self, key: Key) -> None:
        samples = self._open.pop(key)
        del self._units[key]
        self._done[key] = self._record(key, samples)

    def _record(self, key: Key, samples: linalg.CovarianceAccumulator) -> Record:
        count = samples.count
        if not count:
            return self._unknown(key, "no samples")
        moments = samples.moments()
        covariance, mean = moments.covariance(), moments.mean
        if not bool(covariance.isfinite().all() & mean.isfinite().all()):
            return self._unknown(key, NON_FINITE)
        rows, columns = torch.triu_indices(
            samples.d, samples.d, device=covariance.device
        )
        values = {
            "count": np.asarray(float(count)),
            "samples": np.array([count]),
            "mean": mean.cpu().numpy().copy(),
            "covariance": covariance[rows, columns].cpu().numpy(),
        }
        few = count < 2 * samples.d
        return Record(
            self._context.step,
            key[0],
            self._quantity.name,
            values,
            method="scatter",
            point=self._filed(key[1]),
            marks=("sample_limited",) if few else (),
        )

    def _unknown(self, key: Key, status: str) -> Record:
        return Record(
            self._context.step,
            key[0],
            self._quantity.name,
            {name: np.asarray(np.nan) for name in MOMENT_MEASURES},
            status=status,
            point=self._filed(key[1]),
        )


def _patched(layer: Watched, point: str) -> bool:
    """Whether what enters is seen as patches."""
    if point != "input" or not isinstance(layer, Layer):
        return False
    return convolution_of(layer) is not None
