"""Directions in which to differentiate."""

import torch

from svdhooks import linalg


def test_directions_are_orthonormal_and_the_same_wherever_they_are_drawn():
    V = linalg.orthonormal_directions(7, (3, 5), dtype=torch.float64, seed=3)
    assert V.shape == (7, 3, 5)
    torch.testing.assert_close(V.flatten(1) @ V.flatten(1).T, torch.eye(7).double())
    again = linalg.orthonormal_directions(7, (3, 5), seed=3)
    torch.testing.assert_close(again, V.float())
    other = linalg.orthonormal_directions(7, (3, 5), seed=4)
    assert not torch.allclose(again, other)
    unit = linalg.orthonormal_directions(6, (2, 3))
    assert torch.equal(unit.flatten(1), torch.eye(6))


def test_directions_prefer_none():
    """Of a Haar subspace of k dimensions the projection is k/n on average."""
    P = torch.zeros(6, 6, dtype=torch.float64)
    signs = torch.zeros(6, dtype=torch.float64)
    for seed in range(400):
        V = linalg.orthonormal_directions(2, (6,), dtype=torch.float64, seed=seed)
        P += V.T @ V / 400
        signs += V.sum(0) / 400
    # deviations of a mean of 400: at most sqrt(1/400) = 0.05 each
    assert (P - torch.eye(6) / 3).abs().max() < 4 * 0.05 / 2
    assert signs.abs().max() < 4 * 0.05
