"""A stream of samples has the moments of all samples at once."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from svdhooks.linalg import Moments, _solvers
from tests import oracles


def fill(x, sizes, **options):
    """Moments of x, given in batches."""
    moments = Moments.zeros(x.shape[1], **options)
    for batch in x.split(sizes):
        moments.update(batch)
    return moments


def assert_equal(found, expected, rtol=1e-12):
    """Same count, mean and scatter, to rounding."""
    assert found.count == expected.count
    torch.testing.assert_close(found.mean, expected.mean, rtol=rtol, atol=rtol)
    scale = float(expected.scatter.abs().max()) or 1.0
    torch.testing.assert_close(
        found.scatter, expected.scatter, rtol=rtol, atol=rtol * scale
    )


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str
)
@pytest.mark.parametrize("sizes", [1, 7, 40, [3, 0, 37]], ids=str)
def test_batches_have_the_two_pass_covariance(sizes, dtype):
    x = torch.randn(40, 6).to(dtype)
    found = fill(x, sizes)
    assert found.count == 40
    assert type(found.count) is int
    np.testing.assert_allclose(found.mean, oracles.as_double(x).mean(0), rtol=1e-12)
    exact = oracles.two_pass_covariance(x)
    np.testing.assert_allclose(found.covariance(), exact, rtol=1e-12, atol=1e-14)


def test_covariance_is_that_of_numpy_with_one_over_n():
    x = torch.randn(30, 4, dtype=torch.float64)
    exact = np.cov(x.numpy().T, bias=True)
    np.testing.assert_allclose(fill(x, 11).covariance(), exact, rtol=1e-12)


def test_second_moment_is_not_centred():
    x = torch.randn(30, 4, dtype=torch.float64) + 2
    exact = x.T.numpy() @ x.numpy() / 30
    np.testing.assert_allclose(fill(x, 7).second_moment(), exact, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_samples_have_a_hermitian_covariance(dtype):
    x = torch.randn(50, 3, dtype=dtype) + (1 + 2j)
    found = fill(x, 13, dtype=torch.complex128)
    exact = np.cov(oracles.as_double(x).T, bias=True)
    np.testing.assert_allclose(found.covariance(), exact, rtol=1e-10, atol=1e-12)
    y = oracles.as_double(x)
    second = np.einsum("ni,nj->ij", y, y.conj()) / 50
    np.testing.assert_allclose(found.second_moment(), second, rtol=1e-10)


def test_a_large_mean_does_not_cancel():
    x = torch.randn(20_000, 16) + 1e3
    exact = oracles.two_pass_covariance(x)
    found = fill(x, 1000).covariance().numpy()
    assert np.linalg.norm(found - exact) < 1e-12 * np.linalg.norm(exact)
    # the companion: raw moments in float32
    mean = x.mean(0)
    raw = (x.T @ x / len(x) - torch.outer(mean, mean)).numpy()
    assert np.linalg.norm(raw - exact) > 0.05 * np.linalg.norm(exact)


def test_merging_equals_having_seen_both():
    x = torch.randn(25, 5) + 3
    left, right = fill(x[:9], 4), fill(x[9:], 5)
    assert_equal(left.merge(right), fill(x, 25))
    assert_equal(right.merge(left), fill(x, 25))
    assert_equal(Moments.zeros(5).update(x[:9]).merge(right), fill(x, 25))


def test_merge_leaves_both_as_they_were():
    left, right = fill(torch.randn(9, 3), 9), fill(torch.randn(4, 3), 4)
    before = copy.deepcopy((left, right))
    merged = left.merge(right).update(torch.randn(5, 3))
    assert merged.count == 18
    for moments, kept in zip((left, right), before, strict=True):
        assert_equal(moments, kept, rtol=0)


def test_update_changes_the_object_and_returns_it():
    moments = Moments.zeros(3)
    assert moments.update(torch.randn(4, 3)) is moments
    assert moments.count == 4


def test_empty_updates_and_merges_change_nothing():
    x = torch.randn(7, 3) + 1
    moments = fill(x, 7)
    before = copy.deepcopy(moments)
    assert_equal(moments.update(torch.zeros(0, 3)), before, rtol=0)
    assert_equal(moments.merge(Moments.zeros(3)), before, rtol=0)
    assert_equal(Moments.zeros(3).merge(moments), before, rtol=0)
    nothing = Moments.zeros(3).merge(Moments.zeros(3)).update(torch.zeros(0, 3))
    assert nothing.count == 0
    assert nothing.mean.tolist() == [0, 0, 0]
    assert nothing.covariance().isnan().all()


def test_no_features_are_no_problem():
    moments = Moments.zeros(0).update(torch.zeros(5, 0))
    assert moments.count == 5
    assert moments.covariance().shape == (0, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_value_spoils_its_feature_only(bad):
    x = torch.randn(12, 4)
    x[5, 2] = bad
    for moments in (
        fill(x, 12),
        fill(x, 3),
        fill(x[:6], 6).merge(fill(x[6:], 6)),
        Moments.zeros(4).merge(fill(x, 12)),
    ):
        spoilt = ~torch.isfinite(moments.covariance())
        expected = torch.zeros(4, 4, dtype=torch.bool)
        expected[2] = expected[:, 2] = True
        assert torch.equal(spoilt, expected)
        assert torch.isfinite(moments.mean).tolist() == [True, True, False, True]


def test_a_large_batch_is_converted_in_parts(monkeypatch):
    x = torch.randn(100, 6) + 10
    whole = fill(x, 100)
    monkeypatch.setattr(_solvers, "COPY_BYTES", 16 * 6 * 8)
    sizes = []
    product = _solvers.product

    def spy(rows):
        sizes.append(len(rows))
        return product(rows)

    monkeypatch.setattr(_solvers, "product", spy)
    assert_equal(fill(x, 100), whole)
    assert max(sizes) == 8 + 1  # one row is the shift of the mean
    assert len(sizes) == 13


def test_an_active_autocast_changes_nothing():
    x = torch.randn(50, 5) + 100
    plain = fill(x, 20)
    with torch.autocast("cpu", torch.bfloat16):
        inside = fill(x, 20).merge(Moments.zeros(5))
        assert (x.T @ x).dtype == torch.bfloat16  # the companion
        second = inside.second_moment()
    assert_equal(inside, plain, rtol=0)
    assert second.dtype == torch.float64


@pytest.mark.parametrize("begin", [True, False])
def test_inference_mode_may_begin_and_end_between_updates(begin):
    x = torch.randn(12, 3)
    with torch.inference_mode(begin):
        moments = Moments.zeros(3).update(x[:5])
        inner = torch.randn(2, 3)
    with torch.inference_mode(not begin):
        moments.update(x[5:9]).update(inner)
    assert_equal(
        moments.update(x[9:]).merge(Moments.zeros(3)), fill(torch.cat([x, inner]), 14)
    )


def test_no_graph_is_kept():
    x = torch.randn(6, 3, requires_grad=True)
    moments = fill(x * 2, 4)
    assert not moments.merge(moments).covariance().requires_grad
    assert not moments.mean.requires_grad


def test_moments_pickle_and_copy():
    moments = fill(torch.randn(6, 3), 6)
    assert_equal(pickle.loads(pickle.dumps(moments)), moments, rtol=0)
    duplicate = copy.deepcopy(moments)
    duplicate.update(torch.randn(2, 3))
    assert moments.count == 6


@pytest.mark.usefixtures("as_a_user_calls")
def test_wrong_samples_are_refused_with_a_remedy():
    moments = Moments.zeros(3)
    with pytest.raises(ValueError, match=r"\(2, 4\), expected \(n, 3\)"):
        moments.update(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"samples\.reshape\(-1, d\)"):
        moments.update(torch.ones(2, 4, 3))
    with pytest.raises(TypeError, match=r"samples\.float\(\)"):
        moments.update(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"dtype=torch\.complex128"):
        moments.update(torch.ones(2, 3, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"torch\.float32, expected torch\.float64"):
        Moments.zeros(3, dtype=torch.float32)
    with pytest.raises(ValueError, match="of 4 features, expected 3"):
        moments.merge(Moments.zeros(4))


@pytest.mark.gpu
def test_the_sums_stay_where_the_samples_are():
    x = torch.randn(20, 4)
    found = fill(x.cuda(), 7)
    assert found.scatter.is_cuda
    np.testing.assert_allclose(found.scatter.cpu(), fill(x, 7).scatter, rtol=1e-10)
    assert not fill(x.cuda(), 7, device="cpu").scatter.is_cuda
    assert Moments.zeros(4).merge(found).scatter.is_cuda
