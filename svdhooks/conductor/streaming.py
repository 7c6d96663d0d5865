"""Covariances of what the model really saw: hooks in its training forward, for a while."""

from collections.abc import Callable, Collection, Mapping, Set
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from typing import Any

from torch import nn

from svdhooks.capture import compiled_in_place
from svdhooks.conductor.observing import Observation, OfPoints, report_idle
from svdhooks.distributed.meeting import Turn
from svdhooks.distributed.team import Team
from svdhooks.hooks import observed_in_training
from svdhooks.layers import PointValue
from svdhooks.layers.tap import Watched
from svdhooks.probe import ProbeOptions, ReferenceBatch
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.record import Record
from svdhooks.reports import Reporter


class Stream:
    """Observes the training forward of one model over windows of batches.

    Each quantity has a window of its own, because each may have a schedule of its own.

    Args:
        model: The plain module.
        options: Which tokens count, what a sample is.
        reporter: Where problems go.
        timed: Counts what happens inside as our time.
        team: The processes that train the model; each sees a part of it.

    Attributes:
        features: Tap -> number of features, as seen.
    """

    def __init__(
        self,
        model: nn.Module,
        options: ProbeOptions,
        reporter: Reporter,
        timed: Callable[[], AbstractContextManager[None]],
        team: Team | None = None,
    ) -> None:
        self._team = team or Team()
        self.features: dict[str, int] = {}
        self._model = model
        self._options = options
        self._reporter = reporter
        self._timed = timed
        self._windows: dict[str, Observation] = {}
        self._context = self._new_context()
        self._shown = False
        self._mask_known = False
        self._hooks = ExitStack()

    @property
    def observing(self) -> Set[str]:
        """Names of the quantities whose windows are open."""
        return self._windows.keys()

    def _new_context(self) -> ProbeContext:
        together = not self._team.alone
        return ProbeContext(0, None, self._options.samples, {}, _SOURCE, together)

    def open(self, of_points: OfPoints) -> None:
        """Begin to observe, besides what is being observed already.

        Args:
            of_points: What is measured of what.
        """
        if not of_points:
            return
        if not self._windows:
            self._context = self._new_context()
            self._shown = self._mask_known = False
        for quantity, watched in of_points:
            # any number of calls
            counts = {id(x.module): 0 for x in watched}
            self._context.expected_calls = {**self._context.expected_calls, **counts}
            self._windows[quantity.name] = Observation(
                [(quantity, watched)], self._context, self._reporter
            )
        self._renew_hooks()

    def _renew_hooks(self) -> None:
        """Have hooks where an open window needs them, and nowhere else."""
        self._hooks.close()
        several = [window.watched for window in self._windows.values()]
        watched = list(dict.fromkeys(x for each in several for x in each))
        if watched:
            self._hooks.enter_context(
                observed_in_training(
                    self._model,
                    watched,
                    self._receive,
                    self._fail,
                    self._called,
                    self._timed,
                )
            )

    def _receive(self, layer: Watched, values: Mapping[str, PointValue]) -> None:
        if self._options.mask is not None and not self._mask_known:
            raise ValueError(_NO_MASK)
        for window in self._windows.values():
            if layer in window.watched:
                window.receive(layer, values)

    def _fail(self, layer: Watched, error: Exception) -> None:
        for window in self._windows.values():
            if layer in window.watched:
                window.fail(layer, error)

    def _called(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A batch begins, as the model receives it."""
        single = args[0] if len(args) == 1 else args
        batch = ReferenceBatch(single if args else kwargs, args, kwargs)
        if not self._shown:
            self._note_mask(batch)
            return
        # the loader's batch told one already; the call may know it better
        with suppress(Exception):
            self._context.mask = batch.mask(self._options.mask, self._model)

    def begin_batch(self, batch: Any) -> None:
        """A batch begins, as the loader gives it; for models not called as a whole.

        Args:
            batch: On the device.
        """
        if self._windows:
            named = batch if isinstance(batch, Mapping) else {}
            self._note_mask(ReferenceBatch(batch, (), named))
            self._shown = self._context.mask is not None

    def _note_mask(self, batch: ReferenceBatch) -> None:
        if self._options.mask is None:
            return
        self._mask_known = False
        try:
            mask = batch.mask(self._options.mask, self._model)
            self._mask_known = True
        except Exception as error:  # noqa: BLE001  # we are in the training forward
            mask = None
            self._reporter.problem(
                "mask",
                f"svdhooks: the mask of a training batch could not be read: {error}",
                error,
            )
        self._context.mask = mask

    def records(self, step: int, due: Collection[str]) -> list[Record]:
        """End the windows of what is due and give what was seen in them.

        Args:
            step: Optimiser updates contained in the weights now.
            due: Names of quantities.

        Returns:
            One per quantity, layer and point; with a status where nothing was seen.
        """
        ended = [self._windows.pop(name) for name in list(self._windows) if name in due]
        self._renew_hooks()
        self._context.step = step
        found: list[Record] = []
        for window in ended:
            window.unite(self._team, Turn(shards=self._team.size))
            self.features |= window.features
            # what failed in the window was recorded before the step was known
            found += [replace(record, step=step) for record in window.records()]
        report_idle(self._reporter, ended)
        return found

    def close(self) -> None:
        """Remove the hooks and forget what was seen."""
        self._windows = {}
        self._hooks.close()


def refuse_compiled(called: nn.Module) -> None:
    """Refuse to observe a training forward that is compiled.

    Args:
        called: The object that the training loop calls.

    Raises:
        ValueError: If it, or a part of it, is known to be compiled.
    """
    for name, module in called.named_modules():
        compiled = (
            type(module).__name__ == "OptimizedModule"
            or compiled_in_place(module)
            or getattr(module, "_compiler_ctx", None) is not None
        )
        if compiled:
            what = f"module {name!r}" if name else type(module).__name__
            raise ValueError(
                f'observe="training" needs an eager forward; found {what} compiled. '
                "Hooks that are added to a compiled forward never fire. Use the default "
                'observe="probe", which runs the model eagerly on its side.'
            )


_SOURCE = "the training forward"
_NO_MASK = (
    "mask= is set and no mask is known for this training batch: the model was not "
    "called as a whole; give the mask as a callable, or call the watched object"
)
