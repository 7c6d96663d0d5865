"""Layers with fixed singular values: exact starts, what cannot change, and a theorem."""

import math

import pytest
import torch
from torch import nn

from svdhooks.experiments.refit import layers as layers
from svdhooks.experiments.refit.networks import start_of
from svdhooks.experiments.refit.training import Data, Training, losses, train

SHAPES = [(7, 7), (9, 4), (4, 9)]
F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(out: int, inputs: int, count=None, seed: int = 0) -> layers.Factors:
    weight = torch.randn(out, inputs, generator=seeded(seed), dtype=F64)
    return layers.haar_factors(layers.factors_of(weight), seeded(seed + 1), count)


def polar(M: torch.Tensor) -> torch.Tensor:
    U, _, Vh = torch.linalg.svd(M)
    return U @ Vh


def white(n: int) -> torch.Tensor:
    """Samples whose second moment is exactly the identity."""
    return math.sqrt(n) * torch.eye(n, dtype=F64)


def data_of(weight: torch.Tensor) -> Data:
    x = white(weight.shape[1])
    return Data(x, x @ weight.T, x, x @ weight.T)


@torch.no_grad()
def loss_of(network, data: Data) -> torch.Tensor:
    return losses(network(data.train_x), data.train_y)


def cosines(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    return (A * B).sum(-2).abs()


# --- the layer -----------------------------------------------------------------------


@pytest.mark.parametrize("orthogonal_map", layers.MAPS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [None, 3])
def test_a_haar_start_is_set_exactly(orthogonal_map, shape, count):
    start = drawn(*shape, count)
    layer = layers.FixedSpectrumLinear(start, None, orthogonal_map, F64)
    torch.testing.assert_close(layer.U, start.U, atol=1e-13, rtol=0)
    torch.testing.assert_close(layer.V, start.V, atol=1e-13, rtol=0)
    torch.testing.assert_close(layer.weight, start.weight(), atol=1e-12, rtol=0)
    x = torch.randn(5, shape[1], dtype=F64)
    expected = torch.einsum("...oi,ni->...no", start.weight(), x)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("orthogonal_map", layers.MAPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_training_moves_u_and_v_and_no_singular_value(orthogonal_map, shape):
    start = drawn(*shape)
    layer = layers.FixedSpectrumLinear(start, None, orthogonal_map, F64)
    data = data_of(torch.randn(*shape, dtype=F64))
    before = float(loss_of(layer, data))
    train(layer, data, Training(30, 0.03, 0.0, 100), seeded())
    assert float(loss_of(layer, data)) < 0.8 * before
    found = torch.linalg.svdvals(layer.weight.detach())
    torch.testing.assert_close(found, start.sigma, atol=1e-12, rtol=1e-12)
    assert float((layer.U - start.U).detach().norm()) > 0.1


@pytest.mark.parametrize("orthogonal_map", layers.MAPS)
def test_the_determinant_of_a_square_factor_stays(orthogonal_map):
    start = drawn(6, 6)
    layer = layers.FixedSpectrumLinear(start, None, orthogonal_map, F64)
    target = start.U.clone()
    target[:, 0] *= -1
    data = data_of((target * start.sigma) @ start.V.T)
    train(layer, data, Training(60, 0.05, 0.0, 100), seeded())
    for trained, first in ((layer.U, start.U), (layer.V, start.V)):
        now, then = torch.linalg.det(trained.detach()), torch.linalg.det(first)
        assert float(now) == pytest.approx(float(then), abs=1e-9)


def test_several_layers_side_by_side_train_as_each_would_alone():
    # of tall factors the completions differ, and with them the coordinates of Adam
    target = data_of(torch.randn(5, 5, dtype=F64))
    together = drawn(5, 5, count=3)
    side_by_side = layers.FixedSpectrumLinear(together, dtype=F64)
    training = Training(30, 0.02, 0.0, 3)
    train(side_by_side, target, training, seeded())
    for r in range(3):
        alone = layers.FixedSpectrumLinear(together.of_restart(r), dtype=F64)
        train(alone, target, training, seeded())
        torch.testing.assert_close(side_by_side.weight[r], alone.weight)


def test_a_bias_is_added_and_frozen():
    bias = torch.tensor([1.0, 2.0, 3.0, 4.0])
    layer = layers.FixedSpectrumLinear(drawn(4, 6), bias)
    torch.testing.assert_close(layer(torch.zeros(2, 6)), bias.expand(2, 4))
    assert all(p.shape != bias.shape for p in layer.parameters())


def test_building_one_leaves_the_global_random_state():
    state = torch.get_rng_state()
    layers.FixedSpectrumLinear(drawn(9, 4))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("orthogonal_map", layers.MAPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_new_base_leaves_the_weight_and_the_random_state(orthogonal_map, shape):
    layer = layers.FixedSpectrumLinear(drawn(*shape, 2), None, orthogonal_map, F64)
    data = data_of(torch.randn(*shape, dtype=F64))
    train(layer, data, Training(5, 0.05, 0.0, 100), seeded())
    before, state = layer.weight.detach(), torch.get_rng_state()
    base = layer.parametrizations.U[0].base.clone()
    layer.rebase()
    torch.testing.assert_close(layer.weight.detach(), before, atol=1e-12, rtol=0)
    assert not torch.allclose(layer.parametrizations.U[0].base, base)
    assert torch.equal(state, torch.get_rng_state())


def test_columns_that_are_not_orthonormal_are_refused():
    good = drawn(5, 4)
    bad = layers.Factors(1.01 * good.U, good.sigma, good.V)
    with pytest.raises(ValueError, match="columns of U whose products differ"):
        layers.FixedSpectrumLinear(bad)
    with pytest.raises(ValueError, match="Found the orthogonal map 'polar'"):
        layers.FixedSpectrumLinear(good, orthogonal_map="polar")


def test_weight_decay_would_set_a_householder_weight_to_zero():
    """The pitfall of torch that the module's docstring names; cayley is not touched."""
    norms = {}
    for orthogonal_map in ("householder", "cayley"):
        layer = layers.FixedSpectrumLinear(drawn(5, 4), None, orthogonal_map)
        before = float(layer.weight.detach().norm())
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
        layer.weight.sum().backward()
        optimizer.step()
        norms[orthogonal_map] = float(layer.weight.detach().norm()) / before
    assert norms["householder"] == 0
    assert norms["cayley"] == pytest.approx(1, abs=1e-5)


# --- random factors ------------------------------------------------------------------


def test_haar_columns_are_orthonormal_and_uniform():
    Q = layers.haar(6, 3, seeded(), 4000)
    eye = torch.eye(3, dtype=F64).expand(4000, 3, 3)
    torch.testing.assert_close(Q.mT @ Q, eye)
    # without the signs of R the first column would have a preferred direction
    error = Q.std(0) / 4000**0.5
    assert (Q.mean(0).abs() < 4 * error).all()
    # fourth moment on the sphere: 3/(n² + 2n)
    fourth = Q.pow(4).mean(0)
    spread = Q.pow(4).std(0) / 4000**0.5
    assert ((fourth - 3 / 48).abs() < 4 * spread).all()


def test_square_factors_keep_the_sign_of_the_product_of_determinants():
    for seed in range(4):
        like = layers.factors_of(torch.randn(5, 5, generator=seeded(seed), dtype=F64))
        found = layers.haar_factors(like, seeded(seed), 40)
        wanted = torch.linalg.det(like.weight()).sign()
        assert (torch.linalg.det(found.weight()).sign() == wanted).all()
        # that of U alone is free
        assert len(torch.linalg.det(found.U).sign().unique()) == 2


def test_a_rotation_turns_by_its_angle_at_most():
    eye = torch.eye(7, dtype=F64)
    turned = layers.rotated(eye, 0.3, seeded(), 5)
    found = torch.linalg.matrix_norm(turned - eye, 2)
    torch.testing.assert_close(found, torch.full((5,), 2 * math.sin(0.15), dtype=F64))
    assert torch.linalg.det(turned[0]) == pytest.approx(1)


# --- the theorem: one linear layer, white inputs (MATH 5.2) ----------------------------


def test_alternating_polar_updates_recover_all_of_forty_starts():
    """E1. The optimum is the sum of the squared singular values (von Neumann)."""
    shape = drawn(10, 10)
    true = layers.Factors(shape.U, 3 * 0.8 ** torch.arange(10, dtype=F64), shape.V)
    C, S = true.weight(), true.sigma
    U, V = (layers.haar(10, 10, seeded(seed), 40) for seed in (1, 2))
    # a component of a unit vector of 10 entries: Γ(5)/(√π·Γ(5.5)) on average
    chance = math.gamma(5) / (math.pi**0.5 * math.gamma(5.5))
    assert float(cosines(U, true.U).mean()) == pytest.approx(chance, rel=0.1)
    for _ in range(600):
        U, before = polar(C @ V * S), U
        V = polar(C.T @ U * S)
        if float((U - before).abs().max()) < 1e-9:
            break
    assert float(cosines(U, true.U).min()) > 0.999
    assert float(cosines(V, true.V).min()) > 0.999
    assert torch.equal((U * true.U).sum(-2).sign(), (V * true.V).sum(-2).sign())
    reached = ((U * S) @ V.mT * C).sum((-2, -1))
    torch.testing.assert_close(reached, S.square().sum().expand(40))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (6, 3)])
def test_the_parametrised_layer_recovers_all_starts_of_a_small_case(shape):
    """E1 again, by gradients; square starts have the right determinant."""
    U, V = (layers.haar(n, min(shape), seeded(n)) for n in shape)
    true = layers.Factors(
        U, torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=F64)[: min(shape)], V
    )
    layer = layers.FixedSpectrumLinear(
        layers.haar_factors(true, seeded(3), 10), dtype=F64
    )
    data = data_of(true.weight())
    train(layer, data, Training(1200, 0.05, 0.0, 100), seeded())
    assert float(loss_of(layer, data).max()) < 1e-6
    assert float(cosines(layer.U.detach(), true.U).min()) > 0.999
    assert float(cosines(layer.V.detach(), true.V).min()) > 0.999


def test_a_perturbed_start_returns():
    """E4: in the linear case, to a loss gap below 1e-6."""
    model = nn.Sequential(nn.Linear(6, 4, bias=False)).double()
    weight = model[0].weight.detach()
    data = data_of(weight)
    network = start_of("perturbed", model, 5, seeded(), angle=0.3)
    before = loss_of(network, data)
    train(network, data, Training(300, 0.02, 0.0, 100), seeded())
    assert float(before.min()) > 1e-4
    assert float(loss_of(network, data).max()) < 1e-6
