"""One seed of the refit experiment: an original, its arms, and what is compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from svdhooks.experiments.refit.networks import ARMS, count_steps, make_model, start_of
from svdhooks.experiments.refit.result import RefitResult, Row
from svdhooks.experiments.refit.scores import (
    AGREEMENT,
    CKA,
    FUNCTION,
    Score,
    Seen,
    compare,
    see,
)
from svdhooks.experiments.refit.settings import RefitSettings
from svdhooks.experiments.refit.store import RefitStore
from svdhooks.experiments.refit.training import Data, Training, train

Tell = Callable[[str, int, int], None]
"""Is told what is trained now, and how many of how many steps are done."""
Chance = dict[tuple[str, str, int | None], float]
"""(layer, side, k) -> mean score of untrained networks."""


class Clock:
    """Counts the steps of all trainings.

    Args:
        tell: Told of each; None for nobody.
        settings: How many there are.
    """

    def __init__(self, tell: Tell | None, settings: RefitSettings) -> None:
        self._tell = tell
        self._steps = settings.steps
        self._done = 0
        self._all = settings.seeds * settings.steps * (1 + len(ARMS))

    def look(self, what: str) -> Callable[[int], None]:
        """Make what is to be called with every step of one training.

        Args:
            what: Its name.

        Returns:
            Takes the step.
        """

        def seen(step: int) -> None:
            if self._tell is not None:
                self._tell(what, self._done + step, self._all)

        return seen

    def end(self, what: str) -> None:
        """One training is over, or was not needed."""
        self._done += self._steps
        self.look(what)(0)


@dataclass(frozen=True)
class OneSeed:
    """One original and all arms.

    Attributes:
        settings: What to do.
        seed: Decides all that is random.
        data: To learn from, and to compare on.
    """

    settings: RefitSettings
    seed: int
    data: Data
    _chances: dict[str, Chance] = field(default_factory=dict)

    def run(
        self, store: RefitStore, model: nn.Sequential | None, clock: Clock
    ) -> RefitResult:
        """Run what is not there yet.

        Args:
            store: Where results are kept.
            model: The original; None: it is trained first.
            clock: Told of every step.

        Returns:
            All scores of this seed.
        """
        original = self._original(store, clock) if model is None else model
        clock.end(self._name("original"))
        (seen,) = see(original, self.data)
        table: list[Row] = self._described(seen)
        trajectory: list[Row] = []
        for arm in ARMS:
            rows = store.rows(self.seed, arm)
            if rows is None:
                look = clock.look(self._name(arm))
                network, rows = self._arm(arm, original, seen, look)
                store.keep(self.seed, arm, network, rows)
            table += rows[0]
            trajectory += rows[1]
            clock.end(self._name(arm))
        return RefitResult(table, trajectory)

    def _name(self, what: str) -> str:
        return f"seed {self.seed}, {what}"

    def _described(self, seen: Seen) -> list[Row]:
        """The original compared with itself: its loss and accuracy."""
        scores = [s for s in compare(seen, seen, (1,)) if s.side == FUNCTION]
        return self._rows("original", [scores], {})

    def _original(self, store: RefitStore, clock: Clock) -> nn.Sequential:
        settings, kept = self.settings, store.original(self.seed)
        model = make_model(settings.widths, self.seed)
        if kept is not None:
            model.load_state_dict(kept)
            return model
        look = clock.look(self._name("original"))
        train(model, self.data, self._training(free=True), self._random(1), look)
        store.keep_original(self.seed, model)
        return model

    def _training(self, *, free: bool) -> Training:
        s = self.settings
        if free:
            return Training(s.steps, s.learning_rate, s.weight_decay, s.batch_size)
        # decay of what parametrises U and V would not act on the weight
        return Training(s.steps, s.turn_rate, 0.0, s.batch_size)

    def _start(
        self, arm: str, original: nn.Sequential, count: int, purpose: int
    ) -> nn.Sequential:
        return start_of(
            arm,
            original,
            count,
            self._random(purpose, ARMS.index(arm)),
            angle=self.settings.angle,
            orthogonal_map=self.settings.orthogonal_map,
        )

    def _arm(
        self, arm: str, original: nn.Sequential, seen: Seen, told: Callable[[int], None]
    ) -> tuple[nn.Sequential, tuple[list[Row], list[Row]]]:
        network = self._start(arm, original, self.settings.restarts, 2)
        chance = self._chance(arm, original, seen)
        at = count_steps(0 if arm == "haar" else self.settings.steps)
        trajectory: list[Row] = []

        def look(step: int) -> None:
            told(step)
            if step in at:
                ks = headline_ks(seen)
                rows = self._rows(arm, self._compared(network, seen, ks), chance)
                trajectory.extend({**row, "step": step} for row in rows)

        if arm == "haar":
            look(0)
        else:
            training = self._training(free=arm == "free")
            train(network, self.data, training, self._random(3), look)
        table = self._rows(arm, self._compared(network, seen), chance)
        return network, (table, trajectory)

    def _compared(
        self, network: nn.Sequential, seen: Seen, ks: Sequence[int] | None = None
    ) -> list[list[Score]]:
        gap = self.settings.gap
        others = see(network, self.data)
        if ks is None:
            return [compare(seen, other, gap=gap) for other in others]
        return [compare(seen, other, ks, gap) for other in others]

    def _chance(self, arm: str, original: nn.Sequential, seen: Seen) -> Chance:
        """Mean scores of untrained networks with the arm's singular values."""
        drawn = arm if arm in {"flat_s", "shuffled_s"} else "haar"
        if drawn in self._chances:
            return self._chances[drawn]
        network = self._start(drawn, original, self.settings.chance_draws, 4)
        found: dict[tuple[str, str, int | None], list[float]] = {}
        for scores in self._compared(network, seen):
            for s in scores:
                found.setdefault((s.layer, s.side, s.k), []).append(s.score)
        means = {key: float(np.mean(values)) for key, values in found.items()}
        return self._chances.setdefault(drawn, means)

    def _rows(
        self,
        arm: str,
        restarts: Sequence[Sequence[Score]],
        chance: Chance,
    ) -> list[Row]:
        return [
            {
                "seed": self.seed,
                "arm": arm,
                "restart": restart,
                "layer": s.layer,
                "side": s.side,
                "k": s.k,
                "score": s.score,
                "chance": _chance_of(s, chance),
            }
            for restart, scores in enumerate(restarts)
            for s in scores
        ]

    def _random(self, *purpose: int) -> torch.Generator:
        return generator_of(self.seed, *purpose)


def _chance_of(score: Score, drawn: Chance) -> float | None:
    """What theory knows, else what random networks gave; losses have no such level."""
    if score.chance is not None:
        return score.chance
    if score.side == FUNCTION and score.layer not in {AGREEMENT, CKA}:
        return None
    return drawn.get((score.layer, score.side, score.k))


def generator_of(seed: int, *purpose: int) -> torch.Generator:
    """A source of randomness for one purpose, whatever was drawn for others.

    Args:
        seed: Of the repetition.
        *purpose: Numbers that name it.

    Returns:
        A generator of its own.
    """
    (state,) = np.random.SeedSequence((seed, *purpose)).generate_state(1)
    return torch.Generator().manual_seed(int(state))


def headline_k(rank: int) -> int:
    """How many leading vectors the summary compares.

    Args:
        rank: How many there are.

    Returns:
        A quarter of them, at most 8, so that chance stays at a quarter or below.
    """
    return max(1, min(8, rank // 4))


def headline_ks(seen: Seen) -> tuple[int, ...]:
    """The numbers of leading vectors that are followed over training.

    Args:
        seen: The original.

    Returns:
        Ascending.
    """
    ranks = {len(f.sigma) for f in seen.factors}
    return tuple(sorted({3, 8, *map(headline_k, ranks)}))
