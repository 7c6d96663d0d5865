"""The observers of one record, each on its own: an error of one is not that of all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from svdhooks import advice
from svdhooks.distributed.meeting import Turn
from svdhooks.distributed.team import Team
from svdhooks.distributed.uniting import Unites
from svdhooks.layers import PointValue, samples_of
from svdhooks.layers.tap import Tap, Watched
from svdhooks.quantities import PointObserver, PointQuantity
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.record import Record
from svdhooks.reports import Reporter, status_of

OfPoints = Sequence[tuple[PointQuantity, Sequence[Watched]]]
"""What is measured of what."""

ONE_RANK = "one_rank"
"""Marks what was measured from the batch of one process, of several."""


class Observation:
    """What passes the points until one record is made of it.

    Args:
        of_points: Quantities with the layers and taps that are chosen for them.
        context: What the observers have to know.
        reporter: Where problems go.
        exhausted: Whether the time of the record is used up; what comes later is left
            out.

    Attributes:
        features: Tap -> number of features, as seen.
        made: Quantity -> whether there was something to record, known after `records`.
    """

    def __init__(
        self,
        of_points: OfPoints,
        context: ProbeContext,
        reporter: Reporter,
        exhausted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.context = context
        self.features: dict[str, int] = {}
        self.made: dict[str, bool] = {}
        self.watched = {x for _, several in of_points for x in several}
        self._reporter = reporter
        self._exhausted = exhausted
        self._late: set[str] = set()
        self._of_one_rank: set[str] = set()
        self._made_elsewhere: set[str] = set()
        self._seen = False
        self._observers: dict[str, PointObserver] = {}
        for quantity, layers in of_points:
            try:
                self._observers[quantity.name] = quantity.observer(layers, context)
            except Exception as error:  # noqa: BLE001  # a measurement may fail
                self._report_lost(quantity.name, error)

    def receive(self, layer: Watched, values: Mapping[str, PointValue]) -> None:
        """Hand to the observers what one call of a module showed.

        Args:
            layer: The layer or tap.
            values: Point name -> value.
        """
        if self._exhausted():
            self._late.add(layer.name)
            return
        self._seen = True
        if isinstance(layer, Tap):
            self.features[layer.name] = samples_of(values["output"]).shape[-1]
        for observer in self._observers.values():
            try:
                observer.receive(layer, values)
            except Exception as error:  # noqa: BLE001  # that of one, not of all
                self._tell(observer, layer, error)

    def fail(self, layer: Watched, error: Exception) -> None:
        """Note that a layer's points could not be read.

        Args:
            layer: The layer or tap.
            error: Why.
        """
        for observer in self._observers.values():
            self._tell(observer, layer, error)

    def _tell(self, observer: PointObserver, layer: Watched, error: Exception) -> None:
        try:
            observer.fail(layer, error)
        except Exception as failure:  # noqa: BLE001  # it must not reach the forward
            self._report_lost(type(observer).__name__, failure)

    def unite(self, team: Team, turn: Turn) -> None:
        """Put together what several processes saw; collective, before `records`.

        Args:
            team: The processes.
            turn: What this process did.
        """
        if team.alone:
            return
        told = team.exchange((list(self._observers), self._seen))
        working = [x for x in told[0][0] if all(x in names for names, _ in told)]
        self._seen = any(seen for _, seen in told)
        self._observers = {name: self._observers[name] for name in working}
        self._late = set()
        for name, observer in list(self._observers.items()):
            if isinstance(observer, Unites):
                observer.unite(team, turn.counts)
                if not team.writes:  # who writes has a share, if there is one
                    self._made_elsewhere.add(name)
            elif team.rank != turn.keeper:
                del self._observers[name]  # it knows nothing of other processes
            elif turn.shards > 1:
                self._of_one_rank.add(name)

    def records(self) -> list[Record]:
        """The records, without those of layers that came too late."""
        found: list[Record] = []
        for name, observer in self._observers.items():
            try:
                made = observer.records()
                found += [
                    replace(r, marks=(*r.marks, ONE_RANK))
                    if name in self._of_one_rank
                    else r
                    for r in made
                    if r.layer not in self._late
                ]
                elsewhere = name in self._made_elsewhere
                unknown = not self._seen or bool(self._late) or elsewhere
                self.made[name] = bool(made) or unknown
            except Exception as error:  # noqa: BLE001  # a measurement may fail
                self._report_lost(type(observer).__name__, error)
        return found

    def _report_lost(self, what: str, error: Exception) -> None:
        self._reporter.problem(
            what,
            f"svdhooks: {what} failed: {status_of(error)}. Its records are missing; "
            "training goes on.",
            error,
        )


def report_idle(reporter: Reporter, observations: Sequence[Observation]) -> None:
    """Say which quantities found nothing to record in any part of a probe.

    Args:
        reporter: Where it is said.
        observations: The parts, after `Observation.records`.
    """
    made = [(name, some) for x in observations for name, some in x.made.items()]
    busy = {name for name, some in made if some}
    for name in dict.fromkeys(name for name, _ in made if name not in busy):
        advice.nothing_to_measure(reporter, name)
