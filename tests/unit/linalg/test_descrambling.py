"""The exact descrambler against optimisers, closed forms and the definition of its cost."""

import math

import numpy as np
import pytest
import torch

from svdhooks.linalg import (
    descramble,
    large_data_moment,
    preactivation_moment,
    smooth_basis,
    smoothness_operator,
)
from tests import cayley


def orthogonal(n, generator=None):
    return torch.linalg.qr(torch.randn(n, n, generator=generator).double())[0]


def moment(n=12, samples=300):
    """Of pre-activations W x of white x."""
    S = torch.randn(n, 20).double() @ torch.randn(20, samples).double()
    return S @ S.T / samples


def cost(P, B, operator="fourier2"):
    """``‖D P S‖²`` with S a factor of B: the definition."""
    S = torch.linalg.cholesky(B)
    return float((smoothness_operator(len(B), operator) @ P @ S).square().sum())


def rows_agree(X, Y, **tolerance):
    """Whether the rows are the same but for their signs."""
    signs = (X * Y).sum(1, keepdim=True).sign()
    torch.testing.assert_close(X, Y * signs, **tolerance)


# --- the minimum -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [12, 13])
@pytest.mark.parametrize("operator", ["fourier2", "difference", "custom"])
def test_the_cost_is_the_lower_bound_and_no_rotation_is_better(n, operator):
    operator = torch.randn(n, n) if operator == "custom" else operator
    B = moment(n)
    found = descramble(B, operator)
    D = smoothness_operator(n, operator)
    a = np.linalg.eigvalsh((D.T @ D).numpy())
    b = np.linalg.eigvalsh(B.numpy())
    assert found.lower_bound == pytest.approx(a @ b[::-1], rel=1e-10)
    assert found.upper_bound == pytest.approx(a @ b, rel=1e-10)
    assert found.cost == pytest.approx(found.lower_bound, rel=1e-10)
    assert found.cost == pytest.approx(cost(found.P, B, operator), rel=1e-10)
    assert found.identity_cost == pytest.approx(
        cost(torch.eye(n).double(), B, operator)
    )
    others = torch.linalg.qr(torch.randn(2000, n, n).double())[0]
    costs = (D @ others @ torch.linalg.cholesky(B)).square().sum((-2, -1))
    assert float(costs.min()) > found.cost
    assert float(costs.max()) < found.upper_bound
    assert abs(found.relative_gap) < 1e-10
    assert 0 < found.scrambling < 1


def test_the_descrambler_is_orthogonal_and_its_parts_are_what_they_say():
    B = moment()
    found = descramble(B)
    torch.testing.assert_close(
        found.P.T @ found.P, torch.eye(12).double(), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(found.P, found.T @ found.U.T)
    torch.testing.assert_close(found.U * found.eigenvalues @ found.U.T, B)
    # the i-th principal component becomes the i-th smoothest mode
    torch.testing.assert_close(found.P @ found.U, smooth_basis(12)[1])
    assert bool((found.eigenvalues.diff() <= 0).all())
    largest = found.U.gather(0, found.U.abs().argmax(0, keepdim=True))
    assert bool((largest > 0).all())


@pytest.mark.slow
@pytest.mark.parametrize("start", ["identity", "random"])
def test_an_optimiser_ends_at_the_same_cost(start):
    B = moment()
    D = smoothness_operator(12)
    begin = None if start == "identity" else orthogonal(12).numpy()
    P = torch.from_numpy(cayley.descrambler((D.T @ D).numpy(), B.numpy(), begin))
    torch.testing.assert_close(P.T @ P, torch.eye(12).double())
    assert cost(P, B) / descramble(B).cost == pytest.approx(1.0, abs=1e-6)


def test_the_slope_of_the_optimiser_is_that_of_finite_differences():
    rng = np.random.default_rng(0)
    A, B = (M @ M.T for M in rng.standard_normal((2, 5, 5)))
    at, way = rng.standard_normal((2, 10))
    slope = cayley.cost_and_slope(at, A, B)[1] @ way
    ahead, behind = (
        cayley.cost_and_slope(at + s * way, A, B)[0] for s in (1e-6, -1e-6)
    )
    assert slope == pytest.approx((ahead - behind) / 2e-6, rel=1e-6)


def test_the_cost_is_blind_to_what_is_not_unique():
    B = moment()
    found = descramble(B)
    turned = found.T.clone()
    for k in range(1, 11, 2):  # cosine and sine of one frequency
        c, s = math.cos(k), math.sin(k)
        rotation = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
        turned[:, k : k + 2] = turned[:, k : k + 2] @ rotation
    flipped = found.U * torch.tensor([1, -1] * 6)
    for P in (turned @ found.U.T, found.T @ flipped.T, turned @ flipped.T):
        assert cost(P, B) == pytest.approx(found.cost, rel=1e-10)
    # and not to more
    mixed = found.U.clone()
    mixed[:, [2, 3]] = found.U[:, [3, 2]]
    assert cost(found.T @ mixed.T, B) > found.cost * (1 + 1e-6)


def test_it_undoes_a_rotation_of_the_outputs():
    W, X = torch.randn(10, 16).double(), torch.randn(16, 400).double()
    Q = orthogonal(10)
    T = smooth_basis(10)[1]
    plain, rotated = (
        T.T @ descramble((M @ X) @ (M @ X).T).weight(M) for M in (W, Q @ W)
    )
    rows_agree(plain, rotated, rtol=1e-9, atol=1e-9)


# --- which modes are directions of their own -------------------------------------------------


def test_eigengaps_are_distances_to_the_nearest_neighbour():
    b = torch.tensor([10.0, 9, 8.9, 4, 4, 1]).double()
    Q = orthogonal(6)
    found = descramble(Q * b @ Q.T)
    expected = torch.tensor([0.1, 0.01, 0.01, 0, 0, 0.3]).double()
    torch.testing.assert_close(found.eigengaps, expected)
    assert found.identifiable(0.05).tolist() == [True, False, False, False, False, True]
    assert found.spans(0.05) == [range(1, 3), range(3, 5)]
    assert found.spans(0.11) == [range(3), range(3, 5)]
    assert descramble(torch.tensor([[3.0]])).spans() == []


# --- edges -----------------------------------------------------------------------------------


def test_a_rank_deficient_moment_costs_nothing_beyond_its_rank():
    S = torch.randn(9, 3).double()
    found = descramble(S @ S.T)
    a, b = smooth_basis(9)[0], torch.linalg.svdvals(S).square()
    assert found.lower_bound == pytest.approx(float((a[:3] * b).sum()))
    assert found.cost == pytest.approx(found.lower_bound)
    assert found.spans(1e-6) == [range(3, 9)]
    assert found.eigenvalues[3:].abs().max() < 1e-12


def test_a_moment_of_zeros_costs_nothing():
    found = descramble(torch.zeros(4, 4))
    assert found.cost == found.identity_cost == found.upper_bound == 0.0
    torch.testing.assert_close(found.P.T @ found.P, torch.eye(4).double())
    assert found.eigengaps.tolist() == [0.0] * 4
    assert math.isnan(found.relative_gap)


def test_one_feature_is_smooth_already():
    found = descramble(torch.tensor([[3.0]]))
    assert found.P.tolist() == [[1.0]]
    assert found.cost == found.upper_bound == 0.0
    assert found.identifiable().tolist() == [True]


def test_lower_precision_is_summed_in_float64():
    B = moment().float()
    found = descramble(B)
    assert found.P.dtype == torch.float64
    torch.testing.assert_close(found.P, descramble(B.double()).P, rtol=1e-5, atol=1e-5)
    assert found.weight(torch.randn(12, 2).bfloat16()).dtype == torch.float64


def test_two_runs_agree_whatever_the_signs_of_the_solver():
    B = moment()
    order = torch.randperm(12)
    P = descramble(B).P
    # the same data with the units in another order: another run of the solver
    again = descramble(B[order][:, order]).P
    torch.testing.assert_close(again, P[:, order])


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (torch.ones(2, 3), ValueError, r"shape \(2, 3\), expected \(n, n\)"),
        (torch.ones(4), ValueError, r"shape \(4,\)"),
        (torch.ones(0, 0), ValueError, "n ≥ 1"),
        (torch.tensor([[1.0, 2], [0, 1]]), ValueError, "from its transpose by 2"),
        (torch.tensor([[1.0, 2], [2, 1]]), ValueError, "eigenvalue of -1 beside 3"),
        (torch.full((2, 2), float("inf")), ValueError, "NaN or infinity"),
        (torch.eye(2, dtype=torch.complex128), TypeError, "torch.complex128"),
        (torch.eye(2, dtype=torch.int64), TypeError, "torch.int64"),
        (np.eye(2), TypeError, "ndarray, expected a tensor"),
    ],
)
def test_what_is_no_second_moment_is_refused(given, error, said):
    with pytest.raises(error, match=said):
        descramble(given)


@pytest.mark.usefixtures("as_a_user_calls")
def test_what_does_not_fit_is_refused():
    found = descramble(moment())
    with pytest.raises(
        ValueError, match=r"shape \(5, 12\), expected 12 outputs on axis 0"
    ):
        found.weight(torch.ones(5, 12))
    with pytest.raises(
        ValueError, match=r"shape \(12, 5\), expected 12 inputs on axis 1"
    ):
        found.next_weight(torch.ones(12, 5))
    with pytest.raises(ValueError, match="inputs on axis 1"):
        found.next_weight(torch.ones(12))
    with pytest.raises(TypeError, match=r"torch\.complex64"):
        found.weight(torch.ones(12, 2, dtype=torch.complex64))
    with pytest.raises(
        ValueError, match=r"operator of shape \(3, 3\), expected \(12, 12\)"
    ):
        descramble(moment(), torch.eye(3))
    with pytest.raises(ValueError, match="'laplace'"):
        descramble(moment(), "laplace")
    C = moment()
    with pytest.raises(ValueError, match=r"mean of shape \(3,\), expected \(12,\)"):
        preactivation_moment(C, torch.ones(3))
    with pytest.raises(ValueError, match="NaN or infinity in the bias"):
        preactivation_moment(C, torch.ones(12), torch.full((12,), float("nan")))
    with pytest.raises(ValueError, match=r"Flatten a kernel"):
        large_data_moment(torch.ones(3, 2, 2))
    with pytest.raises(ValueError, match=r"expected \(5, 5\) for a weight of \(3, 5\)"):
        large_data_moment(torch.ones(3, 5), torch.eye(4))


@pytest.mark.gpu
def test_a_gpu_gives_the_same():
    B = moment(64)
    on_gpu, on_cpu = descramble(B.cuda()), descramble(B)
    assert on_gpu.P.is_cuda
    torch.testing.assert_close(on_gpu.P.cpu(), on_cpu.P, rtol=1e-8, atol=1e-8)
    assert on_gpu.cost == pytest.approx(on_cpu.cost, rel=1e-10)
    W = torch.randn(64, 3)
    torch.testing.assert_close(on_gpu.weight(W.cuda()).cpu(), on_cpu.weight(W))
