"""Few samples and many give the eigenvalues of the same covariance."""

import math

import numpy as np
import pytest
import torch

from svdhooks.linalg import CovarianceAccumulator, _solvers
from tests import oracles


def fill(x, sizes):
    """The accumulator of x, given in batches."""
    seen = CovarianceAccumulator(x.shape[1])
    for batch in x.split(sizes):
        assert seen.update(batch) is seen
    return seen


def assert_is_the_covariance_of(x, seen):
    """Count, mean, norms and eigenvalues are those of the samples."""
    n, d = x.shape
    exact = oracles.covariance_eigenvalues(x)
    found = seen.eigenvalues().numpy()
    assert found.shape == (min(n, d),)
    assert (np.diff(found) <= 0).all()
    np.testing.assert_allclose(
        found, exact[: len(found)].clip(0), rtol=1e-10, atol=1e-12 * exact[0]
    )
    np.testing.assert_allclose(exact[len(found) :], 0, atol=1e-12 * exact[0])
    samples = oracles.as_double(x)
    assert seen.count == n
    np.testing.assert_allclose(seen.mean, samples.mean(0), rtol=1e-10, atol=1e-12)
    assert seen.mean_norm == pytest.approx(np.linalg.norm(samples.mean(0)), rel=1e-10)
    assert seen.uncentred_norm == pytest.approx(np.linalg.norm(samples), rel=1e-10)


DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 2, 10, 11, 12, 13, 40])
@pytest.mark.parametrize("sizes", [1, 5, 40])
def test_eigenvalues_are_those_of_the_covariance(sizes, n, dtype):
    x = (torch.randn(n, 12) + 3).to(dtype)
    if dtype.is_complex:
        x = x + 1j * torch.randn(n, 12)
    if n == 1:
        seen = fill(x, sizes)
        assert seen.eigenvalues().tolist() == [0.0]
        return
    assert_is_the_covariance_of(x, fill(x, sizes))


def test_the_samples_become_moments_when_they_are_as_many_as_the_features():
    x = torch.randn(12, 12)
    seen = fill(x[:11], 4)
    assert seen.method == "sample_gram"
    assert torch.equal(seen.samples, x[:11])
    seen.update(x[11:])
    assert seen.method == "scatter"
    assert seen.samples is None
    assert_is_the_covariance_of(x, seen)
    assert fill(x, 12).method == "scatter"


def test_memory_is_that_of_the_samples_in_their_own_dtype():
    wide = torch.randn(8, 64, dtype=torch.bfloat16)[:, ::2]
    seen = fill(wide, 8)
    block = seen._blocks[0]
    assert block.dtype == torch.bfloat16
    assert block.untyped_storage().nbytes() == 8 * 32 * 2


def test_what_happens_to_the_samples_later_does_not_matter():
    x = torch.randn(5, 9)
    before = x.clone()
    seen = CovarianceAccumulator(9).update(x)
    x.relu_()
    assert_is_the_covariance_of(before, seen)


@pytest.mark.parametrize(("a", "b"), [(3, 4), (5, 5), (3, 20), (20, 3), (20, 20)])
def test_merging_equals_having_seen_both(a, b):
    x = torch.randn(a + b, 10) + 1
    left, right = fill(x[:a], 2), fill(x[a:], 3)
    merged = left.merge(right)
    assert merged.method == ("sample_gram" if a + b < 10 else "scatter")
    assert_is_the_covariance_of(x, merged)
    assert_is_the_covariance_of(x[:a], left)
    # what is added to the whole does not enter the parts
    merged.update(torch.randn(4, 10))
    assert (left.count, right.count) == (a, b)
    assert_is_the_covariance_of(x[a:], right)


def test_no_samples_have_no_eigenvalues():
    seen = CovarianceAccumulator(4).update(torch.zeros(0, 4))
    assert seen.eigenvalues().shape == (0,)
    assert seen.samples.shape == (0, 4)
    assert (seen.count, seen.mean_norm, seen.uncentred_norm) == (0, 0.0, 0.0)
    x = torch.randn(3, 4)
    assert_is_the_covariance_of(x, seen.merge(CovarianceAccumulator(4)).update(x))


def test_moments_hold_the_same_samples():
    x = torch.randn(7, 9)
    seen = fill(x, 3)
    moments = seen.moments()
    exact = oracles.two_pass_covariance(x)
    np.testing.assert_allclose(moments.covariance(), exact, rtol=1e-10, atol=1e-14)
    moments.update(x)
    assert (seen.count, seen.method) == (7, "sample_gram")


@pytest.mark.parametrize("n", [6, 30])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_value_reads_nan_silently(n, bad, capfd):
    x = torch.randn(n, 10)
    x[3, 4] = bad
    assert fill(x, 5).eigenvalues().isnan().all()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("n", [9, 40])
def test_a_large_mean_does_not_cancel(n):
    x = torch.randn(n, 10, dtype=torch.float64) + 1e5
    exact = oracles.covariance_eigenvalues(x)[: min(n - 1, 10)]
    found = fill(x, 4).eigenvalues()[: len(exact)]
    np.testing.assert_allclose(found, exact, rtol=1e-9)


@pytest.mark.parametrize("n", [9, 40])
def test_large_batches_are_converted_in_parts(n, monkeypatch):
    x = torch.randn(n, 25) + 2
    monkeypatch.setattr(_solvers, "COPY_BYTES", 16 * 60)
    assert_is_the_covariance_of(x, fill(x, n))


@pytest.mark.parametrize("n", [9, 40])
def test_autocast_and_inference_mode_change_nothing(n):
    x = torch.randn(n, 12)
    plain = fill(x, 5).eigenvalues()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        seen = fill(x + 0.0, 5)
        assert torch.equal(seen.eigenvalues(), plain)
    # and it goes on outside
    assert_is_the_covariance_of(torch.cat([x, x]), seen.update(x))


@pytest.mark.usefixtures("as_a_user_calls")
def test_wrong_samples_are_refused_with_a_remedy():
    seen = CovarianceAccumulator(3)
    with pytest.raises(ValueError, match=r"\(2, 4\), expected \(n, 3\)"):
        seen.update(torch.ones(2, 4))
    with pytest.raises(TypeError, match=r"samples\.float\(\)"):
        seen.update(torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="of 4 features, expected 3"):
        seen.merge(CovarianceAccumulator(4))
