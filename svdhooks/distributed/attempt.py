"""Steps that all processes take or none."""

from types import TracebackType

from svdhooks.distributed.team import Team, TeamError


class Attempt:
    """Takes one step after the other; none after one that failed on any process."""

    def __init__(self, team: Team) -> None:
        self.failure: Exception | None = None
        self._team = team
        self._elsewhere = False

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> bool:
        # a measurement may fail; that nobody answers is for the recorder to know
        if not isinstance(error, Exception) or isinstance(error, TeamError):
            return False
        self.failure = error
        return True

    def all_well(self) -> bool:
        """Whether no process has failed yet; collective until one has."""
        if not self._elsewhere:
            self._elsewhere = not self._team.agree(self.failure is None)
        return not self._elsewhere
