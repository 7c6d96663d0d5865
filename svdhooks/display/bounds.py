"""Which numbers are lower bounds, and how that is shown."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

BOUND, SKETCHED = "≥ ", "≈ "
"""Before a lower bound, and before what a sketch estimates."""
_LOWER_BOUND = "lower_bound"
_JACOBIAN = "jacobian"


@runtime_checkable
class Status(Protocol):
    """What is said of one measurement; a `Record` says it of itself."""

    @property
    def step(self) -> int:
        """At which step."""
        ...

    @property
    def layer(self) -> str:
        """Of which layer."""
        ...

    @property
    def point(self) -> str:
        """Of which matrix."""
        ...

    @property
    def status(self) -> str:
        """Why it failed, in words."""
        ...

    @property
    def marks(self) -> tuple[str, ...]:
        """Reservations about the values."""
        ...

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        ...


def bounded_steps(events: Iterable[Status]) -> dict[str, set[int]]:
    """Layer -> steps at which its local rank is marked as a lower bound."""
    found: dict[str, set[int]] = {}
    for event in events:
        if event.point == _JACOBIAN and _LOWER_BOUND in event.marks:
            found.setdefault(event.layer, set()).add(event.step)
    return found


def sign_of(metric: str) -> str:
    """What stands before a value whose record is marked as a lower bound."""
    if metric.endswith("_std"):
        return ""
    if metric.startswith("jacobian_relative_local_rank"):
        return SKETCHED  # σ₁ of a sketch is a lower bound, and the threshold with it
    return BOUND if metric.startswith("jacobian_local_rank") else ""
