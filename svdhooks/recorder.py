"""The conductor: decides when, measures what is due, hands records to sinks."""

import functools
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import distributed, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from svdhooks import advice, schema
from svdhooks.hooks import after_each_update
from svdhooks.journal import Journal, check_sinks
from svdhooks.layers import Layer, LayerTable, find_layers, unwrap
from svdhooks.measuring import Measured, Measurer
from svdhooks.overhead import OverheadGuard
from svdhooks.probe import ReferenceBatch
from svdhooks.quantities import PointQuantity, Quantity
from svdhooks.record import Record
from svdhooks.reference import ReferenceKeeper
from svdhooks.reports import Reporter
from svdhooks.schedule import quiet_until
from svdhooks.settings import Settings
from svdhooks.sinks import Sink


class Recorder:
    """Records the layers of a model while it trains. Use `watch` to make one.

    Setting up finds the layers, checks the reference batch by one forward if it was
    given, opens the log, and records the state before the first update. Whatever is
    wrong is raised there; afterwards a failed measurement becomes a status and a
    warning, and training goes on.

    Args:
        model: The object that the training loop calls; wrappers are looked through.
        log_dir: The run's directory; None: no log file.
        settings: When and what to record.
        optimizer: Count the updates of this optimiser instead of calls of `step`.
        sinks: Where records go besides the log in ``log_dir``.
        begin: Record the state before the first update now; otherwise at the first
            call of `begin`.
        clock: Seconds; an argument for tests.
    """

    def __init__(
        self,
        model: nn.Module,
        log_dir: str | Path | None,
        settings: Settings,
        *,
        optimizer: Optimizer | None = None,
        sinks: Sequence[Sink] = (),
        begin: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.settings = settings
        self.last: dict[tuple[str, str], Record] = {}
        # several processes of one run: the first records
        self._idle = distributed.is_available() and (
            distributed.is_initialized() and distributed.get_rank() > 0
        )
        self._reporter = Reporter(settings.on_error)
        self._clock = clock
        self._guard = OverheadGuard(settings.max_overhead, clock)
        table = find_layers(model, settings.layers)
        self._called = model
        self._present = _modules(model)
        self._measurer = self._measurer_of(table)
        directory = None if log_dir is None else Path(log_dir) / schema.SUBDIRECTORY
        self._reference = ReferenceKeeper(
            model,
            settings.probe,
            settings.probe_options,
            settings.forward,
            directory,
            settings.start_step is not None,
            self._reporter,
        )
        self._check_probe()
        self._handle: RemovableHandle | None = None
        self._journal: Journal | None = None
        self._stored_probe = False
        self._closed = False
        self._step = settings.start_step or 0
        self._previous = self._step - 1
        self._quiet_until = 0
        self._counted_by_optimizer = optimizer is not None
        own = [quantity.schedule for quantity in settings.quantities]
        self._schedules = [schedule or settings.schedule for schedule in own]
        check_sinks(sinks)
        try:
            if optimizer is not None:
                self._handle = after_each_update(optimizer, self._updated)
            # last: what is wrong with the rest must leave no directory behind
            self._journal = Journal(
                [*self._log_sinks(log_dir), *sinks], settings.describe(), self._reporter
            )
            if begin:
                self.begin()
        except BaseException:
            self.close()
            raise

    def _measurer_of(self, table: LayerTable) -> Measurer:
        return Measurer(
            unwrap(self._called),
            table,
            self.settings.probe_options,
            self.settings.forward,
            self._reporter,
            self._guard.exhausted,
        )

    def _log_sinks(self, log_dir: str | Path | None) -> list[Sink]:
        if log_dir is None or self._idle:
            return []
        from svdhooks.sinks.tensorboard import TensorBoardSink

        return [TensorBoardSink(log_dir, start_step=self.settings.start_step)]

    # --- the training loop's side ---------------------------------------------

    @property
    def steps(self) -> int:
        """Optimiser updates contained in the weights."""
        return self._step

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that are watched, in the model's order."""
        return self._measurer.table.layers

    def begin(
        self, batch: Any = None, context: Mapping[str, float | int] | None = None
    ) -> bool:
        """Record the state before the first update, if it is scheduled.

        Args:
            batch: A training batch, to be the reference if none is known.
            context: See `step`.

        Returns:
            Whether a record was made.
        """
        if batch is not None:
            self._reference.offer(batch)
        recorded = self._advance(self._step, context or {}, first=True)
        self._quiet_until = 0  # the first step has to end the listening
        self._guard.restart()
        if not self._idle:
            self._reference.listen()
        return recorded

    def step(
        self,
        batch: Any = None,
        *,
        step: int | None = None,
        context: Mapping[str, float | int] | None = None,
    ) -> bool:
        """Say that an update was made; call it after ``optimizer.step()``.

        Args:
            batch: A training batch, to be the reference if none is known.
            step: The number of updates so far, a whole number; None: one more than
                before.
            context: What else to store with a record: ``logged_step`` (the logger's
                x coordinate, if it is not the step), ``epoch``, ``batch_idx``.

        Returns:
            Whether a record was made.
        """
        if batch is None and step is None and self._step + 1 < self._quiet_until:
            self._step += not self._counted_by_optimizer
            return False
        if self._closed:
            self._reporter.note(
                "closed",
                "svdhooks: step() after close(): nothing is recorded any more.",
            )
            return False
        if batch is not None:
            self._reference.offer(batch)
        self._reference.stop_listening()
        if step is not None:
            told = operator.index(step)
            if told < self._step:
                advice.went_back(self._reporter, self._step, told)
            self._step = told
        elif not self._counted_by_optimizer:
            self._step += 1
        return self._advance(self._step, context or {})

    def _updated(self) -> None:
        """The optimiser made an update."""
        self._step += 1
        if self._step >= self._quiet_until:
            self._reference.stop_listening()
            self._advance(self._step, {})

    def _advance(
        self, step: int, context: Mapping[str, float | int], first: bool = False
    ) -> bool:
        begun, previous = self._clock(), self._previous
        if step <= previous or self._closed or self._idle:
            return False
        self._previous = step
        try:
            due = [
                quantity
                for quantity in self.settings.quantities
                if (quantity.schedule or self.settings.schedule).due(previous, step)
            ]
            if not due or not (first or self._guard.admits()):
                self._quiet_until = quiet_until(self._schedules, step)
                self._guard.passed(step - previous, self._clock() - begun)
                return False
            self._record(step, due, context, first)
        except Exception as error:  # noqa: BLE001  # training must not stop
            self._reporter.problem(
                "record",
                f"svdhooks: the record of step {step} failed "
                f"({type(error).__name__}: {error}); training goes on.",
                error,
            )
        return True

    # --- one record -------------------------------------------------------------

    def _record(
        self,
        step: int,
        due: Sequence[Quantity],
        context: Mapping[str, float | int],
        first: bool,
    ) -> None:
        self._synchronise()
        begun, spent = self._clock(), self._guard.spent
        with self._guard.timed():
            reference = self._usable_reference(due, first)
            parts = self._measurer.parts(due, reference is not None)
            probing = [q.name for q in due if isinstance(q, PointQuantity)]
            chosen = self._guard.choose(parts, probing)
            measured = self._measurer.measure(step, due, chosen, reference)
            for record in measured.records:
                self.last[record.layer, record.point] = record
            run = {
                **self._numbers(context),
                **self._times(begun, first),
                "parts_measured": len({
                    (r.quantity, r.layer) for r in measured.records
                }),
                "parts_total": len(parts),
            }
            self._write(step, measured, run)
            if reference is not None and not self._stored_probe:
                self._stored_probe = True
                self._reference.store()
        self._guard.finished(measured.costs, self._guard.spent - spent)
        allowance = self._guard.allowance
        if allowance.stretch > 1 or allowance.seconds is not None:
            advice.stretched(self._reporter, self.settings.max_overhead)

    def _numbers(self, context: Mapping[str, Any]) -> dict[str, float | int]:
        """What of the context can be stored."""
        numbers = {}
        for name, value in context.items():
            try:
                numbers[name] = value if isinstance(value, int) else float(value)
            except (TypeError, ValueError):
                advice.no_number(self._reporter, name, value)
        return numbers

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
        self, step: int, measured: Measured, run: Mapping[str, float | int]
    ) -> None:
        if self._journal is not None:
            measurer, quantities = self._measurer, self.settings.quantities
            skipped = functools.partial(measurer.skipped_points, quantities)
            self._journal.write(step, measured.records, run, measurer.table, skipped)

    def _usable_reference(
        self, due: Sequence[Quantity], first: bool
    ) -> ReferenceBatch | None:
        """The reference batch, if there is one and the model can be probed."""
        self._look_again()
        table = self._measurer.table
        if table.incomplete:
            # a forward of ours would initialise the lazy modules, from our random
            # stream; the first one must be that of the training
            if not first:
                lazy = [x.name for x in table.skipped if "(lazy)" in x.reason]
                advice.lazy(self._reporter, lazy)
            return None
        reference = self._reference.batch
        probing = any(isinstance(quantity, PointQuantity) for quantity in due)
        if probing and reference is None and not first:
            advice.no_probe(self._reporter)
        return reference

    def _look_again(self) -> None:
        """Take note of modules that were initialised, replaced, added or removed."""
        present = _modules(self._called)
        replaced = present != self._present
        if not (replaced or self._measurer.table.incomplete):
            return
        known = self._measurer.table
        table = find_layers(self._called, self.settings.layers)
        self._present = present
        if replaced:
            advice.changed(self._reporter, [layer.name for layer in table.layers])
        elif table.incomplete and len(table.layers) == len(known.layers):
            return
        self._measurer = self._measurer_of(table)

    def _synchronise(self) -> None:
        """Do not count the training kernels still queued on a GPU as our time."""
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()

    # --- saying things ------------------------------------------------------------

    def _check_probe(self) -> None:
        """Run a given reference batch once, so that a wrong one is told at setup."""
        if not self._reference.given or self._reference.batch is None:
            return
        if self._measurer.table.incomplete:
            return  # it would initialise the lazy modules
        if not any(isinstance(q, PointQuantity) for q in self.settings.quantities):
            return
        try:
            self._measurer.rehearse(self._reference.batch)
        except Exception as error:
            raise ValueError(
                "The model does not accept the given probe=: "
                f"{type(error).__name__}: {error}. Expected a batch as the model's "
                "forward takes it: a tensor; a tuple of positional arguments; a mapping "
                "of keyword arguments; or pass forward=(model, batch)."
            ) from error

    def say_no_forward(self, name: str) -> None:
        """Say once that the model cannot be called with a training batch.

        Args:
            name: The model's class.
        """
        advice.no_forward(self._reporter, name)

    # --- the end --------------------------------------------------------------------

    def close(self) -> None:
        """Remove all hooks and close the log; may be called more than once."""
        if self._closed:
            return
        self._closed = True
        self._quiet_until = 0
        self._reference.stop_listening()
        if self._handle is not None:
            self._handle.remove()
        if self._journal is not None:
            self._journal.close()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _modules(model: nn.Module) -> dict[int, nn.Module]:
    """The modules by identity; holding them keeps their identities unique."""
    return {id(module): module for module in unwrap(model).modules()}
