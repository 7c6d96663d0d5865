"""What a refit has found so far, on disk: a run that is stopped goes on where it was.

A directory holds the settings, the weights of each seed's original, and of each seed and
arm the weights and the scores. Every file is there whole or not at all; that of the scores
is written last and says that the arm is done.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from svdhooks.experiments.refit.networks import linear_layers
from svdhooks.wholefile import written_whole

SETTINGS = "settings.json"
Row = dict[str, Any]


class RefitStore:
    """A directory of results.

    Args:
        out: Made if it is not there.
        settings: What decides the results, as JSON holds it.

    Raises:
        ValueError: If the directory holds results of other settings, or other files.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self._out = out
        wanted = json.loads(json.dumps(settings))
        path = out / SETTINGS
        if path.exists():
            _check_same(out, json.loads(path.read_text("utf-8")), wanted)
            return
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(
                f"Found other files at {out}, expected an empty directory or one of an "
                "earlier refit. Pass another one."
            )
        out.mkdir(parents=True, exist_ok=True)
        _write_json(path, wanted)

    def original(self, seed: int) -> dict[str, Tensor] | None:
        """The weights of a seed's trained network, if it is there."""
        path = self._out / f"seed{seed}-original.safetensors"
        return load_file(path) if path.exists() else None

    def keep_original(self, seed: int, network: nn.Sequential) -> None:
        """Write the weights of a seed's trained network."""
        _write_weights(self._out / f"seed{seed}-original.safetensors", network)

    def rows(self, seed: int, arm: str) -> tuple[list[Row], list[Row]] | None:
        """The final scores and those over training of one arm, if it is done."""
        path = self._out / f"seed{seed}-{arm}.json"
        if not path.exists():
            return None
        found = json.loads(path.read_text("utf-8"))
        table, trajectory = ([_read_row(row) for row in found[key]] for key in _KEYS)
        return table, trajectory

    def keep(
        self,
        seed: int,
        arm: str,
        network: nn.Sequential,
        rows: tuple[list[Row], list[Row]],
    ) -> None:
        """Write the weights and scores of one arm.

        Args:
            seed: Of the original.
            arm: Its name.
            network: After training.
            rows: Final scores, and those over training.
        """
        stem = f"seed{seed}-{arm}"
        _write_weights(self._out / f"{stem}.safetensors", network)
        written = [[_written_row(row) for row in part] for part in rows]
        _write_json(self._out / f"{stem}.json", dict(zip(_KEYS, written, strict=True)))


_KEYS = ("table", "trajectory")


def _check_same(out: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    apart = [
        f"{name} {found.get(name)!r} instead of {wanted.get(name)!r}"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]
    if apart:
        raise ValueError(
            f"Found results of other settings in {out}: {'; '.join(apart)}. Expected the "
            "same ones, to go on where that run stopped. Pass them, or another directory."
        )


def _write_json(path: Path, value: Any) -> None:
    with written_whole(path) as part:
        part.write_text(json.dumps(value, allow_nan=False), "utf-8")


def _write_weights(path: Path, network: nn.Sequential) -> None:
    named: dict[str, Tensor] = {}
    for name, layer in linear_layers(network).items():
        for part in ("weight", "bias"):
            value = getattr(layer, part)
            if value is not None:
                named[f"{name}.{part}"] = value.detach().clone().contiguous()
    with written_whole(path) as written:
        save_file(named, written)


def _written_row(row: Row) -> Row:
    """JSON has no NaN."""
    score = row["score"]
    return {**row, "score": None if math.isnan(score) else score}


def _read_row(row: Row) -> Row:
    return {**row, "score": math.nan if row["score"] is None else row["score"]}
