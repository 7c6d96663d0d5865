"""How the batches of a training become known: kept as a reference, or observed."""

from collections.abc import Set
from typing import Any

from svdhooks.conductor.observing import OfPoints
from svdhooks.conductor.streaming import Stream
from svdhooks.reference import ReferenceKeeper


class Listening:
    """Takes in what the training of one model shows.

    Args:
        reference: Keeps the reference batch.
        stream: Observes the training; None: the model is probed.
    """

    def __init__(self, reference: ReferenceKeeper, stream: Stream | None) -> None:
        self.reference = reference
        self._stream = stream

    def listen(self) -> None:
        """Capture a reference batch from the training, unless none is needed."""
        if self._stream is None:
            self.reference.listen()

    def offer(self, batch: Any) -> None:
        """Take a training batch as the reference, unless none is needed."""
        if self._stream is None:
            self.reference.offer(batch)

    def begin_batch(self, batch: Any) -> None:
        """A training batch begins; only of interest while a window is open."""
        if self._stream is not None:
            self._stream.begin_batch(batch)

    @property
    def observing(self) -> Set[str]:
        """Names of the quantities for which the training is being observed."""
        return set() if self._stream is None else self._stream.observing

    def open_windows(self, of_points: OfPoints) -> None:
        """Begin to observe the training, until these are recorded.

        Args:
            of_points: Quantities due soon, with the layers and taps chosen for them.
        """
        if self._stream is not None:
            self._stream.open(of_points)

    def close_windows(self) -> None:
        """Observe the training no more."""
        if self._stream is not None:
            self._stream.close()
