"""One collective after the other; none that a process cannot take part in."""

from collections.abc import Callable
from typing import Any

import torch

Agree = Callable[[bool], bool]
"""Whether all processes say yes; a collective."""


class ShardError(RuntimeError):
    """A weight could not be gathered: some process was not able to take part."""


class Rounds:
    """The collectives of one piece of work.

    Args:
        agree: Called once before each of them.
    """

    def __init__(self, agree: Agree) -> None:
        self._agree = agree
        self._failure: Exception | None = None

    def attempt(self, work: Callable[[], Any]) -> Any:
        """Do what is this process's own; a failure is told before the next collective."""
        if self._failure is None:
            try:
                with torch.no_grad():
                    return work()
            except Exception as error:  # noqa: BLE001  # the others have to know
                self._failure = error
        return None

    def enter(self) -> None:
        """Agree on a collective; it follows at once.

        Raises:
            ShardError: On all processes.
        """
        if not self._agree(self._failure is None):
            self._raise()

    def finish(self) -> None:
        """No collective follows.

        Raises:
            ShardError: On this process alone, if its own work failed since.
        """
        if self._failure is not None:
            self._raise()

    def _raise(self) -> None:
        found = self._failure
        cause = (
            "another process" if found is None else f"{type(found).__name__}: {found}"
        )
        raise ShardError(
            f"a sharded weight was not gathered: not every process could ({cause})"
        ) from found
