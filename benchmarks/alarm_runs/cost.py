"""What the rules cost: one record of many layers."""

import statistics
import time
from collections.abc import Sequence

from svdhooks.alarms import Reading, Watcher, resolve_alarms

LAYERS = 200


def widened(several: Sequence[Reading], layers: int = LAYERS) -> list[Reading]:
    """The same readings with layers repeated under other names."""
    wide = []
    for reading in several:
        names = list(reading.values)
        copies = [
            (f"{n}.{i}", n) for i in range(layers // len(names) + 1) for n in names
        ]
        copies = copies[:layers]
        wide.append(
            Reading(
                reading.step,
                {new: reading.values[old] for new, old in copies},
                {},
                frozenset(),
                reading.run,
                {new: reading.rows.get(old, {}) for new, old in copies},
            )
        )
    return wide


def milliseconds(several: Sequence[Reading], preset: str) -> tuple[float, float]:
    """Median and largest CPU time of one record."""
    chosen = resolve_alarms(preset)
    if chosen is None:
        raise ValueError(f"Found no rules for {preset!r}; expected a preset.")
    watcher = Watcher(chosen)
    times = []
    for reading in several:
        begun = time.process_time()
        watcher.observe(reading)
        times.append(1e3 * (time.process_time() - begun))
    return statistics.median(times), max(times)
