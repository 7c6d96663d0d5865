"""The beginning of a record of several processes: what each can do, and what each does."""

from collections.abc import Sequence
from dataclasses import dataclass

from svdhooks.distributed.team import Team


@dataclass(frozen=True)
class Standing:
    """What a process has of one model when a record begins.

    Attributes:
        layers: Names of what is watched.
        batch: Digest of its reference batch; None: it has none that can be used.
        observing: Whether it has observed the training for this record.
        rehearsed: Whether its probe was run before.
        refused: Why the model cannot be probed any more; None if it can.
        needs_all: Whether a forward communicates, so that all have to run it.
        probing: Whether it is probed; False where the training is observed.
    """

    layers: tuple[str, ...]
    batch: str | None = None
    observing: bool = False
    rehearsed: bool = False
    refused: str | None = None
    needs_all: bool = False
    probing: bool = True


@dataclass(frozen=True)
class Turn:
    """What this process does of the probe of one model in one record.

    Attributes:
        possible: Whether the points can be observed at all.
        runs: Whether this process runs the forward.
        counts: Whether what it sees counts: not where another process has the same
            batch, as the members of a tensor-parallel group have.
        rehearses: Whether all who run the forward run it once without measuring.
        shards: Number of different batches.
        keeper: The first rank whose batch counts.
        missing: Ranks without a batch.
    """

    possible: bool = True
    runs: bool = True
    counts: bool = True
    rehearses: bool = False
    shards: int = 1
    keeper: int = 0
    missing: tuple[int, ...] = ()


class DisagreementError(RuntimeError):
    """The processes are not at the same place of the training."""


def take_turns(
    team: Team, step: int, due: Sequence[str], standings: Sequence[Standing]
) -> list[Turn]:
    """Find out what this process does; collective.

    Args:
        team: The processes.
        step: Optimiser updates contained in the weights.
        due: Names of the quantities to be measured.
        standings: Of this process, one per model.

    Returns:
        One per model.

    Raises:
        DisagreementError: On every process, if steps, quantities or layers differ.
    """
    told = team.exchange((step, tuple(due), tuple(standings)))
    first_step, first_due, first = told[0]
    for rank, (its_step, its_due, theirs) in enumerate(told):
        if (its_step, its_due) != (first_step, first_due):
            raise DisagreementError(
                f"rank 0 is at step {first_step} with {', '.join(first_due)} due, rank "
                f"{rank} at step {its_step} with {', '.join(its_due)}. Every rank has to "
                "make the same updates and to call step() after each."
            )
        if [s.layers for s in theirs] != [s.layers for s in first]:
            raise DisagreementError(
                f"the model of rank {rank} has other layers than that of rank 0"
            )
    per_model = zip(*(theirs for _, _, theirs in told), strict=True)
    return [_turn(team.rank, list(several)) for several in per_model]


def _turn(rank: int, several: Sequence[Standing]) -> Turn:
    mine = several[rank]
    if any(s.observing for s in several):
        return Turn(shards=len(several))
    if not mine.probing:  # no window was open before this record
        return Turn(possible=False)
    missing = tuple(r for r, s in enumerate(several) if s.batch is None)
    refused = any(s.refused for s in several)
    needs_all = any(s.needs_all for s in several)
    possible = not refused and len(missing) < len(several)
    if needs_all and missing:
        possible = False
    digests = [s.batch for s in several]
    first_with = {d: digests.index(d) for d in digests if d is not None}
    counts = mine.batch is not None and first_with[mine.batch] == rank
    runs = needs_all or counts
    running = [
        s
        for r, s in enumerate(several)
        if needs_all or (s.batch is not None and first_with[s.batch] == r)
    ]
    return Turn(
        possible,
        possible and runs,
        possible and counts,
        any(not s.rehearsed for s in running),
        max(len(first_with), 1),
        min(first_with.values(), default=0),
        missing,
    )
