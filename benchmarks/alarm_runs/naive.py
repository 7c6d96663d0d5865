"""The rule that one would write first, to compare with: a rank fell to half."""

from dataclasses import dataclass
from typing import Literal

from svdhooks.alarms import AlarmEvent, Reading

MEASURES = frozenset({"weight_stable_rank", "output_effective_rank"})


@dataclass(frozen=True)
class Halved:
    """The headline rank of a layer is below half of its first value."""

    name: str = "halved"
    severity: Literal["alarm", "info"] = "alarm"
    measures: frozenset[str] = MEASURES

    def begin(self) -> "HalvedState":
        """Start to observe one run."""
        return HalvedState()


class HalvedState:
    """The first values, and whether it was said."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], float] = {}
        self._said = False

    def observe(self, reading: Reading) -> list[AlarmEvent]:
        """Say so once."""
        for layer, values in reading.values.items():
            for measure in MEASURES & set(values):
                first = self._first.setdefault((layer, measure), values[measure])
                if values[measure] < first / 2 and not self._said:
                    self._said = True
                    told = f"{measure} of {layer} is below half of its start"
                    step = reading.step
                    return [AlarmEvent(step, layer, "halved", "alarm", told, step)]
        return []
