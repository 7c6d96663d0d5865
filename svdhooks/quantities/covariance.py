"""Covariance of what enters and what leaves each layer."""

from collections.abc import Sequence
from dataclasses import dataclass

from svdhooks import derived
from svdhooks.layers.tap import Watched
from svdhooks.quantities.accumulating import by_point
from svdhooks.quantities.covariances import CovarianceObserver
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.quantities.values import check_positive
from svdhooks.schedule import Schedule


@dataclass(frozen=True)
class Covariance:
    """The covariance spectrum of every layer's input and output.

    Eigenvalues are of the centred covariance with 1/N, descending. With fewer samples
    N than features d, they come from the N × N sample Gram, which has the same
    non-zero eigenvalues.

    Attributes:
        points: ``"input"``, ``"output"``, or both.
        max_features: Points with more features (vocabulary heads) are left out.
        schedule: Its own schedule; None: the recorder's.
        measures: Further measures to record, out of ``svdhooks.derived.FIELDS``, such
            as ``("saturation",)``. A log yields them afterwards, too.
    """

    points: tuple[str, ...] = ("input", "output")
    max_features: int = 8192
    schedule: Schedule | None = None
    measures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            TypeError: If ``max_features`` is no whole number.
            ValueError: If a point is unknown or ``max_features`` is not positive.
        """
        if not self.points or not set(self.points) <= {"input", "output"}:
            raise ValueError(
                f"Covariance(points={self.points!r}): expected some of "
                "('input', 'output')."
            )
        check_positive(self, "max_features")
        derived.check(self.measures, self.points)

    @property
    def name(self) -> str:
        """Under which its records are filed."""
        return "covariance"

    def observer(
        self, layers: Sequence[Watched], context: ProbeContext
    ) -> CovarianceObserver:
        """Start to observe one probe.

        Args:
            layers: Those chosen for this record.
            context: What is known about the probe.

        Returns:
            The observer.
        """
        wanted = by_point(layers, self.measured_points)
        return CovarianceObserver(self, wanted, context)

    def skipped_points(self, layer: Watched) -> dict[str, str]:
        """Point name -> reason, for the points of a layer that are not measured."""
        return {
            point: f"{features} features exceed max_features={self.max_features}"
            for point, features in layer.points.items()
            if point in self.points and features > self.max_features
        }

    def measured_points(self, layer: Watched) -> list[str]:
        """The points of a layer that are measured."""
        skipped = self.skipped_points(layer)
        return [p for p in self.points if p in layer.points and p not in skipped]
