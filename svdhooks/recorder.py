"""The conductor: follows the training and decides when to record."""

import functools
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from svdhooks import advice
from svdhooks.conductor.assembly import Tools, assemble
from svdhooks.conductor.overhead import OverheadGuard
from svdhooks.conductor.recording import Recording
from svdhooks.conductor.settings import Settings
from svdhooks.conductor.unnoticed import Unnoticed, calls_of
from svdhooks.distributed.refusals import one_model
from svdhooks.distributed.setup import one_run
from svdhooks.distributed.team import form_team
from svdhooks.hooks import after_each_update
from svdhooks.layers import Layer
from svdhooks.layers.tap import Watched
from svdhooks.record import Record
from svdhooks.reports import Reporter
from svdhooks.sinks import Sink


class Recorder:
    """Records the layers of models while they train. Use `watch` to make one.

    Setting up finds the layers, checks the reference batch by one forward if it was
    given, opens the log, and records the state before the first update. Whatever is
    wrong is raised there; afterwards a failed measurement becomes a status and a
    warning, and training goes on.

    Args:
        model: The object that the training loop calls, or several by name; wrappers
            are looked through.
        log_dir: The run's directory; None: no log file.
        settings: When and what to record.
        optimizer: Count the updates of this optimiser instead of calls of `step`.
        sinks: Where records go besides the log in ``log_dir``.
        begin: Record the state before the first update now, not when `begin` is called.
        clock: Seconds; an argument for tests.
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        log_dir: str | Path | None,
        settings: Settings,
        *,
        optimizer: Optimizer | None = None,
        sinks: Sequence[Sink] = (),
        begin: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._closed = False
        self._recording: Recording | None = None
        self._handle: RemovableHandle | None = None
        self.reporter = Reporter(settings.on_error)
        self._guard = OverheadGuard(settings.max_overhead, clock)
        self._step = settings.start_step or 0
        self._previous = self._step - 1
        self._stride = 1
        self._quiet_until = 0
        self._counted_by_optimizer = optimizer is not None
        self._loss: dict[str, Any] = {}  # told since the last record
        self.counted = calls_of(optimizer)  # for the note on a run without updates
        several = model.values() if isinstance(model, Mapping) else [model]
        path = None if log_dir is None else str(log_dir)
        self._team, path = one_run(form_team(), path, any(map(one_model, several)))
        tools = Tools(settings, self.reporter, self._guard, clock, self._team)
        follow = functools.partial(self._follow, optimizer)
        try:
            parts = assemble(model, path, sinks, tools, follow)
            self._models, self._quantities = parts.models, parts.quantities
            self._bases, self._timetable = parts.bases, parts.timetable
            self._unnoticed = Unnoticed(self._models, self._step)
            self._recording = parts.recording
            if begin:
                self.begin()
        except BaseException:
            self.close()
            raise

    def _follow(self, optimizer: Optimizer | None) -> None:
        if optimizer is not None:
            self._handle = after_each_update(optimizer, self._updated)

    # --- the training loop's side ---------------------------------------------

    @property
    def steps(self) -> int:
        """Optimiser updates contained in the weights."""
        return self._step

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that are watched, in the model's order."""
        return tuple(x for x in self.watched if isinstance(x, Layer))

    @property
    def watched(self) -> tuple[Watched, ...]:
        """The layers and taps that are watched, in the order of the models."""
        return self._models.watched

    @property
    def last(self) -> Mapping[tuple[str, str], Record]:
        """(layer, point) -> the latest record."""
        if self._recording is None:
            return {}
        self._recording.delayed.settle()
        return self._recording.last

    @property
    def recorded(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Layer, tap or edge -> point -> names of the measures that are recorded."""
        return self._models.recorded(self._quantities)

    @property
    def should_stop(self) -> bool:
        """Whether an alarm was raised that is to stop the training: ``Alarms(stop=True)``."""
        return self._recording is not None and self._recording.alarming.should_stop

    @property
    def alarms(self) -> Mapping[str, int]:
        """How many are open, and were raised; updates without an open one."""
        return {} if self._recording is None else self._recording.alarming.values

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
            self._models.offer(batch)
        recorded = self._advance(self._step, context or {}, first=True)
        self._quiet_until = 0  # the first step has to end the listening
        self._guard.restart()
        self._models.listen()
        return recorded

    def begin_batch(self, batch: Any) -> None:
        """Show a training batch before the forward, for a ``mask`` of what is observed.

        Needed only with ``observe="training"`` and a mask, if the loop calls another model.

        Args:
            batch: As the loader gives it, on the device.
        """
        self._models.begin_batch(batch)

    def step(
        self,
        batch: Any = None,
        *,
        loss: Any = None,
        step: int | None = None,
        context: Mapping[str, float | int] | None = None,
    ) -> bool:
        """Say that an update was made; call it after ``optimizer.step()``.

        Args:
            batch: A training batch, to be the reference if none is known; for several
                models a mapping of their names to batches.
            loss: The training loss, a tensor with one number or a float, which alarms
                compare ranks with. It is read where a record is made and nowhere else;
                with ``optimizer=`` that is within the next update, if not before.
            step: The updates so far, a whole number; None: one more than before.
            context: What else to store with a record: ``logged_step`` (the logger's
                x coordinate, if it is not the step), ``epoch``, ``batch_idx``.

        Returns:
            Whether a record was made.
        """
        if loss is not None and self._counted_by_optimizer:
            self._loss = {"loss": loss.detach() if isinstance(loss, Tensor) else loss}
        if batch is None and step is None and self._step + 1 < self._quiet_until:
            self._step += not self._counted_by_optimizer
            return False
        if self._closed:
            advice.closed(self.reporter)
            return False
        if batch is not None:
            self._models.offer(batch)
        self._models.stop_listening()
        if step is not None:
            before, self._step = self._step, operator.index(step)
            if self._step < before:
                advice.went_back(self.reporter, before, self._step)
            self._stride = max(self._step - before, 1)
        elif not self._counted_by_optimizer:
            self._step += 1
        told = {} if loss is None else {"loss": loss}
        return self._advance(self._step, {**(context or {}), **told})

    def _updated(self) -> None:
        """The optimiser made an update."""
        self._step += 1
        if self._step >= self._quiet_until:
            self._models.stop_listening()
            if self._advance(self._step, self._loss):
                self._loss = {}  # twice the same would look like one that stands still

    def _advance(
        self, step: int, context: Mapping[str, Any], first: bool = False
    ) -> bool:
        if self._recording is None:  # setting up did not get there
            return False
        delayed = self._recording.delayed
        delayed.drain()
        begun, previous = self._clock(), self._previous
        if step <= previous or self._closed or self._team.broken is not None:
            return False
        self._previous = step
        try:
            due = self._timetable.take(previous, step)
            recording = bool(due) and (first or self._guard.admits())
            recording = recording and delayed.has_room(step)
            if recording:
                left_out = self._recording.make(step, due, context, first)
                self._timetable.settle(due, left_out)
                with self._guard.timed():
                    self._bases.store()
            self._look_ahead(step)
            if delayed.in_flight:
                self._quiet_until = 0  # it is to be delivered soon
            if not recording:
                self._guard.passed(step - previous, self._clock() - begun)
        except Exception as error:  # noqa: BLE001  # training must not stop
            recording = True
            if not self._team.alone:
                # the others are somewhere else by now: they notice it at once
                self._team.leave(f"recording failed on rank {self._team.rank}")
                self._models.close()  # what is observed meanwhile would be of no use
                advice.parted(self.reporter, step, error)
                return recording
            advice.failed(self.reporter, step, error)
        return recording

    def _look_ahead(self, step: int) -> None:
        """Find out when to ask again; observe the training where that begins."""
        if self.settings.observe == "probe":
            self._quiet_until = self._timetable.quiet_until(step)
        else:
            # steps may jump over more than the window
            window = max(self.settings.probe_options.window, self._stride)
            self._quiet_until = self._timetable.quiet_until(step, window)
            if self._guard.will_admit:
                self._models.open_windows(self._timetable.due(step, step + window))
            else:
                self._models.close_windows()

    def close(self) -> None:
        """Remove all hooks and close the log; may be called more than once."""
        if self._closed:
            return
        self._closed = True
        self._quiet_until = 0
        if self._handle is not None:
            self._handle.remove()
        try:
            if self._recording is not None:  # else setting up did not get there
                self._models.close()
                if self._team.writes:
                    self._unnoticed.say(self.reporter, self._step, self.counted)
                self._recording.close()
        finally:
            self._team.leave()  # without a word: the others may be gone

    def _repr_html_(self) -> str | None:
        """What a notebook shows: a small table, if a sink remembers the records."""
        from svdhooks.sinks.readable import html_of  # which reads logs

        _ = self.last  # what is still to be solved
        return html_of(self._recording.journal.sinks if self._recording else ())

    def __repr__(self) -> str:
        points = f"{len(self.watched)} layer{'s' * (len(self.watched) != 1)}"
        state = "closed" if self._closed else f"at step {self._step}"
        return f"<Recorder: {points}, {self.settings.schedule}, {state}>"

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
