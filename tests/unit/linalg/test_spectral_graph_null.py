"""Thresholds and p-values against published numbers, simulation and exact integrals."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from svdhooks import linalg

# features, kernel positions, χ², Beta
THREE_SIGMA = [
    (10, 1, 1.027, 0.699),
    (40, 1, 0.2568, 0.2341),
    (64, 1, 0.1605, 0.1516),
    (512, 1, 0.02006, 0.01992),
    (3, 9, 1.0035, 0.7251),
    (64, 9, 0.04704, 0.04638),
]


@pytest.mark.parametrize(("features", "kernel", "chi2", "beta"), THREE_SIGMA)
def test_the_thresholds_at_three_sigma(features, kernel, chi2, beta):
    found = linalg.significance_threshold(features, kernel, null="chi2")
    assert round(found, decimals(chi2)) == chi2
    found = linalg.significance_threshold(features, kernel)
    assert round(found, decimals(beta)) == beta


def decimals(published: float) -> int:
    return len(str(published).partition(".")[2])


def test_the_tail_of_the_papers_figure():
    assert linalg.significance_threshold(40, p=0.15, null="chi2") == pytest.approx(
        0.0518, abs=5e-5
    )
    assert linalg.significance_threshold(40, p=0.15) == pytest.approx(0.0524, abs=5e-5)


def test_sigma_is_one_sided():
    for sigma in (-1.0, 0.0, 1.5, 3.0, 6.0):
        p = 1 - stats.norm.cdf(sigma) if sigma < 5 else stats.norm.sf(sigma)
        for null in ("beta", "chi2"):
            found = linalg.significance_threshold(30, 4, sigma, null)
            expected = linalg.significance_threshold(30, 4, null=null, p=float(p))
            assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("null", ["beta", "chi2"])
@pytest.mark.parametrize(("features", "kernel"), [(4, 1), (40, 1), (16, 9), (4096, 1)])
def test_p_values_at_the_threshold_are_the_tail(null, features, kernel):
    for p in (0.5, 0.15, 1e-3, 1e-8):
        t = linalg.significance_threshold(features, kernel, null=null, p=p)
        found = linalg.edge_p_values(np.array([t]), features, kernel, null)
        assert found[0] == pytest.approx(p, rel=1e-6)


def exact_tail(x: float, features: int, kernel: int) -> float:
    """P(Beta > x) with fifty digits."""
    with mpmath.workdps(50):
        a, b = mpmath.mpf(kernel) / 2, mpmath.mpf((features - 1) * kernel) / 2
        # the other side of the law: no digits cancel
        return float(mpmath.betainc(b, a, 0, 1 - mpmath.mpf(x), regularized=True))


@pytest.mark.parametrize("x", [1e-12, 0.01, 0.3, 0.7, 0.95, 1 - 2.0**-20])
@pytest.mark.parametrize(("features", "kernel"), [(10, 1), (40, 1), (64, 9), (300, 1)])
def test_tails_are_exact_far_out(x, features, kernel):
    found = float(linalg.edge_p_values(np.array([x]), features, kernel)[0])
    assert found == pytest.approx(exact_tail(x, features, kernel), rel=1e-9, abs=1e-300)


def test_tails_beyond_doubles_are_zero_and_never_wrong():
    values = np.array([0.0, 1e-300, 0.5, 0.9999, 1.0, 1.0 + 1e-15, np.nan])
    found = linalg.edge_p_values(values, 4096)
    assert found[:2] == pytest.approx([1, 1])
    assert (found[2:6] == 0).all()  # 0.5^2048 is no double
    assert math.isnan(found[6])
    # smaller than the rounding of 1 - cdf
    middle = float(linalg.edge_p_values(np.array([0.2]), 200)[0])
    assert 0 < middle < 1e-9
    order = linalg.edge_p_values(np.linspace(0, 1, 500), 50)
    assert (np.diff(order) <= 0).all()


def test_a_single_feature_says_nothing():
    # every entry is 1 then
    assert linalg.significance_threshold(1) == 1.0
    assert linalg.significance_threshold(1, 9) == 1.0
    assert linalg.edge_p_values(np.ones((2, 3)), 1).tolist() == [[1.0] * 3] * 2
    A = linalg.spectral_adjacency(torch.randn(1, 5), torch.randn(4, 1, 3, 3))
    torch.testing.assert_close(A, torch.ones(4, 1, dtype=torch.float64))
    assert not (linalg.significance_threshold(1, 9) < A).any()


def test_tensors_give_tensors():
    A = torch.rand(3, 4)
    found = linalg.edge_p_values(A, 10)
    assert isinstance(found, torch.Tensor)
    expected = linalg.edge_p_values(A.numpy(), 10)
    np.testing.assert_array_equal(found.numpy(), expected)
    assert isinstance(expected, np.ndarray)


def haar_entries(c: int, z: int, count: int) -> np.ndarray:
    """Independent entries: one row and one column of each random pair."""
    kernel = () if z == 1 else (z,)
    found = [
        linalg.spectral_adjacency(
            torch.randn(c, c + 3, dtype=torch.float64),
            torch.randn(4, c, *kernel, dtype=torch.float64),
        )[0, 0]
        for _ in range(count)
    ]
    return torch.stack(found).numpy()


@pytest.mark.slow
@pytest.mark.parametrize(("c", "z"), [(4, 1), (3, 4)])
def test_random_layers_follow_the_beta_law(c, z):
    torch.manual_seed(1)
    entries = haar_entries(c, z, 2000)
    error = entries.std() / len(entries) ** 0.5
    assert entries.mean() == pytest.approx(1 / c, abs=3 * error)
    if z == 1:
        squares = entries**2
        error = squares.std() / len(entries) ** 0.5
        assert squares.mean() == pytest.approx(3 / (c * c + 2 * c), abs=3 * error)
    law = stats.beta(z / 2, (c - 1) * z / 2)
    assert law.var() == pytest.approx(2 * (c - 1) / (c**2 * (c * z + 2)))
    assert stats.kstest(entries, law.cdf).pvalue > 0.01
    # the paper's law is told apart with as many
    assert stats.kstest(entries * c * z, stats.chi2(z).cdf).pvalue < 0.01
    p = linalg.edge_p_values(entries, c, z)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_the_share_of_false_edges_is_the_tail():
    # many pairs of small layers: entries of one pair depend on each other
    torch.manual_seed(11)
    shares, expected = [], float(stats.norm.sf(3))
    threshold = linalg.significance_threshold(24)
    for _ in range(400):
        A = linalg.spectral_adjacency(torch.randn(24, 30), torch.randn(20, 24))
        shares.append(float((threshold < A).double().mean()))
    error = np.std(shares) / len(shares) ** 0.5
    assert np.mean(shares) == pytest.approx(expected, abs=3 * error)
    assert 2e-4 > error > 0


def test_mean_entries_of_convolutions():
    torch.manual_seed(2)
    A = linalg.spectral_adjacency(torch.randn(64, 16, 3, 3), torch.randn(32, 64, 3, 3))
    # rows are whole projections here: the mean is that of the null exactly
    assert float(A.mean()) == pytest.approx(1 / 64, rel=1e-9)
    spread = linalg.spectral_adjacency(torch.randn(64, 9), torch.randn(32, 64, 3, 3))
    error = float(spread.std()) / spread.numel() ** 0.5
    assert float(spread.mean()) == pytest.approx(1 / 64, abs=3 * error)


@pytest.mark.usefixtures("as_a_user_calls")
def test_what_is_wrong_is_said():
    for p in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            linalg.significance_threshold(10, p=p)
    with pytest.raises(ValueError, match="finite"):
        linalg.significance_threshold(10, sigma=float("inf"))
    with pytest.raises(ValueError, match="expected one of beta, chi2"):
        linalg.significance_threshold(10, null="normal")
    with pytest.raises(ValueError, match="0 features"):
        linalg.significance_threshold(0)
    with pytest.raises(ValueError, match="0 positions"):
        linalg.edge_p_values(np.zeros(2), 3, 0)
