"""What holds of every spectrum and of every split of the samples."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svdhooks import linalg
from tests import oracles

FAST = settings(max_examples=40, deadline=None)
RANKS = [
    linalg.stable_rank,
    linalg.effective_rank,
    linalg.variance_effective_rank,
    linalg.participation_ratio,
    linalg.numerical_rank,
    linalg.spectral_entropy,
]


@st.composite
def spectra(draw):
    """Descending, with ties, zeros and many orders of magnitude; not all zero."""
    exponents = draw(st.lists(st.floats(-12, 3), min_size=1, max_size=12))
    values = sorted((10.0**e for e in exponents), reverse=True)
    return np.array(values + [0.0] * draw(st.integers(0, 3)))


seeds = st.integers(0, 2**31)


@FAST
@given(spectra())
def test_ranks_keep_their_order(sigma):
    nonzero = np.count_nonzero(sigma)
    slack = 1 + 1e-12
    stable = linalg.stable_rank(sigma)
    ratio = linalg.participation_ratio(sigma)
    variance = linalg.variance_effective_rank(sigma)
    effective = linalg.effective_rank(sigma)
    assert slack >= 1 / stable
    assert stable <= ratio * slack
    assert ratio <= variance * slack
    assert variance <= effective * slack
    assert effective <= nonzero * slack
    assert stable <= linalg.numerical_rank(sigma, tol=0.0) == nonzero


@FAST
@given(spectra(), st.floats(-250, 250))
def test_ranks_are_invariant_to_scale(sigma, exponent):
    for rank in RANKS:
        np.testing.assert_allclose(
            rank(sigma * 10.0**exponent), rank(sigma), rtol=1e-9, atol=1e-14
        )


@FAST
@given(spectra())
def test_zeros_change_no_rank_but_the_normalised_entropy(sigma):
    padded = np.append(sigma, [0.0, 0.0])
    shape = (len(padded), len(padded))  # the default threshold depends on it
    for rank in RANKS[:4]:
        np.testing.assert_allclose(rank(padded), rank(sigma), rtol=1e-12)
    assert linalg.numerical_rank(padded, shape=shape) == linalg.numerical_rank(
        sigma, shape=shape
    )
    assert linalg.spectral_entropy(padded) <= linalg.spectral_entropy(sigma) + 1e-14
    np.testing.assert_allclose(
        linalg.spectral_entropy(sigma, size=len(padded)),
        linalg.spectral_entropy(padded),
        rtol=1e-12,
        atol=1e-14,  # near 0 it is a difference of rounded logarithms
    )


@FAST
@given(spectra())
def test_measures_equal_the_functions(sigma):
    for name, value in linalg.measures(sigma).items():
        np.testing.assert_allclose(
            value, getattr(linalg, name)(sigma), rtol=1e-12, atol=1e-14
        )


@FAST
@given(seeds, st.integers(1, 9), st.integers(1, 9))
def test_ranks_are_invariant_to_rotation(seed, m, n):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(m, n, generator=generator, dtype=torch.float64)
    left = torch.linalg.qr(torch.randn(m, m, generator=generator).double()).Q
    right = torch.linalg.qr(torch.randn(n, n, generator=generator).double()).Q
    sigma, rotated = (linalg.singular_values(x) for x in (A, left @ A @ right))
    for rank in RANKS:
        np.testing.assert_allclose(rank(rotated), rank(sigma), rtol=1e-9, atol=1e-13)


@FAST
@given(seeds, st.integers(1, 12), st.integers(1, 12))
def test_both_methods_find_the_same_singular_values(seed, m, n):
    A = torch.randn(m, n, generator=torch.Generator().manual_seed(seed))
    by_gram = linalg.singular_values(A)
    by_svd = linalg.singular_values(A, resolution=0.0)
    torch.testing.assert_close(by_gram, by_svd, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(by_gram, linalg.singular_values(A.T))


@st.composite
def split_samples(draw):
    """Samples of up to 6 features with some mean, and three parts of them."""
    generator = torch.Generator().manual_seed(draw(seeds))
    d, mean = draw(st.integers(1, 6)), draw(st.sampled_from([0.0, 1.0, 1e3]))
    sizes = draw(st.lists(st.integers(0, 8), min_size=3, max_size=3))
    x = torch.randn(sum(sizes), d, generator=generator, dtype=torch.float64) + mean
    return x, x.split(sizes)


def same(found, expected):
    """Equal moments, relative to the size of the whole."""
    assert found.count == expected.count
    scale = float(expected.mean.abs().max()) or 1.0
    torch.testing.assert_close(
        found.mean, expected.mean, rtol=1e-12, atol=1e-12 * scale
    )
    # rounding of the mean enters the deviations
    size = float(expected.scatter.abs().max()) + 1e-10 * scale
    torch.testing.assert_close(
        found.scatter, expected.scatter, rtol=1e-9, atol=1e-10 * size
    )


@FAST
@given(split_samples())
def test_merging_moments_is_associative_and_commutative(case):
    x, parts = case
    a, b, c = (linalg.Moments.zeros(x.shape[1]).update(part) for part in parts)
    same(a.merge(b).merge(c), a.merge(b.merge(c)))
    same(a.merge(b), b.merge(a))


@FAST
@given(split_samples())
def test_moments_do_not_depend_on_the_batches(case):
    x, parts = case
    whole = linalg.Moments.zeros(x.shape[1]).update(x)
    split = linalg.Moments.zeros(x.shape[1])
    for part in parts:
        split.update(part)
    same(split, whole)


@FAST
@given(split_samples())
def test_accumulated_eigenvalues_do_not_depend_on_batches_or_merges(case):
    x, parts = case
    n, d = x.shape
    seen = [linalg.CovarianceAccumulator(d).update(part) for part in parts]
    merged = seen[0].merge(seen[1]).merge(seen[2])
    other = seen[0].merge(seen[1].merge(seen[2]))
    streamed = linalg.CovarianceAccumulator(d)
    for part in parts:
        streamed.update(part)
    exact = oracles.covariance_eigenvalues(x)[: min(n, d)] if n else np.zeros(0)
    for accumulator in (merged, other, streamed):
        found = accumulator.eigenvalues()
        size = max(exact, default=0.0) + 1e-10
        np.testing.assert_allclose(found, exact, rtol=1e-8, atol=1e-10 * size)


@FAST
@given(spectra(), st.sampled_from(["float32", "bfloat16", "float64"]))
def test_the_noise_floor_scales_with_the_matrix(sigma, dtype):
    shape = (20, 30)
    floor = linalg.noise_floor(sigma, shape=shape, dtype=dtype)
    larger = linalg.noise_floor(sigma * 1e9, shape=shape, dtype=dtype)
    assert math.isclose(larger, floor * 1e9, rel_tol=1e-9)
    assert floor > 0
