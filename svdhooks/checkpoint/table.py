"""The log of a series as rows."""

from pathlib import Path
from typing import Any

import numpy as np

from svdhooks.runlog import RunLog

_POINT = "weight_"


def rows_of_log(log: Path) -> list[dict[str, Any]]:
    """One row for each step and layer, one column for each measure of the weights.

    Args:
        log: The log directory.

    Returns:
        ``step``, ``layer``, ``kind``, ``shape``, ``dtype``, then the measures; None where
        one is not known.
    """
    run = RunLog(log)
    metrics = [metric for metric in run.metrics if metric.startswith(_POINT)]
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for layer in run.layers:
        row = run.described[layer]
        for metric in metrics:
            for step, value in zip(*run.series(layer, metric), strict=True):
                key = int(step), layer
                head = {
                    "step": int(step),
                    "layer": layer,
                    "kind": row.get("kind"),
                    "shape": "x".join(map(str, row.get("shape", ()))),
                    "dtype": row.get("dtype"),
                    **dict.fromkeys(name.removeprefix(_POINT) for name in metrics),
                }
                found = rows.setdefault(key, head)
                if np.isfinite(value):
                    found[metric.removeprefix(_POINT)] = float(value)
    return [rows[key] for key in sorted(rows, key=lambda key: key[0])]
