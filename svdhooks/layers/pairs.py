"""Two layers of which one reads what the other writes, as the spectral graph needs them."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from svdhooks import linalg
from svdhooks.layers.layer import Layer
from svdhooks.layers.sharding import is_dtensor

_CONVOLUTION = re.compile(r"conv\d+d")
_GATED = re.compile(r"(lstm|gru) gate|rnn weight")


@dataclass(frozen=True, eq=False)
class LayerPair:
    """A layer and one that reads its output; `make_pair` checks that they fit.

    Attributes:
        name: ``"fc1->fc2"``.
        earlier: The layer that writes.
        later: The layer that reads.
        kind: ``"fc-fc"``, ``"conv-conv"``, ``"conv-fc"`` or ``"fc-conv"``.
        stream: Whether the earlier one writes into a residual stream, of which the
            later one reads the sum: an extension of the method.
        features: c, the outputs of the earlier layer.
        positions: z, the entries that a row of the later weight has for each of them:
            positions of its kernel, or of the flattened map.
        norm: The batch norm between them, if exactly one is and its factors could be
            folded into the earlier weight.
    """

    name: str
    earlier: Layer
    later: Layer
    kind: str
    stream: bool
    features: int
    positions: int
    norm: nn.Module | None

    def describe(self) -> dict[str, Any]:
        """The pair's row in the log's table of pairs."""
        return {
            "name": self.name,
            "source": self.earlier.name,
            "target": self.later.name,
            "kind": self.kind,
            "stream": self.stream,
            "features": self.features,
            "positions": self.positions,
            "norm": self.norm is not None,
        }


def make_pair(
    earlier: Layer, later: Layer, stream: bool = False, norm: nn.Module | None = None
) -> LayerPair:
    """Join two layers.

    Args:
        earlier: The layer that writes.
        later: The layer that reads its output.
        stream: Whether it reads it as a part of a residual stream.
        norm: A batch norm between them.

    Returns:
        The pair.

    Raises:
        TypeError: If the norm is no batch norm.
        ValueError: If one of them is no single matrix (grouped and transposed
            convolutions, experts), gives no output or takes no input as such, or if
            their shapes, or those of the norm, do not fit.
    """
    _check_single(earlier)
    _check_single(later)
    _check_writes(earlier)
    _check_reads(later)
    features = earlier.shape[0]
    first, second = _family(earlier), _family(later)
    inputs = later.points.get("input", later.shape[1])
    flattened = (first, second) == ("conv", "fc") and inputs % features == 0
    if inputs != features and not flattened:
        several = f" (or a multiple of {features})" * (
            (first, second) == ("conv", "fc")
        )
        raise ValueError(
            f"Found {earlier.name!r} with {features} outputs and {later.name!r} with "
            f"{inputs} inputs; expected {features} inputs{several}. Give two layers of "
            "which the second reads the output of the first."
        )
    if norm is not None:
        _check_norm(norm, earlier)
    return LayerPair(
        f"{earlier.name}->{later.name}",
        earlier,
        later,
        f"{first}-{second}",
        stream,
        features,
        later.shape[1] // features,
        norm,
    )


def _family(layer: Layer) -> str:
    return "conv" if _CONVOLUTION.fullmatch(layer.kind) else "fc"


def _check_single(layer: Layer) -> None:
    """Refuse what is not one matrix."""
    if layer.experts:
        found = f"{layer.experts} experts"
    elif layer.groups > 1:
        found = f"{layer.groups} groups"
    elif layer.kind.startswith("conv_transpose"):
        found = "a transposed convolution"
    else:
        return
    raise ValueError(
        f"Found {layer.name!r} ({layer.kind}), which has {found}; expected one matrix "
        "(linear, convolution, embedding). Leave it out of the pairs."
    )


def _check_writes(layer: Layer) -> None:
    """Refuse what puts out something else than its weight makes."""
    # within an LSTM the products of the gates come after it; a weight of which no call
    # shows the output may be named by the user
    if _GATED.fullmatch(layer.kind):
        raise ValueError(
            f"Found {layer.name!r} ({layer.kind}) as the earlier layer: its output goes "
            "through the gates of the cell. Expected a layer whose output others read."
        )


def _check_reads(layer: Layer) -> None:
    """Refuse what is applied to no vector of features, or to several."""
    if layer.kind == "embedding":
        found = "an embedding, which reads indices"
    elif "input2" in layer.points:
        found = f"a {layer.kind} map, which reads a product of two inputs"
    else:
        return
    raise ValueError(
        f"Found {layer.name!r} as the later layer: {found}. Expected a layer that is "
        "applied to the features of the earlier one."
    )


def _check_norm(norm: nn.Module, earlier: Layer) -> None:
    if not isinstance(norm, _BatchNorm):
        raise TypeError(
            f"Found a norm of {type(norm).__name__}, expected a batch norm or None."
        )
    if norm.num_features != earlier.shape[0]:
        raise ValueError(
            f"Found a batch norm of {norm.num_features} features after "
            f"{earlier.name!r}, which has {earlier.shape[0]} outputs; expected as many."
        )


def scale_of(norm: nn.Module, outputs: int) -> Tensor:
    """What a batch norm in eval mode multiplies its features with: γ/√(var + eps).

    Args:
        norm: The batch norm.
        outputs: Of the layer before it.

    Returns:
        ``(outputs,)``, float64.

    Raises:
        ValueError: If the norm keeps no running statistics, or its factors are not
            whole on this process.
    """
    variance, gamma = norm.running_var, norm.weight
    if not isinstance(variance, Tensor):
        raise ValueError(  # noqa: TRY004  # the module is of the right type
            f"Found {type(norm).__name__} without running statistics; its scale is that "
            "of each batch and cannot be folded in."
        )
    scale = gamma.detach() if isinstance(gamma, Tensor) else None
    if scale is not None and (is_dtensor(scale) or len(scale) != outputs):
        raise ValueError(
            f"Found the factors of {type(norm).__name__} sharded over processes; "
            f"expected all {outputs}. Leave fold_batch_norm out, or do not shard "
            "the norm."
        )
    eps = float(norm.eps)  # type: ignore[arg-type]  # a batch norm has a number there
    ones = torch.ones(outputs, 1, dtype=torch.float64, device=variance.device)
    folded: Tensor = linalg.fold_batch_norm(ones, scale, variance, eps)
    return folded[:, 0]
