"""Second road to Jacobians: one sample, one row, one backward pass at a time."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from svdhooks.isolation import SEED
from tests.oracles import as_double

One = Callable[[nn.Module, int], Tensor]
"""Calls a model with one sample; returns what was differentiable at its input."""


def one_of(x: Tensor, axis: int = 0) -> One:
    """One sample of a tensor that is the model's only input."""

    def call(model: nn.Module, sample: int) -> Tensor:
        dtype = next((p.dtype for p in model.parameters()), x.dtype)
        single = x.narrow(axis, sample, 1).to(dtype, copy=True)
        point = single.requires_grad_()
        model(point.view_as(point))  # a model may write to its input
        return point

    return call


def one_of_tokens(embedding: str, **batch: Tensor) -> One:
    """One sample of a batch of tokens; differentiable is what the embedding returns."""

    def call(model: nn.Module, sample: int) -> Tensor:
        points: list[Tensor] = []

        def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
            if points:
                return None
            points.append(output.detach().requires_grad_())
            return points[0].view_as(output)

        handle = model.get_submodule(embedding).register_forward_hook(hook)
        model(**{key: value[sample : sample + 1] for key, value in batch.items()})
        handle.remove()
        return points[0]

    return call


def jacobians_by_hand(
    model: nn.Module, names: Sequence[str], one: One, samples: int, double: bool = True
) -> Mapping[str, list[NDArray[np.float64]]]:
    """Dense Jacobians of modules' outputs at their last call, in evaluation mode.

    Args:
        model: Copied.
        names: Of modules.
        one: Calls it.
        samples: How many.
        double: Whether in float64.

    Returns:
        Module -> one matrix per sample.
    """
    twin = copy.deepcopy(model).eval()
    if double:
        twin.double()
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            first = output if isinstance(output, Tensor) else output[0]
            seen[name] = first.clone()  # before a successor overwrites it

        return hook

    for name in names:
        twin.get_submodule(name).register_forward_hook(keep(name))
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for sample in range(samples):
        torch.manual_seed(SEED)
        point = one(twin, sample)
        for name in names:
            rows = [
                torch.autograd.grad(
                    entry, point, retain_graph=True, materialize_grads=True
                )[0]
                for entry in seen[name].flatten()
            ]
            rows = rows or [torch.zeros_like(point)]  # an expert without a token
            found[name].append(as_double(torch.stack(rows).flatten(1)))
    return found


def spectra_by_hand(*args: Any, **options: Any) -> dict[str, NDArray[np.float64]]:
    """Their singular values: module -> samples × values."""
    return {
        name: np.stack([np.linalg.svd(J, compute_uv=False) for J in matrices])
        for name, matrices in jacobians_by_hand(*args, **options).items()
    }


def assert_spectra(found: Tensor, expected: NDArray[np.float64], error: float) -> None:
    """Equal up to an error relative to the largest."""
    ours = as_double(found)
    assert ours.shape[0] == expected.shape[0]
    r = min(ours.shape[1], expected.shape[1])
    # what one of them has more is zero
    assert np.all(ours[:, r:] <= error * expected.max())
    assert np.all(expected[:, r:] <= error * expected.max())
    np.testing.assert_allclose(
        ours[:, :r], expected[:, :r], rtol=error, atol=error * expected.max()
    )
