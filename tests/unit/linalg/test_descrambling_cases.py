"""Descrambling where its outcome is known in closed form, and the moments it starts from."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from svdhooks.linalg import (
    descramble,
    fit_signal_model,
    large_data_moment,
    preactivation_moment,
    principal_angles,
    smooth_basis,
    smoothness_operator,
)


def orthogonal(n, generator=None):
    return torch.linalg.qr(torch.randn(n, n, generator=generator).double())[0]


def rows_agree(X, Y, **tolerance):
    """Whether the rows are the same but for their signs."""
    signs = (X * Y).sum(1, keepdim=True).sign()
    torch.testing.assert_close(X, Y * signs, **tolerance)


# --- the special cases of the paper ----------------------------------------------------------


def test_of_an_isotropic_moment_every_rotation_is_as_good():
    c = 2.5
    found = descramble(c * torch.eye(10).double())
    total = c * float(smooth_basis(10)[0].sum())
    for P in (found.P, torch.eye(10).double(), orthogonal(10)):
        eta = c * float((smoothness_operator(10) @ P).square().sum())
        assert eta == pytest.approx(total, rel=1e-12)
    assert found.lower_bound == pytest.approx(found.upper_bound, rel=1e-12)
    assert math.isnan(found.relative_gap)
    assert math.isnan(found.scrambling)
    assert not bool(found.identifiable().any())
    assert found.spans() == [range(10)]


def test_of_white_input_the_left_singular_vectors_become_fourier_modes():
    W = torch.randn(9, 14).double()
    found = descramble(large_data_moment(W))
    U, sigma, Vh = torch.linalg.svd(found.weight(W), full_matrices=False)
    T = smooth_basis(9)[1]
    rows_agree(U.T, T.T)
    # P* W = T Σ Vᵀ: what is left of W are V and Σ
    rows_agree(T.T @ found.weight(W), sigma[:, None] * Vh)
    torch.testing.assert_close(sigma, torch.linalg.svdvals(W))


def test_a_linear_network_trained_from_small_weights_has_a_closed_form():
    n, N = 10, 40
    s = torch.linspace(5, 0.5, n).double()
    U, V, R = (orthogonal(n) for _ in range(3))
    W1, W2 = R @ (s.sqrt()[:, None] * V.T), (U * s.sqrt()) @ R.T
    X = math.sqrt(N) * torch.linalg.qr(torch.randn(N, n).double())[0].T
    S = W1 @ X
    found = descramble(S @ S.T / N)
    T = smooth_basis(n)[1]
    rows_agree(T.T @ found.weight(W1), s.sqrt()[:, None] * V.T, rtol=0, atol=1e-10)
    rows_agree((found.next_weight(W2) @ T).T, (U * s.sqrt()).T, rtol=0, atol=1e-10)
    assert found.cost == pytest.approx(1429.5, rel=1e-12)
    torch.testing.assert_close(found.next_weight(W2) @ found.weight(W1), W2 @ W1)


def test_of_stationary_data_it_permutes_frequencies():
    n = 9
    power = torch.tensor([9.0, 1, 7, 3, 5]).double()  # of the frequencies 0 … 4
    frequency = (torch.arange(n) + 1) // 2
    T = smooth_basis(n)[1]
    found = descramble(T * power[frequency] @ T.T)
    share = torch.zeros(5, 5).double()  # of each frequency that goes to each other
    inside = T.T @ found.P @ T
    for i in range(n):
        for j in range(n):
            share[frequency[i], frequency[j]] += inside[i, j].square()
    share /= torch.tensor([1, 2, 2, 2, 2])[:, None]
    # the order of the powers: 0, 2, 4, 3, 1
    torch.testing.assert_close(share, torch.eye(5).double()[[0, 2, 4, 3, 1]])


def test_a_solved_band_pass_has_its_band_as_singular_vectors():
    n, band = 128, range(10, 21)
    response = torch.zeros(n).double()
    frequency = (torch.arange(n) + 1) // 2
    inside = torch.tensor([int(k) in band for k in frequency])
    response[inside] = 1.0 - 0.02 * (frequency[inside] - 10).double()
    T = smooth_basis(n)[1]
    H = T * response @ T.T
    X = torch.randn(n, 400).double()
    W = torch.linalg.lstsq(X.T, (H @ X).T).solution.T
    _, sigma, Vh = torch.linalg.svd(W)
    fourier = np.abs(np.fft.fft(H[:, 0].numpy()))
    np.testing.assert_allclose(sigma.numpy(), np.sort(fourier)[::-1], atol=1e-10)
    assert int((sigma > 0.5 * sigma[0]).sum()) == 2 * len(band)
    angles = principal_angles(Vh[: 2 * len(band)].T, T[:, inside])
    assert float(angles[-1]) < 1e-3
    # descrambled, the band is moved to the smoothest modes
    found = descramble(large_data_moment(W))
    spectrum = (T.T @ found.weight(W)).square().sum(1)
    assert float(spectrum[: 2 * len(band)].sum() / spectrum.sum()) == pytest.approx(1.0)


# --- moments ---------------------------------------------------------------------------------


def test_the_bias_left_in_becomes_the_first_component():
    W = torch.randn(16, 24).double() / 5
    b = 3 * torch.randn(16).double()
    X = torch.randn(4000, 24).double()
    Z = X @ W.T + b
    C, mean = torch.cov(Z.T, correction=0), Z.mean(0)
    first = torch.linalg.svd(W)[0][:, 0]
    without = descramble(preactivation_moment(C, mean, b)).U[:, 0]
    left_in = descramble(preactivation_moment(C, mean)).U[:, 0]
    assert abs(float(without @ first)) > 0.9
    assert abs(float(left_in @ first)) < 0.6
    assert abs(float(left_in @ b / b.norm())) > 0.99
    S = (Z - b).T
    torch.testing.assert_close(preactivation_moment(C, mean, b), S @ S.T / 4000)
    torch.testing.assert_close(preactivation_moment(C, mean, b, center=True), C)
    # a large mean of the data is a component of its own, unless it is taken off
    far = preactivation_moment(C, mean + 100 * W[:, 0], b)
    assert abs(float(descramble(far).U[:, 0] @ W[:, 0] / W[:, 0].norm())) > 0.999


def test_the_large_data_form_is_that_of_singular_vectors():
    W, root = torch.randn(7, 11).double(), torch.randn(11, 11).double()
    R = root @ root.T
    values, vectors = torch.linalg.eigh(R)
    U, sigma, _ = torch.linalg.svd(W @ (vectors * values.sqrt()) @ vectors.T)
    found = descramble(large_data_moment(W, R))
    torch.testing.assert_close(found.eigenvalues, sigma.square())
    rows_agree(found.U.T, U.T)


@pytest.mark.parametrize("white", [True, False])
def test_measured_components_approach_the_predicted_as_samples_grow(white):
    counts = [1000, 10_000, 100_000]
    logs = torch.zeros(3).double()
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        W = torch.randn(12, 20, generator=generator).double()
        root = torch.diag(torch.linspace(0.3, 2, 20).double())
        root = torch.eye(20).double() if white else root @ orthogonal(20, generator)
        predicted = descramble(large_data_moment(W, root @ root.T)).U
        X = root @ torch.randn(20, counts[-1], generator=generator).double()
        for i, N in enumerate(counts):
            S = W @ X[:, :N]
            U = descramble(S @ S.T / N).U
            for k in range(1, 12):
                angle = principal_angles(U[:, :k], predicted[:, :k])[-1]
                logs[i] += float(angle.log()) / (6 * 11)
    slope = float(logs[2] - logs[0]) / math.log(100)
    assert slope == pytest.approx(-0.5, abs=0.1)


def test_of_duplicated_inputs_both_halves_of_right_vectors_are_the_same():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(500, 16, generator=generator).double()
    X = torch.cat([z, z], 1)
    Y = torch.tanh(z @ torch.randn(16, 4, generator=generator).double())
    W = torch.linalg.lstsq(
        X, Y, driver="gelsd"
    ).solution.T  # where training from 0 ends
    V = torch.linalg.svd(W, full_matrices=False)[2].T
    torch.testing.assert_close(V[:16], V[16:])
    R = X.T @ X / 500
    values, vectors = torch.linalg.eigh(R)
    seen = (
        torch.randn(4, 32).double() @ (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    )
    V = torch.linalg.svd(seen, full_matrices=False)[2].T  # of any weight at all
    torch.testing.assert_close(V[:16], V[16:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("noise", [1.0, 1 / 900])
def test_the_best_linear_estimator_of_decay_times_holds_decays(noise):
    t, grid = np.linspace(0, 800, 64), np.linspace(50, 500, 50)
    T = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    signals = 0.6 * np.exp(-t / T[:, :1]) + 0.4 * np.exp(-t / T[:, 1:])
    X, Y = signals - signals.mean(0), T - T.mean(0)
    R = X.T @ X / len(X) + noise * np.eye(64)
    W = np.linalg.solve(R, X.T @ Y / len(X)).T
    leading = np.linalg.svd(W, full_matrices=False)[2][0]
    random = [
        np.linalg.svd(np.random.default_rng(seed).standard_normal((32, 64)))[2][0]
        for seed in range(4)
    ]
    by_chance = max(fit_signal_model(t, vector).r_squared for vector in random)
    assert fit_signal_model(t, leading).r_squared > 0.8
    assert by_chance < 0.4


def test_a_convolution_is_descrambled_by_its_channels():
    x = torch.randn(8, 3, 9, 9).double()
    kernel, bias = torch.randn(6, 3, 3, 3).double(), torch.randn(6).double()
    z = functional.conv2d(x, kernel, bias)
    samples = z.movedim(1, -1).reshape(-1, 6)
    C, mean = torch.cov(samples.T, correction=0), samples.mean(0)
    measured = preactivation_moment(C, mean, bias)
    patches = functional.unfold(x, 3).movedim(1, -1).reshape(-1, 27)
    R = patches.T @ patches / len(patches)
    torch.testing.assert_close(measured, large_data_moment(kernel.flatten(1), R))
    found = descramble(measured)
    turned = functional.conv2d(x, found.weight(kernel), found.weight(bias))
    torch.testing.assert_close(turned, torch.einsum("ij,bjhw->bihw", found.P, z))
    following = torch.randn(5, 6, 3, 3).double()
    torch.testing.assert_close(
        functional.conv2d(turned, found.next_weight(following)),
        functional.conv2d(z, following),
    )
