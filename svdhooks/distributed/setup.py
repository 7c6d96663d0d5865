"""What the processes of one run have to agree upon before anything is recorded."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from svdhooks.distributed.team import Team, TeamError
from svdhooks.reports import Reporter

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def one_run(
    team: Team, log_dir: str | None, one_model: bool
) -> tuple[Team, str | None]:
    """Whether the processes record one run or each its own; collective.

    Processes that write to different directories are different runs, unless they are
    known to train one model together: then all go by the directory of rank 0, since one
    that is named after the time differs from process to process.

    Args:
        team: All processes of the program.
        log_dir: Where this one would write.
        one_model: Whether its model is one that processes train together (DDP, FSDP,
            tensor parallel).

    Returns:
        The team that records this run, and its directory.
    """
    told = team.exchange((log_dir, one_model))
    different = {directory for directory, _ in told if directory is not None}
    if len(different) > 1 and not any(together for _, together in told):
        team.leave("this process records a run of its own")
        return Team(), log_dir
    return team, log_dir if team.alone else told[0][0]


@contextmanager
def together(
    team: Team, reporter: Reporter, facts: Callable[[], Mapping[str, Any]] = dict
) -> Iterator[None]:
    """Do a part of the set-up; what fails on one process is raised on all; collective.

    Args:
        team: The processes.
        reporter: What it is given to say is said by one of them.
        facts: Gives what has to be the same on all of them afterwards.

    Yields:
        Nothing.

    Raises:
        Exception: The error of this process, or else that of another.
        TeamError: If the others cannot be reached.
    """
    if team.alone:
        yield
        return
    failure: Exception | None = None
    with reporter.held() as said:
        try:
            yield
        except TeamError:
            raise
        except Exception as error:  # noqa: BLE001  # the others have to know
            failure = error
    check_together(team, failure, facts() if failure is None else {})
    reporter.repeat(team.exchange(said), aloud=team.writes)


def check_together(
    team: Team, error: Exception | None, facts: Mapping[str, Any]
) -> None:
    """Raise on every process what one of them would raise; collective.

    Args:
        team: The processes.
        error: What went wrong on this one.
        facts: What has to be the same everywhere, by name; plain data.

    Raises:
        Exception: The error of this process, or else that of another.
        ValueError: If the processes differ in a fact.
    """
    if team.alone:
        if error is not None:
            raise error
        return
    told = team.exchange((_sendable(error), {k: _plain(v) for k, v in facts.items()}))
    if error is not None:
        raise error
    for rank, (failure, _) in enumerate(told):
        if failure is not None:
            failure.add_note(f"This happened on rank {rank}; this is rank {team.rank}.")
            raise failure
    first = told[0][1]
    for rank, (_, others) in enumerate(told):
        for name, value in others.items():
            if value != first[name]:
                raise ValueError(
                    f"The processes disagree about {name}: found {_short(first[name])} on "
                    f"rank 0 and {_short(value)} on rank {rank}; expected the same on all. "
                    f"{_ADVICE.get(name, '')}".strip()
                )


def _sendable(error: Exception | None) -> Exception | None:
    """An error as another process can raise it."""
    if error is None:
        return None
    known = (ValueError, TypeError, FileExistsError, FileNotFoundError, PermissionError)
    kind = next((k for k in known if isinstance(error, k)), RuntimeError)
    return kind(str(error))


def _plain(value: Any) -> Any:
    """The same text in all processes for what is the same in all of them."""
    return _ADDRESS.sub("", value) if isinstance(value, str) else value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + " …"


_ADVICE = {
    "the layers": (
        "Where each process holds another part of the model (pipeline parallelism), "
        "svdhooks cannot record it: its processes run different forwards, and a probe of "
        "one part needs the output of another."
    ),
    "start_step": "Resume all of them from the same checkpoint.",
}
