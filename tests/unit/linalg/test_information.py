"""Gaussian information against log-determinants, and the bottleneck's closed forms."""

from typing import Any

import numpy as np
import pytest
import torch

from svdhooks.linalg.information import (
    GaussianBottleneck,
    channel_information,
    gaussian_information,
    information_slope,
)

Array = np.ndarray[Any, Any]


def joint(n: int, m: int, seed: int) -> Array:
    """A random covariance of n + m variables."""
    factor = np.random.default_rng(seed).standard_normal((n + m, n + m + 2))
    return factor @ factor.T / (n + m)


def mutual(covariance: Array, n: int) -> float:
    """``½ log(det A · det B / det C)``, from the definition."""
    dets = [
        np.linalg.slogdet(block)[1]
        for block in (covariance[:n, :n], covariance[n:, n:], covariance)
    ]
    return (dets[0] + dets[1] - dets[2]) / 2


def informations(A: Array, covariance: Array, n: int) -> tuple[float, float]:
    """I(T;X) and I(T;Y) of ``T = A x + ξ``, from covariances of (T, x) and (T, y)."""
    S, k = covariance, len(A)
    T = A @ S[:n, :n] @ A.T + np.eye(k)
    found = []
    for other in (slice(0, n), slice(n, None)):
        cross = A @ S[:n, other]
        found.append(mutual(np.block([[T, cross], [cross.T, S[other, other]]]), k))
    return found[0], found[1]


def test_information_is_the_log_determinant():
    covariance = joint(6, 0, 0)
    eigenvalues = np.linalg.eigvalsh(covariance)
    for noise in (1e-3, 0.5, 20.0):
        direct = np.linalg.slogdet(np.eye(6) + covariance / noise**2)[1] / 2
        assert gaussian_information(eigenvalues, noise) == pytest.approx(direct)
        # z and z + noise as a joint covariance
        both = np.block([
            [covariance, covariance],
            [covariance, covariance + noise**2 * np.eye(6)],
        ])
        assert mutual(both, 6) == pytest.approx(direct)


def test_a_channel_is_the_log_determinant_of_what_comes_through():
    rng = np.random.default_rng(1)
    J, covariance = rng.standard_normal((3, 5)), joint(5, 0, 2)
    direct = np.linalg.slogdet(np.eye(3) + J @ covariance @ J.T / 0.3**2)[1] / 2
    assert channel_information(J, covariance, 0.3) == pytest.approx(direct)
    given = torch.from_numpy(J), torch.from_numpy(covariance)
    assert channel_information(*given, 0.3) == pytest.approx(direct)


def test_the_slope_is_the_derivative():
    eigenvalues, h = np.array([3.0, 0.4, 0.01, 0.0]), 1e-5
    for noise in (0.01, 0.3, 5.0):
        up, down = (
            gaussian_information(eigenvalues, noise * np.exp(s)) for s in (-h, h)
        )
        found = information_slope(eigenvalues, noise)
        assert found == pytest.approx((up - down) / (2 * h), rel=1e-6)


def test_the_slope_tends_to_the_rank():
    """Acceptance D8."""
    rng = np.random.default_rng(3)
    J = rng.standard_normal((7, 3)) @ rng.standard_normal((3, 9))
    of_x, noises = joint(9, 0, 4), np.logspace(-4, -6, 9)
    eigenvalues = np.linalg.svd(J @ np.linalg.cholesky(of_x))[1] ** 2
    assert np.linalg.matrix_rank(J @ of_x @ J.T) == 3
    found = [channel_information(J, of_x, noise) for noise in noises]
    slopes = np.diff(found) / np.diff(np.log(1 / noises))
    assert ((slopes > 3 - 1e-6) & (slopes < 3.01)).all()
    for noise in noises:
        assert 3 - 1e-6 < information_slope(eigenvalues, noise) < 3.01


def test_batches_tensors_and_extremes():
    eigenvalues = torch.tensor([[2.0, 1.0], [0.0, 0.0]])
    found = gaussian_information(eigenvalues, 1.0)
    assert found.dtype == torch.float64
    assert torch.allclose(found, torch.tensor([np.log(6) / 2, 0.0]).double())
    assert information_slope(np.array([1e300]), 1e-200) == 1
    assert gaussian_information(np.array([-1e-18, 0.0]), 1e-9) == 0
    assert np.isnan(gaussian_information(np.array([np.nan, 1.0]), 1.0))
    assert np.isnan(information_slope(np.array([np.nan, 1.0]), 1.0))
    assert gaussian_information([], 1.0) == information_slope([], 1.0) == 0


@pytest.mark.parametrize("noise", [0, -1.0, float("nan"), float("inf")])
def test_no_information_without_noise(noise):
    for function in (gaussian_information, information_slope):
        with pytest.raises(ValueError, match="positive standard deviation"):
            function(np.ones(2), noise)


# --- the bottleneck: acceptance D6 -------------------------------------------------------


@pytest.mark.parametrize("sizes", [(4, 3), (3, 5)])
def test_the_rank_steps_exactly_at_the_critical_betas(sizes):
    bottleneck = GaussianBottleneck.of(joint(*sizes, 5), sizes[0])
    betas = bottleneck.critical_betas
    finite = betas[np.isfinite(betas)]
    assert len(finite) == min(sizes)
    assert (np.diff(finite) > 0).all()
    for before, beta in enumerate(finite):
        for side, expected in ((1 - 1e-9, before), (1 + 1e-9, before + 1)):
            assert bottleneck.rank(beta * side) == expected
            A = bottleneck.encoder(beta * side)
            assert (np.abs(A).max(1) > 0).sum() == expected
    assert bottleneck.rank(1e12) == min(sizes)


def test_eigenvalues_are_those_of_the_definition():
    C = joint(4, 3, 6)
    bottleneck = GaussianBottleneck.of(C, 4)
    x, y, cross = C[:4, :4], C[4:, 4:], C[:4, 4:]
    given = x - cross @ np.linalg.inv(y) @ cross.T
    product = given @ np.linalg.inv(x)
    expected = np.sort(np.linalg.eigvals(product).real)
    assert np.allclose(bottleneck.eigenvalues, expected)
    V = bottleneck.directions
    assert np.allclose(V @ product, bottleneck.eigenvalues[:, None] * V)
    assert np.allclose(V @ x @ V.T, np.eye(4))


@pytest.mark.parametrize("seed", range(3))
def test_closed_forms_are_the_log_determinants(seed):
    C = joint(4, 3, seed)
    bottleneck = GaussianBottleneck.of(C, 4)
    assert bottleneck.total_information == pytest.approx(mutual(C, 4), abs=1e-9)
    for beta in np.concatenate([[1.01], bottleneck.critical_betas[:3] * 1.3, [500.0]]):
        A = bottleneck.encoder(beta)
        of_x, of_y = informations(A, C, 4)
        assert bottleneck.input_information(beta) == pytest.approx(of_x, abs=1e-6)
        assert bottleneck.output_information(beta) == pytest.approx(of_y, abs=1e-6)
        assert bottleneck.curve(of_x) == pytest.approx(of_y, abs=1e-6)
    assert bottleneck.output_information(1e9) == pytest.approx(mutual(C, 4), abs=1e-6)


def test_the_encoder_is_a_local_minimum():
    C, rng = joint(4, 3, 7), np.random.default_rng(0)
    bottleneck = GaussianBottleneck.of(C, 4)
    for beta in bottleneck.critical_betas[:3] * 1.2:
        A = bottleneck.encoder(beta)

        def cost(A: Array, beta: float = beta) -> float:
            of_x, of_y = informations(A, C, 4)
            return of_x - beta * of_y

        least = cost(A)
        for scale in (1e-3, 1e-2, 1e-1):
            for _ in range(200):
                assert cost(A + scale * rng.standard_normal(A.shape)) >= least - 1e-12
        # and the check can fail: away from the minimum half of the directions go down
        off = 1.2 * A + 0.05
        moved = [cost(off + 1e-3 * rng.standard_normal(A.shape)) for _ in range(20)]
        assert min(moved) < cost(off)


def test_the_curve_is_concave_and_bounded():
    bottleneck = GaussianBottleneck.of(joint(4, 3, 8), 4)
    given = np.linspace(0, 12, 300)
    told = np.array([bottleneck.curve(x) for x in given])
    assert told[0] == 0
    assert (np.diff(told) > 0).all()
    assert (np.diff(told, 2) < 1e-12).all()
    assert (told <= np.minimum(given, bottleneck.total_information) + 1e-12).all()


def test_x_that_knows_nothing_of_y():
    bottleneck = GaussianBottleneck.of(np.eye(4), 2)
    assert np.isinf(bottleneck.critical_betas).all()
    assert bottleneck.rank(1e9) == bottleneck.total_information == 0
    assert bottleneck.curve(3.0) == 0
    assert not bottleneck.encoder(1e9).any()


@pytest.mark.usefixtures("as_a_user_calls")
def test_bad_input_says_what_was_found():
    with pytest.raises(ValueError, match="inputs=3 of 3"):
        GaussianBottleneck.of(np.eye(3), 3)
    with pytest.raises(ValueError, match="positive definite"):
        GaussianBottleneck.of(np.ones((2, 2)), 1)
    with pytest.raises(ValueError, match=r"covariance of shape \(2, 3\)"):
        GaussianBottleneck.of(np.ones((2, 3)), 1)
    with pytest.raises(ValueError, match="Jacobian of shape"):
        channel_information(np.ones((2, 3)), np.eye(2), 0.1)
    with pytest.raises(ValueError, match="expected 0 or more"):
        GaussianBottleneck.of(np.eye(2), 1).curve(-1.0)
