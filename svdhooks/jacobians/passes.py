"""Passes through a model: of one process, or the same ones in the same order on all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from svdhooks.distributed.team import Team, TeamError
from svdhooks.isolation import probe_context
from svdhooks.linalg.jacobian import Method
from svdhooks.reports import status_of

T = TypeVar("T")

_BACKWARD: tuple[Method, ...] = ("double_backward", "reverse")
"""Purposes of passes with a backward pass begin so."""

_FAILED = "failed"
"""Step of a process that makes no more passes."""


class PassFailedError(RuntimeError):
    """A pass failed on one of the processes, and so for all.

    Args:
        reason: In words.
        kind: What kind of failure it was: `kind_of` that of the one process.
    """

    def __init__(self, reason: str, kind: str) -> None:
        super().__init__(reason)
        self.kind = kind


class _GivenUpError(TeamError):
    """Another process will make no more passes: no other method, no part is tried."""


class Passes:
    """Makes passes through a model on the side of its training.

    Args:
        model: The plain module.
        team: The processes.
        lockstep: Whether a pass communicates, so that all make each one or none does.

    Attributes:
        lockstep: The same, for several processes.
    """

    def __init__(self, model: nn.Module, team: Team, lockstep: bool) -> None:
        self.lockstep = lockstep and not team.alone
        self._model = model
        self._team = team

    @contextmanager
    def open(self) -> Iterator[None]:
        """Make passes possible; nothing of them is left afterwards.

        Yields:
            Nothing.
        """
        if self.lockstep:  # each pass by itself: what fails is made up for at once
            yield
            return
        # what is differentiated says so; most passes only look
        with probe_context(self._model, derivatives=True), torch.no_grad():
            yield

    @contextmanager
    def apart(self, purpose: str = "forward") -> Iterator[None]:
        """Make one pass after which the model is as before.

        Args:
            purpose: Passes of one purpose communicate in the same order.

        Yields:
            Nothing.
        """
        context = probe_context(self._model, derivatives=True, purpose=purpose)
        with context, torch.no_grad():
            if purpose.startswith(_BACKWARD):
                _stay_gathered(self._model)
            yield

    @contextmanager
    def alike(self) -> Iterator[None]:
        """Let an error on one process, wherever it comes from, be one on all, at once.

        Yields:
            Nothing.

        Raises:
            PassFailedError: If another process has failed.
            TeamError: If the others cannot be reached.
        """
        if not self.lockstep:
            yield
            return
        try:
            yield
            self._exchange("end", None)
        except _GivenUpError as error:
            raise PassFailedError(str(error), "error") from error
        except (TeamError, PassFailedError):
            raise
        except Exception as error:
            # the others meet before they begin a pass, and so learn of it
            self._team.exchange((_FAILED, status_of(error)))
            raise

    def make(self, what: Callable[[], T], purpose: str = "forward") -> T:
        """Make one pass; where passes communicate, collective.

        Args:
            what: Calls the model once.
            purpose: Passes of one purpose communicate in the same order.

        Returns:
            What it returns.

        Raises:
            PassFailedError: On all processes, if it failed on one of several.
            TeamError: If the others cannot be reached, or do not make this pass.
        """
        if not self.lockstep:
            return what()
        self._exchange(f"pass: {purpose}", None)
        found: list[T] = []
        failure: Exception | None = None
        try:
            with self.apart(purpose):
                found.append(what())
        except TeamError:
            raise
        except Exception as error:  # noqa: BLE001  # told to the others first
            failure = error
        own = None if failure is None else (status_of(failure), kind_of(failure))
        for rank, told in enumerate(self._exchange("made", own)):
            if told is not None:
                reason = f"{told[0]} (rank {rank})"
                raise PassFailedError(reason, told[1]) from failure
        return found[0]

    def _exchange(self, step: str, value: T) -> list[T]:
        """What each process has for the same step."""
        several = self._team.exchange((step, value))
        for rank, (other, told) in enumerate(several):
            if other == _FAILED:
                raise _GivenUpError(f"{told} (rank {rank})")
        steps = [other for other, _ in several]
        if len(set(steps)) > 1:
            raise _GivenUpError(f"the processes do not make the same passes: {steps}")
        return [told for _, told in several]

    def told(self, value: T) -> list[T]:
        """What each process has; of this one alone where passes do not communicate.

        Args:
            value: What this process has; must pickle.

        Returns:
            By rank.
        """
        return self._exchange("told", value) if self.lockstep else [value]

    def all_true(self, ok: bool) -> bool:
        """Whether it is so on all processes that make the same passes."""
        return all(self.told(ok))

    def most(self, number: int) -> int:
        """The largest number of those of the processes that make the same passes."""
        return max(self.told(number))


def _stay_gathered(model: nn.Module) -> None:
    """Let FSDP2 gather each parameter once in a pass; its context puts that back.

    A second backward pass would find the memory of parameters freed.
    """
    for module in model.modules():
        for name in ("set_reshard_after_forward", "set_reshard_after_backward"):
            switch = getattr(module, name, None)
            if switch is not None:
                switch(False, recurse=False)


class BypassedError(RuntimeError):
    """The input reaches a layer by other ways than through the first layer."""


class StaleError(RuntimeError):
    """What was found out of the model is not so any more."""


def kind_of(error: BaseException) -> str:
    """What kind of failure an error is.

    Args:
        error: Any.

    Returns:
        ``"memory"``: there was not enough, as Python, devices and the allocator of the
        CPU say it. ``"bypassed"``: the first layer is not all of the input. ``"stale"``: what was
        found out is not so any more. ``"error"``.
    """
    if isinstance(error, PassFailedError):
        return error.kind
    if isinstance(error, BypassedError):
        return "bypassed"
    if isinstance(error, StaleError):
        return "stale"
    words = ("can't allocate memory", "not enough memory", "out of memory")
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(x in str(error) for x in words)
    )
    return "memory" if memory else "error"


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory.

    Args:
        error: Any.

    Returns:
        Whether it does.
    """
    return kind_of(error) == "memory"
