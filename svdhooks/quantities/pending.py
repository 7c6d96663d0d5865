"""A record whose spectrum is still being solved by another thread."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from svdhooks.record import OK, Record
from svdhooks.reports import status_of


class Unfinished:
    """What is left to do for one record, done once however often it is asked for.

    Args:
        finish: Makes the record; waits for the spectrum.
        failed: Makes the record of a failure, of its status.
    """

    def __init__(
        self, finish: Callable[[], Record], failed: Callable[[str], Record]
    ) -> None:
        self.error: Exception | None = None
        self._finish: Callable[[], Record] | None = finish
        self._failed = failed
        self._record: Record | None = None

    def record(self) -> Record:
        """The record as it would have been without another thread."""
        if self._record is None:
            finish, self._finish = self._finish, None  # it holds what was asked for
            try:
                self._record = finish() if finish else self._failed("interrupted")
            except Exception as error:  # noqa: BLE001  # a measurement may fail
                self.error = error
                self._record = self._failed(status_of(error))
        return self._record


@dataclass(frozen=True, slots=True)
class Pending(Record):
    """Stands for a record until its spectrum is there; everywhere on its way it is one.

    What is changed of it meanwhile (name, point, step, status, marks, seconds) is
    changed of the record that it becomes.

    Attributes:
        unfinished: Makes the record.
    """

    unfinished: Unfinished = field(kw_only=True)

    def complete(self) -> Record:
        """The record, with its values.

        Returns:
            A plain record.
        """
        record = self.unfinished.record()
        return replace(
            record,
            step=self.step,
            layer=self.layer,
            point=self.point,
            seconds=self.seconds,
            status=record.status if self.status == OK else self.status,
            marks=tuple(dict.fromkeys((*record.marks, *self.marks))),
        )
