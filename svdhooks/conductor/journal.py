"""Hands the records of each step to the sinks, with what is said of the whole run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from svdhooks.conductor.meta import Described, meta_record, run_record
from svdhooks.record import Record
from svdhooks.reports import Reporter
from svdhooks.sinks import Sink


class Journal:
    """The sinks of one run.

    Args:
        sinks: Where records go.
        settings: The recorder's configuration, for the log.
        reporter: Where problems go.
    """

    def __init__(
        self, sinks: Sequence[Sink], settings: Mapping[str, Any], reporter: Reporter
    ) -> None:
        self.sinks = tuple(sinks)
        self._settings = settings
        self._reporter = reporter
        self._described: object = None

    def write(
        self,
        step: int,
        records: Sequence[Record],
        run: Mapping[str, float | int],
        layout: object,
        describe: Callable[[], Described],
    ) -> None:
        """Write one step; a sink that fails does not keep the others from writing.

        Args:
            step: Optimiser updates contained in the weights.
            records: Of layers.
            run: Of the whole run: what the record cost, where it stands.
            layout: What is watched, to be compared with that of the record before.
            describe: Gives what is watched; asked where the layout is new.
        """
        whole = [run_record(step, run), *records]
        if self._described != layout:
            whole.insert(0, meta_record(step, describe(), self._settings))
        # said once all have it: not where a sink fails or Ctrl-C comes in between
        self._described, described = None, layout
        for sink in self.sinks:
            try:
                sink.write(whole)
            except Exception as error:  # noqa: BLE001  # a full disk must not stop training
                described = None  # to be said again once writing works
                name = type(sink).__name__
                self._reporter.problem(
                    f"sink {name}",
                    f"svdhooks: {name} could not write the record of step {step} "
                    f"({type(error).__name__}: {error}). What it did not take of this "
                    "record is lost; training goes on and later records are tried again.",
                    error,
                )
        self._described = described

    def close(self) -> None:
        """Close the sinks; never raises."""
        for sink in self.sinks:
            try:
                sink.close()
            except Exception as error:  # noqa: BLE001  # the run is over: say it, no more
                name = type(sink).__name__
                self._reporter.note(
                    f"closing {name}", f"svdhooks: {name} could not be closed: {error}"
                )


def check_sinks(sinks: Sequence[Sink]) -> None:
    """Refuse what cannot take records.

    Args:
        sinks: As given by the user.

    Raises:
        TypeError: If it is no sequence, or an entry is no sink.
    """
    if not isinstance(sinks, Sequence):
        raise TypeError(
            f"Found {type(sinks).__name__} as sinks=; expected a sequence of sinks, "
            "such as [svdhooks.MemorySink()]."
        )
    for sink in sinks:
        if not isinstance(sink, Sink) or isinstance(sink, type):
            raise TypeError(
                f"Found {sink!r} in sinks=; expected objects with write(records) and "
                "close(), such as svdhooks.MemorySink()."
            )
