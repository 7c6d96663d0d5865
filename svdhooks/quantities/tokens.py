"""The rank within one sequence: do its tokens still differ?"""

import fnmatch
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from svdhooks.distributed.team import Team
from svdhooks.distributed.uniting import gathered
from svdhooks.layers import PointValue
from svdhooks.layers.tap import Watched
from svdhooks.linalg.tokens import TokenRanks, token_ranks
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.quantities.values import NON_FINITE, check_positive
from svdhooks.record import OK, Record
from svdhooks.reports import status_of
from svdhooks.schedule import Schedule

TOKEN_MEASURES = (
    "effective_rank",
    "effective_rank_min",
    "stable_rank",
    "residual",
    "length",
    "count",
)


@dataclass(frozen=True)
class TokenRank:
    """The rank of the tokens of one sequence, averaged over sequences.

    The covariance over all tokens of all sequences stays healthy while attention makes
    the tokens of each sequence equal; this rank reads 1 then. Measured at the output of
    layers and taps that have a sequence axis; others are left out, unless named by
    ``layers``.

    Attributes:
        layers: Globs on the names of layers and taps; None: all.
        max_sequences: Of a larger batch that many sequences, evenly spread, are taken;
            of several processes each takes that many of its own batch.
        max_length: Longer sequences are left out with a status: the cost grows with
            the cube of ``min(length, features)``.
        schedule: Its own schedule; None: the recorder's.
    """

    layers: str | Sequence[str] | None = None
    max_sequences: int = 32
    max_length: int = 4096
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            TypeError: If one is of a wrong kind.
            ValueError: If a number is not positive.
        """
        check_positive(self, "max_sequences", "max_length")
        if not all(isinstance(glob, str) for glob in self._globs()):
            raise TypeError(
                f"TokenRank(layers={self.layers!r}): expected globs on the names of "
                "layers and taps, such as 'encoder.*'."
            )

    def _globs(self) -> tuple[Any, ...]:
        several = isinstance(self.layers, Iterable) and not isinstance(self.layers, str)
        return tuple(self.layers or ()) if several else (self.layers or "",)

    @property
    def name(self) -> str:
        """Under which its records are filed."""
        return "token_rank"

    def observer(
        self, layers: Sequence[Watched], context: ProbeContext
    ) -> "TokenObserver":
        """Start to observe one probe.

        Args:
            layers: Those chosen for this record.
            context: What is known about the probe.

        Returns:
            The observer.
        """
        return TokenObserver(self, layers, context)

    def measured_points(self, layer: Watched) -> list[str]:
        """The output of the layers and taps that the user asked for."""
        wanted = self.layers is None or self.names(layer)
        return ["output"] if wanted and "output" in layer.points else []

    def skipped_points(self, layer: Watched) -> dict[str, str]:  # noqa: ARG002
        """None: what is too long is known when it is seen."""
        return {}

    def names(self, layer: Watched) -> bool:
        """Whether the user named this layer or tap."""
        return any(fnmatch.fnmatchcase(layer.name, glob) for glob in self._globs())


class TokenObserver:
    """Measures the sequences that pass the outputs during one probe.

    Args:
        quantity: The options.
        layers: Those chosen for this record.
        context: What is known about the probe.
    """

    def __init__(
        self, quantity: TokenRank, layers: Sequence[Watched], context: ProbeContext
    ) -> None:
        self._quantity = quantity
        self._context = context
        self._layers = {layer.name: layer for layer in layers}
        self._found: dict[str, list[TokenRanks]] = {}
        self._problems: dict[str, str] = {}
        self._seconds: dict[str, float] = {}

    def receive(self, layer: Watched, values: Mapping[str, PointValue]) -> None:
        """Measure what one call of a layer's module showed.

        Args:
            layer: The layer or tap.
            values: Point name -> value.
        """
        if layer.name not in self._layers or "output" not in values:
            return
        begun = time.perf_counter()
        sequences = _sequences(values["output"], self._context.mask)
        if sequences is None:
            if self._quantity.names(layer):
                self._problems[layer.name] = "its output has no sequence axis"
            return
        X, mask = sequences
        if X.shape[1] > self._quantity.max_length:
            self._problems[layer.name] = (
                f"sequences of {X.shape[1]} tokens exceed max_length="
                f"{self._quantity.max_length}"
            )
            return
        chosen = _evenly(X.shape[0], self._quantity.max_sequences, X.device)
        ranks = token_ranks(X[chosen], None if mask is None else mask[chosen])
        self._found.setdefault(layer.name, []).append(ranks)
        spent = time.perf_counter() - begun
        self._seconds[layer.name] = self._seconds.get(layer.name, 0.0) + spent

    def fail(self, layer: Watched, error: Exception) -> None:
        """Note that reading a layer's points failed."""
        if layer.name in self._layers:
            self._problems[layer.name] = status_of(error)

    def unite(self, team: Team, counts: bool) -> None:
        """Put together the sequences that all processes saw; collective.

        Args:
            team: The processes.
            counts: Whether what this process saw counts.
        """

        def state() -> tuple[dict[str, list[TokenRanks]], dict[str, str]]:
            found = {
                name: [_on_cpu(x) for x in several]
                for name, several in self._found.items()
            }
            return found, self._problems

        united = gathered(team, state, counts)
        if united is None:  # another process records them
            self._layers = {}
            return
        states, problem = united
        self._found, self._problems = {}, {}
        for found, problems in states:
            self._problems |= problems
            for name, ranks in found.items():
                self._found.setdefault(name, []).extend(ranks)
        if problem is not None:
            self._problems |= dict.fromkeys(self._layers, problem)

    def records(self) -> list[Record]:
        """One record per layer and tap whose output has a sequence axis."""
        return [
            self._record(name)
            for name, layer in self._layers.items()
            if name in self._found
            or name in self._problems
            # called never: that is worth saying where somebody asked for it
            or self._quantity.names(layer)
        ]

    def _record(self, name: str) -> Record:
        status = self._problems.get(name, OK)
        if name not in self._found and status == OK:
            status = f"not called in {self._context.source}"
        values = dict.fromkeys(TOKEN_MEASURES, np.nan)
        if status == OK:
            values = _averages(self._found[name])
            if not np.isfinite(list(values.values())).all():
                status = NON_FINITE
        return Record(
            self._context.step,
            name,
            self._quantity.name,
            {field: np.asarray(value) for field, value in values.items()},
            status=status,
            method="gram",
            seconds=self._seconds.get(name, 0.0),
            point="tokens",
        )


def _on_cpu(ranks: TokenRanks) -> TokenRanks:
    """For other processes, which may not have this device."""
    return TokenRanks(*(getattr(ranks, each.name).cpu() for each in fields(ranks)))


def _averages(found: Sequence[TokenRanks]) -> dict[str, float]:
    """Means over the sequences that hold two tokens or more."""

    def column(field: str) -> Tensor:
        return torch.cat([getattr(ranks, field) for ranks in found])

    tokens = column("tokens")
    # one token is of rank 1 whatever happens
    several = tokens >= min(2.0, float(tokens.max())) if len(tokens) else tokens > 0
    if not several.any():
        return dict.fromkeys(TOKEN_MEASURES, np.nan) | {"count": 0.0}
    effective = column("effective_rank")[several]
    return {
        "effective_rank": float(effective.mean()),
        "effective_rank_min": float(effective.min()),
        "stable_rank": float(column("stable_rank")[several].mean()),
        "residual": float(column("residual")[several].mean()),
        "length": float(tokens[several].mean()),
        "count": float(several.sum()),
    }


def _sequences(
    value: PointValue, mask: Bool[Tensor, "batch length"] | None
) -> (
    tuple[Shaped[Tensor, "batch length d"], Bool[Tensor, "batch length"] | None] | None
):
    """What passed as batch × length × features; None where there is no such axis."""
    x = value.tensor.detach()
    if x.is_nested or x.ndim < 3 or value.feature_axis != -1:
        return None
    if not value.batch_first:
        x = x.transpose(0, 1)
    lead = tuple(x.shape[:2])
    if mask is not None and lead != tuple(mask.shape) == lead[::-1]:
        x = x.transpose(0, 1)
    x = x.flatten(1, -2)  # a map of tokens is one sequence
    fits = mask is not None and tuple(mask.shape) == tuple(x.shape[:2])
    return x, mask if fits else None


def _evenly(count: int, most: int, device: torch.device) -> Tensor:
    """Indices of at most that many, evenly spread."""
    if count <= most:
        return torch.arange(count, device=device)
    # float32: a default dtype of bfloat16 cannot count to 300
    spread = torch.linspace(0, count - 1, most, device=device, dtype=torch.float32)
    return spread.round().long()
