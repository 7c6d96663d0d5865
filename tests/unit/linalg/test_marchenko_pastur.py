"""The law of noise and the ranks that stand on it, against integrals and planted ranks."""

import math

import numpy as np
import pytest
import torch

from svdhooks import linalg
from svdhooks.linalg import _marchenko_pastur as law


@pytest.fixture(params=["numpy", "torch"])
def to(request):
    """Make a float64 spectrum of the library under test."""
    if request.param == "numpy":
        return lambda values: np.asarray(values, np.float64)
    return lambda values: torch.as_tensor(values, dtype=torch.float64)


def slow_median(beta):
    """Median of the published density, summed on a grid in x."""
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2
    # midpoints of √x: at β = 1 the density has a pole at x = 0
    roots = np.linspace(math.sqrt(low), math.sqrt(high), 2_000_001)
    middles = (roots[1:] + roots[:-1]) / 2
    x = middles**2
    inner = np.clip((x - low) * (high - x), 0, None)
    density = np.sqrt(inner) / (2 * math.pi * beta * x) * 2 * middles
    mass = np.cumsum(density) * (roots[1] - roots[0])
    assert mass[-1] == pytest.approx(1.0, abs=1e-6)
    return float(roots[1:][np.searchsorted(mass, 0.5)] ** 2)


@pytest.mark.parametrize("beta", [1e-3, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_the_median_of_the_law_is_that_of_its_density(beta):
    assert law.median(beta) == pytest.approx(slow_median(beta), abs=3e-6)


def test_the_median_is_continuous_where_its_form_changes():
    assert law.median(1.01e-8) == pytest.approx(1 - 1.01e-8 / 3, abs=1e-13)
    assert law.median(0.0) == 1.0


def test_gavish_and_donohos_constants():
    assert law.hard_threshold(1.0) == pytest.approx(4 / math.sqrt(3), rel=1e-14)
    assert law.omega(1.0) == pytest.approx(2.858, abs=5e-4)
    betas = np.linspace(0.001, 1, 500)
    polynomial = 0.56 * betas**3 - 0.95 * betas**2 + 1.82 * betas + 1.43
    error = np.abs([law.omega(beta) for beta in betas] - polynomial)
    assert error[betas >= 0.02].max() < 0.01
    assert error.max() < 0.02  # as published; 0.0153 at the thin end


def test_the_edge_of_the_noise():
    assert linalg.marchenko_pastur_edge((9, 4)) == 5.0
    assert linalg.marchenko_pastur_edge((4, 9), 0.5) == 2.5
    edges = linalg.marchenko_pastur_edge((100, 25), np.array([1.0, 2.0]))
    assert edges.tolist() == [15.0, 30.0]
    noise = np.random.default_rng(0).standard_normal((1000, 400))
    largest = np.linalg.norm(noise, 2)
    # Tracy and Widom's law, 0.1 % and 99.9 %: 1.9 % below to 1.4 % above
    assert largest == pytest.approx(linalg.marchenko_pastur_edge((1000, 400)), rel=0.02)


def planted(shape, rank, strength, seed, noise=1.0):
    """Singular values of equal signals in Gaussian noise, in units of the edge."""
    rng = np.random.default_rng(seed)
    m, n = shape
    left = np.linalg.qr(rng.standard_normal((m, rank)))[0]
    right = np.linalg.qr(rng.standard_normal((n, rank)))[0]
    signal = strength * (math.sqrt(m) + math.sqrt(n)) * left @ right.T
    return np.linalg.svd(
        noise * (signal + rng.standard_normal(shape)), compute_uv=False
    )


@pytest.mark.parametrize("noise", [1.0, 1e-3])
@pytest.mark.parametrize("shape", [(100, 100), (60, 300), (400, 80)])
def test_five_planted_signals_are_five(shape, noise, to):
    for seed in range(5):
        sigma = to(planted(shape, 5, 2.0, seed, noise))
        for known in (None, noise):
            assert float(linalg.gavish_donoho_rank(sigma, shape, known)) == 5
            assert float(linalg.outlier_count(sigma, shape, known)) == 5
        assert float(linalg.mp_soft_rank(sigma, shape)) < 0.4
    pure = to(planted(shape, 0, 0.0, 0, noise))
    assert float(linalg.gavish_donoho_rank(pure, shape)) == 0
    assert float(linalg.mp_soft_rank(pure, shape)) == pytest.approx(1, abs=0.2)


def test_weak_signals_stand_out_before_they_are_worth_keeping():
    # a signal s of an n × n matrix is observed at s + n/s: at 1.083 edges here, where
    # the optimal threshold is at 2/√3 = 1.155 edges
    shape = (400, 400)
    for seed in range(3):
        sigma = planted(shape, 5, 0.75, seed)
        assert linalg.outlier_count(sigma, shape) == 5
        assert linalg.gavish_donoho_rank(sigma, shape) == 0


def test_the_margin_is_what_keeps_noise_out():
    rng = np.random.default_rng(0)
    sigma = np.linalg.svd(rng.standard_normal((400, 40, 40)), compute_uv=False)
    bare = (linalg.outlier_count(sigma, (40, 40), 1.0, margin=0.0) > 0).mean()
    kept = (linalg.outlier_count(sigma, (40, 40), 1.0) > 0).mean()
    # Tracy and Widom's law: 0.17 and 0.01; three standard errors of 400
    assert bare == pytest.approx(0.17, abs=0.06)
    assert kept < 0.025


def test_the_largest_noise_eigenvalue_fluctuates_on_the_width():
    assert law.edge_width((64, 64)) == pytest.approx(16 * 0.25 ** (1 / 3))
    rng = np.random.default_rng(0)
    sigma = np.linalg.svd(rng.standard_normal((500, 40, 60)), compute_uv=False)
    # Tracy and Widom's law has the standard deviation 1.268; 3 % is sampling error
    deviation = (sigma[:, 0] ** 2).std() / law.edge_width((40, 60))
    assert deviation == pytest.approx(1.268, rel=0.1)


def test_thresholds_are_those_of_the_formulas():
    shape, noise = (40, 10), 0.3
    threshold = law.hard_threshold(0.25) * math.sqrt(40) * noise
    sigma = threshold * np.array([3.0, 1 + 1e-9, 1 - 1e-9, 0.1])
    assert linalg.gavish_donoho_rank(sigma, shape, noise) == 2
    edge = linalg.marchenko_pastur_edge(shape, noise)
    sigma = edge * np.array([3.0, 1 + 1e-9, 1 - 1e-9, 0.1])
    assert linalg.outlier_count(sigma, shape, noise, margin=0.0) == 2
    assert linalg.mp_soft_rank(sigma, shape, noise) == pytest.approx(1 / 9)
    values = np.array([100.0, 3.0, 1.0, 1.0, 0.5])  # median 1, and ω(1) = 2.858
    assert linalg.gavish_donoho_rank(values, (5, 5)) == 2
    values[1] = 2.8
    assert linalg.gavish_donoho_rank(values, (5, 5)) == 1


@pytest.mark.parametrize(
    "name", ["outlier_count", "gavish_donoho_rank", "mp_soft_rank"]
)
def test_the_median_of_a_part_is_refused(name):
    measure = getattr(linalg, name)
    with pytest.raises(ValueError, match="Found 2 singular values, expected 4"):
        measure([2.0, 1.0], (4, 8))
    assert measure([2.0, 1.0], (4, 8), 1.0) >= 0  # known noise needs no median
