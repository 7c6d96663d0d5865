"""What a plan says: its rows, its sums, and both as text."""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field

from svdhooks.layers import Skipped
from svdhooks.planning.costs import Costs
from svdhooks.planning.words import aligned, size_of, time_of

RECORDS = 10_000
_WIDTH = 100
COLUMNS = ("layer", "kind", "shape", "values", "method", "time")


@dataclass(frozen=True)
class PlannedLayer:
    """A layer or tap that would be watched.

    Attributes:
        name: Canonical name.
        kind: Such as ``"linear"``; ``"tap"``; ``"attention"`` for a pair of projections.
        shape: ``(out, in)`` of one block; None without a weight.
        rank_limit: Number of singular values; 0 without a weight.
        method: How the weight's spectrum is computed, or whose weight it shares.
        costs: Quantity -> what it costs.
    """

    name: str
    kind: str
    shape: tuple[int, int] | None
    rank_limit: int
    method: str
    costs: Mapping[str, Costs] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of one record of everything; what is not known does not count."""
        return sum(known(c.seconds) for c in self.costs.values())

    def cells(self) -> tuple[str, ...]:
        """What a table says of it, under ``COLUMNS``."""
        shape = "" if self.shape is None else " × ".join(map(str, self.shape))
        values = str(self.rank_limit or "")
        return self.name, self.kind, shape, values, self.method, time_of(self.seconds)


@dataclass(frozen=True)
class Plan:
    """What would be watched, how, and what it would cost.

    Times were measured on this machine just now, of large matrices on a part; they are
    those of a record of everything, which the overhead guard keeps rare enough.

    Attributes:
        layers: What is watched, in the model's order.
        skipped: What is not, with the reason.
        notes: What is assumed, and what deserves a second look.
        schedule: When records are due, in words.
        probe_seconds: Of the forward on the reference batch; NaN without one.
        log_bytes: Of one record of everything.
        together: Quantity -> seconds, where the same passes serve all layers.
    """

    layers: tuple[PlannedLayer, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    schedule: str
    probe_seconds: float
    log_bytes: float
    together: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds_per_record(self) -> float:
        """Of a record of everything, with the forward and what serves all layers."""
        shared = known(self.probe_seconds) + sum(self.together.values())
        return sum(x.seconds for x in self.layers) + shared

    @property
    def memory_bytes(self) -> int:
        """Needed besides the training: kept for good, and at the costliest layer."""
        costs = [c for layer in self.layers for c in layer.costs.values()]
        working = max((c.working_bytes for c in costs), default=0)
        return working + sum(c.kept_bytes for c in costs)

    @property
    def gb_per_10_000_records(self) -> float:
        """Size of the log, if every record holds everything and nothing is thinned."""
        return self.log_bytes * RECORDS / 1e9

    def __str__(self) -> str:
        table = aligned([COLUMNS, *(layer.cells() for layer in self.layers)])
        skipped = [f"  {entry.name}: {entry.reason}" for entry in self.skipped]
        notes = (textwrap.wrap(note, _WIDTH) for note in self.notes)
        return "\n".join([
            *table,
            "",
            *self.totals(),
            *(["", "Skipped:"] if skipped else []),
            *skipped,
            *(line for note in notes for line in ("", *note)),
        ])

    def totals(self) -> list[str]:
        """What a record of everything costs, in sentences."""
        shares = {f"{name} of all layers": s for name, s in self.together.items()}
        if not math.isnan(self.probe_seconds):
            shares = {"the forward": self.probe_seconds, **shares}
        parts = [f"{time_of(s)} of it for {name}" for name, s in shares.items()]
        of_it = "".join(f", {part}" for part in parts)
        return [
            f"{len(self.layers)} layers and points, recorded {self.schedule}.",
            f"One record: {time_of(self.seconds_per_record)}{of_it}; "
            f"{size_of(self.log_bytes)} in the log, "
            f"{self.gb_per_10_000_records:.2g} GB per 10,000 records.",
            f"Memory besides the training: about {size_of(self.memory_bytes)}.",
        ]


def known(seconds: float) -> float:
    """Seconds that count: 0 for those that are not known."""
    return 0.0 if math.isnan(seconds) else seconds
