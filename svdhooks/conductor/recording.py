"""One record: what is due is measured, accounted for, and handed to the sinks."""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from svdhooks import advice
from svdhooks.conductor.alarming import Alarming
from svdhooks.conductor.context import only_numbers
from svdhooks.conductor.delayed import Delayed
from svdhooks.conductor.journal import Journal
from svdhooks.conductor.measured import Measured
from svdhooks.conductor.meta import Described
from svdhooks.conductor.models import Models
from svdhooks.conductor.outcome import Outcome, united
from svdhooks.conductor.overhead import OverheadGuard, Part
from svdhooks.conductor.settings import Settings
from svdhooks.distributed.team import Team
from svdhooks.quantities import (
    JacobianQuantity,
    PointQuantity,
    Quantity,
    needs_probe,
)
from svdhooks.record import Record
from svdhooks.reports import Reporter, Said
from svdhooks.sinks import Sink


class Recording:
    """Makes the records of a recorder.

    Args:
        models: What is watched.
        guard: Says what a record may cost, and learns what it did cost.
        settings: The recorder's.
        sinks: Where records go.
        reporter: Where problems go.
        clock: Seconds.
        team: The processes that record together.

    Attributes:
        last: (layer, point) -> the latest record.
        journal: The sinks.
        delayed: Records whose spectra are not solved yet.
        alarming: The alarms.
    """

    def __init__(
        self,
        models: Models,
        guard: OverheadGuard,
        settings: Settings,
        sinks: Sequence[Sink],
        reporter: Reporter,
        clock: Callable[[], float],
        team: Team | None = None,
    ) -> None:
        self.last: dict[tuple[str, str], Record] = {}
        self.journal = Journal(sinks, settings.describe(), reporter)
        self._models = models
        self._guard = guard
        self._settings = settings
        self._reporter = reporter
        self._clock = clock
        self._team = team or Team()
        self.alarming = Alarming(settings.alarms, reporter, self._team)
        self.delayed = Delayed(models, settings, guard, reporter, clock)

    def make(
        self,
        step: int,
        due: Sequence[Quantity],
        context: Mapping[str, Any],
        first: bool,
    ) -> set[str]:
        """Make one record.

        Args:
            step: Optimiser updates contained in the weights.
            due: What to measure.
            context: Where the training stands.
            first: Whether this is the record before the first update.

        Returns:
            Names of the quantities for which there was no time, and of those that need
            derivatives and had no batch yet.
        """
        names = [q.name for q in due if isinstance(q, PointQuantity)]
        if not self.delayed.choose(due) or any(
            map(needs_probe, due)
        ):  # else nothing here waits for a GPU
            _synchronise()
        begun, spent = self._clock(), self._guard.spent
        with self._guard.timed():
            told = only_numbers(self._reporter, context)
            outcome, parts = self._measure(step, due, first, names, told)
            measured = outcome.measured
            run: dict[str, float | int] = {
                **told,
                **({} if outcome.loss is None else {"loss": outcome.loss}),
                **self._times(begun, first),
                "parts_measured": len(measured.costs),
                "parts_total": len(parts),
                **self.delayed.dropped(),
            }
            deliver = functools.partial(self._deliver, step, measured, run)
            self.delayed.add(step, measured.records, deliver)
            self._models.store()
        observing = self._settings.observe == "training" and self._team.writes
        if observing and not first:
            self._say_unseen(step, names, measured)
        if self._team.alone:
            self._guard.finished(measured.costs, self._guard.spent - spent)
        else:
            theirs = {"spent": outcome.spent, "elapsed": outcome.elapsed}
            self._guard.finished(measured.costs, outcome.seconds, theirs)
        allowance = self._guard.allowance
        done = {name for name, _ in measured.costs}
        left_out = {name for name, _ in parts} - done
        fewer = allowance.stretch > 1 or allowance.seconds is not None or left_out
        if fewer and self._team.writes:
            advice.stretched(self._reporter, self._settings.max_overhead)
        derived = {q.name for q in due if isinstance(q, JacobianQuantity)}
        return left_out | derived - done

    def _measure(
        self,
        step: int,
        due: Sequence[Quantity],
        first: bool,
        names: Sequence[str],
        told: Mapping[str, float | int],
    ) -> tuple[Outcome, Sequence[Part]]:
        """Measure what is due; of several processes each a share of it."""
        guard, begun = self._guard, self._clock()
        said: list[Said] = []
        alone = self._team.alone
        with nullcontext(said) if alone else self._reporter.held() as said:
            probing = self._models.prepare(step, due, first)
            parts = self._models.parts(due, probing)
            whole = [q.name for q in due if isinstance(q, JacobianQuantity)]
            rare = [q.name for q in due if q.schedule is not None]
            chosen = guard.choose(parts, names, whole, rare)
            with self.delayed.solving():
                measured = self._models.measure(step, due, chosen)
        seconds = self._clock() - begun
        loss = float(told["loss"]) if "loss" in told else None
        spent = guard.spent + seconds
        own = Outcome(measured, (), seconds, spent, guard.elapsed, loss)
        if self._team.alone:
            return own, parts
        outcome = united(self._team, own, parts, said)
        self._reporter.repeat(outcome.said, aloud=self._team.writes)
        return outcome, parts

    def _deliver(
        self,
        step: int,
        measured: Measured,
        run: dict[str, float | int],
        seconds: float,
    ) -> None:
        """Hand on what is complete; `seconds` were spent on completing it."""
        for record in measured.records:
            self._remember(record)
        watched = self._models.watched
        raised = self.alarming.observe(step, measured.records, run, watched)
        if self._team.writes:
            run |= {f"alarms_{k}": v for k, v in self.alarming.values.items()}
            run["seconds"] += seconds
            run["spent"] += seconds
            self._write(step, [*measured.records, *raised], run)

    def close(self) -> None:
        """Write what is still to come, as far as it comes in time; close the sinks."""
        try:
            self.delayed.close()
        finally:
            self.journal.close()

    def _say_unseen(self, step: int, names: Sequence[str], measured: Measured) -> None:
        """Say so where no training batch was observed for a record."""
        if self._guard.allowance.seconds is not None or self._guard.exhausted():
            return  # some have to wait for their turn
        unseen = [name for name in names if name not in measured.observed]
        if unseen:
            advice.no_window(self._reporter, unseen, step)

    def _remember(self, record: Record) -> None:
        """Keep the latest record of a point; several quantities may speak of it."""
        key = record.layer, record.point
        before = self.last.get(key)
        if before is not None and before.step == record.step and before.ok:
            values = {**before.values, **record.values} if record.ok else before.values
            record = replace(before, values=values)
        self.last[key] = record

    def _times(self, begun: float, first: bool) -> dict[str, float]:
        """What this record cost up to now, and all of them together."""
        guard, seconds = self._guard, self._clock() - begun
        # what this record takes is ours, and before the first there is no training
        elapsed = 0.0 if first else max(guard.elapsed - seconds, 0.0)
        spent = guard.spent + seconds
        return {
            "seconds": seconds,
            "spent": spent,
            "elapsed": elapsed,
            "overhead": spent / elapsed if elapsed > 0 else 0.0,
            "interval_stretch": guard.allowance.stretch,
        }

    def _write(
        self, step: int, records: Sequence[Record], run: Mapping[str, float | int]
    ) -> None:
        models, quantities = self._models, self._settings.quantities
        pairs = models.pairs(quantities)
        layout = models.layout, [pair["name"] for pair in pairs]

        def describe() -> Described:
            watched, skipped = models.describe(quantities)
            return Described(watched, skipped, pairs)

        self.journal.write(step, records, run, layout, describe)


def _synchronise() -> None:
    """Do not count the training kernels still queued on a GPU as our time."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
