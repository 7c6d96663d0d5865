"""How a mixture of experts shares its tokens out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from svdhooks.distributed.team import Team
from svdhooks.distributed.uniting import gathered
from svdhooks.layers import Layer, PointValue
from svdhooks.layers.kinds_experts import LOAD
from svdhooks.layers.tap import Watched
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.record import OK, Record
from svdhooks.reports import status_of
from svdhooks.schedule import Schedule

EXPERT_LOAD_MEASURES = ("idle_experts", "largest_share", "effective_experts", "count")


@dataclass(frozen=True)
class ExpertLoad:
    """How many tokens of the probe each expert sees, and how evenly.

    Measures of the shares p of the E experts in all choices (a token chooses several):
    ``idle_experts``, those without a token; ``largest_share``, max p, 1/E if even;
    ``effective_experts``, the exponential of the entropy of p, E if even; ``count``,
    the number of choices. Recorded with the layer ``….down_proj`` of the experts.

    Attributes:
        schedule: Its own schedule; None: the recorder's.
    """

    schedule: Schedule | None = None

    @property
    def name(self) -> str:
        """Under which its records are filed."""
        return "expert_load"

    def observer(
        self, layers: Sequence[Watched], context: ProbeContext
    ) -> "ExpertLoadObserver":
        """Start to observe one probe.

        Args:
            layers: Those chosen for this record.
            context: What is known about the probe.

        Returns:
            The observer.
        """
        wanted = [x for x in layers if isinstance(x, Layer) and self.measured_points(x)]
        return ExpertLoadObserver(self.name, wanted, context)

    def measured_points(self, layer: Watched) -> list[str]:
        """The point of experts; none of other layers."""
        return [LOAD] if LOAD in layer.points else []

    def skipped_points(self, layer: Watched) -> dict[str, str]:  # noqa: ARG002
        """None: it looks at no point that could be too large."""
        return {}


class ExpertLoadObserver:
    """Counts the choices of one probe.

    Args:
        quantity: Name of the quantity.
        layers: Those chosen for this record.
        context: What is known about the probe.
    """

    def __init__(
        self, quantity: str, layers: Sequence[Layer], context: ProbeContext
    ) -> None:
        self._quantity = quantity
        self._context = context
        self._layers = {layer.name: layer for layer in layers}
        self._loads: dict[str, NDArray[np.int64]] = {}
        self._failures: dict[str, str] = {}

    def receive(self, layer: Watched, values: Mapping[str, PointValue]) -> None:
        """Take in what one call of the experts showed.

        Args:
            layer: The layer.
            values: Point name -> value.
        """
        if layer.name not in self._layers or LOAD not in values:
            return
        experts = self._layers[layer.name].experts
        chosen = _unpadded(values[LOAD].tensor, self._context.mask).flatten()
        # beyond the last expert: places for tokens that are masked or elsewhere
        chosen = chosen[(chosen >= 0) & (chosen < experts)].to(torch.int64)
        load = torch.bincount(chosen, minlength=experts).cpu().numpy()
        before = self._loads.get(layer.name)
        self._loads[layer.name] = load if before is None else before + load

    def fail(self, layer: Watched, error: Exception) -> None:
        """Note that reading a layer's points failed.

        Args:
            layer: The layer.
            error: Why.
        """
        if layer.name in self._layers:
            self._failures.setdefault(layer.name, status_of(error))

    def unite(self, team: Team, counts: bool) -> None:
        """Add up what all processes counted; collective.

        Args:
            team: The processes.
            counts: Whether what this process saw counts.
        """
        united = gathered(team, lambda: (self._loads, self._failures), counts)
        if united is None:  # another process records them
            self._layers = {}
            return
        states, problem = united
        self._loads, self._failures = {}, {}
        for loads, failures in states:
            self._failures |= failures
            for name, load in loads.items():
                self._loads[name] = self._loads.get(name, 0) + load
        if problem is not None:
            self._failures |= dict.fromkeys(self._layers, problem)

    def records(self) -> list[Record]:
        """One record per chosen layer, also where nothing was seen."""
        return [self._record(name) for name in self._layers]

    def _record(self, name: str) -> Record:
        load, status = self._loads.get(name), self._failures.get(name)
        if status is None and (load is None or not load.sum()):
            status = "not called in the probe" if load is None else "no samples"
        if load is None or status is not None:
            measures = dict.fromkeys(EXPERT_LOAD_MEASURES, math.nan)
        else:
            measures = expert_load_measures(load)
        return Record(
            self._context.step,
            name,
            self._quantity,
            {field: np.asarray(value) for field, value in measures.items()},
            status=status or OK,
            point=LOAD,
        )


def expert_load_measures(load: NDArray[np.int64]) -> dict[str, float]:
    """How evenly choices are shared out.

    Args:
        load: Choices per expert; at least one choice.

    Returns:
        Measure -> value.
    """
    total = int(load.sum())
    shares = load[load > 0] / total
    return {
        "idle_experts": float((load == 0).sum()),
        "largest_share": float(shares.max()),
        "effective_experts": float(np.exp(-(shares * np.log(shares)).sum())),
        "count": float(total),
    }


def _unpadded(chosen: Tensor, mask: Tensor | None) -> Tensor:
    """Without the choices of padding; the tokens of all sequences follow each other."""
    tokens = chosen.reshape(-1, chosen.shape[-1])
    if mask is None or mask.numel() != len(tokens):
        return tokens
    return tokens[mask.flatten().to(tokens.device)]
