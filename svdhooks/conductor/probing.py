"""The probe: the plain model on its reference batch, on the side of the training."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from svdhooks.conductor.measured import PROBE_FAILED
from svdhooks.conductor.observing import Observation, OfPoints, report_idle
from svdhooks.conductor.passes import within_bounds
from svdhooks.conductor.rehearsal import CHANGED, Rehearser
from svdhooks.distributed.attempt import Attempt
from svdhooks.distributed.meeting import Turn
from svdhooks.distributed.team import Team
from svdhooks.flow import Flow
from svdhooks.flow.graph import NOTHING
from svdhooks.hooks import observed
from svdhooks.isolation import probe_context
from svdhooks.layers import PointValue, samples_of
from svdhooks.layers.tap import Watched
from svdhooks.probe import Forward, ProbeOptions, ReferenceBatch
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.record import Record
from svdhooks.reports import Reporter, status_of


class Probe:
    """Runs one model on its reference batch with hooks that exist only meanwhile.

    Args:
        model: The plain module.
        options: How the reference batch is read.
        forward: How to call the model; None: ``model(*args, **kwargs)``.
        reporter: Where problems go.
        exhausted: Whether the time of a record is used up.
        team: The processes that record the model.
        traced: Whether anything has to know which layer feeds which.

    Attributes:
        refused: Why this model cannot be probed any more; None if it can.
        failure: Why its latest run failed, here or on another process; None: it did not.
        rehearsed: Whether it was run once without measuring.
        silent: What that run did not call, as it said then.
        flow: Which layer feeds which, as seen in that run; empty if it was not traced.
        agreed: Whether all processes know the same flow.
        untraced: Why it could not be traced; None if it could, or was not to be.
    """

    def __init__(
        self,
        model: nn.Module,
        options: ProbeOptions,
        forward: Forward | None,
        reporter: Reporter,
        exhausted: Callable[[], bool],
        team: Team,
        traced: bool = True,
    ) -> None:
        self.refused: str | None = None
        self.failure: str | None = None
        self.silent: frozenset[str] = frozenset()
        self.flow = NOTHING
        self.agreed = False
        self.untraced: str | None = None
        self._model = model
        self._options = options
        self._forward = forward
        self._reporter = reporter
        self._exhausted = exhausted
        self._team = team
        self._calls: Mapping[int, int] = {}
        self._rehearser = Rehearser(model, forward, options.mask, team, traced)

    @property
    def rehearsed(self) -> bool:
        """Whether it is known which module is called how often."""
        return bool(self._calls)

    @property
    def agreed_flow(self) -> Flow:
        """That of all processes; empty until `agree`. Of a process alone it is its own."""
        return self.flow if self._team.alone or self.agreed else NOTHING

    def agree(self, turn: Turn) -> None:
        """Let all processes know what one of them saw; collective.

        Args:
            turn: Says whose forward it is.
        """
        own = self.flow, self.untraced
        mine = own if self._team.rank == turn.keeper else None
        if not self._team.alone:
            known = self._team.exchange(mine)[turn.keeper]
            self.flow, self.untraced = known or (NOTHING, None)
        self.agreed = True

    def rehearse(
        self, reference: ReferenceBatch, watched: Sequence[Watched]
    ) -> dict[str, int]:
        """Run once without measuring: does it work, who is called how often.

        Args:
            reference: The reference batch.
            watched: The layers and taps.

        Returns:
            Tap -> number of features.

        Raises:
            Exception: Whatever the model or the mask raises.
        """
        found = self._rehearser.run(reference, watched)
        self._calls, self.flow = found.calls, found.flow
        self.untraced = self._rehearser.untraced
        silent = [x.name for x in watched if not self._calls[id(x.module)]]
        self.silent = frozenset(silent)
        if silent:
            self._reporter.note(
                "uncalled",
                "svdhooks: the probe forward calls no module of "
                f"{', '.join(silent[:8])}{', …' if len(silent) > 8 else ''}: their "
                "weights are recorded, their inputs and outputs cannot be seen.",
            )
        return dict(found.features)

    def count_samples(
        self, reference: ReferenceBatch, watched: Sequence[Watched]
    ) -> tuple[dict[tuple[str, str], int], float]:
        """Run once, and count what passes the points.

        Args:
            reference: The reference batch.
            watched: The layers and taps.

        Returns:
            (layer, point) -> samples; seconds of the forward.
        """
        counts: dict[tuple[str, str], int] = {}
        mask = reference.mask(self._options.mask, self._model)

        def receive(layer: Watched, values: Mapping[str, PointValue]) -> None:
            for point, value in values.items():
                seen = len(samples_of(value, self._options.samples, mask))
                counts[layer.name, point] = counts.get((layer.name, point), 0) + seen

        def fail(layer: Watched, error: Exception) -> None:
            """What cannot be read is not counted."""

        with probe_context(self._model):
            begun = time.perf_counter()
            reference.run(self._model, self._forward)
            seconds = time.perf_counter() - begun
        with probe_context(self._model), observed(watched, receive, fail):
            reference.run(self._model, self._forward)
        return counts, seconds

    def records(
        self,
        of_points: OfPoints,
        ordered: Sequence[Watched],
        step: int,
        reference: ReferenceBatch | None,
        turn: Turn | None = None,
    ) -> list[Record]:
        """Run the model once and measure what passes the points.

        Several processes run it together, and put together what each of them saw; as
        often as it takes to keep what they hold until then within bounds.

        Args:
            of_points: What is measured of what.
            ordered: All layers and taps, in the model's order.
            step: Optimiser updates contained in the weights.
            reference: The reference batch; None where this process has none.
            turn: What this process does of it; None: it is alone.

        Returns:
            One per quantity, layer and point; with a status where that failed. Of
            several processes each returns its share.
        """
        turn = turn or Turn(rehearses=not self.rehearsed)
        found: list[Record] = []
        observations: list[Observation] = []
        for group in self._passes(of_points):
            records, observation = self._pass(group, ordered, step, reference, turn)
            found += records
            observations.append(observation)
            turn = replace(turn, rehearses=False)
        report_idle(self._reporter, observations)
        return found

    def _passes(self, of_points: OfPoints) -> list[OfPoints]:
        """Parts of what is measured that are held in memory together."""
        return [of_points] if self._team.alone else within_bounds(of_points)

    def _pass(
        self,
        of_points: OfPoints,
        ordered: Sequence[Watched],
        step: int,
        reference: ReferenceBatch | None,
        turn: Turn,
    ) -> tuple[list[Record], Observation]:
        attempt = Attempt(self._team)
        batch = reference if turn.runs else None
        context = ProbeContext(step, None, self._options.samples, self._calls)
        context.together, context.flow = not self._team.alone, self.flow
        observation: Observation | None = None
        if turn.rehearses:
            with attempt:
                if batch is not None:
                    self.rehearse(batch, ordered)
            context.expected_calls, context.flow = self._calls, self.flow
        if attempt.all_well():
            with attempt:
                if batch is not None:
                    context.mask = batch.mask(self._options.mask, self._model)
                observation = self._observation(of_points, context)
        if attempt.all_well() and observation is not None:
            chosen = [x for x in ordered if x in observation.watched]
            with attempt:
                if batch is not None:
                    self._observe(batch, chosen, observation)
        self._conclude(attempt.failure, step)
        # those that have seen nothing say so for every layer
        observation = observation or self._observation(of_points, context)
        if self.failure is not None:
            return self._failed(observation), observation
        observation.unite(self._team, turn)
        return observation.records(), observation

    def _observe(
        self,
        batch: ReferenceBatch,
        chosen: Sequence[Watched],
        observation: Observation,
    ) -> None:
        with (
            probe_context(self._model),
            observed(chosen, observation.receive, observation.fail),
        ):
            batch.run(self._model, self._forward)

    def rehearse_first(self, step: int, run: Callable[[], None]) -> None:
        """Rehearse where nothing is observed, on all processes; collective.

        Args:
            step: Optimiser updates contained in the weights.
            run: Does it, if this process has to; `failure` says what came of it.
        """
        attempt = Attempt(self._team)
        with attempt:
            run()
        self._conclude(attempt.failure, step)

    def _conclude(self, error: Exception | None, step: int) -> None:
        """Let all processes know whether the run failed anywhere; collective."""
        if error is not None:
            self._report_failed(error, step)
        told = self._team.exchange(None if error is None else status_of(error))
        failed = ((rank, text) for rank, text in enumerate(told) if text)
        where, self.failure = next(failed, (0, None))
        if self.failure is not None and not self._team.alone:
            self.failure += f" (rank {where})"

    def _failed(self, observation: Observation) -> list[Record]:
        """What is recorded of a forward that failed somewhere; by one process."""
        status = f"{PROBE_FAILED}: {self.failure}"
        if self._team.alone:
            records = observation.records()
            return [r if r.ok else replace(r, status=status) for r in records]
        if not self._team.writes:
            return []
        failure = RuntimeError(self.failure)
        for watched in observation.watched:  # what this process saw is not all
            observation.fail(watched, failure)
        return [replace(r, status=status) for r in observation.records()]

    def _observation(self, of_points: OfPoints, context: ProbeContext) -> Observation:
        return Observation(of_points, context, self._reporter, self._exhausted)

    def _report_failed(self, error: Exception, step: int) -> None:
        if CHANGED in str(error):
            self.refused = str(error)
        self._reporter.problem(
            "probe",
            f"svdhooks: the probe forward failed at step {step}: {status_of(error)}. "
            "What needs it is missing in this record. Give a batch that the model "
            "accepts as probe= (tensor; tuple of positional arguments; mapping of "
            "keyword arguments), and forward=(model, batch) if the model is called "
            "otherwise.",
            error,
        )
