"""Local ranks: published values, theorems, thresholds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svdhooks import linalg
from tests.chains import chained, network, spectra_of
from tests.oracles import planted, singular_values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_local_ranks_at_initialisation_are_the_published_ones(dtype):
    """MATH D1: 100, 97.0 ± 1, 94.3 ± 3, 90.7 ± 3; layer 2 against 97.18 ± 1."""
    dims = (100, 200, 200, 200, 200)
    _, function, at = network(dims, dtype=dtype, samples=128)
    ranks = [
        linalg.local_ranks(sigma).double().mean().item()
        for sigma in spectra_of(function, at).values()
    ]
    active = torch.distributions.Binomial(200, torch.tensor(0.5).double())
    counts = torch.arange(201).double()
    expected = (active.log_prob(counts).exp() * counts.clamp(max=100)).sum().item()
    assert expected == pytest.approx(97.1826, abs=1e-4)
    assert ranks[0] == 100
    assert ranks[1] == pytest.approx(97.0, abs=1.0)
    assert ranks[1] == pytest.approx(expected, abs=1.0)
    assert ranks[2] == pytest.approx(94.3, abs=3.0)
    assert ranks[3] == pytest.approx(90.7, abs=3.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_deep_linear_network_has_the_rank_of_its_product(dtype):
    weights = [torch.randn(30, 20), planted(25, 30, 7), torch.randn(40, 25)]
    weights = [(w / w.norm()).to(dtype) for w in weights]
    x = torch.randn(4, 20).to(dtype)
    spectra = spectra_of(*chained(weights, x, rectified=False))
    product = torch.eye(20, dtype=torch.float64)
    for w, sigma, rank in zip(weights, spectra.values(), (20, 7, 7), strict=True):
        product = w.double() @ product
        # relative: what float32 rounds away in the products stays below it
        assert linalg.local_ranks(sigma, 1e-5, relative=True).tolist() == 4 * [rank]
        assert (
            singular_values(product) > 1e-5 * singular_values(product)[0]
        ).sum() == rank
        torch.testing.assert_close(
            sigma[0].double(),
            torch.from_numpy(singular_values(product)),
            rtol=1e-5,
            atol=1e-6 * sigma.max().item(),
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("widths", [(30, 12), (16, 40), (40, 40)])
def test_behind_one_relu_layer_the_rank_is_the_number_of_active_units(dtype, widths):
    """MATH D3, for at least as many inputs as hidden units."""
    _, function, at = network((50, *widths), dtype=dtype, samples=40)
    active = (function(at)["0"] > 0).sum(1)
    ranks = linalg.local_ranks(spectra_of(function, at)["1"], 1e-5, relative=True)
    assert torch.equal(ranks, active.clamp(max=widths[1]))
    assert len(ranks.unique()) > 1 or widths[1] == 12


@settings(max_examples=200, deadline=None)
@given(
    dims=st.lists(st.integers(1, 9), min_size=3, max_size=5),
    eps=st.floats(1e-3, 3.0),
    seed=st.integers(0, 10**6),
)
def test_the_bounds_of_the_theory_hold(dims, eps, seed):
    """MATH D5: for ReLU chains, over widths, thresholds and weights."""
    weights, function, at = network(tuple(dims), seed=seed)
    kappa = 1.0
    smallest = dims[0]
    for w, sigma in zip(weights, spectra_of(function, at).values(), strict=True):
        own = torch.from_numpy(singular_values(w))
        ranks = linalg.local_ranks(sigma, eps)
        energy = sigma.square().sum(1)
        assert (ranks <= linalg.local_ranks(own, eps / kappa * (1 - 1e-9))).all()
        assert (ranks <= energy / eps**2 * (1 + 1e-9)).all()
        smallest = min(smallest, int(np.linalg.matrix_rank(w.numpy())))
        assert (linalg.local_ranks(sigma, 1e-12, relative=True) <= smallest).all()
        kappa *= own[0].item()


def test_a_fixed_threshold_does_not_bound_the_rank_by_that_of_the_weight():
    """The lemma as it is quoted fails at a fixed eps; with kappa it holds."""
    weights = [10 * torch.eye(5).double(), 0.005 * torch.eye(5).double()]
    function, at = chained(weights, torch.ones(3, 5).double())
    assert linalg.local_ranks(spectra_of(function, at)["1"]).tolist() == [5, 5, 5]
    own = torch.from_numpy(singular_values(weights[1]))
    assert linalg.local_ranks(own) == 0
    assert linalg.local_ranks(own, 0.01 / 10) == 5


def test_the_threshold_itself_does_not_count_as_in_torch():
    J = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.0]).double())[None]
    sigma = linalg.jacobian_spectra(J)
    for eps in (0.5, 1.0, 2.0, 3.0, 4.0):
        expected = torch.linalg.matrix_rank(J, atol=eps)
        assert torch.equal(linalg.local_ranks(sigma, eps), expected)
        assert torch.equal(linalg.local_ranks(sigma, eps / 4, relative=True), expected)


def test_ranks_of_zeros_of_nothing_and_of_lost_values():
    J = torch.randn(4, 3, 5)
    J[0] = 0.0
    J[1, 0, 0] = torch.nan
    J[2, 0, 0] = torch.inf
    sigma = linalg.jacobian_spectra(J)
    assert sigma[1:3].isnan().all()
    for relative in (False, True):
        ranks = linalg.local_ranks(sigma, 1e-3, relative)
        assert ranks.tolist() == [0, -1, -1, 3]
        assert linalg.local_ranks(sigma[:, :0], 1e-3, relative).tolist() == 4 * [0]


def test_the_relative_rank_does_not_feel_scale_and_the_absolute_one_does():
    sigma = linalg.jacobian_spectra(torch.randn(3, 6, 6).double())
    for scale in (1e-8, 1e8):
        scaled = linalg.local_ranks(sigma * scale, relative=True)
        assert torch.equal(scaled, linalg.local_ranks(sigma, relative=True))
    assert not linalg.local_ranks(sigma * 1e-8).any()
