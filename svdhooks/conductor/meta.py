"""Records that speak of the whole run: the layer table and the time spent."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import svdhooks
from svdhooks import schema
from svdhooks.layers import Skipped
from svdhooks.layers.tap import Watched
from svdhooks.record import Record


def meta_record(
    step: int,
    watched: Sequence[Watched],
    skipped: Sequence[Skipped],
    settings: Mapping[str, Any],
) -> Record:
    """Describe what is watched, how, and what is not.

    Args:
        step: Optimiser updates contained in the weights.
        watched: Layers and taps, in the model's order.
        skipped: What is not watched.
        settings: The recorder's configuration.

    Returns:
        A record of quantity ``"meta"`` with a JSON text.
    """
    described = {
        "schema": schema.VERSION,
        "svdhooks": svdhooks.__version__,
        "start_step": settings.get("start_step") or 0,
        "layers": [layer.describe() for layer in watched],
        "skipped": [{"name": entry.name, "reason": entry.reason} for entry in skipped],
        "settings": dict(settings),
    }
    return Record(step, "", "meta", {"json": np.array(json.dumps(described))})


def run_record(step: int, values: Mapping[str, float | int]) -> Record:
    """State what a record cost and where it stands on the logger's axis.

    Args:
        step: Optimiser updates contained in the weights.
        values: Name -> number.

    Returns:
        A record of quantity ``"run"``.
    """
    return Record(
        step, "", "run", {name: np.asarray(value) for name, value in values.items()}
    )
