"""Smoothness operators against derivatives by FFT, and their modes against the definition."""

import math

import numpy as np
import pytest
import torch

from svdhooks.linalg import smooth_basis, smoothness_operator

SIZES = (1, 2, 3, 8, 9, 80, 81)


def spectral_derivative(n):
    """The second derivative by the FFT: each frequency k times -k²."""
    k = np.fft.fftfreq(n, 1 / n)
    return torch.from_numpy(
        np.fft.ifft(-(k**2)[:, None] * np.fft.fft(np.eye(n), axis=0), axis=0).real
    )


@pytest.mark.parametrize("n", SIZES)
def test_the_second_derivative_is_that_of_the_fft(n):
    D, expected = smoothness_operator(n), spectral_derivative(n)
    # the FFT rounds relative to the largest frequency
    torch.testing.assert_close(D, expected, rtol=0, atol=1e-13 * max(1, n * n))


@pytest.mark.parametrize("n", SIZES)
def test_its_eigenvalues_are_fourth_powers(n):
    D = smoothness_operator(n)
    expected = torch.tensor(sorted(min(i, n - i) ** 4 for i in range(n))).double()
    found = torch.linalg.eigvalsh(D.T @ D)
    tolerance = 1e-8 * float(expected.max()) if n > 1 else 1e-15
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    assert torch.equal(smooth_basis(n)[0], expected)


@pytest.mark.parametrize("operator", ["fourier2", "difference"])
@pytest.mark.parametrize("n", SIZES)
def test_modes_are_orthonormal_eigenvectors(n, operator):
    D = smoothness_operator(n, operator)
    a, T = smooth_basis(n, operator)
    torch.testing.assert_close(T.T @ T, torch.eye(n).double())
    scale = float(a.max()) or 1.0
    torch.testing.assert_close(D.T @ D @ T / scale, T * a / scale)
    assert bool((a.diff() >= -1e-14 * scale).all())


@pytest.mark.parametrize("n", [7, 8])
def test_modes_come_as_constant_cosine_sine_and_alternating(n):
    T = smooth_basis(n)[1].numpy()
    x = 2 * np.pi * np.arange(n) / n
    columns = [np.ones(n)]
    for k in range(1, (n - 1) // 2 + 1):
        columns += [np.cos(k * x), np.sin(k * x)]
    if n % 2 == 0:
        columns.append((-1.0) ** np.arange(n))
    expected = np.stack([c / np.linalg.norm(c) for c in columns], 1)
    np.testing.assert_allclose(T, expected, atol=1e-15 * n)


def test_the_first_difference_is_the_step_to_the_next_entry():
    p = torch.randn(9).double()
    stepped = [float(p[(i + 1) % 9] - p[i]) for i in range(9)]
    found = smoothness_operator(9, "difference") @ p
    torch.testing.assert_close(found, torch.tensor(stepped).double())


def test_a_matrix_of_the_user_is_taken_as_it_is():
    # not circulant: the difference without the step from the last to the first
    D = torch.diff(torch.eye(6), dim=0, append=torch.zeros(1, 6))
    D[-1] = 0.0
    a, T = smooth_basis(6, D)
    values, vectors = torch.linalg.eigh(D.double().T @ D.double())
    torch.testing.assert_close(a, values, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close((T * vectors).sum(0).abs(), torch.ones(6).double())
    # its modes are those of the cosine transform; every largest entry is positive
    j = torch.arange(6).double()
    cosine = torch.cos(math.pi * (j + 0.5) * 1 / 6)
    assert abs(float(T[:, 1] @ cosine / cosine.norm())) == pytest.approx(1.0)
    assert bool((T.gather(0, T.abs().argmax(0, keepdim=True)) > 0).all())
    assert torch.equal(smoothness_operator(6, D), D.double())


def test_small_eigenvalues_of_a_matrix_are_kept():
    Q = torch.linalg.qr(torch.randn(4, 4).double())[0]
    a = smooth_basis(4, Q * torch.tensor([1e-6, 1e-4, 1.0, 1e3]).double())[0]
    # DᵀD itself holds nothing below 1e-16 · 1e6
    expected = torch.tensor([1e-12, 1e-8, 1.0, 1e6]).double()
    torch.testing.assert_close(a, expected, rtol=1e-6, atol=0)


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize("function", [smoothness_operator, smooth_basis])
@pytest.mark.parametrize(
    ("n", "operator", "error", "said"),
    [
        (4, "fourier", ValueError, "'fourier', expected one of fourier2, difference"),
        (0, "fourier2", ValueError, "n=0"),
        (4, torch.ones(3, 4), ValueError, r"shape \(3, 4\), expected \(4, 4\)"),
        (4, torch.eye(3), ValueError, r"shape \(3, 3\), expected \(4, 4\)"),
        (2, torch.full((2, 2), float("nan")), ValueError, "NaN or infinity"),
        (2, torch.eye(2, dtype=torch.int64), TypeError, "torch.int64"),
        (2, torch.eye(2, dtype=torch.complex64), TypeError, "torch.complex64"),
        (2, None, TypeError, "NoneType"),
    ],
)
def test_what_is_no_operator_is_refused(function, n, operator, error, said):
    with pytest.raises(error, match=said):
        function(n, operator)
