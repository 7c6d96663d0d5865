"""The few numbers that answer the question of a refit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from svdhooks.experiments.refit import scores as scored
from svdhooks.experiments.refit.result import RefitResult, Row
from svdhooks.experiments.refit.seed import headline_k

FIRST, LAST = "V of the first layer", "U of the last layer"
ADJACENCY, UNITS, SIGNAL = "adjacency", "matched units", "signal of the first layer"
VECTORS = (FIRST, LAST, ADJACENCY, UNITS, SIGNAL)
"""What the claim is about; the other headlines are of the function."""
_ADJACENT = 8
_SAME_CHANCE = 0.05
"""Spans are compared with those of other arms if chance differs by less."""
_ORDERED = (FIRST, LAST, "left", "right")
_DRAWN = ("left", "right", "signal", "adjacency")


@dataclass(frozen=True)
class Summary:
    """The headlines of a refit: of the function, and those of ``VECTORS`` above chance.

    Attributes:
        ks: How many leading vectors a headline compares, where there is such a number.
        cells: (arm, headline) -> mean, low and high over seeds.
        differences: (other arm, headline) -> by how much ``fixed_s`` is closer to the
            original, seed by seed: mean, low and high.
        seeds: How many.
    """

    ks: dict[str, int]
    cells: dict[tuple[str, str], Row]
    differences: dict[tuple[str, str], Row]
    seeds: int

    def verdict(self, against: str) -> tuple[list[str], list[str]]:
        """Where ``fixed_s`` is closer to the original than another arm, and where farther.

        Args:
            against: The other arm.

        Returns:
            Names out of ``VECTORS``; those whose interval holds 0 are in neither.
        """
        found = {
            name: row
            for (arm, name), row in self.differences.items()
            if arm == against and name in VECTORS
        }
        ordered = [(name, found[name]) for name in VECTORS if name in found]
        closer = [name for name, row in ordered if row["low"] > 0]
        return closer, [name for name, row in ordered if row["high"] < 0]


def summarise(
    result: RefitResult, against: Sequence[str] = ("free", "flat_s")
) -> Summary:
    """Condense a refit.

    Args:
        result: Its scores.
        against: Arms that ``fixed_s`` is compared with.

    Returns:
        The headlines.
    """
    ks = _headline_ks(result.table)
    condensed = RefitResult(_headlines(result.table, ks), [])
    cells = {
        (row["arm"], row["side"]): row
        for above in (False, True)
        for row in comparable(condensed, above_chance=above)
        if (row["side"] in VECTORS) == above
    }
    differences = {
        (arm, row["side"]): row
        for arm in against
        for row in condensed.differences(arm)
        if (arm, row["side"]) in cells
    }
    seeds = len({row["seed"] for row in result.table})
    return Summary(ks, cells, differences, seeds)


def comparable(result: RefitResult, *, above_chance: bool = True) -> list[Row]:
    """Intervals of those spans that are as large in ``fixed_s`` as in the arm.

    The leading vectors of a flat spectrum are all of them. That so large a span holds the
    original's is no sign of likeness to be set beside the likeness of small ones.

    Args:
        result: Its scores.
        above_chance: As in ``RefitResult.intervals``.

    Returns:
        Rows as of ``RefitResult.intervals``.
    """
    chances = {
        (row["arm"], row["layer"], row["side"], row["k"]): row["chance"]
        for row in result.intervals()
    }

    def fits(row: Row) -> bool:
        place = (row["layer"], row["side"], row["k"])
        of_arm, ours = (chances.get((arm, *place)) for arm in (row["arm"], "fixed_s"))
        if row["side"] not in _ORDERED or of_arm is None or ours is None:
            return True
        return bool(abs(of_arm - ours) < _SAME_CHANCE)

    return [row for row in result.intervals(above_chance=above_chance) if fits(row)]


def rows_to_draw(result: RefitResult) -> list[Row]:
    """What the figure shows: scores above chance, that may be compared between arms.

    Args:
        result: Its scores.

    Returns:
        Rows for ``svdhooks.analysis.plot_refit``.
    """
    shown = (*_DRAWN, scored.FUNCTION)
    return [row for row in comparable(result) if row["side"] in shown]


def _headline_ks(rows: Sequence[Row]) -> dict[str, int]:
    """How many leading vectors each headline compares."""
    layers = [*dict.fromkeys(row["layer"] for row in rows if row["side"] == "right")]
    out: dict[str, int] = {}
    for row in rows:
        k, place = row["k"], (row["layer"], row["side"])
        if place == (layers[0], "right"):
            out[FIRST] = max(out.get(FIRST, 0), k)
        elif place == (layers[-1], "left"):
            out[LAST] = max(out.get(LAST, 0), k)
        elif place == (layers[0], "signal"):
            out[SIGNAL] = max(out.get(SIGNAL, 0), k)
        elif place[1] == "adjacency" and k <= _ADJACENT:
            out[ADJACENCY] = max(out.get(ADJACENCY, 0), k)
    return {name: k if name == ADJACENCY else headline_k(k) for name, k in out.items()}


def _headlines(rows: Sequence[Row], ks: dict[str, int]) -> list[Row]:
    """Rows that have the headline for a side; those of several layers are averaged."""
    layers = [*dict.fromkeys(row["layer"] for row in rows if row["side"] == "right")]
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        name = _name_of(row, layers, ks)
        if name is not None:
            key = (row["seed"], row["arm"], row["restart"], name)
            found.setdefault(key, []).append(row)
    return [
        {
            "seed": seed,
            "arm": arm,
            "restart": restart,
            "layer": "",
            "side": name,
            "k": ks.get(name),
            "score": _mean([row["score"] for row in group]),
            "chance": _mean([row["chance"] for row in group]),
        }
        for (seed, arm, restart, name), group in found.items()
    ]


def _name_of(row: Row, layers: Sequence[str], ks: dict[str, int]) -> str | None:
    """The headline that a row belongs to, if any."""
    layer, side, k = row["layer"], row["side"], row["k"]
    if side == scored.FUNCTION:
        return str(layer)
    if side == "units":
        return UNITS
    at = {
        (layers[0], "right"): FIRST,
        (layers[-1], "left"): LAST,
        (layer, "adjacency"): ADJACENCY,
        (layers[0], "signal"): SIGNAL,
    }
    name = at.get((layer, side))
    return name if name is not None and k == ks.get(name) else None


def _mean(values: Sequence[float | None]) -> Any:
    """Over the layers that have the score; NaN if none has, None if there is no such."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    finite = [value for value in known if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
