"""The weights of one record, measured; errors turned to statuses."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from svdhooks.conductor.measured import Measured, report_failed
from svdhooks.conductor.sharing import Piece, Subject, WeightShare
from svdhooks.distributed.team import Team
from svdhooks.layers import Layer
from svdhooks.quantities import EdgeQuantity, SpectralEdges, WeightQuantity
from svdhooks.quantities.again import UnchangedWeights
from svdhooks.record import Record
from svdhooks.reports import Reporter, status_of

OfWeights = WeightQuantity | EdgeQuantity


class WeightMeasurer:
    """Measures weights of one model; of several processes each a share.

    Args:
        layers: All layers of the model, in its order.
        reporter: Where problems go.
        exhausted: Whether the time of a record is used up.
        team: The processes that record the model.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        reporter: Reporter,
        exhausted: Callable[[], bool],
        team: Team,
    ) -> None:
        self._reporter = reporter
        self._exhausted = exhausted
        self._share = WeightShare(team, layers)
        self._unchanged = UnchangedWeights()

    def measure(self, pieces: Sequence[Piece], step: int, measured: Measured) -> None:
        """Measure weights and edges between them.

        Args:
            pieces: Quantities with layers or edges.
            step: Optimiser updates contained in the weights.
            measured: Takes in the records and what they cost.
        """

        def measure(quantity: OfWeights, subject: Subject) -> list[Record]:
            if self._exhausted():
                return []
            measured.costs.setdefault((quantity.name, subject.name), 0.0)
            return self._measure(quantity, subject, step)

        def failed(
            quantity: OfWeights, subject: Subject, error: Exception
        ) -> list[Record]:
            return self._failed(quantity, subject, step, error)

        try:
            for record in self._share.measure(pieces, measure, failed):
                measured.add(record)
        finally:
            for quantity in {id(q): q for q, _ in pieces}.values():
                if isinstance(quantity, SpectralEdges):
                    quantity.release()

    def _measure(
        self, quantity: OfWeights, subject: Subject, step: int
    ) -> list[Record]:
        begun = time.perf_counter()
        try:
            if isinstance(quantity, EdgeQuantity):
                found: Record | Sequence[Record] = quantity.measure_edge(subject, step)
            else:
                found = self._unchanged.measure(quantity, subject, step)
        except Exception as error:  # noqa: BLE001  # a measurement may fail
            records = self._failed(quantity, subject, step, error)
        else:
            records = _as_list(found)
            for record in records:
                report_failed(self._reporter, record)
        seconds = (time.perf_counter() - begun) / max(len(records), 1)
        return [replace(record, seconds=seconds) for record in records]

    def _failed(
        self, quantity: OfWeights, subject: Subject, step: int, error: Exception
    ) -> list[Record]:
        status = status_of(error)
        if isinstance(quantity, EdgeQuantity):
            found: Record | Sequence[Record] = quantity.failed_edge(
                subject, step, status
            )
        else:
            found = quantity.failed(subject, step, status)
        records = _as_list(found)
        for record in records:
            report_failed(self._reporter, record, error)
        return records


def _as_list(found: Record | Sequence[Record]) -> list[Record]:
    return [found] if isinstance(found, Record) else list(found)
