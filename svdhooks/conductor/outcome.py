"""What a record came to on each of several processes, put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from svdhooks.conductor.measured import Measured
from svdhooks.conductor.overhead import Part
from svdhooks.distributed.team import Team
from svdhooks.reports import Said

_Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Outcome:
    """What a record came to.

    Attributes:
        measured: Records and what each part cost.
        said: What there is to say, by rank.
        seconds: What the record took.
        spent: What all records took.
        elapsed: Training seconds.
        loss: Of the training, as far as it was told; of several processes the mean.
    """

    measured: Measured
    said: Sequence[Sequence[Said]] = ()
    seconds: float = 0.0
    spent: float = 0.0
    elapsed: float = 0.0
    loss: float | None = None


LARGE = 2**16
"""Numbers from which on a matrix of a record is sent to the process that writes alone."""


def united(
    team: Team,
    own: Outcome,
    parts: Sequence[Part],
    said: Sequence[Said],
    to_all: bool = False,
) -> Outcome:
    """Put together what the processes measured; collective.

    Args:
        team: The processes.
        own: Of this one.
        parts: All parts of a record, in its order.
        said: What this one has to say.
        to_all: Whether all get large matrices too, such as singular vectors.

    Returns:
        The same on every process, but for large matrices: all records, in the order of
        the parts; costs as if each process had taken its share at the same time; the
        times of the slowest.
    """
    matrices: dict[int, _Values] = {}
    if not (to_all or team.alone):
        own, matrices = _parted(own)
    told = team.exchange((own, list(said), bool(matrices)))
    if any(some for *_, some in told):
        large = team.collect(matrices, to=0) or []
        for (outcome, *_), of_rank in zip(told, large, strict=False):
            records = outcome.measured.records
            for number, values in of_rank.items():
                records[number] = replace(records[number], values=values)
    measured = Measured()
    for outcome, *_ in told:
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
        [several for _, several, _ in told],
        max(outcome.seconds for outcome, *_ in told),
        max(outcome.spent for outcome, *_ in told),
        min(outcome.elapsed for outcome, *_ in told),
        _mean([outcome.loss for outcome, *_ in told]),
    )


def _mean(losses: Sequence[float | None]) -> float | None:
    told = [loss for loss in losses if loss is not None]
    return sum(told) / len(told) if told else None


def _parted(own: Outcome) -> tuple[Outcome, dict[int, _Values]]:
    """An outcome without large matrices, and the values of the records that have some."""
    found: dict[int, _Values] = {}
    records = list(own.measured.records)
    for number, record in enumerate(records):
        values = record.values
        small = {k: v for k, v in values.items() if v.ndim < 2 or v.size < LARGE}
        if len(small) < len(values):
            found[number] = values
            records[number] = replace(record, values=small)
    return replace(own, measured=replace(own.measured, records=records)), found
