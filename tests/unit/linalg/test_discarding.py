"""Near-null spaces and what falls into them, against an SVD and a covariance."""

import numpy as np
import pytest
import torch

from svdhooks.linalg.discarding import near_null_space, sample_sums


def direct(W: torch.Tensor, X: torch.Tensor, null: float) -> tuple[float, int]:
    """From the full SVD and the covariance, by the definition."""
    _, sigma, V = np.linalg.svd(W.double().numpy())
    full = np.zeros(W.shape[1])
    full[: len(sigma)] = sigma
    dropped = V[full <= null * sigma[0]]
    covariance = np.cov(X.double().numpy().T, bias=True)
    return np.trace(dropped @ covariance @ dropped.T) / np.trace(covariance), len(
        dropped
    )


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (9, 9), (1, 4), (30, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shares_are_those_of_the_definition(shape, dtype):
    m, d = shape
    U, V = (torch.linalg.qr(torch.randn(n, min(shape)).double())[0] for n in (m, d))
    sigma = torch.logspace(0, -4, min(shape)).double()
    W = (U * sigma @ V.T).to(dtype)
    X = (torch.randn(200, d) * torch.rand(d) + 3).to(dtype)
    for null in (0.3, 0.01, 1e-3, 1e-7):
        split = near_null_space(W, null)
        share, dimension = direct(W, X, null)
        assert split.dimension == dimension
        sums = sample_sums(X[:77], split) + sample_sums(X[77:], split)
        assert sums.null_share == pytest.approx(share, abs=1e-6)
        assert sums.variance == pytest.approx(
            float(X.double().var(0, correction=0).sum())
        )


def test_a_planted_kernel_is_exact():
    """Rows that see three of five inputs, and inputs of known variances."""
    W = torch.zeros(4, 5)
    W[:, :3] = torch.randn(4, 3)
    X = torch.diag(torch.tensor([1.0, 1, 1, 2, 1])).repeat_interleave(2, 0)
    X[1::2] *= -1  # variances 1/5, 1/5, 1/5, 4/5, 1/5
    split = near_null_space(W, 1e-5)
    assert split.dimension == 2
    assert sample_sums(X, split).null_share == pytest.approx(5 / 8)


def test_the_smaller_part_is_kept():
    W = torch.randn(20, 6)
    full = near_null_space(W, 0.01)
    assert (full.holds_null, full.dimension, len(full.basis)) == (True, 0, 0)
    wide = near_null_space(W.T[:2], 0.01)
    assert (wide.holds_null, wide.dimension, len(wide.basis)) == (False, 18, 2)


def test_a_large_mean_does_not_drown_the_variance():
    X = torch.randn(500, 3, dtype=torch.float64)
    split = near_null_space(torch.eye(3)[:1], 0.01)
    there = sample_sums(X + 1e5, split).null_share
    here = sample_sums(X, split).null_share
    assert there == pytest.approx(here, rel=1e-4)


def test_edges():
    zero = near_null_space(torch.zeros(3, 4), 0.01)
    assert zero.dimension == 4
    assert sample_sums(torch.randn(9, 4), zero).null_share == 1
    still = sample_sums(torch.ones(9, 4), zero)
    assert still.variance == 0
    assert np.isnan(still.null_share)
    empty = sample_sums(torch.zeros(0, 4), zero)
    assert empty.count == 0
    assert np.isnan(empty.variance)
    assert np.isnan(sample_sums(torch.randn(3, 4)).null_share)
    with pytest.raises(ValueError, match="NaN or infinite"):
        near_null_space(torch.full((2, 2), torch.nan), 0.01)
    with pytest.raises(ValueError, match="complex"):
        near_null_space(torch.zeros(2, 2, dtype=torch.complex64), 0.01)
    with pytest.raises(TypeError, match="real numbers"):
        sample_sums(torch.zeros(2, 2, dtype=torch.complex64))
