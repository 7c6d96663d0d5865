"""Saying things once: a measurement may fail, training may not."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

OnError = Literal["warn", "raise"]

_logger = logging.getLogger(__name__)


class RecordingWarning(UserWarning):
    """Something could not be recorded; training goes on."""


class RecordingError(RuntimeError):
    """The same, for those who want training to stop: ``on_error="raise"``."""


@dataclass(frozen=True)
class Said:
    """What one process has to say, for all of them.

    Attributes:
        subject: What it is about.
        message: What happened and what to do.
        grave: Whether something could not be recorded.
    """

    subject: str
    message: str
    grave: bool


class Reporter:
    """Warns once per subject, or raises for those who want it.

    Where several processes record one run, what they have to say is held back until
    they meet: then one of them says it, and all of them raise or none does.

    Args:
        on_error: ``"warn"``, or ``"raise"`` to let every problem stop the training.

    Raises:
        ValueError: If ``on_error`` is neither.
    """

    def __init__(self, on_error: OnError = "warn") -> None:
        if on_error not in {"warn", "raise"}:
            raise ValueError(f"on_error={on_error!r}: expected 'warn' or 'raise'.")
        self.on_error = on_error
        self._said: set[str] = set()
        self._held: list[Said] | None = None

    @contextmanager
    def held(self) -> Iterator[list[Said]]:
        """Say and raise nothing now, but collect it for `repeat`.

        Yields:
            What was to be said so far.
        """
        before, self._held = self._held, []
        try:
            yield self._held
        finally:
            self._held = before

    def repeat(self, told: Sequence[Sequence[Said]], aloud: bool) -> None:
        """Say what all processes have to say.

        Args:
            told: By rank.
            aloud: Whether this process speaks for all.

        Raises:
            RecordingError: If ``on_error="raise"`` and something could not be recorded,
                on every process.
        """
        ranks: dict[str, list[int]] = {}
        for rank, several in enumerate(told):
            for said in several:
                ranks.setdefault(said.subject, []).append(rank)
        grave = None
        for said in (each for several in told for each in several):
            where = sorted(set(ranks[said.subject]))
            message = said.message
            if len(where) < len(told):
                names = ", ".join(map(str, where))
                message += f" (On rank{'s' if len(where) > 1 else ''} {names}.)"
            if said.grave and self.on_error == "raise":
                grave = grave or message
            elif aloud:
                self.note(said.subject, message)
            else:
                self._said.add(said.subject)
        if grave is not None:
            raise RecordingError(grave)

    def told(self, subject: str) -> bool:
        """Whether something was said of a subject.

        Args:
            subject: What it would be about.

        Returns:
            True if later problems with it are not repeated.
        """
        return subject in self._said

    def problem(
        self, subject: str, message: str, cause: BaseException | None = None
    ) -> None:
        """Report that something could not be recorded.

        Args:
            subject: What it is about; later problems with it are not repeated.
            message: What happened and what to do.
            cause: The error behind it.

        Raises:
            RecordingError: If ``on_error="raise"``; one that is the cause stays itself.
        """
        if self._held is not None:
            self._held.append(Said(subject, message, grave=True))
            return
        if self.on_error == "raise":
            if isinstance(cause, RecordingError):
                raise cause
            raise RecordingError(message) from cause
        self.note(subject, message)

    def note(self, subject: str, message: str) -> None:
        """Say something once that needs no action; never raises.

        Args:
            subject: What it is about.
            message: What to say.
        """
        if self._held is not None:
            self._held.append(Said(subject, message, grave=False))
            return
        if subject in self._said:
            _logger.debug("%s", message)
            return
        self._said.add(subject)
        try:
            warnings.warn(message, RecordingWarning, stacklevel=2)
        except RecordingWarning:
            # the user's filter turns warnings into errors: training must not stop
            _logger.warning("%s", message)


def status_of(error: Exception) -> str:
    """Say in a few words what went wrong.

    Args:
        error: The error.

    Returns:
        A status for `Record.status`.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        "can't allocate memory" in str(error)
    ):
        return "out of memory"
    first_line = str(error).strip().splitlines()[:1]
    return ": ".join([type(error).__name__.lstrip("_"), *first_line])
