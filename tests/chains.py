"""Chains of linear layers as functions of their input, and their Jacobians' spectra."""

import itertools
import math

import torch
from torch.nn import functional

from svdhooks import linalg


def network(dims, *, rectified=True, dtype=torch.float64, seed=0, samples=6):
    """He-initialised weights and the function of a chain of them, without biases."""
    generator = torch.Generator().manual_seed(seed)
    weights = []
    for fan_in, fan_out in itertools.pairwise(dims):
        w = torch.randn(fan_out, fan_in, generator=generator, dtype=torch.float64)
        weights.append((w * (2 / fan_in) ** 0.5).to(dtype))
    x = torch.randn(samples, dims[0], generator=generator, dtype=torch.float64)
    return weights, *chained(weights, x.to(dtype), rectified)


def chained(weights, x, rectified=True):
    def function(delta):
        z, outputs = x + delta, {}
        for index, w in enumerate(weights):
            z = z @ w.T
            outputs[str(index)] = z.clone()
            z = functional.relu(z) if rectified else z
        return outputs

    return function, torch.zeros_like(x)


def spectra_of(function, at, **options):
    """Of every layer, from its complete Jacobians."""
    shape = tuple(at.shape[1:])
    V = linalg.orthonormal_directions(math.prod(shape), shape, dtype=at.dtype)
    products = linalg.jacobian_products(function, at, V)
    return {name: linalg.jacobian_spectra(J, **options) for name, J in products.items()}


def linear(J):
    """A function whose Jacobians are given, one for each sample."""
    at = torch.zeros(len(J), J.shape[2], dtype=J.dtype)
    return lambda delta: {"z": (J @ delta[..., None])[..., 0]}, at
