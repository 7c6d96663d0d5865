"""Records that speak of the whole run: the layer table and the time spent."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import svdhooks
from svdhooks import schema
from svdhooks.layers import Skipped
from svdhooks.layers.tap import Watched
from svdhooks.record import Record


@dataclass(frozen=True)
class Described:
    """What a log says of the model.

    Attributes:
        watched: Layers and taps, in the model's order.
        skipped: What is not watched, and why.
        pairs: Layers that feed each other, described.
    """

    watched: Sequence[Watched]
    skipped: Sequence[Skipped] = ()
    pairs: Sequence[Mapping[str, Any]] = ()


def meta_record(step: int, model: Described, settings: Mapping[str, Any]) -> Record:
    """Describe what is watched, how, and what is not.

    Args:
        step: Optimiser updates contained in the weights.
        model: What is watched and what is not.
        settings: The recorder's configuration.

    Returns:
        A record of quantity ``"meta"`` with a JSON text.
    """
    described = {
        "schema": schema.VERSION,
        "svdhooks": svdhooks.__version__,
        "start_step": settings.get("start_step") or 0,
        "layers": [layer.describe() for layer in model.watched],
        "skipped": [{"name": x.name, "reason": x.reason} for x in model.skipped],
        "settings": dict(settings),
    }
    if model.pairs:
        described["pairs"] = [dict(pair) for pair in model.pairs]
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
