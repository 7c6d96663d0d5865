"""The observer of the ledger: sums over what passes the points, and few matrices."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from svdhooks import linalg
from svdhooks.distributed.merging import Share, merge
from svdhooks.distributed.shards import gathered as whole_weights
from svdhooks.distributed.shards import is_sharded
from svdhooks.distributed.team import Team
from svdhooks.distributed.uniting import gathered
from svdhooks.layers import Layer, PointValue, samples_of
from svdhooks.layers.patches import convolution_of, patch_sums
from svdhooks.layers.tap import Watched
from svdhooks.linalg.discarding import (
    NearNull,
    SampleSums,
    near_null_space,
    sample_sums,
)
from svdhooks.quantities.ledger_seen import LEDGER_MEASURES, Channel, Seen, added
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.record import OK, Record
from svdhooks.reports import status_of


@runtime_checkable
class Options(Protocol):
    """What an observer has to know of `Ledger`, which makes it."""

    @property
    def name(self) -> str:
        """Under which records are filed."""
        ...

    @property
    def noise(self) -> float | int:
        """Standard deviation of the channel's noise."""
        ...

    @property
    def relative_noise(self) -> bool:
        """Whether in units of the output."""
        ...

    @property
    def null(self) -> float:
        """Threshold on singular values relative to the largest."""
        ...

    @property
    def max_features(self) -> int:
        """Of an output whose covariance is solved."""
        ...

    def unsplit(self, layer: Layer) -> str | None:
        """Why the input of a layer is not split; None if it is."""
        ...


class LedgerObserver:
    """Adds up what passes the points of one probe; solves each output as soon as it can.

    Args:
        quantity: The options.
        layers: Those chosen for this record.
        context: What is known about the probe.
    """

    def __init__(
        self, quantity: Options, layers: Sequence[Layer], context: ProbeContext
    ) -> None:
        self._quantity = quantity
        self._context = context
        self._layers = {layer.name: layer for layer in layers}
        self._seen: dict[str, Seen] = {}
        self._splits: dict[str, NearNull | None] = {}
        self._outputs: dict[str, linalg.CovarianceAccumulator] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._channels: dict[str, Channel] = {}
        self._seconds: dict[str, float] = {}
        following = ((name, context.flow.activated(name)) for name in self._layers)
        self._next = {name: other for name, other in following if other is not None}

    def receive(self, layer: Watched, values: Mapping[str, PointValue]) -> None:
        """Take in what one call of a layer's module showed.

        Args:
            layer: The layer.
            values: Point name -> value.

        Raises:
            ValueError: If the samples are not such as they have to be.
        """
        if not isinstance(layer, Layer) or layer.name not in self._layers:
            return
        begun = time.perf_counter()
        seen = self._seen.setdefault(layer.name, Seen())
        seen.calls += 1
        expected = self._context.expected_calls.get(id(layer.module), 1)
        if seen.calls > expected > 0:
            raise ValueError(f"called {seen.calls} times, in the first probe less")
        if "input" in values:
            self._enter(layer, seen, values["input"])
        if "output" in values:
            self._leave(layer, seen, values["output"])
        if seen.calls == expected:
            self._splits.pop(layer.name, None)
            if not self._context.together:  # other processes have more of it
                self._solve(layer.name)
        spent = time.perf_counter() - begun
        self._seconds[layer.name] = self._seconds.get(layer.name, 0.0) + spent

    def _samples(self, layer: Layer, point: str, value: PointValue) -> Tensor:
        samples = samples_of(value, self._context.samples, self._context.mask)
        if samples.shape[-1] != layer.points[point]:
            raise ValueError(
                f"the {point} has {samples.shape[-1]} features, expected "
                f"{layer.points[point]}"
            )
        return samples

    def _enter(self, layer: Layer, seen: Seen, value: PointValue) -> None:
        samples = self._samples(layer, "input", value)
        split, module = self._split(layer, seen), convolution_of(layer)
        if split is not None:
            seen.null_dimension = float(split.dimension)
        if split is not None and module is not None:
            found = patch_sums(module, value.tensor.detach(), split)
            seen.patches = added(seen.patches, found)
        own = split if module is None else None
        seen.entering = added(seen.entering, sample_sums(samples, own))

    def _split(self, layer: Layer, seen: Seen) -> NearNull | None:
        """The near-null space of a weight as the forward uses it; None if not known."""
        if layer.name not in self._splits:
            self._splits[layer.name] = None
            if self._quantity.unsplit(layer) is None:
                try:
                    weight = _weight_in_forward(layer)
                    split = near_null_space(weight, self._quantity.null)
                    self._splits[layer.name] = split
                except Exception:  # noqa: BLE001  # what else passes is measured
                    seen.unreadable = True
        return self._splits[layer.name]

    def _leave(self, layer: Layer, seen: Seen, value: PointValue) -> None:
        name, samples = layer.name, self._samples(layer, "output", value)
        seen.add_output(samples)
        self._dtypes[name] = samples.dtype
        features = samples.shape[1]
        if features <= self._quantity.max_features:
            if name not in self._outputs:
                self._outputs[name] = linalg.CovarianceAccumulator(features)
            self._outputs[name].update(samples)

    def fail(self, layer: Watched, error: Exception) -> None:
        """Note that reading or measuring a layer's points failed.

        Args:
            layer: The layer.
            error: Why.
        """
        if layer.name in self._layers:
            self._outputs.pop(layer.name, None)
            seen = self._seen.setdefault(layer.name, Seen())
            seen.problem = seen.problem or status_of(error)

    # --- solving ------------------------------------------------------------------

    def _solve(self, name: str) -> None:
        accumulator = self._outputs.pop(name, None)
        if accumulator is not None and accumulator.count:
            self._channels[name] = self._channel(accumulator)

    def _channel(self, samples: linalg.CovarianceAccumulator) -> Channel:
        return Channel.of(samples, self._quantity.noise, self._quantity.relative_noise)

    def unite(self, team: Team, counts: bool) -> None:
        """Put together what all processes saw; collective.

        Args:
            team: The processes. Each solves its share of the outputs; one records.
            counts: Whether what this process saw counts.
        """
        most = self._quantity.max_features
        wide = {n for n, x in self._layers.items() if x.points.get("output", 0) > most}
        keys = [
            (name, "output")
            for name, layer in self._layers.items()
            if "output" in layer.points and name not in wide
        ]
        shares = {key: self._share(key[0]) for key in keys} if counts else {}
        self._outputs = {}
        solved: dict[str, Channel] = {}
        for (name, _), share in merge(team, keys, shares).items():
            if share.problem is not None:
                solved[name] = Channel(problem=share.problem)
            elif share.samples is not None:
                solved[name] = self._channel(share.samples)
        told = team.collect(solved, to=0)

        def state() -> tuple[dict[str, Seen], dict[str, str]]:
            return {n: seen.cpu() for n, seen in self._seen.items()}, self._next

        united = gathered(team, state, counts)
        if united is None or told is None:  # another process records them
            self._layers = {}
            return
        self._channels = {n: x for each in told for n, x in each.items()}
        self._put_together(*united)

    def _share(self, name: str) -> Share:
        seen = self._seen.get(name, Seen())
        if seen.problem is not None:
            return Share(problem=seen.problem)
        return Share(self._outputs.get(name), seen.units, self._dtypes.get(name))

    def _put_together(
        self,
        states: Sequence[tuple[dict[str, Seen], dict[str, str]]],
        problem: str | None,
    ) -> None:
        self._seen, self._next = {}, {}
        for several, following in states:
            self._next |= following
            for name, seen in several.items():
                known = self._seen.get(name)
                self._seen[name] = seen if known is None else known.merge(seen)
        if problem is not None:
            for name in self._layers:
                self._seen.setdefault(name, Seen()).problem = problem

    # --- records ------------------------------------------------------------------

    def records(self) -> list[Record]:
        """One record per chosen layer, also where nothing was seen."""
        for name in list(self._outputs):
            self._solve(name)
        return [self._record(layer) for layer in self._layers.values()]

    def _record(self, layer: Layer) -> Record:
        seen = self._seen.get(layer.name)
        values = dict.fromkeys(LEDGER_MEASURES, math.nan)
        status, marks = f"not called in {self._context.source}", tuple[str, ...]()
        if seen is not None:
            channel = self._channels.get(layer.name, Channel())
            status, marks = channel.problem or seen.status, seen.marks
            if seen.status == status == OK:
                values = seen.measures(channel, self._removed(layer.name, seen.leaving))
        return Record(
            self._context.step,
            layer.name,
            self._quantity.name,
            {name: np.asarray(value) for name, value in values.items()},
            status=status,
            seconds=self._seconds.get(layer.name, 0.0),
            point="ledger",
            marks=marks,
        )

    def _removed(self, name: str, leaving: SampleSums | None) -> float:
        """What of the output's variance does not enter the next layer."""
        follower = self._seen.get(self._next.get(name, ""))
        if follower is None or follower.problem is not None or leaving is None:
            return math.nan
        # a mean over a sequence is not what the activation acts on
        entering = None if self._context.samples == "mean" else follower.entering
        if entering is None or entering.count != leaving.count:
            return math.nan
        before = leaving.variance
        return 1 - entering.variance / before if before > 0 else math.nan


def _weight_in_forward(layer: Layer) -> Tensor:
    """The weight while its module is called: FSDP has gathered it for that."""
    if layer.flat or not is_sharded(layer):
        return layer.weight()
    # tensor parallelism: all processes of its mesh are in this call, as in the forward's
    with whole_weights([layer], True, bool):
        return layer.weight()
