"""What each layer throws away, and where: V -> S -> U -> ReLU as discarding steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from svdhooks.layers import Layer
from svdhooks.layers.patches import why_not_alone
from svdhooks.layers.tap import Watched
from svdhooks.quantities.ledger_observer import LedgerObserver
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.quantities.values import check_positive
from svdhooks.schedule import Schedule


@dataclass(frozen=True)
class Ledger:
    """What each layer throws away of what it receives.

    A weight U S Vᵀ turns its input by V, shrinks or drops directions by S and turns
    again by U; then the nonlinearity removes some of the result. One record for each
    layer, at the point ``"ledger"``:

    - ``input_null_share``: share of the input's centred variance, 0 … 1, in the right
      singular directions with ``σ ≤ null·σ₁``, kernel included: S drops it. Of a
      convolution the input is that of its flattened kernel: all patches.
      ``input_null_dimension``: the number of these directions.
    - ``nonlinearity_removed_share``: ``1 - tr Cov(input of the next layer) / tr Cov(output
      of this one)`` where there is nothing but an elementwise activation between the
      two; NaN elsewhere. ReLU of a centred Gaussian removes 0.6592 (Cho & Saul 2009,
      arc-cosine kernel); below 0 where the activation spreads. Known from the probe
      alone, not with ``observe="training"`` or ``samples="mean"``.
    - ``negative_fraction``: share of the entries of the output below 0;
      ``dead_fraction`` and ``always_on_fraction``: share of the units that are at most
      0, or above 0, on all samples.
    - ``information``: ``½ Σ log(1 + λᵢ/σ²)`` in nats, with the eigenvalues λ of the
      output's covariance: that of the channel ``z -> z + σξ`` with Gaussian noise, if z
      were Gaussian; for any other law with that covariance an upper bound (Cover &
      Thomas, theorem 8.6.5). It is that of a noisy channel with the ``noise`` recorded
      beside it: the network itself has no noise, and information through a
      deterministic network is not finite. ``information_slope``:
      ``dI/d log(1/σ) = Σ λᵢ/(λᵢ + σ²)``, the number of directions above the noise.
    - ``noise``: σ, in the units of the output. ``count``: number of samples.

    Marks: ``"sample_limited"`` with fewer samples than twice the features of the output:
    the information is that of the samples. ``"input_null_unknown"`` where the weight
    could not be read in the forward, so that the first two are NaN.

    The weight is that of the forward which is observed; over a window of training
    batches, of its first.

    Attributes:
        noise: σ of the channel.
        relative_noise: Whether that is in units of the output's root mean variance,
            ``√(tr Cov/d)``. Then information does not change with the scale of weights.
        null: Threshold on ``σᵢ/σ₁`` of the weight.
        max_features: Of outputs with more features the information is left out, and of
            weights whose smaller side is longer the near-null space.
        schedule: Its own schedule; None: the recorder's.
    """

    noise: float | int = 0.1
    relative_noise: bool = True
    null: float = 0.01
    max_features: int = 8192
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            TypeError: If one is of a wrong kind.
            ValueError: If one is out of its range.
        """
        check_positive(self, "max_features")
        for name in ("noise", "null"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise TypeError(f"Ledger({name}={number!r}): expected a number.")
        if not 0 < self.noise < math.inf:
            raise ValueError(
                f"Ledger(noise={self.noise}): expected a positive standard deviation: "
                "without noise the information of a deterministic network is not finite."
            )
        if not 0 < self.null < 1:
            raise ValueError(
                f"Ledger(null={self.null}): expected a share of the largest singular "
                "value, between 0 and 1, such as 0.01."
            )

    @property
    def name(self) -> str:
        """Under which its records are filed."""
        return "ledger"

    @property
    def needs_flow(self) -> bool:
        """It compares a layer's output with the input of the one behind it."""
        return True

    def observer(
        self, layers: Sequence[Watched], context: ProbeContext
    ) -> LedgerObserver:
        """Start to observe one probe.

        Args:
            layers: Those chosen for this record.
            context: What is known about the probe.

        Returns:
            The observer.
        """
        wanted = [x for x in layers if isinstance(x, Layer) and self.measured_points(x)]
        return LedgerObserver(self, wanted, context)

    def measured_points(self, layer: Watched) -> list[str]:
        """Input and output of layers, where there is something to say; none of taps."""
        if not isinstance(layer, Layer):
            return []
        if "output" not in layer.points and "input" in self.skipped_points(layer):
            return []  # such as experts: nothing but a count would be left
        return [point for point in ("input", "output") if point in layer.points]

    def skipped_points(self, layer: Watched) -> dict[str, str]:
        """Point name -> what of it is not measured, and why."""
        found: dict[str, str] = {}
        if not isinstance(layer, Layer):
            return found
        reason = self.unsplit(layer) if "input" in layer.points else None
        if reason is not None:
            found["input"] = f"without input_null_share: {reason}"
        features = layer.points.get("output", 0)
        if features > self.max_features:
            found["output"] = (
                f"without information: {features} features exceed "
                f"max_features={self.max_features}"
            )
        return found

    def unsplit(self, layer: Layer) -> str | None:
        """Why the input of a layer is not split by its weight.

        Args:
            layer: A layer with an input point.

        Returns:
            The reason; None if it is.
        """
        reason = why_not_alone(layer)
        if reason is not None:
            return reason
        if min(layer.shape) > self.max_features:
            return (
                f"{min(layer.shape)} singular values exceed "
                f"max_features={self.max_features}"
            )
        return None
