"""One of the models of a recorder: its layers, its reference batch, its measurer."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from torch import nn

from svdhooks import advice
from svdhooks.conductor.batches import check_number, forget_others, name_of
from svdhooks.conductor.listening import Listening
from svdhooks.conductor.measured import Measured
from svdhooks.conductor.measuring import Measurer
from svdhooks.conductor.overhead import OverheadGuard, Part
from svdhooks.conductor.settings import Settings
from svdhooks.conductor.streaming import Stream, refuse_compiled
from svdhooks.distributed.meeting import Standing, Turn
from svdhooks.distributed.refusals import needs_all, why_not_probed, why_refused
from svdhooks.distributed.team import Team
from svdhooks.layers import LayerTable, named_modules, unwrap
from svdhooks.layers.several import find_layers_of, modules_of
from svdhooks.layers.tap import Tap, find_taps, taps_left
from svdhooks.probe import Forward, ReferenceBatch
from svdhooks.quantities import Quantity, WeightVectors, needs_flow, needs_probe
from svdhooks.reference import ReferenceKeeper
from svdhooks.reports import Reporter


class WatchedModel(Listening):
    """A model, and how what passes its points becomes known.

    Args:
        name: Among several models; empty for the only one.
        called: The object that the training loop calls; wrappers are looked through.
        settings: With the reference batch and the forward of this model.
        directory: The run's directory; None: nothing is stored.
        reporter: Where problems go.
        guard: Says when the time of a record is used up.
        team: The processes that record it.

    Attributes:
        reference: Its reference batch.
        unprobed: Why it cannot be run on the side of its training; None if it can.
    """

    def __init__(
        self,
        name: str,
        called: nn.Module,
        settings: Settings,
        directory: Path | None,
        reporter: Reporter,
        guard: OverheadGuard,
        team: Team,
    ) -> None:
        refused = why_refused(called, settings.observe)
        if refused is not None:
            raise ValueError(refused)
        self.name = name
        self._team = team
        self._called = called
        self._settings = settings
        self._forward = cast("Forward | None", settings.forward)
        self._reporter = reporter
        self._guard = guard
        table = self._find()  # which says what is no module
        # a forward that communicates is run by all processes or by none
        self._needs_all = needs_all(called)
        self.unprobed = why_not_probed(called)
        self._present = modules_of(called)
        self.measurer = self._measurer_of(table)
        stream: Stream | None = None
        if settings.observe == "training":
            refuse_compiled(called)
            model, options = self.measurer.model, settings.probe_options
            stream = Stream(model, options, reporter, guard.timed, team)
        reference = ReferenceKeeper(
            called,
            settings.probe,
            settings.probe_options,
            self._forward,
            directory,
            settings.start_step is not None,
            reporter,
            name_of(name, team.rank),
        )
        super().__init__(reference, stream)
        self._stored = False

    def _find(self) -> LayerTable:
        return find_layers_of(self.name, self._called, self._settings.layers)

    def _measurer_of(self, table: LayerTable, at_setup: bool = True) -> Measurer:
        return Measurer(
            unwrap(self._called),
            table,
            self._settings.probe_options,
            self._forward,
            self._reporter,
            # what some processes leave out others would wait for
            self._guard.exhausted if self._team.alone else lambda: False,
            self._taps(table, at_setup),
            self._team,
            any(map(_uses_flow, self._settings.quantities)),
        )

    def _taps(self, table: LayerTable, at_setup: bool) -> tuple[Tap, ...]:
        """The taps into this model; a wrong one is an error only at setup."""
        model, choices = unwrap(self._called), self._settings.taps or {}
        prefix = f"{self.name}." if self.name else ""
        modules = {f"{prefix}{name}": x for name, x in named_modules(model)}
        if self.name:
            modules[self.name] = model
        taken = {layer.name for layer in table.layers}
        if at_setup:
            return find_taps(choices, modules, taken)
        found, lost = taps_left(choices, modules, taken)
        for name, error in lost.items():
            advice.lost(self._reporter, f"tap {name!r}", error)
        return found

    def check_probe(self) -> None:
        """Run a given reference batch once, so that a wrong one is told at setup.

        Of several processes all call it, since a forward may communicate.

        Raises:
            ValueError: If the model does not take the batch, or not all processes that
                have to run it were given one.
        """
        check_number(self._team, self.reference, self.name, self._reporter)
        if self.unprobed is not None or self.measurer.table.incomplete:
            return  # or it would initialise the lazy modules
        if not any(map(needs_probe, self._settings.quantities)):
            return
        of = f" for model {self.name!r}" if self.name else ""
        batch = self.reference.batch if self.reference.given else None
        given = self._team.exchange(batch is not None)
        if self._needs_all and any(given) and not all(given):
            raise ValueError(
                f"Found probe={of} on some ranks only ({given}); expected it on all: the "
                "forward of a sharded model is run by all of them, each on its batch."
            )
        if batch is None:
            return
        try:
            self.measurer.rehearse(batch)
        except Exception as error:
            raise ValueError(
                f"The model does not accept the given probe={of}: "
                f"{type(error).__name__}: {error}. Expected a batch as the model's "
                "forward takes it: a tensor; a tuple of positional arguments; a mapping "
                "of keyword arguments; or pass forward=(model, batch)."
            ) from error

    # --- what passes the points -----------------------------------------------------

    def usable_reference(
        self, due: Sequence[Quantity], first: bool
    ) -> ReferenceBatch | None:
        """The reference batch, if there is one and the model can be probed.

        Args:
            due: What is to be measured.
            first: Whether this is the record before the first update.

        Returns:
            The batch, or None.
        """
        if self._stream is not None:
            return None
        table = self.measurer.table
        if table.incomplete:
            # a forward of ours would initialise the lazy modules, from our random
            # stream; the first one must be that of the training
            if not first:
                lazy = [x.name for x in table.skipped if "(lazy)" in x.reason]
                advice.lazy(self._reporter, lazy)
            return None
        batch = self.reference.batch
        probing = any(map(needs_probe, due))
        if probing and self.unprobed is not None:
            several = self._settings.quantities
            traced = [q.name for q in several if getattr(q, "needs_flow", False)]
            advice.not_probed(self._reporter, self.unprobed, traced)
            return None
        if probing and batch is None and not first and self._team.alone:
            advice.no_probe(self._reporter, self.name)
        return batch

    def trace(
        self,
        step: int,
        due: Sequence[Quantity],
        reference: ReferenceBatch | None,
        turn: Turn | None,
    ) -> Turn | None:
        """Find out which layer feeds which, if what is due has to know; collective.

        Args:
            step: Optimiser updates contained in the weights.
            due: What is to be measured.
            reference: The reference batch, if one is usable.
            turn: What this process does of the probe; None: it is alone.

        Returns:
            What it does of it from now on.
        """
        if self._stream is not None:
            return turn
        return self.measurer.trace(due, step, reference, turn)

    def standing(self, reference: ReferenceBatch | None) -> Standing:
        """What this process has of the model when a record begins.

        Args:
            reference: The reference batch, if one is usable.

        Returns:
            What the other processes have to know.
        """
        return Standing(
            tuple(x.name for x in self.measurer.watched),
            None if reference is None else reference.identity,
            bool(self.observing),
            self.measurer.rehearsed,
            self.measurer.refused,
            self._needs_all,
            self._stream is None,
        )

    # --- one record -------------------------------------------------------------------

    def look_again(self) -> None:
        """Take note of modules that were initialised, replaced, added or removed."""
        present = modules_of(self._called)
        replaced = present != self._present
        if not (replaced or self.measurer.table.incomplete):
            return
        known, self._present = self.measurer.table, present
        try:
            table = self._find()
        except ValueError as error:
            table = LayerTable((), ())
            advice.lost(
                self._reporter,
                f"every layer of model {self.name!r}" if self.name else "every layer",
                error,
            )
        if replaced and table.layers:
            advice.changed(self._reporter, [layer.name for layer in table.layers])
        elif table.incomplete and len(table.layers) == len(known.layers):
            return
        self.measurer = self._measurer_of(table, at_setup=False)

    def measure(
        self,
        step: int,
        due: Sequence[Quantity],
        chosen: set[Part],
        reference: ReferenceBatch | None,
        turn: Turn | None,
    ) -> Measured:
        """Measure what is chosen of this model.

        Args:
            step: Optimiser updates contained in the weights.
            due: Those due.
            chosen: Which (quantity, layer) to measure.
            reference: The reference batch, if one is usable.
            turn: What this process does of the probe; None: it is alone.

        Returns:
            Records and what they cost.
        """
        return self.measurer.measure(step, due, chosen, reference, self._stream, turn)

    def store(self) -> None:
        """Write the reference batch beside the log; once."""
        if not self._stored:
            self.reference.store()
            with suppress(OSError):  # they are in nobody's way
                forget_others(self._team, self.reference, self.name)
            self._stored = True

    def close(self) -> None:
        """Remove all hooks."""
        self.reference.stop_listening()
        self.close_windows()


def _uses_flow(quantity: Quantity) -> bool:
    """Whether a forward is traced for a quantity, if there is one anyway."""
    return needs_flow(quantity) or isinstance(quantity, WeightVectors)
