"""Adapters of peft: the product B·A of each, with its scaling, never formed."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from svdhooks.checkpoint.modules import Found
from svdhooks.checkpoint.sources import unreadable
from svdhooks.checkpoint.stored import Stored, Tensors
from svdhooks.layers import Layer, Skipped
from svdhooks.layers.points import no_points

_FACTOR = re.compile(
    r"(?P<owner>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])"
    r"(?:\.(?P<adapter>[^.]+?))??(?:\.weight)?"
)
_DEFAULT = "default"
"""As peft calls an adapter that is loaded without a name."""

Scaling = Callable[[str, int], float]


@dataclass(frozen=True, eq=False)
class FactorSource:
    """The product of two thin matrices in a file.

    Attributes:
        left: B, ``(out, r)``, or with further axes of length 1.
        right: A, ``(r, in)``, or with kernel positions behind.
        scaling: Factor on the product.
    """

    left: Stored
    right: Stored
    scaling: float

    def factors(self) -> tuple[Tensor, Tensor]:
        """B with the scaling, and A, as matrices."""
        left, right = self.left.read().flatten(1), self.right.read().flatten(1)
        return left * self.scaling, right

    def value(self) -> Any:
        """The product."""
        left, right = self.factors()
        return left @ right

    def tensors(self) -> tuple[Any, ...]:
        """What stands for them where only shape and dtype are asked for."""
        return (self.left.on_meta, self.right.on_meta)


def scaling_of(config: Mapping[str, Any] | None) -> Scaling:
    """The factor of each adapted module.

    Args:
        config: ``adapter_config.json``; None: unknown, then the factor is 1.

    Returns:
        Name of the module, r -> alpha / r, or alpha / √r of rank-stabilised adapters.
    """
    if config is None:
        return lambda _name, _rank: 1.0
    patterns = dict(config.get("alpha_pattern") or {})
    stabilised = bool(config.get("use_rslora"))

    def scaling(name: str, rank: int) -> float:
        alpha = float(config.get("lora_alpha", rank))
        for pattern, own in patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", name):  # as peft does
                alpha = float(own)
                break
        return alpha / (math.sqrt(rank) if stabilised else rank)

    return scaling


def take_adapters(
    tensors: Tensors, config: Mapping[str, Any] | None, found: Found
) -> dict[str, Stored]:
    """Take the adapters out of a state dict.

    Args:
        tensors: Name -> tensor.
        config: ``adapter_config.json``; None: it is not there.
        found: Takes the layers in.

    Returns:
        The tensors that belong to no adapter; the weights below them bear the name of
        the module that is adapted.
    """
    pairs: dict[tuple[str, str], dict[str, Stored]] = {}
    rest: dict[str, Stored] = {}
    for name, tensor in tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None:
            rest[name] = tensor
            continue
        key = match["owner"], match["adapter"] or _DEFAULT
        pairs.setdefault(key, {})[match["side"]] = tensor
    scaling = scaling_of(config)
    for (owner, adapter), pair in pairs.items():
        _take_pair(f"{owner}.lora.{adapter}", owner, pair, scaling, found)
    if pairs and config is None:
        unknown = "without its scaling alpha/r, which is not in the file"
        found.notes |= {layer.name: unknown for layer in found.layers}
    return _without_magnitudes(rest, config, found)


def _take_pair(
    name: str, owner: str, pair: Mapping[str, Stored], scaling: Scaling, found: Found
) -> None:
    left, right = pair.get("B"), pair.get("A")
    if left is None or right is None:
        there = next(iter(pair.values())).name
        found.skipped.append(
            Skipped(there, "one factor of an adapter without the other")
        )
        return
    reason = unreadable(left, {}) or unreadable(right, {})
    rank = right.shape[0]
    if reason is None and math.prod(left.shape[1:]) != rank:
        reason = (
            f"B is {_shape(left)} and A is {_shape(right)}, which do not fit: an adapter "
            "of a grouped convolution, maybe; scan the model with svdhooks.scan"
        )
    if reason is not None:
        found.skipped += [Skipped(x.name, reason) for x in (right, left)]
        return
    source = FactorSource(left, right, scaling(owner, rank))
    layer = Layer(
        name,
        "lora adapter",
        nn.Module(),
        "lora_B.weight",
        _same,
        (left.shape[0], math.prod(right.shape[1:])),
        {},
        no_points,
        source=source,
        factors=source.factors,
        inner=rank,
    )
    found.add([layer], {name: left}, "")


def _without_magnitudes(
    rest: Mapping[str, Stored], config: Mapping[str, Any] | None, found: Found
) -> dict[str, Stored]:
    """What is left: weights trained as a whole, and magnitudes of DoRA."""
    kept: dict[str, Stored] = {}
    whole = tuple((config or {}).get("modules_to_save") or ())
    for name, tensor in rest.items():
        if ".lora_" in name:
            reason = "of an adapter: DoRA's magnitudes, or a bias; no matrix"
            found.skipped.append(Skipped(name, reason))
            continue
        owner, _, leaf = name.rpartition(".")
        if owner.rpartition(".")[2] in whole:
            name = f"{owner}.modules_to_save.{_DEFAULT}.{leaf}"
        kept[name] = tensor
    return kept


def _shape(stored: Stored) -> str:
    return "×".join(map(str, stored.shape))


def _same(weight: Tensor) -> Tensor:
    return weight
