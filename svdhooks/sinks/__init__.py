"""Where records go. A sink has one verb; what it does with records is its own affair."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from svdhooks.record import Record


@runtime_checkable
class Sink(Protocol):
    """Receives records as they are made."""

    def write(self, records: Sequence[Record]) -> None:
        """Take the records of one step.

        Args:
            records: Those of layers, and those of the run (quantities ``"meta"`` and
                ``"run"``), in any order.
        """
        ...

    def close(self) -> None:
        """Let go of what is held; may be called more than once."""
        ...
