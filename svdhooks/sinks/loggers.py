"""Records to the loggers of other people: Lightning's of every kind, and W&B's runs."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from svdhooks import schema
from svdhooks.record import Record
from svdhooks.sinks._images import RankMap, histogram
from svdhooks.sinks._targets import Sending, target_of
from svdhooks.sinks.summary import (
    FAILED,
    OVERHEAD,
    Key,
    Summary,
    columns,
    headline_keys,
    layer_values,
    point_of,
)

_DRAWN = (("weight", "stable_rank"), ("output", "effective_rank"))
_ALWAYS_DRAWN = 16
_GROWTH = 9 / 8


class LoggerSink:
    """Sends about 20 numbers per record to each of several loggers, in one call each.

    They are statistics over layers, see `svdhooks.sinks.summary.Summary`; the run log
    has the rest. Loggers for TensorBoard get nothing, because the event file of the run
    log shows the same numbers. What is not finite is left out.

    Weights & Biases, as ``WandbLogger`` or as a run of a plain loop, also gets two
    pictures, of all layers at all steps so far: the first 16 records, and then
    whenever the run has grown by an eighth, about 60 in 10,000 records.

    Args:
        loggers: Objects with ``log_metrics(metrics, step=)``, or runs of Weights &
            Biases; one, or several.
        per_layer: Send the headline measures of each layer too, at most four numbers
            per layer, and those of quantities that were asked for by name.
        images: Send pictures to Weights & Biases.
        histograms: Of how many layers, spread evenly over the model, Weights & Biases
            gets a histogram of the weight's singular values.

    Raises:
        TypeError: If one of them is no logger.
        ValueError: If ``histograms`` is negative.
    """

    def __init__(
        self,
        loggers: Any,
        *,
        per_layer: bool = False,
        images: bool = True,
        histograms: int = 0,
    ) -> None:
        if histograms < 0:
            raise ValueError(f"histograms={histograms}: expected a number >= 0.")
        several = isinstance(loggers, Iterable) and not hasattr(loggers, "log_metrics")
        self._targets = [
            (type(logger).__name__, target)
            for logger in (loggers if several else [loggers])
            if (target := target_of(logger)) is not None
        ]
        self._per_layer = per_layer
        self._images = images
        self._histograms = histograms
        self._summary = Summary()
        self._maps = {measure: RankMap() for measure in _DRAWN}
        self._records = 0
        self._drawn = 0
        self._points: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """The kinds of the loggers to which something is sent."""
        return tuple(name for name, _ in self._targets)

    def write(self, records: Sequence[Record]) -> None:
        """Send what one step measured to every logger.

        Args:
            records: Of layers and of the run.

        Raises:
            RuntimeError: If loggers failed; the others have got their values.
        """
        for record in records:
            if record.quantity == "meta":
                self._points = _announced(record)
        said = [r for r in records if r.quantity not in {"meta", "alarm"}]
        for step in dict.fromkeys(record.step for record in said):
            self._write_step(step, [r for r in said if r.step == step])
        for record in records:
            if record.quantity == "alarm":
                self._alert(record)

    def close(self) -> None:
        """Hand over what is held back; the loggers themselves stay open."""
        for _, target in self._targets:
            target.close()

    def _write_step(self, step: int, records: Sequence[Record]) -> None:
        metrics = self._summary.of(records)
        if self._per_layer:
            metrics |= layer_values(records)
        drawing = any(target.draws for _, target in self._targets)
        sending = Sending(
            metrics,
            _position(step, records),
            ahead=[*headline_keys(self._points), OVERHEAD, FAILED],
            images=self._pictures(step, records) if drawing else {},
            histograms=self._spectra(records) if drawing else {},
        )
        failures: list[tuple[str, Exception]] = []
        for name, target in self._targets:
            try:
                target.send(sending)
            except Exception as error:  # noqa: BLE001  # the others are still to be told
                failures.append((name, error))
        if failures:
            told = "; ".join(f"{n}: {type(e).__name__}: {e}" for n, e in failures)
            raise RuntimeError(
                f"{len(failures)} of {len(self._targets)} loggers failed: {told}"
            ) from failures[0][1]

    def _alert(self, record: Record) -> None:
        for _, target in self._targets:
            for event in json.loads(record.values["json"].item()):
                target.alert(f"svdhooks: {event['alarm']}", event["message"])

    # --- pictures ---------------------------------------------------------------------

    def _pictures(self, step: int, records: Sequence[Record]) -> dict[Key, Any]:
        if not self._images:
            return {}
        table = columns(records)
        for measure, history in self._maps.items():
            if measure in table:
                history.add(step, table[measure])
        self._records += 1
        few = self._records <= _ALWAYS_DRAWN
        if not few and self._records < self._drawn * _GROWTH:
            return {}
        self._drawn = self._records
        return {
            ("svdhooks", f"{point}_{field}", "map"): (
                self._maps[point, field].image(),
                self._maps[point, field].caption(f"{field} of {point}s"),
            )
            for point, field in _DRAWN
            if (point, field) in table
        }

    def _spectra(self, records: Sequence[Record]) -> dict[Key, Any]:
        having = [
            record
            for record in records
            if point_of(record) == "weight" and np.isfinite(record.spectrum).any()
        ]
        count = min(self._histograms, len(having))
        chosen = [having[i * len(having) // count] for i in range(count)]
        return {
            ("svdhooks_spectra", schema.escape(record.layer)): histogram(
                record.spectrum
            )
            for record in chosen
        }


def logger_sink(loggers: Iterable[Any], per_layer: bool = False) -> LoggerSink | None:
    """A sink for the loggers of a trainer.

    Args:
        loggers: ``trainer.loggers``.
        per_layer: Send values of each layer too.

    Returns:
        None if there is nobody to send to: no logger, or only such as get nothing.
    """
    sink = LoggerSink(list(loggers), per_layer=per_layer)
    return sink if sink.names else None


def _position(step: int, records: Iterable[Record]) -> int:
    """The logger's x coordinate, or the step where it was not told."""
    for record in records:
        logged = record.values.get("logged_step") if record.quantity == "run" else None
        if logged is not None and math.isfinite(logged):
            return int(logged)
    return step


def _announced(meta: Record) -> set[str]:
    """The points that the run is likely to measure."""
    told = json.loads(meta.values["json"].item())
    chosen = [q.get("name", "") for q in told.get("settings", {}).get("quantities", [])]
    found = {"weight"} if "weight_spectrum" in chosen else set()
    if "covariance" in chosen:
        found |= {point for row in told["layers"] for point in row.get("points", {})}
    return found
