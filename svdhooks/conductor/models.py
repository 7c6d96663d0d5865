"""The models of a recorder: the only one, or several by name."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from torch import nn

from svdhooks import advice
from svdhooks.conductor.measured import Measured
from svdhooks.conductor.naming import (
    by_name,
    check_distinct,
    check_pairs,
    check_several,
    misfits,
)
from svdhooks.conductor.overhead import OverheadGuard, Part
from svdhooks.conductor.roster import Roster
from svdhooks.conductor.settings import Settings
from svdhooks.conductor.watched import WatchedModel
from svdhooks.distributed.meeting import Turn, take_turns
from svdhooks.distributed.team import Team
from svdhooks.probe import ReferenceBatch
from svdhooks.quantities import PointQuantity, Quantity
from svdhooks.reports import Reporter


class Models(Roster):
    """What is watched, of one model or of several.

    Args:
        model: A module, or several by name.
        settings: Of the recorder; of several models ``probe`` is a mapping too.
        directory: The run's directory; None: nothing is stored.
        reporter: Where problems go.
        guard: Says when the time of a record is used up.
        team: The processes that record them.

    Raises:
        TypeError: If something is of a wrong kind.
        ValueError: If nothing can be watched, or names do not fit.
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        settings: Settings,
        directory: Path | None,
        reporter: Reporter,
        guard: OverheadGuard,
        team: Team,
    ) -> None:
        named = by_name(model)
        if "" not in named:
            check_several(named, settings)
        self._reporter = reporter
        self._guard = guard
        models = [
            WatchedModel(
                name, called, settings.of(name), directory, reporter, guard, team
            )
            for name, called in named.items()
        ]
        super().__init__(models)
        check_distinct([x.name for x in self.watched])
        self._quantities = settings.quantities
        check_pairs(self._quantities, [m.measurer.table for m in self])
        self._team = team
        self._references: list[ReferenceBatch | None] = [None for _ in self._models]
        self._turns: list[Turn | None] = [None for _ in self._models]
        if not self.watched and not any(m.measurer.table.incomplete for m in self):
            raise ValueError(
                f"layers={settings.layers!r} matches no layer of the models "
                f"{', '.join(named)}. Globs match whole names, which begin with the "
                f"model's, such as '{next(iter(named))}.*'."
            )

    def check_probes(self) -> None:
        """Run given reference batches once; collective.

        Raises:
            ValueError: If a model does not take its batch.
        """
        for model in self:
            model.check_probe()

    # --- what passes the points -----------------------------------------------------

    def offer(self, batch: Any) -> None:
        """Take a training batch as the reference of those that have none.

        Args:
            batch: As it comes from the loader; of several models by name.
        """
        if self._models[0].name == "":
            self._models[0].offer(batch)
            return
        names = {model.name for model in self}
        if not isinstance(batch, Mapping) or not batch.keys() & names:
            advice.no_mapping(self._reporter, type(batch).__name__, names)
            return
        for model in self:
            if model.name in batch:
                model.offer(batch[model.name])

    def listen(self) -> None:
        """Capture reference batches from the training."""
        for model in self:
            model.listen()

    def stop_listening(self) -> None:
        """Capture no more, now that an update was made."""
        for model in self:
            model.reference.step_made()

    def begin_batch(self, batch: Any) -> None:
        """A training batch begins, as the loader gives it; of several models by name."""
        for model in self:
            if not model.name:
                model.begin_batch(batch)
            elif isinstance(batch, Mapping) and model.name in batch:
                model.begin_batch(batch[model.name])

    @property
    def observing(self) -> Set[str]:
        """Names of the quantities for which the training is being observed."""
        return {name for model in self for name in model.observing}

    def open_windows(self, coming: Sequence[Quantity]) -> None:
        """Begin to observe the training, for what is not observed yet.

        Args:
            coming: What is due soon.
        """
        points = [q for q in coming if isinstance(q, PointQuantity)]
        new = [q for q in points if q.name not in self.observing]
        if not new:
            return
        self.look_again()
        parts = self.parts(coming, probing=True)
        chosen = self._guard.choose(parts, [q.name for q in points])
        for model in self:
            model.open_windows(model.measurer.of_points(new, chosen))

    def close_windows(self) -> None:
        """Observe the training no more."""
        for model in self:
            model.close_windows()

    # --- one record -------------------------------------------------------------------

    def look_again(self) -> None:
        """Take note of modules that were initialised, replaced, added or removed."""
        before = [model.measurer for model in self]
        for model in self:
            model.look_again()
        if before != [model.measurer for model in self]:
            tables = [model.measurer.table for model in self]
            for pair, error in misfits(self._quantities, tables):
                advice.lost(self._reporter, f"the pair {pair!r}", error)

    def prepare(self, step: int, due: Sequence[Quantity], first: bool) -> list[bool]:
        """Get ready for a record; collective.

        Args:
            step: Optimiser updates contained in the weights.
            due: What is to be measured.
            first: Whether this is the record before the first update.

        Returns:
            For each model whether its points can be observed.

        Raises:
            DisagreementError: If the processes are not at the same place.
        """
        self.look_again()
        self._references = [model.usable_reference(due, first) for model in self]
        if self._team.alone:
            for model, reference in zip(self, self._references, strict=True):
                model.trace(step, due, reference, None)
            return [
                reference is not None or bool(model.observing)
                for model, reference in zip(self, self._references, strict=True)
            ]
        standings = [
            model.standing(reference)
            for model, reference in zip(self, self._references, strict=True)
        ]
        turns = take_turns(self._team, step, [q.name for q in due], standings)
        several = zip(self, self._references, turns, strict=True)
        self._turns = [
            model.trace(step, due, reference, turn)
            for model, reference, turn in several
        ]
        for model, turn in zip(self, turns, strict=True):
            if first or not turn.missing or model.unprobed is not None:
                continue
            if len(turn.missing) == self._team.size:
                advice.no_probe(self._reporter, model.name)
            else:
                advice.without_batch(self._reporter, turn.missing, model.name)
        return [turn.possible for turn in turns]

    def measure(
        self, step: int, due: Sequence[Quantity], chosen: set[Part]
    ) -> Measured:
        """Measure what is chosen, model by model.

        Args:
            step: Optimiser updates contained in the weights.
            due: Those due.
            chosen: Which (quantity, layer) to measure.

        Returns:
            Records and what they cost.
        """
        whole = Measured()
        each = zip(self, self._references, self._turns, strict=True)
        for model, reference, turn in each:
            whole.merge(model.measure(step, due, chosen, reference, turn))
        return whole

    def store(self) -> None:
        """Write the reference batches that were used beside the log; once."""
        for model, reference in zip(self, self._references, strict=True):
            if reference is not None:
                model.store()

    def close(self) -> None:
        """Remove all hooks."""
        for model in self:
            model.close()
