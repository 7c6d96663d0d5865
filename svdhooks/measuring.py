"""One record: every due quantity on every chosen layer, errors turned to statuses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from svdhooks.distributed.meeting import Turn
from svdhooks.distributed.team import Team
from svdhooks.layers import LayerTable, Skipped
from svdhooks.layers.sharding import as_stored
from svdhooks.layers.tap import Tap, Watched
from svdhooks.measured import Measured, report_points
from svdhooks.observing import OfPoints
from svdhooks.overhead import Part
from svdhooks.probe import Forward, ProbeOptions, ReferenceBatch
from svdhooks.probing import Probe
from svdhooks.quantities import (
    EdgeQuantity,
    PointQuantity,
    Quantity,
    WeightQuantity,
)
from svdhooks.quantities.fields import fields_of
from svdhooks.reports import Reporter, status_of
from svdhooks.streaming import Stream
from svdhooks.weighing import WeightMeasurer


class Measurer:
    """Measures layers of one model; knows neither schedules nor sinks.

    Args:
        model: The plain module.
        table: What to watch.
        options: How the reference batch is read.
        forward: How to call the model; None: ``model(*args, **kwargs)``.
        reporter: Where problems go.
        exhausted: Whether the time of a record is used up; what is not measured by
            then is left out.
        taps: Further points to watch.
        team: The processes that record the model.

    Attributes:
        refused: Why this model cannot be probed any more; None if it can.
    """

    def __init__(
        self,
        model: nn.Module,
        table: LayerTable,
        options: ProbeOptions,
        forward: Forward | None,
        reporter: Reporter,
        exhausted: Callable[[], bool] = lambda: False,
        taps: Sequence[Tap] = (),
        team: Team | None = None,
    ) -> None:
        self.model = model
        self.table = table
        self.taps = tuple(taps)
        self._reporter = reporter
        self._exhausted = exhausted
        self._team = team or Team()
        self._probe = Probe(model, options, forward, reporter, exhausted, self._team)
        self._weights = WeightMeasurer(table.layers, reporter, exhausted, self._team)

    @property
    def watched(self) -> tuple[Watched, ...]:
        """The layers, in the model's order, and the taps."""
        return (*self.table.layers, *self.taps)

    @property
    def refused(self) -> str | None:
        """Why this model cannot be probed any more; None if it can."""
        return self._probe.refused

    @property
    def rehearsed(self) -> bool:
        """Whether the probe was run once without measuring."""
        return self._probe.rehearsed

    def parts(self, quantities: Sequence[Quantity], probing: bool) -> list[Part]:
        """What can be measured now, in the order of the model.

        Args:
            quantities: Those due.
            probing: Whether the points can be observed.

        Returns:
            Pairs of quantity name and layer name.
        """
        return [
            (quantity.name, subject.name)
            for quantity in quantities
            for subject in self._concerned(quantity, probing)
        ]

    def _concerned(self, quantity: Quantity, probing: bool) -> Sequence[Any]:
        # asked once per quantity: whether a protocol is met takes 15 µs to find out
        if isinstance(quantity, WeightQuantity):
            return [layer for layer in self.table.layers if layer.tied_to is None]
        if isinstance(quantity, EdgeQuantity):
            return quantity.edges(self.table)
        if not (probing and isinstance(quantity, PointQuantity)):
            return []
        return [layer for layer in self.watched if quantity.measured_points(layer)]

    def recorded(
        self, quantities: Sequence[Quantity]
    ) -> dict[str, dict[str, tuple[str, ...]]]:
        """Which measures will be recorded of what, if the points can be observed.

        Args:
            quantities: What is measured.

        Returns:
            Layer, tap or edge -> point -> names of measures.
        """
        found: dict[str, dict[str, tuple[str, ...]]] = {}
        for layer in self.watched:
            found[layer.name] = {}
        for quantity in quantities:
            for subject in self._concerned(quantity, probing=True):
                points = found.setdefault(subject.name, {})
                for point, fields in fields_of(quantity, subject).items():
                    points[point] = (*points.get(point, ()), *fields)
        return found

    def skipped_points(self, quantities: Sequence[Quantity]) -> list[Skipped]:
        """Points of watched layers that no quantity measures, with the reason."""
        return [
            Skipped(f"{layer.name} ({point})", f"{quantity.name}: {reason}")
            for quantity in quantities
            if isinstance(quantity, PointQuantity)
            for layer in self.watched
            for point, reason in quantity.skipped_points(layer).items()
        ]

    def rehearse(self, reference: ReferenceBatch) -> None:
        """Run the probe once without measuring: does it work, who is called how often.

        Args:
            reference: The reference batch.

        Raises:
            Exception: Whatever the model or the mask raises.
        """
        self._learn(self._probe.rehearse(reference, self.watched))

    def count_samples(
        self, reference: ReferenceBatch
    ) -> tuple[dict[tuple[str, str], int], float]:
        """Run the probe and count, for a plan.

        Args:
            reference: The reference batch.

        Returns:
            (layer, point) -> samples; seconds of a forward.
        """
        self.rehearse(reference)
        return self._probe.count_samples(reference, self.watched)

    def measure(
        self,
        step: int,
        quantities: Sequence[Quantity],
        chosen: set[Part],
        reference: ReferenceBatch | None,
        stream: Stream | None = None,
        turn: Turn | None = None,
    ) -> Measured:
        """Measure the chosen parts.

        Args:
            step: Optimiser updates contained in the weights.
            quantities: Those due.
            chosen: Which (quantity, layer) to measure.
            reference: The reference batch, if one is known.
            stream: What was seen of the training, instead of a probe.
            turn: What this process does of the probe; None: it is alone.

        Returns:
            Records and what they cost; of several processes, the share of this one.
        """
        measured = Measured()
        pieces = [
            (quantity, subject)
            for quantity in quantities
            if isinstance(quantity, (WeightQuantity, EdgeQuantity))
            for subject in self._concerned(quantity, probing=False)
            if (quantity.name, subject.name) in chosen
        ]
        with as_stored(self.model):
            self._weights.measure(pieces, step, measured)
        if stream is not None:
            self._from_stream(stream, step, quantities, measured)
        elif self._probing(reference, turn) and not self._exhausted():
            of_points = self.of_points(quantities, chosen)
            self._from_probe(of_points, step, reference, measured, turn)
        return measured

    def _probing(self, reference: ReferenceBatch | None, turn: Turn | None) -> bool:
        if turn is None:
            return reference is not None and self.refused is None
        return turn.possible

    def of_points(self, quantities: Sequence[Quantity], chosen: set[Part]) -> OfPoints:
        """The chosen layers and taps of each quantity that observes points.

        Args:
            quantities: Those due.
            chosen: Which (quantity, layer) to measure.

        Returns:
            Pairs of a quantity and what it observes.
        """
        pairs = [
            (quantity, [x for x in self.watched if (quantity.name, x.name) in chosen])
            for quantity in quantities
            if isinstance(quantity, PointQuantity)
        ]
        return [(quantity, watched) for quantity, watched in pairs if watched]

    def _from_probe(
        self,
        of_points: OfPoints,
        step: int,
        reference: ReferenceBatch | None,
        measured: Measured,
        turn: Turn | None,
    ) -> None:
        if not of_points:
            return
        new = not self._probe.rehearsed and self.taps
        if turn is None and reference is not None and new:
            self._rehearse_again(reference)
            of_points = [
                (quantity, self._renewed(watched)) for quantity, watched in of_points
            ]
        measured.observed |= {quantity.name for quantity, _ in of_points}
        records = self._probe.records(of_points, self.watched, step, reference, turn)
        report_points(self._reporter, records, self._probe.silent)
        for record in records:
            measured.add(record)
        if not self._exhausted():  # those that have nothing to record had their turn
            for quantity, watched in of_points:
                for x in watched:
                    measured.costs.setdefault((quantity.name, x.name), 0.0)

    def _rehearse_again(self, reference: ReferenceBatch) -> None:
        """Learn how wide taps are; what fails here fails again and is reported then."""
        try:
            self.rehearse(reference)
        except Exception as error:  # noqa: BLE001  # a measurement may fail
            self._reporter.note("rehearsal", f"svdhooks: {status_of(error)}")

    def _renewed(self, watched: Sequence[Watched]) -> list[Watched]:
        now = {x.name: x for x in self.watched}
        return [now[x.name] for x in watched]

    def _from_stream(
        self,
        stream: Stream,
        step: int,
        quantities: Sequence[Quantity],
        measured: Measured,
    ) -> None:
        due = {quantity.name for quantity in quantities}
        measured.observed |= due & stream.observing
        records = stream.records(step, due)
        self._learn(stream.features)
        report_points(self._reporter, records)
        for record in records:
            measured.add(record)

    def _learn(self, features: Mapping[str, int]) -> None:
        """Take note of how wide taps are."""
        taps = self.taps
        if any(features.get(tap.name, tap.features) != tap.features for tap in taps):
            self.taps = tuple(
                replace(tap, features=features.get(tap.name, tap.features))
                for tap in taps
            )
