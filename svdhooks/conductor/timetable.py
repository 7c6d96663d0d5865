"""When each quantity of a recorder is due."""

from collections.abc import Sequence, Set

from svdhooks.quantities import Quantity
from svdhooks.schedule import Schedule, quiet_until


class Timetable:
    """The schedules of several quantities.

    Records become rarer when they cost too much. What has a schedule of its own, such as
    ten times per factor of ten, would miss most of its own steps then; it is owed until
    it was measured, and comes with the next record.

    Args:
        quantities: What is measured.
        schedule: Of those that have none of their own.
    """

    def __init__(self, quantities: Sequence[Quantity], schedule: Schedule) -> None:
        self._entries = [(q, q.schedule or schedule) for q in quantities]
        self._owed: set[str] = set()

    def due(self, previous: int, step: int) -> list[Quantity]:
        """Those that are due at a step, and with them those that are owed.

        Args:
            previous: The step last asked about; -1 before the first.
            step: The step now.

        Returns:
            The quantities, in their order.
        """
        due = [q for q, schedule in self._entries if schedule.due(previous, step)]
        return [q for q, _ in self._entries if due and (q in due or self._owes(q))]

    def take(self, previous: int, step: int) -> list[Quantity]:
        """The same where a step was reached: owed from now on, until it is settled.

        Args:
            previous: The step last asked about; -1 before the first.
            step: The step now.

        Returns:
            The quantities, in their order.
        """
        due = self.due(previous, step)
        self._owed |= {q.name for q in due if q.schedule is not None}
        return due

    def settle(self, due: Sequence[Quantity], left_out: Set[str]) -> None:
        """A record was made.

        Args:
            due: Of what.
            left_out: Names of those for which there was no time, or no batch yet.
        """
        self._owed -= {q.name for q in due} - left_out

    def _owes(self, quantity: Quantity) -> bool:
        return quantity.name in self._owed

    def quiet_until(self, step: int, notice: int = 0) -> int:
        """The next step at which to ask: nothing is due before.

        Args:
            step: The step last asked about.
            notice: That many steps before something is due, one has to ask as well.

        Returns:
            A step after ``step``.
        """
        return quiet_until([schedule for _, schedule in self._entries], step, notice)
