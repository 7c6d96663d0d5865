"""LoRA of peft, recognised by its classes' names: the adapted weight and the adapters.

The adapted weight is what the module applies now: the base, plus the active adapters
unless they are merged into it or disabled. A hook on the base would see the output
without them, so the points are those of the LoRA module. Each adapter's own product
B @ A is a layer too, active or not; it is never formed to find its singular values.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from svdhooks.layers.layer import Layer
from svdhooks.layers.points import no_points
from svdhooks.layers.sharding import local
from svdhooks.layers.site import Site, class_is
from svdhooks.layers.weights import ParameterSource


def is_lora(module: nn.Module) -> bool:
    """Whether this is a LoRA module: a base layer and adapters beside it.

    Args:
        module: The module.

    Returns:
        True also for quantised bases, whose adapters alone can be read.
    """
    parts = ("base_layer", "lora_A", "lora_embedding_A", "get_delta_weight")
    return class_is(module, "peft.tuners.lora.*") and all(
        hasattr(module, part) for part in parts
    )


def lora(site: Site, base: Callable[[Site], list[Layer]] | None) -> list[Layer]:
    """The adapted layers, under the module's own name, and its adapters.

    Args:
        site: The LoRA module.
        base: The rule of the module that it adapts, if there is one.

    Returns:
        The layers of the base with their adapted weights, then one per adapter.
    """
    module = site.module
    found = []
    for layer in base(replace(site, module=module.base_layer)) if base else ():
        path = f"base_layer.{layer.parameter}"
        source = LoraSource(module, path)
        found.append(
            replace(
                layer,
                module=module,
                parameter=path,
                source=source,
                # one of an adapter's own would be added to it
                bias_source=None if _adds_bias(module) else layer.bias_source,
            )
        )
    return found + [_adapter(site, name) for name in _adapters(module)]


@dataclass(frozen=True, eq=False)
class LoraSource:
    """The weight of a LoRA module as it is applied now, in the layout of its base.

    Attributes:
        module: The LoRA module.
        path: Name of the base's weight.
    """

    module: Any
    path: str

    def value(self) -> Any:
        """The adapted weight.

        Returns:
            The weight; that of the base where adapters are merged or disabled.

        Raises:
            NotImplementedError: If an active adapter is of a variant that is not read.
        """
        module = self.module
        weight = ParameterSource(module, self.path).value()
        if module.disable_adapters:
            if module.merged:
                raise NotImplementedError(
                    "adapters are merged and disabled at once; call unmerge()"
                )
            return weight
        if module.merged:
            return weight
        base = weight
        for name in module.active_adapters:
            if name in _adapters(module):
                delta = module.get_delta_weight(name).to(weight)
                weight = _combined(module, name, weight, delta, base)
        return weight

    def tensors(self) -> tuple[Any, ...]:
        """The base's weight, then everything of the adapters."""
        base = ParameterSource(self.module, self.path).tensors()
        known = {id(x) for x in self.module.base_layer.parameters()}
        own = [p for p in self.module.parameters() if id(p) not in known]
        return (*base, *own)


def unread(module: Any) -> str | None:
    """Why the adapted weight of a LoRA module is not read; None if it is.

    Args:
        module: The LoRA module.

    Returns:
        The reason.
    """
    for variant in module.lora_variant.values():
        kind = type(variant).__name__
        if kind != "DoraLinearVariant":
            return f"an adapter is a {kind}, whose weight this version does not read"
    if _groups(module) > 1:
        return "LoRA mixes the groups of a convolution: no block diagonal map is left"
    return None


def _combined(
    module: Any, name: str, weight: Tensor, delta: Tensor, base: Tensor
) -> Tensor:
    """Add one adapter as the module's forward does in eval mode."""
    variant = module.lora_variant.get(name)
    if variant is None:
        return weight + delta
    if type(variant).__name__ != "DoraLinearVariant":
        raise NotImplementedError(
            f"adapter {name!r} is a {type(variant).__name__}, which is not read"
        )
    # DoRA: rows scaled to a learned norm; of W + ΔW, whatever other adapters do
    transposed = bool(module.fan_in_fan_out)
    rows = base + delta
    norm = torch.linalg.vector_norm(rows, dim=0 if transposed else 1)
    factor: Tensor = module.lora_magnitude_vector[name].weight.detach() / norm
    return (weight + delta) * (factor if transposed else factor.unsqueeze(1))


def _adapters(module: Any) -> list[str]:
    several = module.lora_A if len(module.lora_A) else module.lora_embedding_A
    return list(several.keys())


def _factors(module: Any, name: str) -> tuple[Tensor, Tensor]:
    """``(B, A)`` as matrices, the scaling in B."""
    left, right = (local(factor) for factor in _held(module, name))
    scaled = left.detach().flatten(1) * module.scaling[name]
    if _groups(module) > 1:  # each group of outputs takes its own part of the r
        blocks = scaled.chunk(_groups(module))
        scaled = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return scaled, right.detach().flatten(1)


def _held(module: Any, name: str) -> tuple[Tensor, Tensor]:
    """B and A as parameters."""
    if name in module.lora_A:
        return module.lora_B[name].weight, module.lora_A[name].weight
    return module.lora_embedding_B[name], module.lora_embedding_A[name]


def _adds_bias(module: Any) -> bool:
    """Whether an adapter has a bias of its own."""
    several = module.lora_B.values()
    return any(getattr(each, "bias", None) is not None for each in several)


def _groups(module: Any) -> int:
    return int(getattr(module.base_layer, "groups", 1))


@dataclass(frozen=True, eq=False)
class _AdapterSource:
    module: Any
    adapter: str

    def value(self) -> Any:
        left, right = _factors(self.module, self.adapter)
        return left @ right

    def tensors(self) -> tuple[Any, ...]:
        return _held(self.module, self.adapter)


def _adapter(site: Site, adapter: str) -> Layer:
    module = site.module
    left, right = _held(module, adapter)  # maybe sharded: shapes only
    shape = left.shape[0], math.prod(right.shape[1:])
    return Layer(
        f"{site.name}.lora.{adapter}",
        "lora adapter",
        module,
        f"lora_B.{adapter}.weight",
        _same,
        shape,
        {},
        no_points,
        source=_AdapterSource(module, adapter),
        factors=lambda: _factors(module, adapter),
        inner=right.shape[0],
    )


def _same(weight: Tensor) -> Tensor:
    return weight
