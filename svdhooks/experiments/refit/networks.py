"""The networks of the refit experiment: which models it takes, and where each arm starts."""

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from svdhooks.experiments.refit.layers import (
    Factors,
    FixedSpectrumLinear,
    SeveralLinear,
    factors_of,
    haar_factors,
    rotated,
)

ARMS = ("fixed_s", "haar", "free", "shuffled_s", "flat_s", "perturbed")
"""S fixed and U, V learned from Haar ones; then the five controls."""
DEFAULT_WIDTHS = (64, 48, 32, 10)

_Linear = nn.Linear | FixedSpectrumLinear | SeveralLinear


def make_model(widths: Sequence[int], seed: int) -> nn.Sequential:
    """Make a network of linear layers without biases, ReLUs between.

    Args:
        widths: Numbers of features, from the input to the output.
        seed: Decides the initial weights.

    Returns:
        ``fc1``, ``relu1``, ``fc2`` and so on.

    Raises:
        ValueError: If there are fewer than two widths, or one is not positive.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(
            f"Found the widths {tuple(widths)}, expected at least two positive numbers: "
            "those of the input and of the output."
        )
    model = nn.Sequential()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for i, (inputs, outputs) in enumerate(pairwise(widths), 1):
            model.add_module(f"fc{i}", nn.Linear(inputs, outputs, bias=False))
            if i < len(widths) - 1:
                model.add_module(f"relu{i}", nn.ReLU())
    return model


def check_model(model: nn.Module) -> None:
    """Refuse a model that the experiment does not know how to take apart.

    Args:
        model: The model.

    Raises:
        TypeError: If it is not a ``nn.Sequential``, or holds parameters outside of linear
            layers.
        ValueError: If it has no linear layer.
    """
    if not isinstance(model, nn.Sequential):
        raise TypeError(
            f"Found a {type(model).__name__}, expected a torch.nn.Sequential of Linear "
            "layers and modules without parameters. Rewrite the model as one."
        )
    strange = [
        f"{name} ({type(module).__name__})"
        for name, module in model.named_children()
        if not isinstance(module, nn.Linear)
        and any(
            True for found in (module.parameters(), module.buffers()) for _ in found
        )
    ]
    if strange:
        raise TypeError(
            f"Found {', '.join(strange)}, with parameters or buffers; expected Linear "
            "layers and modules without any. Remove it, or fold it into a Linear."
        )
    if not linear_layers(model):
        raise ValueError("Found no Linear layer, expected at least one.")


def linear_layers(network: nn.Sequential) -> dict[str, _Linear]:
    """Find the linear layers of a network.

    Args:
        network: The original, or networks of an arm.

    Returns:
        Name -> layer, from the input on.
    """
    return {
        name: module
        for name, module in network.named_children()
        if isinstance(module, _Linear)
    }


def decompose(network: nn.Sequential) -> list[Factors]:
    """The thin factors of every linear layer, float64."""
    return [factors_of(layer.weight) for layer in linear_layers(network).values()]


def start_of(
    arm: str,
    original: nn.Sequential,
    restarts: int,
    generator: torch.Generator,
    *,
    angle: float = 0.3,
    orthogonal_map: str = "cayley",
) -> nn.Sequential:
    """Make the networks of one arm as they are before training.

    Args:
        arm: One of ``ARMS``.
        original: The trained network.
        restarts: How many networks, side by side.
        generator: The source of randomness.
        angle: Of ``perturbed``: how far the true vectors are turned, in radians.
        orthogonal_map: How U and V are parametrised.

    Returns:
        A network whose linear layers hold a leading dimension of ``restarts``.
    """
    if arm == "free":
        return _rebuilt(original, lambda _, layer: _fresh(layer, restarts, generator))
    factors = _factors(arm, decompose(original), restarts, generator, angle)

    def layer_of(index: int, layer: nn.Linear) -> nn.Module:
        dtype = layer.weight.dtype
        bias = layer.bias
        return FixedSpectrumLinear(factors[index], bias, orthogonal_map, dtype)

    return _rebuilt(original, layer_of)


def _factors(
    arm: str,
    true: Sequence[Factors],
    restarts: int,
    generator: torch.Generator,
    angle: float,
) -> list[Factors]:
    """The starting factors of an arm in which S stays fixed."""
    if arm == "perturbed":
        return [
            Factors(
                rotated(f.U, angle, generator, restarts),
                f.sigma.expand(restarts, -1),
                rotated(f.V, angle, generator, restarts),
            )
            for f in true
        ]
    drawn = [haar_factors(f, generator, restarts) for f in true]
    if arm == "shuffled_s":
        spectra = _shuffled([f.sigma for f in true], restarts, generator)
    elif arm == "flat_s":
        spectra = [_flat(f.sigma).expand(restarts, -1) for f in true]
    else:
        spectra = [f.sigma for f in drawn]
    return [Factors(f.U, s, f.V) for f, s in zip(drawn, spectra, strict=True)]


def _shuffled(
    spectra: Sequence[Float[Tensor, " _"]], restarts: int, generator: torch.Generator
) -> list[Float[Tensor, "r _"]]:
    """Deal all singular values out anew; each layer keeps its number and its norm."""
    # with the norms kept, the arm differs in the shape of the spectra alone: the logits
    # grow with the product of all norms
    pool, sizes = torch.cat(list(spectra)), [len(s) for s in spectra]
    dealt = [
        torch.split(pool[torch.randperm(len(pool), generator=generator)], sizes)
        for _ in range(restarts)
    ]
    out = []
    for layer, own in enumerate(spectra):
        drawn = torch.stack([d[layer] for d in dealt]).sort(-1, descending=True)[0]
        norm = drawn.norm(dim=-1, keepdim=True)
        out.append(drawn * own.norm() / torch.where(norm > 0, norm, 1.0))
    return out


def _flat(sigma: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Equal singular values, with the same sum of squares."""
    return torch.full_like(sigma, float(sigma.square().mean().sqrt()))


def _fresh(
    layer: nn.Linear, restarts: int, generator: torch.Generator
) -> SeveralLinear:
    """Layers as ``nn.Linear`` initialises them."""
    weights, biases = [], []
    for _ in range(restarts):
        fresh = copy.deepcopy(layer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw_seed(generator))
            fresh.reset_parameters()
        weights.append(fresh.weight.detach())
        biases.append(fresh.bias)
    bias = None if layer.bias is None else torch.stack([b.detach() for b in biases])
    return SeveralLinear(torch.stack(weights), bias)


def draw_seed(generator: torch.Generator) -> int:
    """A seed for what takes no generator."""
    return int(torch.randint(2**31 - 1, (), generator=generator))


def _rebuilt(
    model: nn.Sequential, layer_of: Callable[[int, nn.Linear], nn.Module]
) -> nn.Sequential:
    """A copy with other linear layers; the model itself stays as it is."""
    out, index = nn.Sequential(), 0
    for name, module in model.named_children():
        if isinstance(module, nn.Linear):
            out.add_module(name, layer_of(index, module))
            index += 1
        else:
            out.add_module(name, copy.deepcopy(module))
    return out


def count_steps(last: int, first: int = 1, per_decade: int = 4) -> tuple[int, ...]:
    """Steps at which a trajectory is looked at: 0, then evenly in their logarithm.

    Args:
        last: The last step, included.
        first: The first one after 0.
        per_decade: How many between a step and ten times that.

    Returns:
        Ascending.
    """
    if last < 1:
        return (0,)
    count = max(math.ceil(per_decade * math.log10(last / first)), 1)
    middle = {round(first * (last / first) ** (i / count)) for i in range(count + 1)}
    return tuple(sorted({0, last, *middle}))
