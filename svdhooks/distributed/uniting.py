"""What several processes observed, put together where it is small."""

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from svdhooks.distributed.team import Team
from svdhooks.reports import status_of

T = TypeVar("T")


@runtime_checkable
class Unites(Protocol):
    """An observer whose findings can be put together with those of other processes."""

    def unite(self, team: Team, counts: bool) -> None:
        """Put together what all processes saw; collective, after the forward.

        Afterwards ``records()`` gives on each process what this one has to record, and
        nothing twice.

        Args:
            team: The processes; all call this in the same order, whatever failed before.
            counts: Whether what this process saw counts; not if another one saw the
                same data.
        """
        ...


def gathered(
    team: Team, state: Callable[[], T], counts: bool
) -> tuple[list[T], str | None] | None:
    """Bring the states of all observers to rank 0; collective.

    Args:
        team: The processes.
        state: Gives that of this process; may raise.
        counts: Whether it counts.

    Returns:
        The states that count, by rank, and what went wrong with one of them; None on
        the other processes.
    """
    own: T | None = None
    problem: str | None = None
    if counts:
        try:
            own = state()
        except Exception as error:  # noqa: BLE001  # the others wait for something
            problem = f"{status_of(error)} (rank {team.rank})"
    told = team.collect((own, problem), to=0)
    if told is None:
        return None
    problems = [found for _, found in told if found is not None]
    return [each for each, _ in told if each is not None], next(iter(problems), None)
