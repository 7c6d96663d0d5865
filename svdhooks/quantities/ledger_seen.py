"""What passed one layer, of one process or of many, and what follows from it."""

import math
from dataclasses import dataclass, replace

from torch import Tensor

from svdhooks import linalg
from svdhooks.linalg.discarding import SampleSums, sample_sums
from svdhooks.linalg.information import gaussian_information, information_slope
from svdhooks.linalg.units import UnitStatistics
from svdhooks.quantities.values import NON_FINITE
from svdhooks.record import OK
from svdhooks.reports import status_of

LEDGER_MEASURES = (
    "input_null_share",
    "input_null_dimension",
    "nonlinearity_removed_share",
    "negative_fraction",
    "dead_fraction",
    "always_on_fraction",
    "information",
    "information_slope",
    "noise",
    "count",
)


@dataclass
class Seen:
    """What passed one layer.

    Attributes:
        calls: How often it was called.
        entering: Of its input, feature by feature.
        patches: Of its input as the kernel of a convolution sees it.
        leaving: Of its output.
        units: The same, unit by unit.
        negative: How many entries of the output are below 0.
        null_dimension: Of the near-null space of the weight; NaN: not known.
        unreadable: Whether the weight could not be read.
        problem: Why nothing is known of it.
    """

    calls: int = 0
    entering: SampleSums | None = None
    patches: SampleSums | None = None
    leaving: SampleSums | None = None
    units: UnitStatistics | None = None
    negative: int = 0
    null_dimension: float = math.nan
    unreadable: bool = False
    problem: str | None = None

    def add_output(self, samples: Tensor) -> None:
        """Take in samples of the output."""
        self.leaving = added(self.leaving, sample_sums(samples))
        self.negative += int((samples < 0).sum())
        self.units = (self.units or UnitStatistics(samples.shape[1])).update(samples)

    def merge(self, other: "Seen") -> "Seen":
        """What passed the layer in two processes."""
        units = self.units or other.units
        if self.units is not None and other.units is not None:
            units = self.units.merge(other.units)
        known = not math.isnan(self.null_dimension)
        return Seen(
            self.calls + other.calls,
            added(self.entering, other.entering),
            added(self.patches, other.patches),
            added(self.leaving, other.leaving),
            units,
            self.negative + other.negative,
            self.null_dimension if known else other.null_dimension,
            self.unreadable or other.unreadable,
            self.problem or other.problem,
        )

    def cpu(self) -> "Seen":
        """The same for another process, which may not have this device."""
        units = self.units
        if units is not None and units.count:
            tensors = (units.minimum, units.maximum, units.total_absolute)
            units = UnitStatistics.of(units.count, *(x.cpu() for x in tensors))
        return replace(
            self,
            units=units,
            entering=self.entering and self.entering.cpu(),
            patches=self.patches and self.patches.cpu(),
            leaving=self.leaving and self.leaving.cpu(),
        )

    @property
    def count(self) -> int:
        """Samples of the output, or of the input of a layer whose output is not seen."""
        sums = self.leaving or self.entering
        return 0 if sums is None else sums.count

    @property
    def status(self) -> str:
        """Whether it can be used."""
        if self.problem is not None:
            return self.problem
        if not self.count:
            return "no samples"
        sums = [x for x in (self.entering, self.leaving) if x is not None]
        return OK if all(math.isfinite(x.variance) for x in sums) else NON_FINITE

    @property
    def marks(self) -> tuple[str, ...]:
        """Reservations."""
        sums = self.leaving or self.entering
        few = sums is not None and sums.count < 2 * len(sums.total)
        return ("sample_limited",) * few + ("input_null_unknown",) * self.unreadable

    def measures(self, channel: "Channel", removed: float) -> dict[str, float]:
        """What is recorded of it.

        Args:
            channel: Its output as a channel.
            removed: The share that the nonlinearity removes.

        Returns:
            Field name -> number.
        """
        split, units = self.patches or self.entering, self.units
        fractions = None if units is None else units.fractions()
        entries = 0 if self.leaving is None else self.count * len(self.leaving.total)
        values = (
            math.nan if split is None else split.null_share,
            self.null_dimension,
            removed,
            self.negative / entries if entries else math.nan,
            math.nan if fractions is None else fractions.dead_fraction,
            math.nan if fractions is None else fractions.always_on_fraction,
            channel.information,
            channel.slope,
            channel.noise,
            float(self.count),
        )
        return dict(zip(LEDGER_MEASURES, values, strict=True))


@dataclass(frozen=True)
class Channel:
    """The output of a layer as a noisy channel.

    Attributes:
        information: In nats.
        slope: Its derivative by ``log(1/σ)``.
        noise: σ.
        problem: Why it is not known.
    """

    information: float = math.nan
    slope: float = math.nan
    noise: float = math.nan
    problem: str | None = None

    @classmethod
    def of(
        cls, samples: linalg.CovarianceAccumulator, noise: float | int, relative: bool
    ) -> "Channel":
        """The channel through which samples pass.

        Args:
            samples: At least one.
            noise: σ.
            relative: Whether in units of the root mean variance.

        Returns:
            The channel; errors become its problem.
        """
        try:
            eigenvalues = samples.eigenvalues().cpu().numpy()
        except Exception as error:  # noqa: BLE001  # that of one layer, not of all
            return cls(problem=status_of(error))
        total = float(eigenvalues.sum())
        sigma = noise * math.sqrt(total / samples.d) if relative else float(noise)
        if sigma == 0:  # nothing varies: there is nothing to know
            return cls(0.0, 0.0, 0.0)
        if not sigma < math.inf:
            return cls(problem=NON_FINITE)
        information = float(gaussian_information(eigenvalues, sigma))
        return cls(information, float(information_slope(eigenvalues, sigma)), sigma)


def added(one: SampleSums | None, two: SampleSums | None) -> SampleSums | None:
    """The sums of both.

    Args:
        one: Sums, or nothing.
        two: Of other samples.

    Returns:
        None if there are none.
    """
    return one + two if one is not None and two is not None else one or two
