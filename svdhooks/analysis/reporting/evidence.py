"""What a verdict rests on."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from svdhooks.alarms.event import AlarmEvent
from svdhooks.analysis.reporting.curves import Fall, Loss

_ORDER = ("non_finite", "collapse", "token_collapse", "exploding", "all_zero")
"""Rules by how grave their alarms are."""


@dataclass
class Evidence:
    """What a verdict rests on.

    Attributes:
        records: How many steps were recorded.
        layers: How many layers.
        judged: How many layers have a rank that rules look at.
        events: The alarms, live and read afterwards.
        holding: The names of rules whose condition held at the end; None: not known.
        falls: The ranks that fell, the deepest first.
        loss: What the loss did; None: there is none.
        failed: How many measurements failed.
        broke: Whether one failed that had worked before.
        broken: How many points of layers they are of.
        first_failure: Of the first: layer, point, step, status.
        limited: Point -> share of its measurements that rest on too few samples.
        damage: How many records could not be read.
        rules: Whether any rules were applied.
        of_checkpoints: Whether the log is a scan of checkpoints.
    """

    records: int
    layers: int
    judged: int
    events: Sequence[AlarmEvent] = ()
    holding: frozenset[str] | None = None
    falls: Sequence[Fall] = ()
    loss: Loss | None = None
    failed: int = 0
    broke: bool = False
    broken: int = 0
    first_failure: tuple[str, str, int, str] | None = None
    limited: dict[str, float] = field(default_factory=dict)
    damage: int = 0
    rules: bool = True
    of_checkpoints: bool = False

    @property
    def alarms(self) -> list[AlarmEvent]:
        """Those events that somebody should look at, the gravest rule first."""
        found = [event for event in self.events if event.severity == "alarm"]
        place = {name: i for i, name in enumerate(_ORDER)}
        return sorted(found, key=lambda e: (place.get(e.alarm, len(place)), e.step))

    @property
    def sank(self) -> list[Fall]:
        """Representations whose rank fell."""
        return [fall for fall in self.falls if not fall.of_weight]

    @property
    def improved(self) -> bool:
        """Whether a loss is known that fell."""
        return self.loss is not None and self.loss.falls

    @property
    def passed(self) -> bool:
        """Whether no alarm held at the end."""
        alarms = {event.alarm for event in self.alarms}
        return self.holding is not None and not alarms & self.holding
