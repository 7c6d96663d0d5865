"""Planted ranks are read in every precision, because rounding noise is not counted."""

import math

import numpy as np
import pytest
import torch

from svdhooks.linalg import (
    CovarianceAccumulator,
    noise_floor,
    numerical_rank,
    singular_values,
)
from tests import oracles

SHAPES = [(64, 64), (512, 512), (1024, 64), (48, 700), (10, 128)]
HALVES = [torch.bfloat16, torch.float16]


def uneven(kind, m, n):
    """Sizes of rows and columns: a weight is rarely Gaussian throughout."""
    generator = torch.Generator().manual_seed(1)
    rows, columns = torch.ones(m, 1), torch.ones(1, n)
    if kind == "log-normal":
        rows = torch.randn(m, 1, generator=generator).exp()
        columns = torch.randn(1, n, generator=generator).exp()
    if kind == "outliers":
        columns[:, : max(1, n // 50)] = 20
    return rows * columns


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["even", "log-normal", "outliers"])
def test_planted_rank_seven_in_half_precision_reads_seven(kind, shape, dtype):
    A = (0.02 * oracles.planted(*shape, 7) * uneven(kind, *shape)).to(dtype)
    sigma = singular_values(A)
    assert numerical_rank(sigma, shape=shape, dtype=dtype) == 7
    # the companion: taken for exact, its rounding errors count
    assert numerical_rank(sigma, shape=shape, dtype="float64") == min(shape)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_floor_of_half_precision_is_near_the_noise(shape, dtype):
    # a floor far above the noise would pass the test above and hide real values
    A = 0.02 * oracles.planted(*shape, 7)
    noise = oracles.singular_values(A.to(dtype).double() - A)[0]
    floor = noise_floor(singular_values(A.to(dtype)), shape=shape, dtype=dtype)
    assert 1 < floor / noise < 12


def test_smaller_values_above_the_floor_are_kept():
    sigma = [1.0] * 5 + [0.03] * 2
    A = oracles.with_singular_values(256, 256, sigma).bfloat16()
    found = numerical_rank(singular_values(A), shape=(256, 256), dtype="bfloat16")
    assert found == 7


def test_subnormal_halves_are_coarse():
    # entries of 1e-6 in float16 are rounded to multiples of 6e-8
    A = (1e-7 * oracles.planted(256, 256, 7)).to(torch.float16)
    assert A.abs().max() < 6.1e-5
    sigma = singular_values(A)
    assert numerical_rank(sigma, shape=(256, 256), dtype="float16") == 7
    unit = 2.0**-11 * float(sigma.square().sum().sqrt()) * 2 / 16
    assert sigma[7] > 3 * unit  # the companion: unit roundoff does not explain it


@pytest.mark.parametrize(("dtype", "eps"), [("float32", 2**-23), ("float64", 2**-52)])
def test_full_precision_follows_numpy(dtype, eps):
    assert noise_floor([3.0, 1.0], shape=(5, 70), dtype=dtype) == 3.0 * 70 * eps
    assert noise_floor([3.0, 1.0], dtype=dtype) == 3.0 * 2 * eps


def test_the_edge_of_the_rounding_errors_of_bfloat16():
    floor = noise_floor([4.0, 3.0], shape=(16, 64), dtype="bfloat16")
    assert floor == pytest.approx(3 * 2**-8 * 5 * (1 / 4 + 1 / 8))


@pytest.mark.parametrize(
    "spelling", ["bfloat16", "torch.bfloat16", torch.bfloat16, torch.ones(1).bfloat16()]
)
def test_a_precision_can_be_spelled_in_many_ways(spelling):
    expected = noise_floor([1.0], shape=(9, 9), dtype="bfloat16")
    assert noise_floor([1.0], shape=(9, 9), dtype=spelling) == expected


def test_the_precision_is_by_default_that_of_the_spectrum():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        sigma = torch.ones(6, dtype=dtype)
        assert noise_floor(sigma) == noise_floor(sigma, dtype=dtype)
    assert noise_floor(np.ones(6, np.float32)) == noise_floor(
        torch.ones(6, dtype=torch.float32)
    )
    assert noise_floor(np.ones(6)) == noise_floor([1] * 6)


def test_an_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(TypeError, match=r"Found dtype int8, expected one of float64"):
        noise_floor([1.0], dtype=np.int8)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_matrices_without_entries_have_no_noise(shape, dtype):
    assert noise_floor([], shape=shape, dtype=dtype) == 0
    assert noise_floor([], shape=shape, dtype=dtype, uncentred_norm=0.0) == 0


def rank_of_activations(x, dtype=None):
    """As a record reads it: from the accumulator, with the floor of the dtype."""
    seen = CovarianceAccumulator(x.shape[1]).update(x)
    sigma = seen.eigenvalues().sqrt()
    floor = noise_floor(
        sigma,
        shape=tuple(x.shape),
        dtype=dtype or x.dtype,
        uncentred_norm=seen.uncentred_norm / math.sqrt(seen.count),
    )
    return numerical_rank(sigma, tol=floor)


def activations(dtype, inner, mean=0.0, n=600, d=128, rank=7):
    """Outputs of a linear layer whose inputs have a planted rank."""
    x = oracles.planted(n, inner, rank)
    weight = torch.randn(d, inner, dtype=torch.float64) / inner**0.5
    bias = mean * torch.randn(d, dtype=torch.float64)
    return torch.nn.functional.linear(x.to(dtype), weight.to(dtype), bias.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES, torch.float64], ids=str)
@pytest.mark.parametrize("inner", [64, 1024, 4096])
@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_rank_seven_through_a_linear_layer_reads_seven(mean, inner, dtype):
    z = activations(dtype, inner, mean)
    assert rank_of_activations(z) == 7
    few = activations(dtype, inner, mean, n=60)
    assert rank_of_activations(few) == 7


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_planted_weights_of_rank_seven_give_activations_of_rank_seven(dtype):
    x, weight = torch.randn(600, 1024), oracles.planted(128, 1024, 7)
    z = torch.nn.functional.linear(x.to(dtype), weight.to(dtype))
    # rounding makes the weight full rank, at its own noise floor
    assert rank_of_activations(z) == 7


def test_without_its_dtype_a_planted_rank_reads_far_too_high():
    # the companion
    z = activations(torch.bfloat16, 1024)
    assert rank_of_activations(z, dtype="float32") > 100


def test_the_floor_of_activations_knows_the_mean():
    z = activations(torch.bfloat16, 256, mean=30.0)
    assert rank_of_activations(z) == 7
    # the companion: relative to the centred values the noise is taken for signal
    sigma = CovarianceAccumulator(128).update(z).eigenvalues().sqrt()
    centred = float(sigma.square().sum().sqrt())
    floor = noise_floor(sigma, shape=(600, 128), dtype=z.dtype, uncentred_norm=centred)
    assert numerical_rank(sigma, tol=floor) > 7


def test_activations_are_never_resolved_finer_than_a_gram():
    sigma = np.array([2.0, 1.0])
    floor = noise_floor(sigma, shape=(400, 100), dtype="float64", uncentred_norm=3.0)
    assert floor == pytest.approx(3e-8 * 10 * 2.0)


def test_floors_of_a_batch_of_activations():
    sigma = torch.tensor([[2.0, 1.0], [4.0, 2.0]])
    norms = torch.tensor([9.0, 18.0], dtype=torch.float64)
    found = noise_floor(sigma, shape=(9, 2), dtype="float16", uncentred_norm=norms)
    assert found[1] == pytest.approx(2 * float(found[0]), rel=1e-3)
