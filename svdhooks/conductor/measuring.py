"""One record: every due quantity on every chosen layer, errors turned to statuses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from svdhooks import advice
from svdhooks.conductor.choices import NO_PAIRS, Choices, untraced, wants_pairs
from svdhooks.conductor.differentiating import JacobianProbe, OfJacobians
from svdhooks.conductor.measured import (
    PROBE_FAILED,
    Measured,
    report_alike,
    report_points,
)
from svdhooks.conductor.observing import OfPoints
from svdhooks.conductor.overhead import Part
from svdhooks.conductor.probing import Probe
from svdhooks.conductor.streaming import Stream
from svdhooks.conductor.weighing import WeightMeasurer
from svdhooks.distributed.meeting import Turn
from svdhooks.distributed.refusals import why_not_differentiated
from svdhooks.distributed.team import Team
from svdhooks.flow import Flow
from svdhooks.layers import LayerTable
from svdhooks.layers.sharding import as_stored
from svdhooks.layers.tap import Tap, Watched
from svdhooks.probe import Forward, ProbeOptions, ReferenceBatch
from svdhooks.quantities import (
    EdgeQuantity,
    Quantity,
    WeightQuantity,
    needs_flow,
)
from svdhooks.reports import Reporter, status_of


class Measurer(Choices):
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
        traced: Whether anything has to know which layer feeds which.

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
        traced: bool = True,
    ) -> None:
        super().__init__(table, taps, why_not_differentiated(model), model)
        self._reporter = reporter
        self._exhausted = exhausted
        self._team = team or Team()
        self._probe = Probe(
            model, options, forward, reporter, exhausted, self._team, traced
        )
        self._weights = WeightMeasurer(table.layers, reporter, exhausted, self._team)
        self._jacobians = JacobianProbe(
            model, table.layers, forward, reporter, exhausted, self._team
        )

    @property
    def refused(self) -> str | None:
        """Why this model cannot be probed any more; None if it can."""
        return self._probe.refused

    @property
    def rehearsed(self) -> bool:
        """Whether the probe was run once without measuring."""
        return self._probe.rehearsed

    @property
    def flow(self) -> Flow:
        """Which layer feeds which; the same on all processes, or empty."""
        return self._probe.agreed_flow

    @property
    def untraced(self) -> str | None:
        """Why which layer feeds which could not be traced; None if it could."""
        return self._probe.untraced

    def trace(
        self,
        due: Sequence[Quantity],
        step: int,
        reference: ReferenceBatch | None,
        turn: Turn | None,
    ) -> Turn | None:
        """Find out what feeds what, if what is due has to know; collective.

        Args:
            due: What is to be measured.
            step: Optimiser updates contained in the weights.
            reference: The reference batch, if one is known.
            turn: What this process does of the probe; None: it is alone.

        Returns:
            What it does of it from now on.
        """
        waiting = [q for q in due if isinstance(q, EdgeQuantity) and needs_flow(q)]
        needed = bool(waiting) or (not self._team.alone and wants_pairs(due))
        if not needed or self._probe.agreed or not self._probing(reference, turn):
            return turn
        now = turn or Turn(rehearses=not self._probe.rehearsed)
        self._probe.failure = None
        if now.rehearses:
            self._rehearse_first(step, reference, now)
        if self._probe.failure is not None:
            return turn  # the points will fail, and say so
        self._probe.agree(now)
        for quantity in waiting:
            if not self.edges(quantity):
                reason = untraced(self.untraced) if self.untraced else NO_PAIRS
                advice.nothing_to_measure(self._reporter, quantity.name, reason)
        return None if turn is None else replace(turn, rehearses=False)

    def _rehearse_first(
        self, step: int, reference: ReferenceBatch | None, turn: Turn
    ) -> None:
        def rehearse() -> None:
            if turn.runs and reference is not None:
                self.rehearse(reference)

        self._probe.rehearse_first(step, rehearse)

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
            turn = turn or Turn(rehearses=not self._probe.rehearsed)
            of_points = self.of_points(quantities, chosen)
            self._probe.failure = None
            if of_points:
                self._from_probe(of_points, step, reference, measured, turn)
                turn = replace(turn, rehearses=False)
            of_jacobians = self.of_jacobians(quantities, chosen)
            if of_jacobians and not self._exhausted():
                self._from_jacobians(of_jacobians, step, reference, measured, turn)
        return measured

    def _probing(self, reference: ReferenceBatch | None, turn: Turn | None) -> bool:
        if turn is None:
            return reference is not None and self.refused is None
        return turn.possible

    def _from_probe(
        self,
        of_points: OfPoints,
        step: int,
        reference: ReferenceBatch | None,
        measured: Measured,
        turn: Turn,
    ) -> None:
        new = not self._probe.rehearsed and self.taps
        if self._team.alone and reference is not None and new:
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

    def _from_jacobians(
        self,
        of_jacobians: OfJacobians,
        step: int,
        reference: ReferenceBatch | None,
        measured: Measured,
        turn: Turn,
    ) -> None:
        if turn.rehearses:  # which traces what feeds what
            self._rehearse_first(step, reference, turn)
        if self._probe.failure is not None:  # it was said; the model would fail again
            status = f"{PROBE_FAILED}: {self._probe.failure}"
            found = self._jacobians.failed(of_jacobians, step, status)
        else:
            chains = {x.name: self._probe.flow.relu_chain(x.name) for x in self.watched}
            known = {name: chain[:-1] for name, chain in chains.items() if chain}
            found = self._jacobians.measure(of_jacobians, step, reference, turn, known)
        report_alike(self._reporter, found.records, self._probe.silent)
        measured.observed |= {quantity.name for quantity, _ in of_jacobians}
        measured.merge(found)

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
