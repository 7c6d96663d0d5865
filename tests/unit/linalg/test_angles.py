"""Angles between subspaces, against scipy and closed forms."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from svdhooks import linalg


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize(("j", "k"), [(3, 3), (2, 5), (5, 2), (1, 1)])
def test_angles_are_those_of_scipy(j, k):
    A, B = _random(9, j), _random(9, k, seed=1)
    ours = linalg.principal_angles(A, B).numpy()
    theirs = np.sort(scipy.linalg.subspace_angles(A.numpy(), B.numpy()))
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 0.3, 1.2, math.pi / 2])
def test_an_angle_is_found_however_small(angle):
    A = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    entries = [[math.cos(angle)], [math.sin(angle)], [0.0]]
    B = torch.tensor(entries, dtype=torch.float64)
    torch.testing.assert_close(
        linalg.principal_angles(A, B),
        torch.tensor([angle], dtype=torch.float64),
        atol=1e-15,
        rtol=1e-9,
    )


def test_overlap_is_the_mean_squared_cosine():
    A, B = _random(12, 3), _random(12, 5, seed=1)
    cosines = linalg.principal_angles(A, B).cos()
    assert linalg.subspace_overlap(A, B) == pytest.approx(
        float(cosines.square().mean())
    )


def test_overlap_of_unrelated_spans_is_k_over_n():
    found = [
        linalg.subspace_overlap(_random(20, 4, seed=s), _random(20, 4, seed=1000 + s))
        for s in range(300)
    ]
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - 4 / 20) < 4 * error


def test_overlap_does_not_depend_on_the_basis():
    A, B = _random(8, 3), _random(8, 3, seed=1)
    mixed = A @ _random(3, 3, seed=2)
    assert linalg.subspace_overlap(mixed, B) == pytest.approx(
        linalg.subspace_overlap(A, B)
    )
    assert linalg.subspace_overlap(mixed, A) == pytest.approx(1.0)


def test_no_columns_have_no_overlap():
    assert math.isnan(linalg.subspace_overlap(_random(5, 0), _random(5, 2)))


@pytest.mark.usefixtures("as_a_user_calls")
def test_vectors_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="Found vectors of 5 and of 6 entries"):
        linalg.principal_angles(_random(5, 2), _random(6, 2))
