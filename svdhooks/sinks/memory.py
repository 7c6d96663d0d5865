"""Records kept in a list: for notebooks and tests."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from svdhooks.record import Record


@dataclass
class MemorySink:
    """Keeps every record.

    Attributes:
        records: In the order in which they were made.
        closed: Whether ``close`` was called.
    """

    records: list[Record] = field(default_factory=list)
    closed: bool = False

    def write(self, records: Sequence[Record]) -> None:
        """Keep the records."""
        self.records.extend(records)

    def close(self) -> None:
        """Note that no more records come."""
        self.closed = True

    def of(self, quantity: str, layer: str | None = None) -> list[Record]:
        """The records of one quantity.

        Args:
            quantity: For example ``"weight_spectrum"``, ``"run"``.
            layer: Only those of this layer; None: of all.

        Returns:
            In the order in which they were made.
        """
        return [
            record
            for record in self.records
            if record.quantity == quantity and layer in {None, record.layer}
        ]
