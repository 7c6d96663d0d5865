"""What a record came to on each of several processes, put together."""

from collections.abc import Sequence
from dataclasses import dataclass

from svdhooks.distributed.team import Team
from svdhooks.measured import Measured
from svdhooks.overhead import Part
from svdhooks.reports import Said


@dataclass(frozen=True)
class Outcome:
    """What a record came to.

    Attributes:
        measured: Records and what each part cost.
        said: What there is to say, by rank.
        seconds: What the record took.
        spent: What all records took.
        elapsed: Training seconds.
    """

    measured: Measured
    said: Sequence[Sequence[Said]]
    seconds: float
    spent: float
    elapsed: float


def united(
    team: Team, own: Outcome, parts: Sequence[Part], said: Sequence[Said]
) -> Outcome:
    """Put together what the processes measured; collective.

    Args:
        team: The processes.
        own: Of this one.
        parts: All parts of a record, in its order.
        said: What this one has to say.

    Returns:
        The same on every process: all records, in the order of the parts; costs as if
        each process had taken its share at the same time; the times of the slowest.
    """
    told = team.exchange((own, list(said)))
    measured = Measured()
    for outcome, _ in told:
        measured.records += outcome.measured.records
        measured.observed |= outcome.measured.observed
        for part, seconds in outcome.measured.costs.items():
            share = measured.costs.get(part, 0.0) + seconds / team.size
            measured.costs[part] = share
    place = {part: number for number, part in enumerate(parts)}
    measured.records.sort(
        key=lambda record: place.get((record.quantity, record.layer), len(place))
    )
    return Outcome(
        measured,
        [several for _, several in told],
        max(outcome.seconds for outcome, _ in told),
        max(outcome.spent for outcome, _ in told),
        min(outcome.elapsed for outcome, _ in told),
    )
