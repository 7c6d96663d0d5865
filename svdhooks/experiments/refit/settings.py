"""What a refit does: its settings."""

from dataclasses import dataclass

from svdhooks.experiments.refit.layers import MAPS
from svdhooks.experiments.refit.networks import DEFAULT_WIDTHS


@dataclass(frozen=True)
class RefitSettings:
    """What a refit does; all of it but the number of seeds decides each result.

    Attributes:
        seeds: How many originals, or with a model of your own how many repetitions.
        restarts: Networks of each arm and seed; they train side by side.
        steps: Optimiser steps of each training.
        widths: Of the originals.
        learning_rate: Of whole weights: of the originals and of ``free``.
        turn_rate: Of U and V.
        weight_decay: Of whole weights (AdamW). With S fixed it would be a constant.
        batch_size: Samples for each step.
        angle: By how much ``perturbed`` turns the true vectors, in radians.
        orthogonal_map: How U and V are parametrised.
        gap: Singular values closer than this (relative) are compared as one span.
        test_share: Of the samples.
        chance_draws: Untrained networks that show what chance gives.
    """

    seeds: int = 5
    restarts: int = 3
    steps: int = 1000
    widths: tuple[int, ...] = DEFAULT_WIDTHS
    learning_rate: float = 1e-2
    turn_rate: float = 1e-2
    weight_decay: float = 0.5
    batch_size: int = 128
    angle: float = 0.3
    orthogonal_map: str = MAPS[0]
    gap: float = 0.02
    test_share: float = 0.2
    chance_draws: int = 24

    def __post_init__(self) -> None:
        for name in ("seeds", "restarts", "steps", "batch_size", "chance_draws"):
            _check(name, getattr(self, name), at_least=1)
        for name in ("learning_rate", "turn_rate", "weight_decay", "angle", "gap"):
            _check(name, getattr(self, name), at_least=0)
        if self.orthogonal_map not in MAPS:
            raise ValueError(
                f"Found orthogonal_map={self.orthogonal_map!r}, expected one of "
                f"{', '.join(MAPS)}."
            )
        if not 0 <= self.test_share < 1:
            raise ValueError(
                f"Found test_share={self.test_share}, expected at least 0 and below 1."
            )


def _check(name: str, value: int | float, at_least: int) -> None:
    if not value >= at_least:
        raise ValueError(f"Found {name}={value}, expected at least {at_least}.")
