"""Runs against each other."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from svdhooks.analysis.comparison import compare
from svdhooks.dashboard.answers import RequestError
from svdhooks.dashboard.live import LiveRun
from svdhooks.runlog.known import check_known

_KEPT = 8
_CURVES = 60
_DIFFERENCES = 300


class Comparisons:
    """Comparisons that were made, for as long as their runs are as they were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Any, dict[str, Any]] = {}

    def compare(
        self, runs: Mapping[str, LiveRun], metrics: Sequence[str]
    ) -> dict[str, Any]:
        """Compare runs.

        Args:
            runs: Two or more.
            metrics: Names or globs; empty: the headline ranks.

        Returns:
            As the report has it, with ``call``.

        Raises:
            RequestError: If no run has such a measure, or they cannot be compared.
        """
        with ExitStack() as stack:
            for name in sorted(
                runs
            ):  # always in one order, so that none waits for ever
                stack.enter_context(runs[name].lock)
            for run in runs.values():
                run.look()
            tokens = tuple((n, run.records_token) for n, run in runs.items())
            key = tokens, tuple(metrics)
            with self._lock:
                known = self._kept.get(key)
            if known is None:
                known = _compared(runs, metrics)
                with self._lock:
                    while len(self._kept) >= _KEPT:
                        del self._kept[next(iter(self._kept))]
                    self._kept[key] = known
            return known


def _compared(runs: Mapping[str, LiveRun], metrics: Sequence[str]) -> dict[str, Any]:
    logs = {name: run.log for name, run in runs.items()}
    for metric in metrics:
        if not set("*?[") & set(metric):
            there = [m for log in logs.values() for m in log.metrics]
            try:
                check_known("metric", metric, dict.fromkeys(there), " and ".join(logs))
            except KeyError as error:
                what, _, hint = str(error.args[0]).partition("'. ")
                raise RequestError(404, f"{what}'.", hint) from None
    try:
        found = compare(logs, metric=list(metrics) or None)
    except (ValueError, KeyError) as error:
        raise RequestError(
            409, str(error.args[0]), "Choose other runs or another measure."
        ) from None
    tree = found.as_dict(curves=_CURVES)
    rows = tree["rows"]
    if len(rows) > _DIFFERENCES:
        tree["notes"].append(f"{_DIFFERENCES} of {len(rows):,} differences are listed.")
        tree["rows"] = rows[:_DIFFERENCES]
    return tree | {"call": "svdhooks.compare(runs)"}
