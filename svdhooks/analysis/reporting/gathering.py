"""What a run's part of a page is made from: log, page, room, and what is shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.analysis.reporting.meanings import meaning_of
from svdhooks.analysis.reporting.reading import Room, measured_steps, thinned
from svdhooks.display.overview import HEADLINES
from svdhooks.runlog import RunLog
from svdhooks.web.page import PageData

_MOST_LAYERS = 2000
_MOST_STEPS = 1000
_FEWEST_STEPS = 24
_WANTED_MEASURES = 24
_SEVERAL = 3
_WIDE = 4
"""Bytes of a value."""


@dataclass
class Gathering:
    """One run on its way into a page.

    Attributes:
        log: The run.
        page: Takes the arrays.
        room: What the run may still add to the page.
        named: Layers that alarms name, which are shown first.
        notes: What was left out, and how to get it.
        layers: Those shown, in the model's order.
        metrics: The run's measures, the telling ones first.
        steps: Those of the measures shown.
    """

    log: RunLog
    page: PageData
    room: Room
    named: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)
    layers: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    steps: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def choose(self) -> None:
        """Settle which layers and steps are shown."""
        layers = self.log.layers
        self.layers = chosen(layers, self.named, _MOST_LAYERS)
        if len(self.layers) < len(layers):
            self.notes.append(
                f"{len(self.layers):,} of {len(layers):,} layers are shown: those that "
                "alarms name, then evenly spread ones. log.layers has all names."
            )
        known = [meaning_of(metric) for metric in self.log.metrics]
        self.metrics = tuple(m.metric for m in sorted(known, key=lambda m: m.order))
        self.steps = self._steps()

    def add(self, array: NDArray[Any]) -> dict[str, int]:
        """Take an array into the page; the room shrinks if it is not there yet."""
        before = self.page.nbytes
        reference = self.page.add(array)
        self.room.left -= self.page.nbytes - before
        return reference

    def note(self, shown: int, of: int, what: str, how: str) -> None:
        """Say that something was thinned, unless it was not."""
        if shown < of:
            self.notes.append(f"{shown:,} of {of:,} {what}. {how}")

    def _steps(self) -> NDArray[np.int64]:
        """Evenly thinned, some of them of quantities that are measured more rarely."""
        steps = self.log.steps
        wanted = min(max(len(self.metrics), 1), _WANTED_MEASURES)
        most = int(self.room.left * 0.5 / (_WIDE * max(len(self.layers), 1) * wanted))
        most = min(max(most, _FEWEST_STEPS), _MOST_STEPS)
        if len(steps) <= most:
            return steps
        rare = [own for own in self._own_steps() if len(own) < len(steps)]
        each = max(most // (1 + len(rare)), 2)
        parts = [known[thinned(len(known), each)] for known in (steps, *rare)]
        found = np.unique(np.concatenate(parts))
        self.note(
            len(found),
            len(steps),
            "records are in the charts of measures, evenly spread, the first and the "
            "last among them",
            "log.series(layer, metric) has all.",
        )
        return found

    def _own_steps(self) -> list[NDArray[np.int64]]:
        """The steps of the headline measures, each set once."""
        found: dict[bytes, NDArray[np.int64]] = {}
        for metric in HEADLINES:
            if metric in self.log.metrics:
                some = [n for n in self.layers if len(self.log.series(n, metric)[0])]
                own = measured_steps(self.log, some[:_SEVERAL], [metric])
                own = np.intersect1d(own, self.log.steps)
                if len(own):
                    found[own.tobytes()] = own
        return list(found.values())


def chosen(layers: Sequence[str], named: Sequence[str], most: int) -> tuple[str, ...]:
    """Some layers in their order: those that are named first, then evenly spread ones.

    Args:
        layers: In the model's order.
        named: Those that matter more.
        most: How many.

    Returns:
        All, if there are no more than ``most``.
    """
    if len(layers) <= most:
        return tuple(layers)
    there = set(layers)
    first = list(dict.fromkeys(name for name in named if name in there))[:most]
    others = [name for name in layers if name not in set(first)]
    left = most - len(first)
    spread = [others[i] for i in thinned(len(others), left)] if left > 1 else []
    kept = {*first, *spread[:left]}
    return tuple(name for name in layers if name in kept)
