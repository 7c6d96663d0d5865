"""What a refit found: rows of scores, their bootstrap intervals over seeds, and files."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.wholefile import written_whole

Row = dict[str, Any]
RESAMPLES = 10_000
PLACE = ("layer", "side", "k")
"""What tells one score from another."""


@dataclass(frozen=True)
class RefitResult:
    """The scores of a refit.

    Attributes:
        table: After training: rows with seed, arm, restart, layer, side, k (None where
            there is no such number), score and chance.
        trajectory: The same over training, with the step; headline scores only.
    """

    table: list[Row]
    trajectory: list[Row]

    def intervals(
        self, *, above_chance: bool = False, confidence: float = 0.95
    ) -> list[Row]:
        """Means over seeds, with percentile bootstrap intervals.

        Restarts of one seed are averaged first: they share an original, so seeds are what
        is drawn. With few seeds such intervals are too narrow; of one they have no width.

        Args:
            above_chance: Take ``(score - chance) / (1 - chance)``: 0 by chance, 1 if equal.
                Scores whose chance is unknown or 1 are left out.
            confidence: Of the intervals.

        Returns:
            Rows with arm, layer, side, k, mean, low, high, chance and seeds, a count.
        """
        rows = _above(self.table) if above_chance else self.table
        return [
            {
                "arm": arm,
                **dict(zip(PLACE, place, strict=True)),
                **_interval(np.array([*by_seed.values()]), confidence),
                "chance": _mean_chance(rows_here),
            }
            for (arm, *place), (by_seed, rows_here) in _grouped(rows).items()
        ]

    def differences(
        self, against: str, arm: str = "fixed_s", confidence: float = 0.95
    ) -> list[Row]:
        """How much closer to the original one arm is than another, seed by seed.

        Args:
            against: The other arm.
            arm: The one.
            confidence: Of the intervals.

        Returns:
            Rows with layer, side, k, mean, low, high and seeds, of scores above chance.
        """
        groups = _grouped(_above(self.table))
        out = []
        for (name, *place), (by_seed, _) in groups.items():
            other = groups.get((against, *place), ({}, []))[0]
            shared = [seed for seed in by_seed if seed in other]
            if name == arm and shared:
                values = np.array([by_seed[seed] - other[seed] for seed in shared])
                named = dict(zip(PLACE, place, strict=True))
                out.append({**named, **_interval(values, confidence)})
        return out

    def write(self, out: Path) -> list[Path]:
        """Write the rows as tables.

        Args:
            out: A directory that exists.

        Returns:
            ``scores.csv``, ``intervals.csv``, ``above_chance.csv`` and
            ``trajectory.csv``.
        """
        tables = {
            "scores.csv": self.table,
            "intervals.csv": self.intervals(),
            "above_chance.csv": self.intervals(above_chance=True),
            "trajectory.csv": self.trajectory,
        }
        for name, rows in tables.items():
            _write_csv(out / name, rows)
        return [out / name for name in tables]


def _above(rows: Sequence[Row]) -> list[Row]:
    """Scores above chance, in units of what is left to equality."""
    known = (r for r in rows if r["chance"] is not None and r["chance"] < 1 - 1e-9)
    return [
        {**r, "score": (r["score"] - r["chance"]) / (1 - r["chance"]), "chance": 0.0}
        for r in known
    ]


_Groups = dict[tuple[Any, ...], tuple[dict[int, float], list[Row]]]


def _grouped(rows: Sequence[Row]) -> _Groups:
    """(arm, layer, side, k) -> seed -> mean score of its restarts; and the rows."""
    found: dict[tuple[Any, ...], dict[int, list[float]]] = {}
    whole: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = (row["arm"], *(row[name] for name in PLACE))
        whole.setdefault(key, []).append(row)
        # NaN: there is nothing to compare, as with the order within a flat spectrum
        if np.isfinite(row["score"]):
            found.setdefault(key, {}).setdefault(row["seed"], []).append(row["score"])
    return {
        key: ({seed: float(np.mean(v)) for seed, v in by_seed.items()}, whole[key])
        for key, by_seed in found.items()
    }


def _mean_chance(rows: Sequence[Row]) -> float | None:
    known = [row["chance"] for row in rows if row["chance"] is not None]
    return float(np.mean(known)) if known else None


def _interval(values: NDArray[np.float64], confidence: float) -> Row:
    """Mean, ends of the percentile bootstrap interval, and how many seeds."""
    # the same resamples for every row, and on every call
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(values), size=(RESAMPLES, len(values)))
    means = values[drawn].mean(axis=1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return {
        "mean": float(values.mean()),
        "low": float(low),
        "high": float(high),
        "seeds": len(values),
    }


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    with (
        written_whole(path) as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=[*rows[0]] if rows else [])
        writer.writeheader()
        writer.writerows(rows)
