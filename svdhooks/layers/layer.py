"""A tracked linear map: its name, its weight as a matrix, its two points."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Inexact, Shaped
from torch import Tensor, nn

from svdhooks.layers.biases import BiasSource
from svdhooks.layers.flat import FlatPlace
from svdhooks.layers.points import Reader
from svdhooks.layers.sharding import local
from svdhooks.layers.weights import ParameterSource, WeightSource


@dataclass(frozen=True, eq=False)
class Layer:
    """A tracked linear map.

    Attributes:
        name: Canonical name, without the prefixes of compile, DDP and FSDP.
        kind: For people and logs: ``"linear"``, ``"conv2d"``, ``"embedding"``, …
        module: The module whose calls are observed.
        parameter: Name of the weight in ``module``.
        view: The weight -> ``(out, in)``, or ``(groups, out, in)`` for a map that
            is block diagonal, or ``(experts, out, in)``.
        shape: ``(out, in)`` of one block; for a convolution that of its flattened
            kernel.
        points: Point name -> number of features.
        read: How to find the points in one call of ``module``.
        groups: Number of blocks.
        experts: Number of maps of which each token takes a few; 0: it is one map.
        heads: Number of attention heads that its rows or columns belong to, head by
            head; 0: none.
        head_axis: Where the heads are: -2, the rows (query, key, value), or -1, the
            columns (output projection).
        tied_to: Name of the layer that holds the same weight, if any.
        source: Where the weight comes from if not from ``parameter`` alone.
        factors: ``(B, A)`` with the weight B @ A, if it is held as a product; B
            ``(out, r)``, A ``(r, in)``.
        inner: r, if it is held as a product.
        flat: The parameters it is computed from that FSDP1 keeps flattened.
        gram: The Gram of the weight's smaller side, where that is known without the
            weight: summed over processes which hold a part of it each.
        bias_source: Where its bias is; None: it has none, or none that is known to be
            its own (routers, experts, bare parameters).
    """

    name: str
    kind: str
    module: nn.Module
    parameter: str
    view: Callable[[Tensor], Tensor]
    shape: tuple[int, int]
    points: Mapping[str, int]
    read: Reader
    groups: int = 1
    experts: int = 0
    heads: int = 0
    head_axis: int = -2
    tied_to: str | None = None
    source: WeightSource | None = None
    factors: Callable[[], tuple[Tensor, Tensor]] | None = None
    inner: int = 0
    flat: tuple[FlatPlace, ...] = ()
    gram: Inexact[Tensor, "k k"] | None = None
    bias_source: BiasSource | None = None

    def weight(self) -> Shaped[Tensor, "*blocks out in"]:
        """The weight now, as a matrix or a batch of them; detached, not copied.

        Returns:
            A plain tensor.

        Raises:
            RuntimeError: If this process holds a part of it only.
        """
        return self.view(self.parameter_value().detach())

    def bias(self) -> Shaped[Tensor, " out"] | None:
        """What it adds to its output now; detached, not copied.

        Returns:
            A plain tensor; None where ``bias_source`` is.

        Raises:
            RuntimeError: If this process holds a part of it only.
        """
        return None if self.bias_source is None else self.bias_source.value()

    def head_weights(self) -> Shaped[Tensor, "heads m n"]:
        """The part of each head.

        Returns:
            ``(heads, head size, in)``, or ``(heads, out, head size)`` for an output
            projection.

        Raises:
            ValueError: If the layer has no heads.
        """
        if not self.heads:
            raise ValueError(f"Layer {self.name!r} belongs to no attention heads.")
        parts = self.weight().tensor_split(self.heads, self.head_axis)
        return torch.stack(parts)

    def parameter_value(self) -> Any:
        """The weight in the module's layout; a tensor unless it is quantised."""
        with torch.no_grad():
            return local(self._source().value())

    def sources(self) -> tuple[Any, ...]:
        """All tensors that the weight is computed from; the weight proper first."""
        return self._source().tensors()

    @property
    def computed(self) -> bool:
        """Whether the weight is computed, so that no tensor of the model holds it."""
        source = self._source()
        return not isinstance(source, ParameterSource) or source.computed()

    @property
    def rank_limit(self) -> int:
        """Number of singular values of the whole map; of each expert."""
        if self.factors is not None:
            return min(*self.shape, self.inner)
        return (1 if self.experts else self.groups) * min(self.shape)

    @property
    def dtype(self) -> str:
        """Name of the weight's dtype, for example ``"bfloat16"``."""
        dtype = self.flat[0].unit.dtype if self.flat else self.sources()[0].dtype
        return str(dtype).removeprefix("torch.")

    def describe(self) -> dict[str, Any]:
        """The layer's row in the log's table of layers."""
        several = {"experts": self.experts, "heads": self.heads}
        return {
            "name": self.name,
            "kind": self.kind,
            "shape": list(self.shape),
            "groups": self.groups,
            **{name: count for name, count in several.items() if count},
            "rank_limit": self.rank_limit,
            "dtype": self.dtype,
            "points": dict(self.points),
            "tied_to": self.tied_to,
        }

    def _source(self) -> WeightSource:
        return self.source or ParameterSource(self.module, self.parameter)


@dataclass(frozen=True)
class AttentionPair:
    """The two projections whose product makes the attention logits of one module.

    Logits are ``scale · (x W_qᵀ)(y W_kᵀ)ᵀ`` head by head, before masks, rotary
    embeddings and norms of queries and keys, where a model has these.

    Attributes:
        name: Canonical name of the attention module.
        query: Its weight has ``heads`` blocks of ``head_dim`` rows, head by head.
        key: The same with ``key_heads``.
        heads: Number of query heads.
        key_heads: Number of key heads; each serves ``heads / key_heads`` query heads
            that follow each other.
        head_dim: Rows per head.
        scale: Factor on the logits.
    """

    name: str
    query: Layer
    key: Layer
    heads: int
    key_heads: int
    head_dim: int
    scale: float


@dataclass(frozen=True)
class Skipped:
    """Something with weights that is not watched, and why.

    Attributes:
        name: Canonical name of the module or parameter.
        reason: Why, in words.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class LayerTable:
    """What is watched and what is not.

    Attributes:
        layers: The tracked layers, in the model's order.
        skipped: Everything else that has a matrix of weights.
        incomplete: Whether uninitialised (lazy) modules may still become layers.
        attention: Query and key projections that belong together.
    """

    layers: tuple[Layer, ...]
    skipped: tuple[Skipped, ...]
    incomplete: bool = False
    attention: tuple[AttentionPair, ...] = ()
