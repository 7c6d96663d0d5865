"""Tokens that become the same: attention without skip connections."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from svdhooks.cli.demo_kind import HALF, Column, Demo, Findings, Run, watched
from svdhooks.runlog import RunLog

if TYPE_CHECKING:
    from torch import Tensor

HEALTHY, COLLAPSED = "with-skip-connections", "without-skip-connections"
EMBEDDING = "embedding"
BLOCKS = 12
LAST = f"block {BLOCKS}"
EVERY = 60
PROBE_SAMPLES = 256
EQUAL = 1.05
"""Tokens of a lower effective rank are the same up to a few per cent."""
_TELL_EVERY = 5
_NEAR = 0.05


def introduction(images: int, steps: int) -> str:
    """What is going to happen."""
    return (
        f"Two networks, {BLOCKS} blocks of attention and nothing else, learn to turn "
        f"{images:,} handwritten digits upside down, {steps:,} steps each. A digit is a "
        "sequence of 8 tokens, its rows. The second network's blocks lack the "
        "[bold]skip connection[/bold].\n\nWatch the rank of the tokens within one digit, "
        "and the rank of all tokens of all digits together."
    )


def train(images: "Tensor", _labels: "Tensor", run: Run) -> None:
    """Train one of the two in a plain loop.

    Args:
        images: The digits.
        run: Which one, and where to.
    """
    import svdhooks
    from svdhooks.experiments import attention

    model = attention.AttentionOnly(run.healthy, run.seed)
    taps = {f"block {i + 1}": f"blocks.{i}" for i in range(BLOCKS)}
    tokens = svdhooks.TokenRank(layers=(EMBEDDING, "block *"))
    run.tell(0, 0.0)
    with watched(
        model,
        run,
        every=EVERY,
        probe=images[:PROBE_SAMPLES],
        taps={EMBEDDING: "place"} | taps,
        quantities=("weight_spectrum", "covariance", tokens),
    ) as (recorder, scalars):
        floor = attention.floor_of_equal_tokens(images)
        training = attention.train(model, images, seed=run.seed, steps=run.steps)
        for step, loss in enumerate(training, start=1):
            recorder.step()
            if step % _TELL_EVERY == 0 or step == run.steps:
                run.tell(step, loss)
                scalars.add_scalar("train_loss", loss, step)
        scalars.add_scalar("error", attention.error(model, images), run.steps)
        scalars.add_scalar("floor_of_equal_tokens", floor, run.steps)


@dataclass(frozen=True)
class Evidence:
    """What the log of one run says.

    Attributes:
        tokens: Mean effective rank within a sequence, behind each block: at the first
            and at the last record.
        pooled: Effective rank of the covariance over all tokens, behind each block, at
            the last record.
        embedding: The same of what enters the first block.
        weights: Median effective rank of the weights, at the last record.
        error: Of the trained network.
        floor: The least error that equal tokens allow.
    """

    tokens: tuple[Sequence[float], Sequence[float]]
    pooled: Sequence[float]
    embedding: float
    weights: float
    error: float
    floor: float

    def equal_from(self, record: int) -> int | None:
        """The block, from 1, behind which tokens are equal in it and all later ones.

        Args:
            record: 0 for the first record, -1 for the last.

        Returns:
            Its number, or None if the last block's tokens differ.
        """
        ranks = self.tokens[record]
        different = [i for i, rank in enumerate(ranks, 1) if not rank < EQUAL]
        start = max(different, default=0) + 1
        return start if start <= len(ranks) else None


def read(log: RunLog) -> Evidence:
    """Read a run.

    Args:
        log: Of one run.

    Returns:
        Its evidence.
    """
    blocks = [name for name in log.layers if name.startswith("block ")]
    within = [log.series(name, "tokens_effective_rank")[1] for name in blocks]
    weights = [
        log.series(row["name"], "weight_effective_rank")[1][-1]
        for row in log.meta["layers"]
        if row["kind"] != "tap"
    ]
    return Evidence(
        tokens=([float(x[0]) for x in within], [float(x[-1]) for x in within]),
        pooled=[_pooled(log, name) for name in blocks],
        embedding=_pooled(log, EMBEDDING),
        weights=float(np.median(weights)),
        error=float(log.scalars("error")[1][-1]),
        floor=float(log.scalars("floor_of_equal_tokens")[1][-1]),
    )


def _pooled(log: RunLog, name: str) -> float:
    return float(log.series(name, "output_effective_rank")[1][-1])


def conclude(healthy: RunLog, collapsed: RunLog) -> Findings:
    """Read ranks within and over sequences, and errors, from both logs.

    Args:
        healthy: With skip connections.
        collapsed: Without.

    Returns:
        What the numbers show.
    """
    both = read(healthy), read(collapsed)
    within, of_within = (f"{e.tokens[-1][-1]:.2f}" for e in both)
    pooled, of_pooled = (f"{e.pooled[-1]:.1f}" for e in both)
    weights, of_weights = (f"{e.weights:.1f}" for e in both)
    error, of_error = (f"{e.error:.4f}" for e in both)
    floor, of_floor = (f"{e.floor:.4f}" for e in both)
    last = f"block {len(both[0].tokens[-1])}"
    return Findings(
        rows=[
            (f"rank in one digit, {last}", within, of_within),
            (f"rank over all, {last}", pooled, of_pooled),
            ("rank of the weights, median", weights, of_weights),
            ("error", error, of_error),
            ("least error of equal tokens", floor, of_floor),
        ],
        verdict=verdict(*both),
    )


def verdict(healthy: Evidence, collapsed: Evidence) -> str:
    """Where the tokens became equal, and what shows it, in words; or that they did not.

    Args:
        healthy: Of the run with skip connections.
        collapsed: Of the run without.

    Returns:
        A few sentences.
    """
    start = collapsed.equal_from(-1)
    if start is None:
        return (
            "In this run the tokens did not become the same without skip connections "
            f"(rank {collapsed.tokens[-1][-1]:.2f} behind the last block). Try another "
            "--seed."
        )
    return " ".join((
        "[bold]Without skip connections all tokens of a digit are the same[/bold] from "
        f"block {start} on (rank {collapsed.tokens[-1][start - 1]:.2f})"
        f"{_before_training(collapsed, start)}.",
        _of_healthy(healthy),
        _of_pooled(collapsed, start),
        _of_error(collapsed),
    ))


def _before_training(collapsed: Evidence, start: int) -> str:
    early = collapsed.equal_from(0)
    if early is None:
        return ""
    if early == start:
        return ", and were before any training"
    return f"; before any training it was so from block {early} on"


def _of_healthy(healthy: Evidence) -> str:
    rank = healthy.tokens[-1][-1]
    if healthy.equal_from(-1) is None:
        return f"With them the last block still tells them apart (rank {rank:.1f})."
    return f"With them they become the same too (rank {rank:.2f})."


def _of_pooled(collapsed: Evidence, start: int) -> str:
    there = collapsed.pooled[start - 1 :]
    span = f"{min(there):.1f} to {max(there):.1f}, {collapsed.embedding:.1f} at the embedding"
    if min(there) >= HALF * collapsed.embedding:
        return (
            "[bold]The covariance over all tokens does not show it:[/bold] its effective "
            f"rank there is {span}."
        )
    return (
        f"The covariance over all tokens falls too: its effective rank there is {span}."
    )


def _of_error(collapsed: Evidence) -> str:
    share = collapsed.error / collapsed.floor
    if abs(share - 1) < _NEAR:
        return (
            f"Its error ends at {collapsed.error:.4f}; the least that equal tokens allow is "
            f"{collapsed.floor:.4f}."
        )
    side = "above" if share > 1 else "below"
    return (
        f"Its error of {collapsed.error:.4f} is still {side} the {collapsed.floor:.4f} "
        "that equal tokens allow at best."
    )


def _all_equal(trail: Sequence[float]) -> bool:
    return trail[-1] < EQUAL


DEMO = Demo(
    runs=(HEALTHY, COLLAPSED),
    steps=600,
    introduction=introduction,
    number="loss {number:.4f}",
    columns=(
        Column("tokens", "effective_rank", "one digit\neff. rank", _all_equal),
        Column("output", "effective_rank", "all tokens\neff. rank"),
    ),
    marked=LAST,
    caption="what leaves here is all that the answers are made of",
    train=train,
    conclude=conclude,
    alarms="lm",
    title="ranks behind every block, first → now",
)
