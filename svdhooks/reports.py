"""Saying things once: a measurement may fail, training may not."""

import logging
import warnings
from typing import Literal

import torch

OnError = Literal["warn", "raise"]

_logger = logging.getLogger(__name__)


class RecordingWarning(UserWarning):
    """Something could not be recorded; training goes on."""


class RecordingError(RuntimeError):
    """The same, for those who want training to stop: ``on_error="raise"``."""


class Reporter:
    """Warns once per subject, or raises for those who want it.

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
