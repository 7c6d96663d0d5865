"""Which layer feeds which: seen in one forward, nothing is guessed."""

from svdhooks.flow.graph import (
    INPUT,
    UNKNOWN,
    Arrival,
    Edge,
    Flow,
    Kind,
    Operation,
    Step,
)

__all__ = [
    "INPUT",
    "UNKNOWN",
    "Arrival",
    "Edge",
    "Flow",
    "Kind",
    "Operation",
    "Step",
]
