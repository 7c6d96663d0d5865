"""Products with Jacobians, by each method, against dense ones of ``torch.func``."""

import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap
from torch.nn import functional

from svdhooks import linalg
from svdhooks.linalg._jacobian_modes import pullbacks

METHODS = ("forward", "double_backward", "reverse")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 3e-2}


def chain(dims, dtype=torch.float64, activation=functional.relu):
    """A multilayer perceptron as a function of delta, its layers and its input."""
    layers = [nn.Linear(a, b).to(dtype) for a, b in itertools.pairwise(dims)]
    x = torch.randn(5, dims[0], dtype=dtype)

    def function(delta):
        z, outputs = x + delta, {}
        for index, layer in enumerate(layers):
            z = layer(z)
            outputs[f"layers.{index}"] = z.clone()
            z = activation(z)
        return outputs

    return function, torch.zeros_like(x), layers, x


def convolutional():
    first = nn.Conv2d(2, 3, 3, padding=1).double()
    second = nn.Conv2d(3, 4, 3, stride=2).double()
    norm = nn.BatchNorm2d(3).double().eval()
    x = torch.randn(3, 2, 7, 7).double()

    def function(delta):
        z1 = first(x + delta)
        z2 = second(functional.gelu(norm(z1)))
        return {"first": z1.flatten(1), "second": z2.flatten(1)}

    return function, torch.zeros_like(x)


def attending():
    block = nn.MultiheadAttention(8, 2, batch_first=True).double()
    head = nn.Linear(8, 3).double()
    x = torch.randn(2, 5, 8).double()

    def function(delta):
        h = functional.layer_norm(x + delta, (8,))
        y = block(h, h, h, need_weights=True)[0]
        return {"attention": y.flatten(1), "head": head(h + y).flatten(1)}

    return function, torch.zeros_like(x)


def recurrent():
    cell = nn.LSTM(4, 6, batch_first=True).double()
    x = torch.randn(3, 5, 4).double()

    def function(delta):
        return {"lstm": cell(x + delta)[0].flatten(1)}

    return function, torch.zeros_like(x)


def mixture():
    """Two experts, of which a router sends every token to one."""
    router, *experts = (nn.Linear(4, out).double() for out in (2, 6, 6))
    x = torch.randn(3, 5, 4).double()

    def function(delta):
        h = x + delta
        weights = functional.softmax(router(h), -1)
        chosen = nn.functional.one_hot(weights.argmax(-1), 2).to(h)
        y = sum((weights * chosen)[..., [i]] * f(h) for i, f in enumerate(experts))
        return {"router": router(h).flatten(1), "out": y.flatten(1)}

    return function, torch.zeros_like(x)


def dense(function, at):
    """Jacobians (n, m, inputs) of each layer, one sample and one row after the other."""
    # differentiated as a whole: the diagonal blocks are those of the samples
    whole = jacrev(lambda delta: dict(function(delta)))(at)
    index = torch.arange(len(at))
    return {
        name: J[index, :, index].reshape(len(at), J.shape[1], -1).detach()
        for name, J in whole.items()
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "build",
    [lambda: chain((6, 9, 8, 4))[:2], convolutional, attending, recurrent, mixture],
    ids=["mlp", "cnn", "attention", "lstm", "moe"],
)
def test_all_directions_give_the_jacobians_of_reverse_mode(build, method):
    function, at = build()
    expected = dense(function, at)
    size = at[0].numel()
    V = linalg.orthonormal_directions(size, tuple(at.shape[1:]), dtype=at.dtype)
    found = linalg.jacobian_products(function, at, V, method)
    assert found.keys() == expected.keys()
    for name, J in found.items():
        torch.testing.assert_close(J, expected[name], rtol=1e-10, atol=1e-12)
        assert not J.requires_grad


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("method", METHODS)
def test_a_relu_network_is_the_product_of_its_matrices(dtype, method):
    function, at, layers, x = chain((10, 14, 12, 7), dtype)
    V = linalg.orthonormal_directions(10, (10,), dtype=dtype)
    found = linalg.jacobian_products(function, at, V, method)
    outputs = function(at)
    for i in range(len(x)):
        J = torch.eye(10, dtype=torch.float64)
        for index, layer in enumerate(layers):
            J = layer.weight.detach().double() @ J
            measured = found[f"layers.{index}"][i]
            assert measured.dtype == dtype
            error = (measured.double() - J).norm() / J.norm()
            assert error < TOLERANCE[dtype]
            J = (outputs[f"layers.{index}"][i] > 0).double()[:, None] * J


@pytest.mark.parametrize("method", METHODS)
def test_chunks_and_directions_multiply_the_same_jacobians(method):
    function, at, *_ = chain((8, 11, 6))
    V = linalg.orthonormal_directions(5, (8,), dtype=torch.float64)
    whole = linalg.jacobian_products(function, at, V, method)
    parts = linalg.jacobian_products(function, at, V, method, chunk=2)
    for name, J in dense(function, at).items():
        torch.testing.assert_close(whole[name], J @ V.T)
        torch.testing.assert_close(parts[name], J @ V.T)


@pytest.mark.parametrize("method", METHODS)
def test_layers_that_do_not_depend_on_the_point_have_jacobians_of_zeros(method):
    weight = torch.randn(3, 4, requires_grad=True)

    def function(delta):
        constant = torch.ones(2, 3)
        return {"z": delta @ weight.T, "c": constant, "w": constant @ weight}

    at = torch.zeros(2, 4)
    V = linalg.orthonormal_directions(4, (4,))
    found = linalg.jacobian_products(function, at, V, method)
    torch.testing.assert_close(found["z"], weight.detach().expand(2, -1, -1))
    assert found["c"].shape == (2, 3, 4)
    assert found["w"].shape == (2, 4, 4)
    assert not found["c"].any()
    assert not found["w"].any()
    nothing = linalg.jacobian_products(
        lambda delta: {"c": function(delta)["w"]}, at, V, method
    )
    assert not nothing["c"].any()
    assert weight.grad is None


@pytest.mark.parametrize("method", METHODS)
def test_layers_of_other_dtypes_stand_side_by_side(method):
    weight = torch.randn(3, 4).bfloat16().double()  # so that reverse mode is exact

    def function(delta):
        low = delta.bfloat16() * 2
        return {"low": low, "high": low.double() @ weight.T}

    V = linalg.orthonormal_directions(4, (4,))
    found = linalg.jacobian_products(function, torch.zeros(2, 4), V, method)
    assert found["low"].dtype == torch.bfloat16
    assert found["high"].dtype == torch.float64
    torch.testing.assert_close(found["high"], (2 * weight).expand(2, -1, -1))


def test_rows_are_those_of_the_jacobian():
    function, at = convolutional()
    J = dense(function, at)["second"]
    common = torch.randn(4, J.shape[1]).double()
    own = torch.randn(3, 4, J.shape[1]).double()
    for u in (common, own):
        rows = linalg.jacobian_rows(function, at, "second", u)
        assert rows.shape == (3, 4, 2, 7, 7)
        torch.testing.assert_close(rows.flatten(2), u @ J)
        parts = linalg.jacobian_rows(function, at, "second", u, chunk=3)
        torch.testing.assert_close(parts, rows)
    zeros = linalg.jacobian_rows(
        lambda delta: {"z": torch.ones(3, 5)}, at, "z", torch.ones(2, 5)
    )
    assert zeros.shape == (3, 2, 2, 7, 7)
    assert not zeros.any()


class Squared(torch.autograd.Function):
    """Without a derivative of forward mode, and without a rule for vmap."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return Doubled.apply(x, gradient)


class Doubled(torch.autograd.Function):
    generate_vmap_rule = False

    @staticmethod
    def forward(ctx, x, gradient):
        ctx.save_for_backward(x, gradient)
        assert x.numel() == gradient.numpy().size  # vmap cannot look inside
        return 2 * x * gradient

    @staticmethod
    def backward(ctx, gradient):
        x, other = ctx.saved_tensors
        return 2 * other * gradient, 2 * x * gradient.clone()


def test_what_has_no_forward_mode_is_refused_there_and_served_below():
    weight = torch.randn(4, 3).double()
    x = torch.randn(2, 3).double()

    def function(delta):
        return {"z": Squared.apply((x + delta) @ weight.T)}

    at, V = torch.zeros_like(x), torch.eye(3).double()
    expected = 2 * (x @ weight.T)[..., None] * weight
    with pytest.raises(RuntimeError):
        linalg.jacobian_products(function, at, V, "forward")
    for method in ("double_backward", "reverse"):
        found = linalg.jacobian_products(function, at, V, method)
        torch.testing.assert_close(found["z"], expected)


def test_pullbacks_go_one_by_one_where_vmap_refuses():
    x = torch.randn(3).double().requires_grad_()
    z = Squared.apply(x)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(
            z, x, torch.eye(3).double(), retain_graph=True, is_grads_batched=True
        )
    (rows,) = pullbacks(z, [x], torch.eye(3).double(), None)
    torch.testing.assert_close(rows, (2 * x).diag().detach())


def test_vmap_does_not_warn_of_operations_without_a_rule():
    x = torch.randn(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = linalg.jacobian_products(
            lambda delta: {"z": functional.mish(x + delta)},
            torch.zeros_like(x),
            torch.eye(3),
        )
    expected = vmap(jacrev(functional.mish))(x)
    torch.testing.assert_close(found["z"], expected)


def test_random_streams_and_gradients_are_left_alone():
    function, at, layers, _ = chain((6, 5, 4))
    before = torch.get_rng_state()
    V = linalg.orthonormal_directions(3, (6,), dtype=torch.float64)
    for method in METHODS:
        linalg.jacobian_products(function, at, V, method)
        linalg.adjoint_errors(function, at, method)
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for layer in layers for p in layer.parameters())


@pytest.mark.usefixtures("as_a_user_calls")
def test_wrong_numbers_of_directions_and_chunks_are_refused():
    for k in (0, 7):
        with pytest.raises(ValueError, match=f"Found {k} directions"):
            linalg.orthonormal_directions(k, (2, 3))
    function, at, *_ = chain((6, 5))
    for V, chunk in ((torch.zeros(0, 6), None), (torch.zeros(2, 6), 0)):
        with pytest.raises(ValueError, match="at least one of each"):
            linalg.jacobian_products(function, at, V, chunk=chunk)
