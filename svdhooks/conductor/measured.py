"""What one record holds, and what is said of what failed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from svdhooks.conductor.overhead import Part
from svdhooks.record import Record
from svdhooks.reports import Reporter


@dataclass
class Measured:
    """What one record holds.

    Attributes:
        records: One per layer and matrix.
        costs: Seconds of each part.
        observed: Names of the quantities for which points were observed.
    """

    records: list[Record] = field(default_factory=list)
    costs: dict[Part, float] = field(default_factory=dict)
    observed: set[str] = field(default_factory=set)

    def add(self, record: Record) -> None:
        """Take in a record and the time it took."""
        part = (record.quantity, record.layer)
        self.costs[part] = self.costs.get(part, 0.0) + record.seconds
        self.records.append(record)

    def merge(self, other: "Measured") -> None:
        """Take in what was measured of another model."""
        self.records += other.records
        self.costs |= other.costs
        self.observed |= other.observed


PROBE_FAILED = "probe failed"
"""How the status of what needs the probe begins where its forward failed: said once."""

_UNCALLED = "not called in"
_SHOWN = 8


def report_points(
    reporter: Reporter, records: Sequence[Record], known: Collection[str] = ()
) -> None:
    """Report the records of points that failed; layers that were not called together.

    A module that is not called is no error: an expert without a token, a part that is
    used as a function. Its records say so.

    Args:
        reporter: Where problems go.
        records: Of points.
        known: Layers of which it was said that they are not called.
    """
    uncalled: dict[str, str] = {}
    for record in records:
        if record.status.startswith(_UNCALLED):
            if record.layer not in known:
                uncalled[record.layer] = record.status.removeprefix(_UNCALLED)
        elif not record.status.startswith(PROBE_FAILED):  # said once for all
            report_failed(reporter, record)
    if uncalled:
        more = f" and {len(uncalled) - _SHOWN} more" if len(uncalled) > _SHOWN else ""
        where = next(iter(uncalled.values()))
        reporter.note(
            f"uncalled{where}",
            f"svdhooks: not called in{where} at step {records[0].step}: "
            f"{', '.join([*uncalled][:_SHOWN])}{more}. Their inputs and outputs are "
            "missing in that record; this is said once.",
        )


def report_alike(
    reporter: Reporter, records: Sequence[Record], known: Collection[str] = ()
) -> None:
    """Report records that failed, those with the same reason together.

    What keeps the derivative of one layer from being taken often keeps that of all.

    Args:
        reporter: Where problems go.
        records: Of one step.
        known: Layers of which it was said that they are not called.
    """
    alike: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        told = record.status.startswith(PROBE_FAILED) or record.layer in known
        # a weight that is not finite was told with the first thing that failed for it
        if not (record.ok or told or reporter.told(f"layer {record.layer}")):
            alike.setdefault((record.quantity, record.status), []).append(record)
    for (quantity, status), several in alike.items():
        more = f" and {len(several) - _SHOWN} more" if len(several) > _SHOWN else ""
        reporter.problem(
            f"{quantity}: {status.partition(' (rank ')[0]}",
            f"svdhooks: {quantity} of {', '.join(x.layer for x in several[:_SHOWN])}"
            f"{more} could not be recorded at step {several[0].step}: {status}. The "
            "values are NaN there; training goes on.",
        )


def report_failed(
    reporter: Reporter, record: Record, cause: Exception | None = None
) -> None:
    """Report a record that failed, once per layer; others are fine.

    Args:
        reporter: Where problems go.
        record: Any record.
        cause: The error behind it.
    """
    if record.ok:
        return
    point = f" ({record.point})" if record.point != "weight" else ""
    reporter.problem(
        f"layer {record.layer}",
        f"svdhooks: {record.quantity} of layer {record.layer!r}{point} could not "
        f"be recorded at step {record.step}: {record.status}. Its values are "
        "NaN there; training goes on.",
        cause,
    )
