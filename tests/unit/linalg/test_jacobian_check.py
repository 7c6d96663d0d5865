"""The adjoint check: what it passes, and what it finds."""

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from svdhooks import linalg

METHODS = ("forward", "double_backward", "reverse")


@torch.library.custom_op("svdhooks_tests::tripled", mutates_args=())
def tripled(x: torch.Tensor) -> torch.Tensor:
    """Forward mode takes it for a constant, in silence."""
    return 3 * x


tripled.register_autograd(lambda ctx, gradient: 3 * gradient)


@torch.library.custom_op("svdhooks_tests::opaque", mutates_args=())
def opaque(x: torch.Tensor) -> torch.Tensor:
    """Nothing can be differentiated through it."""
    return 3 * x


def network(inner, dtype=torch.float32):
    """Three layers, the second of which goes through ``inner``."""
    first, second, third = (nn.Linear(12, 12).to(dtype) for _ in range(3))
    x = torch.randn(6, 12, dtype=dtype)

    def function(delta):
        z1 = first(x + delta)
        z2 = second(inner(torch.tanh(z1)))
        z3 = third(torch.relu(z2))
        return {"z1": z1.clone(), "z2": z2.clone(), "z3": z3.clone()}

    return function, torch.zeros_like(x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", linalg.ADJOINT_TOLERANCE)
def test_a_sound_network_passes(dtype, method):
    function, at = network(functional.gelu, dtype)
    errors = linalg.adjoint_errors(function, at, method)
    assert errors.keys() == {"z1", "z2", "z3"}
    assert max(errors.values()) < linalg.ADJOINT_TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", linalg.ADJOINT_TOLERANCE)
def test_an_operation_that_forward_mode_loses_is_found_in_all_later_layers(dtype):
    function, at = network(tripled, dtype)
    errors = linalg.adjoint_errors(function, at)
    assert errors["z1"] < linalg.ADJOINT_TOLERANCE[dtype]
    assert errors["z2"] > 0.1
    assert errors["z3"] > 0.1
    below = linalg.adjoint_errors(function, at, "double_backward")
    assert max(below.values()) < linalg.ADJOINT_TOLERANCE[dtype]


def test_a_lost_branch_of_a_tenth_is_found_in_bfloat16():
    dtype = torch.bfloat16
    function, at = network(lambda h: h + tripled(0.1 * h) / 3, dtype)
    errors = linalg.adjoint_errors(function, at)
    assert errors["z1"] < linalg.ADJOINT_TOLERANCE[dtype]
    assert errors["z2"] > linalg.ADJOINT_TOLERANCE[dtype]


def without_graph(h):
    with torch.no_grad():
        return h * 2


def test_a_gradient_that_is_stopped_by_no_grad_is_found_where_it_is_not():
    function, at = network(lambda h: h + without_graph(h))
    for method in METHODS:
        errors = linalg.adjoint_errors(function, at, method)
        V = torch.eye(12)
        found = linalg.jacobian_products(function, at, V, method)["z2"]
        rows = linalg.jacobian_rows(function, at, "z2", V)
        differ = not torch.allclose(found, rows, atol=1e-5)
        assert differ == (errors["z2"] > linalg.ADJOINT_TOLERANCE[torch.float32])
        assert differ == (method == "forward")


def test_samples_that_see_each_other_are_found():
    """Batch statistics: the sums over samples would agree, those of each do not."""
    function, at = network(lambda h: h - h.mean(0))
    errors = linalg.adjoint_errors(function, at)
    assert errors["z1"] < 1e-6
    assert errors["z2"] > 0.1


def test_what_no_pullback_exists_for_reads_infinity_and_spares_the_others():
    function, at = network(opaque)
    for method in ("forward", "reverse"):
        errors = linalg.adjoint_errors(function, at, method)
        assert errors["z1"] < 1e-6
        assert errors["z2"] == torch.inf


class Once(torch.autograd.Function):
    """Can be differentiated backwards, and that once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


def test_what_only_reverse_mode_serves_passes_there_alone():
    function, at = network(Once.apply)
    with pytest.raises(RuntimeError):
        linalg.adjoint_errors(function, at, "forward")
    # PyTorch means to raise here, but its error hangs from a tensor of its own
    assert linalg.adjoint_errors(function, at, "double_backward")["z2"] > 0.1
    errors = linalg.adjoint_errors(function, at, "reverse")
    assert max(errors.values()) < 1e-6


def test_a_function_that_draws_anew_is_found_in_reverse():
    function, at = network(lambda h: functional.dropout(h, training=True))
    errors = linalg.adjoint_errors(function, at, "reverse")
    assert errors["z1"] == 0
    assert errors["z2"] > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_independence_is_no_error_and_nan_is_one(method):
    at = torch.zeros(2, 3)

    def function(delta):
        return {"constant": torch.ones(2, 4), "nan": delta * torch.nan, "z": 2 * delta}

    errors = linalg.adjoint_errors(function, at, method)
    assert errors == {"constant": 0.0, "nan": torch.inf, "z": 0.0}


@pytest.mark.parametrize("broken", [0, 11, 23])
def test_one_wrong_layer_among_many_large_ones_is_named(broken):
    """All layers are checked together first, but none drowns in the others."""
    weights = [torch.randn(9, 9) for _ in range(24)]
    x = torch.randn(4, 9)

    def function(delta):
        outputs = {}
        for index, weight in enumerate(weights):
            z = torch.tanh(x + delta) @ weight.T
            # the wrong one is a millionth of the others, and wrong by a thousandth
            if index == broken:
                z = 1e-6 * (z + 1e-3 * tripled(z))
            outputs[str(index)] = z
        return outputs

    errors = linalg.adjoint_errors(function, torch.zeros_like(x))
    wrong = [name for name, error in errors.items() if error > 1e-4]
    assert wrong == [str(broken)]
