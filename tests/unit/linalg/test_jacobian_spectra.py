"""Spectra of Jacobians: precision, shared ones, the first layer."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from svdhooks import linalg
from svdhooks.linalg import _jacobian_spectra
from tests.chains import chained, network, spectra_of
from tests.oracles import singular_values, with_singular_values


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 8, 20), (3, 20, 8), (2, 6, 6), (4, 1, 5)])
def test_spectra_are_those_of_a_dense_svd(dtype, shape):
    J = torch.randn(shape, dtype=torch.float64).to(dtype)
    sigma = linalg.jacobian_spectra(J)
    assert sigma.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    rtol = 1e-12 if dtype == torch.float64 else 1e-6
    np.testing.assert_allclose(sigma.numpy(), singular_values(J), rtol=rtol)
    # as products come: a view of (k, n, m)
    view = J.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    torch.testing.assert_close(linalg.jacobian_spectra(view), sigma)


def test_small_values_come_right_where_they_are_asked_for():
    """DESIGN's policy: float64 takes the SVD, float32 where a threshold needs it."""
    sigma = [1.0, 1e-5, 3e-10]
    J = torch.stack([with_singular_values(6, 5, sigma, seed) for seed in range(2)])
    J = torch.cat([J, torch.randn(1, 6, 5).double()])
    found = linalg.jacobian_spectra(J)
    np.testing.assert_allclose(found[0, :3], sigma, rtol=1e-5)
    low = J.float()  # rounding fills the zeros, to 1e-8
    exact = torch.from_numpy(singular_values(low))
    plain = linalg.jacobian_spectra(low)
    for options in ({"resolution": 1e-9}, {"eps": 1e-9}):
        fine = linalg.jacobian_spectra(low, **options)
        np.testing.assert_allclose(fine, exact, rtol=1e-4)
    coarse = linalg.jacobian_spectra(low, eps=1e-3)
    assert torch.equal(coarse, plain)
    # one Jacobian of the batch has a large σ₁, so its Gram matrix loses 1e-3 alone
    scaled = torch.stack([1e7 * low[0], low[1], low[2]])
    mixed = linalg.jacobian_spectra(scaled, eps=1e-3)
    expected = torch.from_numpy(singular_values(scaled))
    np.testing.assert_allclose(mixed[0], expected[0], rtol=1e-4)
    assert torch.equal(mixed[1:], plain[1:])


def test_a_jacobian_that_all_samples_share_is_solved_once(monkeypatch):
    solved = []

    def counting(A):
        solved.append(len(A))
        return original(A)

    original = _jacobian_spectra._by_gram
    monkeypatch.setattr(_jacobian_spectra, "_by_gram", counting)
    J = torch.randn(1, 5, 7)
    shared = linalg.jacobian_spectra(J.repeat(9, 1, 1))
    np.testing.assert_allclose(shared, singular_values(J.expand(9, 5, 7)), rtol=1e-6)
    almost = J.repeat(9, 1, 1)
    almost[4, 2, 3] += 1.0
    other = linalg.jacobian_spectra(almost)
    np.testing.assert_allclose(other, singular_values(almost), rtol=1e-6)
    assert solved == [1, 9]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_basis_behind_the_first_layer_gives_the_same_spectra(dtype):
    weights, function, at = network((40, 12, 15, 5), dtype=dtype)
    hidden = function(at)["0"]

    def behind(delta):
        outputs = chained(weights[1:], functional.relu(hidden + delta))[0]
        later = outputs(torch.zeros((), dtype=dtype))
        return {"0": hidden + delta, "1": later["0"], "2": later["1"]}

    R = linalg.first_layer_factor(weights[0])
    assert R.shape == (12, 12)
    expected = spectra_of(function, at)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {}
    products = linalg.jacobian_products(behind, torch.zeros_like(hidden), torch.eye(12))
    # or the factor itself as directions, which saves the multiplication
    direct = linalg.jacobian_products(behind, torch.zeros_like(hidden), R.mT)
    for name, sigma in expected.items():
        found = linalg.jacobian_spectra(products[name], R)
        assert found.dtype == sigma.dtype
        torch.testing.assert_close(found, sigma[:, : found.shape[1]], **tolerance)
        same = linalg.jacobian_spectra(direct[name])
        torch.testing.assert_close(same, sigma[:, : same.shape[1]], **tolerance)


def test_the_factor_of_a_wide_first_layer_is_no_larger_than_the_input():
    W = torch.randn(9, 4)
    R = linalg.first_layer_factor(W)
    assert R.shape == (9, 4)
    A = torch.randn(3, 6, 9).double()
    np.testing.assert_allclose(
        singular_values(A @ R), singular_values(A @ W.double())[:, :4], rtol=1e-9
    )
