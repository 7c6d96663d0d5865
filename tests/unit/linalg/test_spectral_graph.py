"""The spectral graph between two layers: closed forms, invariances, the slow way."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from svdhooks import linalg


def orthogonal(n: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]


def with_values(U: Tensor, Vh: Tensor) -> Tensor:
    """A weight with these vectors and distinct singular values."""
    n = U.shape[1]
    return U @ torch.diag(torch.linspace(2.0, 0.5, n, dtype=torch.float64)) @ Vh


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def as_published(earlier: Tensor, later: Tensor) -> Tensor:
    """The definition, with all tensors materialised: A_nm = Σ_k u_km V_kn, ‖A_nm‖²."""
    U = torch.linalg.svd(earlier.flatten(1), full_matrices=False)[0]
    Vh = torch.linalg.svd(later.flatten(1), full_matrices=False)[2]
    filters = Vh.reshape(len(Vh), U.shape[0], -1)
    return torch.einsum("km,nkz->nmz", U, filters).square().sum(-1)


SHAPES = {
    "fc-fc": ((9, 5), (7, 9)),
    "fc-fc, wide": ((9, 30), (40, 9)),
    "conv-conv": ((8, 3, 3, 3), (6, 8, 2, 2)),
    "conv1d": ((8, 3, 3), (6, 8, 5)),
    "conv3d": ((8, 3, 2, 2, 2), (6, 8, 1, 2, 3)),
    "conv-fc": ((8, 3, 3, 3), (5, 8 * 12)),
    "conv-fc, averaged": ((8, 3, 3, 3), (5, 8)),
    "fc-conv": ((8, 5), (6, 8, 3, 3)),
}


@pytest.mark.parametrize("case", SHAPES)
def test_the_adjacency_is_as_published(case):
    earlier, later = (double(*shape) for shape in SHAPES[case])
    found = linalg.spectral_adjacency(earlier, later)
    torch.testing.assert_close(found, as_published(earlier, later))
    assert found.shape == (min(later.flatten(1).shape), min(earlier.flatten(1).shape))
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("case", SHAPES)
def test_cosvr_is_the_sum_over_the_other_kernel(case):
    earlier, later = (double(*shape) for shape in SHAPES[case])
    found = linalg.spectral_adjacency(earlier, later, kind="cosvr")
    c, out = len(earlier), len(later)
    kernel = earlier.reshape(c, earlier.shape[1], -1)
    flat = kernel.transpose(1, 2).flatten(0, 1)  # (out · positions, in)
    U = torch.linalg.svd(flat, full_matrices=False)[0]
    U = U.reshape(c, kernel.shape[2], -1)
    readers = later.reshape(out, c, -1).transpose(1, 2).flatten(0, 1)
    Vh = torch.linalg.svd(readers, full_matrices=False)[2]
    expected = torch.einsum("kzm,nk->nmz", U, Vh).square().sum(-1)
    torch.testing.assert_close(found, expected)
    if case.startswith("fc-fc"):
        torch.testing.assert_close(found, linalg.spectral_adjacency(earlier, later))


@pytest.mark.parametrize("case", SHAPES)
def test_the_kernel_matrix_is_svr_against_cosvr(case):
    earlier, later = (double(*shape) for shape in SHAPES[case])
    found = linalg.kernel_matrix(earlier, later)
    c = len(earlier)
    U = torch.linalg.svd(earlier.flatten(1), full_matrices=False)[0]
    readers = later.reshape(len(later), c, -1).transpose(1, 2).flatten(0, 1)
    # right vectors of a matrix are eigenvectors of its Gram
    V = torch.linalg.eigh(readers.T @ readers)[1].flip(1)[:, : min(readers.shape)]
    torch.testing.assert_close(found, (V.T @ U).abs())


def test_aligned_layers_have_the_identity():
    for n in (8, 40):
        Q, R, P = orthogonal(n), orthogonal(n), orthogonal(n)
        earlier, later = with_values(Q, R), with_values(P, Q.T)
        found = linalg.spectral_adjacency(earlier, later)
        identity = torch.eye(n, dtype=torch.float64)
        torch.testing.assert_close(found, identity, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            linalg.kernel_matrix(earlier, later), identity, rtol=0, atol=1e-12
        )
        # no block: the largest of i - i²/n
        assert linalg.internal_dimensions(found) == (n // 2, n // 2)
        # with an odd number two are equal: the smaller block
        assert linalg.internal_dimensions(np.eye(n + 1)) == (n // 2, n // 2)


@pytest.mark.parametrize("p", [10, 30, 70, 90])
def test_a_block_is_found_exactly(p):
    n = 100
    blocks = torch.block_diag(orthogonal(p), orthogonal(n - p))
    found = linalg.spectral_adjacency(
        with_values(torch.eye(n, dtype=torch.float64), orthogonal(n)),
        with_values(orthogonal(n), blocks),
    )
    assert linalg.internal_dimensions(found) == (p, p)
    assert linalg.internal_dimensions(found.numpy(), zero_based=True) == (p - 1, p - 1)
    excess = float(found[:p, :p].sum()) - p * p / n
    assert excess == pytest.approx(p - p * p / n, abs=1e-9)


def test_internal_dimensions_are_those_of_the_definition():
    for shape, features in (((5, 7), 7), ((4, 4), 9), ((3, 1), 3), ((1, 1), 1)):
        A = np.random.default_rng(3).random(shape) / features
        best = max(
            (A[:i, :j].sum() - i * j / features, -i, -j)
            for i in range(1, shape[0] + 1)
            for j in range(1, shape[1] + 1)
        )
        found = linalg.internal_dimensions(A, features)
        assert found == (-best[1], -best[2])
        if max(shape) == features:
            assert linalg.internal_dimensions(torch.from_numpy(A)) == found


def test_internal_dimensions_name_the_later_layer_first():
    A = np.zeros((20, 30))
    A[:3, :5] = 0.2
    assert linalg.internal_dimensions(A) == (3, 5)
    assert linalg.internal_dimensions(A, zero_based=True) == (2, 4)
    assert linalg.internal_dimensions(torch.from_numpy(A).mT) == (5, 3)


def test_the_intensity_is_that_of_the_definition():
    A = np.random.default_rng(5).random((5, 7)) / 3
    expected = np.array([
        max(A[:i, j].sum() - i / 7 for i in range(1, 6)) for j in range(7)
    ])
    found = linalg.neuron_intensity(A)
    np.testing.assert_allclose(found, expected / expected.max())
    assert found.max() == 1
    as_tensor = linalg.neuron_intensity(torch.from_numpy(A), features=7)
    np.testing.assert_array_equal(as_tensor.numpy(), found)
    assert linalg.neuron_intensity(np.zeros((3, 4))).tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("earlier", "later", "shape"),
    [((1, 1), (1, 1), (1, 1)), ((0, 3), (2, 0), (0, 0)), ((5, 1), (1, 5), (1, 1))],
)
def test_small_shapes(earlier, later, shape):
    if 0 in earlier:
        with pytest.raises(ValueError, match="0 entries"):
            linalg.spectral_adjacency(double(*earlier), double(*later))
        return
    found = linalg.spectral_adjacency(double(*earlier), double(*later))
    assert found.shape == shape
    assert ((found >= 0) & (found <= 1)).all()


def test_zeros_and_low_rank_give_an_orthonormal_basis_all_the_same():
    found = linalg.spectral_adjacency(torch.zeros(5, 5), double(5, 2) @ double(2, 5))
    torch.testing.assert_close(found.sum(1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad):
    earlier, later = torch.randn(6, 4), torch.randn(5, 6)
    broken = later.clone()
    broken[1, 2] = bad
    for function in (linalg.spectral_adjacency, linalg.kernel_matrix):
        with pytest.raises(ValueError, match="1 entries of 30 that are NaN"):
            function(earlier, broken)
    with pytest.raises(ValueError, match="NaN"):
        linalg.spectral_adjacency(broken, torch.randn(3, 5))


@pytest.mark.usefixtures("as_a_user_calls")
def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="6 outputs and a later one with 7 inputs"):
        linalg.spectral_adjacency(torch.randn(6, 4), torch.randn(5, 7))
    # a multiple, but nothing was flattened
    with pytest.raises(ValueError, match="6 outputs and a later one with 12 inputs"):
        linalg.kernel_matrix(torch.randn(6, 4), torch.randn(5, 12))
    with pytest.raises(
        ValueError, match="or, flattened channel by channel, a multiple"
    ):
        linalg.spectral_adjacency(torch.randn(6, 4, 3), torch.randn(5, 13))
    with pytest.raises(ValueError, match=r"expected \(out, in\)"):
        linalg.spectral_adjacency(torch.randn(6), torch.randn(5, 6))
    with pytest.raises(TypeError, match="int64"):
        linalg.spectral_adjacency(torch.ones(6, 4).long(), torch.randn(5, 6))
    with pytest.raises(ValueError, match="expected 'svr' or 'cosvr'"):
        linalg.spectral_adjacency(torch.randn(6, 4), torch.randn(5, 6), kind="svd")
    with pytest.raises(ValueError, match="6 entries and right vectors of 7"):
        linalg.vector_adjacency(torch.randn(6, 4), torch.randn(5, 7))
    for bad in (np.zeros((0, 3)), np.zeros(3), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="expected a matrix"):
            linalg.internal_dimensions(bad)
        with pytest.raises(ValueError, match="expected a matrix"):
            linalg.neuron_intensity(bad)
    with pytest.raises(ValueError, match="0 features"):
        linalg.internal_dimensions(np.eye(2), 0)


@pytest.mark.usefixtures("as_a_user_calls")
def test_arrays_are_no_weights():
    W = np.eye(3)
    for call in (
        lambda: linalg.spectral_adjacency(W, W),
        lambda: linalg.kernel_matrix(torch.eye(3), W),
        lambda: linalg.vector_adjacency(W, torch.eye(3)),
        lambda: linalg.fold_batch_norm(W, None, torch.ones(3)),
        lambda: linalg.fold_batch_norm(torch.eye(3), None, np.ones(3)),
        lambda: linalg.principal_angles(W, torch.eye(3)),
        lambda: linalg.subspace_overlap(torch.eye(3), W),
        lambda: linalg.preactivation_moment(W, torch.ones(3)),
    ):
        with pytest.raises(TypeError, match=r"type ndarray.*torch\.as_tensor"):
            call()


def test_layers_without_inputs_or_outputs_have_no_neurons():
    without = linalg.spectral_adjacency(torch.randn(6, 0), torch.randn(4, 6))
    assert without.shape == (4, 0)
    without = linalg.spectral_adjacency(torch.randn(6, 3), torch.randn(0, 6, 2, 2))
    assert without.shape == (0, 3)
    without = linalg.spectral_adjacency(
        torch.randn(6, 0, 2), torch.randn(4, 6), kind="cosvr"
    )
    assert without.shape == (4, 0)


def test_a_folded_norm_is_the_layer_with_its_norm():
    conv, norm = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)
    with torch.no_grad():
        norm.weight.uniform_(-2, 2)
        norm.running_var.uniform_(0.1, 3)
    x = torch.randn(2, 3, 6, 6)
    expected = norm.eval()(conv(x)).double()
    folded = linalg.fold_batch_norm(
        conv.weight, norm.weight, norm.running_var, norm.eps
    )
    found = torch.nn.functional.conv2d(x.double(), folded)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    bare = linalg.fold_batch_norm(conv.weight, None, torch.ones(5), 0.0)
    torch.testing.assert_close(bare, conv.weight.detach().double())


@pytest.mark.usefixtures("as_a_user_calls")
def test_a_norm_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="5 outputs and a batch norm with"):
        linalg.fold_batch_norm(torch.randn(5, 3), None, torch.ones(3))
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="not positive and finite"):
            linalg.fold_batch_norm(torch.randn(5, 3), None, torch.full((5,), bad))


def test_default_initialisation_is_inside_its_edges():
    # U(±1/√fan_in): σ of 1/√3 · (1 ± √(m/n))
    torch.manual_seed(1)
    for (out, in_), low, high in (
        ((40, 784), 0.447, 0.708),
        ((40, 40), 0.0, 1.155),
        ((10, 40), 0.289, 0.866),
    ):
        sigma = linalg.singular_values(nn.Linear(in_, out, bias=False).weight)
        ratio = (out / in_) ** 0.5
        assert low == pytest.approx((1 - ratio) / 3**0.5, abs=1e-3)
        assert float(sigma.max()) < 1.05 * high
        assert float(sigma.min()) > 0.95 * low
