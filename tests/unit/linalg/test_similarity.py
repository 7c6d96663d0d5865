"""Likeness of singular vectors: what must not change it, and closed forms."""

import math

import pytest
import torch

from svdhooks.linalg import similarity, subspace_overlap


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def orthonormal(n, k, seed=0):
    return torch.linalg.qr(draw(n, k, seed=seed))[0]


def test_singular_values_within_the_gap_form_a_span():
    sigma = torch.tensor([5.0, 4.95, 4.0, 3.0, 2.99, 2.98, 1.0])
    assert similarity.spans(sigma) == ((0, 2), (2, 3), (3, 6), (6, 7))
    assert similarity.spans(sigma, gap=1e-6) == tuple((i, i + 1) for i in range(7))
    assert similarity.spans(torch.ones(4)) == ((0, 4),)
    assert similarity.spans(torch.tensor([1.0, 0.0, 0.0])) == ((0, 1), (1, 3))
    assert similarity.spans(torch.tensor([2.0])) == ((0, 1),)
    assert similarity.spans(torch.zeros(0)) == ()


def test_joined_spans_have_borders_of_both_up_to_the_shorter_end():
    first, second = ((0, 2), (2, 3), (3, 5)), ((0, 1), (1, 2), (2, 4), (4, 6))
    assert similarity.joined(first, second) == ((0, 2), (2, 5))
    assert similarity.joined(first, first) == first
    assert similarity.joined(first, ()) == ()


def test_an_overlap_takes_whole_spans_and_knows_its_chance():
    A, B = orthonormal(12, 6, 1), orthonormal(12, 6, 2)
    apart, flat = tuple((i, i + 1) for i in range(6)), ((0, 6),)
    found = similarity.leading_overlap(A, B, 2, apart, apart)
    assert found.score == pytest.approx(subspace_overlap(A[:, :2], B[:, :2]))
    assert found.chance == pytest.approx(2 / 12)
    whole = similarity.leading_overlap(A, B, 2, apart, flat)
    projected = B @ B.T @ A[:, :2]
    assert whole.score == pytest.approx(float(projected.square().sum()) / 2)
    assert whole.chance == pytest.approx(6 / 12)


def test_chance_is_the_mean_over_random_directions():
    """E3: k/n within three standard errors."""
    n, k = 20, 5
    groups = tuple((i, i + 1) for i in range(k))
    A = orthonormal(n, k)
    scores = []
    for seed in range(1, 401):
        B = orthonormal(n, k, seed)
        scores.append(similarity.leading_overlap(A, B, k, groups, groups))
    values = torch.tensor([s.score for s in scores], dtype=torch.float64)
    error = float(values.std()) / len(values) ** 0.5
    assert abs(float(values.mean()) - scores[0].chance) < 3 * error
    assert error < 0.01


def test_rotations_within_a_span_and_signs_change_nothing():
    A, B = orthonormal(15, 6, 3), orthonormal(15, 6, 4)
    groups = ((0, 1), (1, 4), (4, 5), (5, 6))
    turned = B.clone()
    turned[:, 1:4] = B[:, 1:4] @ orthonormal(3, 3, 5)
    turned[:, 5] = -B[:, 5]
    for k in range(1, 7):
        before, after = (
            similarity.leading_overlap(A, M, k, groups, groups) for M in (B, turned)
        )
        assert before.score == pytest.approx(after.score, abs=1e-12)
    before, after = (similarity.vector_cosines(A, M, groups) for M in (B, turned))
    torch.testing.assert_close(before, after)
    assert before[0] == pytest.approx(abs(float(A[:, 0] @ B[:, 0])))
    plain = tuple((i, i + 1) for i in range(6))
    apart = similarity.vector_cosines(A, turned, plain)
    assert not torch.allclose(apart[1:4], similarity.vector_cosines(A, B, plain)[1:4])


def test_the_correlation_of_adjacencies_ignores_rotations_within_spans():
    U, V, W = orthonormal(15, 6, 3), orthonormal(15, 5, 4), orthonormal(15, 6, 5)
    A, B = (V.T @ W).square(), (V.T @ U).square()
    rows, columns = ((0, 1), (1, 3), (3, 4), (4, 5)), ((0, 2), (2, 3), (3, 6))
    turned_U, turned_V = U.clone(), V.clone()
    turned_U[:, :2] = U[:, :2] @ orthonormal(2, 2, 6)
    turned_V[:, 1:3] = V[:, 1:3] @ orthonormal(2, 2, 7)
    C = (turned_V.T @ turned_U).square()
    value = similarity.block_correlation(A, B, rows, columns)
    # the other adjacency turns with the later layer
    D = (turned_V.T @ W).square()
    assert similarity.block_correlation(D, C, rows, columns) == pytest.approx(value)
    assert similarity.block_correlation(A, A, rows, columns) == pytest.approx(1)
    single = tuple((i, i + 1) for i in range(5)), tuple((i, i + 1) for i in range(6))
    expected = torch.corrcoef(torch.stack([A.flatten(), B.flatten()]))[0, 1]
    found = similarity.block_correlation(A, B, *single)
    assert found == pytest.approx(float(expected))


def test_too_few_or_equal_entries_have_no_correlation():
    A, B = torch.rand(3, 3).double(), torch.rand(3, 3).double()
    whole, one = ((0, 3),), tuple((i, i + 1) for i in range(3))
    assert similarity.block_correlation(A, B, whole, one) != (
        similarity.block_correlation(A, B, whole, one)
    )
    flat = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    assert torch.tensor(similarity.block_correlation(A, flat, one, one)).isnan()


def test_matching_finds_a_permutation_under_noise_and_scale():
    values = draw(200, 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    other = 3 * values[:, order] + 0.1 * draw(200, 9, seed=2) + 5
    found = similarity.match_units(values, other)
    assert torch.equal(order[found], torch.arange(9))


def test_a_constant_unit_is_matched_with_what_is_left():
    values = draw(50, 4)
    other = values.clone()
    other[:, 2] = 7.0
    assert similarity.match_units(values, other).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("samples", [7, 100, 1000])
def test_what_rounding_leaves_of_constants_correlates_with_nothing(samples):
    values = draw(samples, 3)
    values[:, 1] = 0.1
    other = values[:, [2, 0, 1]].clone()
    other[:, 2] = 0.3
    assert similarity.match_units(values, other).tolist() == [1, 2, 0]
    assert math.isnan(similarity.linear_cka(values[:, [1]], other))


def test_the_alignment_of_kernels_is_that_of_centred_gram_matrices():
    """HSIC of N × N Gram matrices, as in the definition."""
    A, B = draw(30, 5), draw(30, 8, seed=1)
    centre = torch.eye(30, dtype=torch.float64) - 1 / 30
    K, L = (centre @ M @ M.T @ centre for M in (A, B))
    expected = float((K * L).sum() / (K.norm() * L.norm()))
    assert similarity.linear_cka(A, B) == pytest.approx(expected)
    turned = 4 * A @ orthonormal(5, 5) + 2
    assert similarity.linear_cka(A, turned) == pytest.approx(1)
    assert torch.tensor(similarity.linear_cka(A, torch.ones(30, 2))).isnan()
