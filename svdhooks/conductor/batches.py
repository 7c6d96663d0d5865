"""The reference batches of several processes, which a resumed run finds again or not."""

import re
from pathlib import Path

from svdhooks.distributed.team import Team
from svdhooks.reference import ReferenceKeeper, hash_file
from svdhooks.reports import Reporter


def name_of(model: str, rank: int) -> str:
    """Under which a process stores its batch: each has one of its own.

    Args:
        model: Its name; empty for the only one.
        rank: Of the process.

    Returns:
        The name for `ReferenceKeeper`.
    """
    return "-".join(filter(None, (model, f"rank{rank}" if rank else "")))


def check_number(
    team: Team, keeper: ReferenceKeeper, model: str, reporter: Reporter
) -> None:
    """Begin anew where a run goes on with another number of processes; collective.

    Some would have no batch, or the batches of some would be missing. Where processes
    compute a forward together, they would compute it of different batches.

    Args:
        team: The processes.
        keeper: Of this one; forgets the stored batch of an earlier run.
        model: Its name; empty for the only one.
        reporter: Says it.
    """
    stored = _stored_ranks(keeper.directory, model) if keeper.resumed else set()
    own = team.rank in stored
    told = team.exchange((keeper.given, own, max(stored, default=-1) + 1))
    before = max(sum(own for _, own, _ in told), *(number for *_, number in told))
    if not before or before == team.size or any(given for given, *_ in told):
        return
    keeper.forget()
    reporter.note(
        "number of processes",
        f"svdhooks: {before} process{'es' * (before > 1)} recorded this run, and "
        f"{team.size} go{'es' * team.alone} on with it. Each brings a reference batch of "
        "its own, so that new ones are captured: covariances before and after are of "
        "different data. To have the same, give it as probe= from the beginning.",
    )


def forget_others(team: Team, keeper: ReferenceKeeper, model: str) -> None:
    """Remove what is stored of processes that there are no more.

    Args:
        team: The processes that there are.
        keeper: Of this one.
        model: Name of the model.
    """
    directory = keeper.directory if team.writes else None
    for rank in _stored_ranks(directory, model):
        if directory is not None and rank >= team.size:
            digest = directory / hash_file(name_of(model, rank))
            digest.with_suffix(".pt").unlink(missing_ok=True)
            digest.unlink(missing_ok=True)


def _stored_ranks(directory: Path | None, model: str) -> set[int]:
    if directory is None or not directory.exists():
        return set()
    first = hash_file(model)
    stem, ending = re.escape(Path(first).stem), re.escape(Path(first).suffix)
    matches = [
        re.fullmatch(rf"{stem}-rank(\d+){ending}", path.name)
        for path in directory.iterdir()
    ]
    ranks = {int(found[1]) for found in matches if found is not None}
    return ranks | {0} if (directory / first).exists() else ranks
