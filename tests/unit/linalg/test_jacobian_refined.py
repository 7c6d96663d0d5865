"""Sketches of Jacobians: what they bound, and their refinement."""

import numpy as np
import pytest
import torch

from svdhooks import linalg
from tests.chains import linear, network, spectra_of
from tests.oracles import planted, singular_values


def test_a_sketch_bounds_every_singular_value_and_rank_from_below():
    J = torch.randn(5, 30, 24).double() * torch.logspace(0, -4, 24).double()
    function, at = linear(J)
    exact = torch.from_numpy(singular_values(J))
    for k in (1, 6, 23):
        V = linalg.orthonormal_directions(k, (24,), dtype=torch.float64, seed=k)
        sigma = linalg.jacobian_spectra(linalg.jacobian_products(function, at, V)["z"])
        # interlacing: a column less lowers each, and each stays above the next but one
        assert (sigma <= exact[:, :k] * (1 + 1e-12)).all()
        assert (sigma >= exact[:, 24 - k :] * (1 - 1e-9)).all()
        for eps in (1e-1, 1e-2, 1e-3):
            assert (
                linalg.local_ranks(sigma, eps) <= linalg.local_ranks(exact, eps)
            ).all()


@pytest.mark.slow
def test_the_frobenius_norm_of_a_sketch_is_unbiased():
    J = torch.randn(1, 9, 20).double() * torch.logspace(0, -2, 20).double()
    function, at = linear(J)
    draws = []
    for seed in range(600):
        V = linalg.orthonormal_directions(4, (20,), dtype=torch.float64, seed=seed)
        products = linalg.jacobian_products(function, at, V)["z"]
        draws.append((20 / 4) * products.square().sum().item())
    error = np.std(draws) / np.sqrt(len(draws))
    assert np.mean(draws) == pytest.approx(J.square().sum().item(), abs=4 * error)
    assert error < 0.05 * np.mean(draws)


@pytest.mark.parametrize("powers", [0, 1, 2])
def test_refined_values_are_below_the_truth_by_no_more_than_the_error(powers):
    """300 Jacobians with 8 probes: the chance that one bound fails is 3e-6."""
    decay = torch.logspace(0, -3, 40).double()
    J = torch.randn(300, 50, 40).double() * decay
    function, at = linear(J)
    exact = torch.from_numpy(singular_values(J))
    V = linalg.orthonormal_directions(10, (40,), dtype=torch.float64)
    products = linalg.jacobian_products(function, at, V)["z"]
    refined = linalg.refined_spectra(function, at, "z", products, powers=powers)
    sketch = linalg.jacobian_spectra(products)
    Q = torch.linalg.qr(products).Q
    true_error = torch.linalg.matrix_norm(J - Q @ (Q.mT @ J), ord=2)
    assert refined.sigma.shape == (300, 10)
    assert refined.error.shape == (300,)
    assert (refined.sigma <= exact[:, :10] * (1 + 1e-9)).all()
    assert (refined.sigma >= sketch * (1 - 1e-9)).all()
    assert (refined.error >= true_error).all()
    reach = (refined.sigma.square() + refined.error.square()[:, None]).sqrt()
    assert (exact[:, :10] <= reach * (1 + 1e-9)).all()
    # and it is an estimate, not just a bound
    assert (refined.error / true_error).median() < (40.0, 8.0, 3.0)[powers]


def test_one_probe_fails_as_seldom_as_it_says():
    """At most one in ten with a single probe; of 2,000 at most 200 + 4 sd are seen."""
    J = torch.randn(2000, 12, 10).double()
    function, at = linear(J)
    V = linalg.orthonormal_directions(3, (10,), dtype=torch.float64)
    products = linalg.jacobian_products(function, at, V)["z"]
    Q = torch.linalg.qr(products).Q
    true_error = torch.linalg.matrix_norm(J - Q @ (Q.mT @ J), ord=2)
    for powers in (0, 1, 3):
        refined = linalg.refined_spectra(
            function, at, "z", products, probes=1, powers=powers
        )
        assert (refined.error < true_error).sum() <= 200 + 4 * 180**0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_jacobian_of_low_rank_is_refined_to_its_exact_values(dtype):
    J = torch.stack([planted(30, 25, 4, seed) for seed in range(3)]).to(dtype)
    function, at = linear(J)
    V = linalg.orthonormal_directions(8, (25,), dtype=dtype)
    products = linalg.jacobian_products(function, at, V)["z"]
    refined = linalg.refined_spectra(function, at, "z", products)
    exact = torch.from_numpy(singular_values(J))[:, :4]
    rtol = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    np.testing.assert_allclose(refined.sigma[:, :4], exact, rtol=rtol)
    assert (refined.error < 10 * rtol * exact[:, 0]).all()


@pytest.mark.parametrize("method", ["forward", "double_backward", "reverse"])
def test_a_network_is_refined_by_every_method_and_in_chunks(method):
    _, function, at = network((30, 20, 18))
    exact = spectra_of(function, at)["1"]
    V = linalg.orthonormal_directions(6, (30,), dtype=torch.float64)
    products = linalg.jacobian_products(function, at, V)["1"]
    whole = linalg.refined_spectra(function, at, "1", products, method=method)
    parts = linalg.refined_spectra(function, at, "1", products, method=method, chunk=4)
    torch.testing.assert_close(whole.sigma, parts.sigma)
    torch.testing.assert_close(whole.error, parts.error)
    assert (whole.sigma <= exact[:, :6] * (1 + 1e-9)).all()
    assert (exact[:, 6] <= whole.error).all()


def test_a_constant_layer_is_refined_to_zeros():
    at, products = torch.zeros(2, 5), torch.zeros(2, 4, 3)
    refined = linalg.refined_spectra(
        lambda delta: {"z": torch.ones(2, 4)}, at, "z", products
    )
    assert not refined.sigma.any()
    assert not refined.error.any()


@pytest.mark.usefixtures("as_a_user_calls")
def test_a_refinement_without_probes_is_refused():
    function, at = linear(torch.randn(2, 4, 5))
    for options in ({"probes": 0}, {"powers": -1}):
        with pytest.raises(ValueError, match="expected at least 1 and 0"):
            linalg.refined_spectra(function, at, "z", torch.zeros(2, 4, 3), **options)
