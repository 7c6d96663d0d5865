"""Operations that some way of differentiating cannot pass, or passes wrongly in silence."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from svdhooks.jacobians.front import local_rank
from svdhooks.linalg.jacobian import jacobian_products
from tests.jacobians import assert_spectra, one_of, spectra_by_hand

D = 6


class Between(nn.Module):
    """An operation between two layers."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(D, D)
        self.operation = operation
        self.last = nn.Linear(D, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.operation(self.first(x)))


class NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x.cos()


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x.cos()


@torch.library.custom_op("svdhooks_tests::sine", mutates_args=())
def opaque_sine(x: Tensor) -> Tensor:
    return x.sin()


opaque_sine.register_autograd(
    lambda ctx, gradient: gradient * ctx.saved_tensors[0].cos(),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


@torch.library.custom_op("svdhooks_tests::cosine", mutates_args=())
def opaque_cosine(x: Tensor) -> Tensor:
    return x.cos()


def through_opaque_sine(x: Tensor) -> Tensor:
    return opaque_sine(x)  # the operator itself cannot be copied


def through_opaque_cosine(x: Tensor) -> Tensor:
    return opaque_cosine(x)


def inner_no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        constant = 2 * x
    return x.sin() + constant


def attention(x: Tensor) -> Tensor:
    z = x.reshape(len(x), 1, 2, 3)
    return functional.scaled_dot_product_attention(z, z, z).reshape(x.shape)


def flex(x: Tensor) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    z = x.reshape(len(x), 1, 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled
        return flex_attention(z, z, z).reshape(x.shape)


def distances(x: Tensor) -> Tensor:
    z = x.reshape(len(x), 3, 2)
    return torch.cdist(z, z + 1).flatten(1)[:, :D]


def sampled(x: Tensor) -> Tensor:
    grid = x.reshape(len(x), 1, 3, 2).tanh()
    image = (
        torch.arange(32, dtype=x.dtype).reshape(1, 2, 4, 4).expand(len(x), -1, -1, -1)
    )
    return functional.grid_sample(image, grid, align_corners=False).flatten(1)


def quantised(x: Tensor) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(x, 0.05, 0, -128, 127)


def reentrant(x: Tensor) -> Any:
    return checkpoint(torch.sin, x, use_reentrant=True)


def grouped(x: Tensor) -> Tensor:
    weight = torch.linspace(-1, 1, 8 * 8, dtype=x.dtype).reshape(1, 8, 8).sin()
    padded = functional.pad(x, (0, 2))
    split = torch.tensor([len(x)], dtype=torch.int32)
    return functional.grouped_mm(padded, weight, offs=split)[:, :D]


SERVED: dict[str, tuple[Callable[[Tensor], Tensor], str, torch.dtype]] = {
    # operation, the method that serves it, dtype
    "flash attention": (attention, "forward", torch.float32),
    "reentrant checkpoint": (reentrant, "forward", torch.float64),
    "function without jvp": (NoForwardMode.apply, "double_backward", torch.float64),
    "once differentiable": (OnceDifferentiable.apply, "reverse", torch.float64),
    "custom op": (through_opaque_sine, "double_backward", torch.float64),
    "no_grad inside": (inner_no_grad, "double_backward", torch.float64),
    "cdist": (distances, "reverse", torch.float64),
    "grid_sample": (sampled, "double_backward", torch.float64),
    "fake_quant": (quantised, "double_backward", torch.float32),
    "hardsigmoid": (functional.hardsigmoid, "forward", torch.float64),
    "grouped_mm": (grouped, "double_backward", torch.bfloat16),
}

ERRORS = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("name", SERVED)
def test_each_operation_is_served_by_a_method(name):
    """Hazards 14 and 15: what is reported is what reverse mode says, row by row."""
    operation, method, dtype = SERVED[name]
    model, x = Between(operation).to(dtype), torch.randn(4, D, dtype=dtype)
    by_hand = Between(torch.sin if name == "reentrant checkpoint" else operation)
    by_hand.load_state_dict(model.state_dict())
    double = dtype == torch.float32
    found = local_rank(model, x)
    assert found["last"].status == "ok"
    assert found["last"].method.split()[-1] == method
    expected = spectra_by_hand(
        by_hand.to(dtype), ["first", "last"], one_of(x), 4, double=double
    )
    for layer in ("first", "last"):
        assert_spectra(found[layer].spectra, expected[layer], ERRORS[dtype])


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (through_opaque_cosine, "register_autograd"),
        (torch.round, None),
        (flex, "FlexAttention does not support backward"),
        (torch.Tensor.detach, "no gradient leads from its output"),
    ],
    ids=["custom op without a derivative", "round", "flex attention", "detach"],
)
def test_what_no_method_serves_gets_a_reason_and_not_a_number(operation, words):
    """Hazard 15; a derivative that is zero is a number."""
    model, x = Between(operation), torch.randn(4, D)
    found = local_rank(model, x)["last"]
    if words is None:
        assert found.status == "ok"
        assert found.max == 0
        return
    assert words in found.status
    assert found.mean != found.mean
    assert found.samples == 0
    assert found.spectra.shape == (0, 0)


def test_forward_mode_unchecked_would_be_wrong_in_silence():
    """The companion of hazard 14: zero for a custom op, too big around a no_grad."""
    x, units = torch.randn(2, D, dtype=torch.float64), torch.eye(D, dtype=torch.float64)
    true = torch.diag_embed(x.cos())

    def unchecked(operation: Callable[[Tensor], Tensor]) -> Tensor:
        def function(delta: Tensor) -> dict[str, Tensor]:
            return {"z": operation(x + delta)}

        return jacobian_products(function, torch.zeros_like(x), units)["z"]

    torch.testing.assert_close(unchecked(torch.sin), true)
    assert not unchecked(through_opaque_sine).any()
    too_big = true + 2 * torch.eye(D, dtype=torch.float64)
    torch.testing.assert_close(unchecked(inner_no_grad), too_big)


@pytest.mark.parametrize("name", ["flash attention", "function without jvp", "cdist"])
def test_forward_mode_alone_would_not_serve_them(name):
    """The companion of hazard 15: they raise, outside of our context."""
    operation, x = SERVED[name][0], torch.randn(2, D)

    def function(delta: Tensor) -> dict[str, Tensor]:
        return {"z": operation(x + delta)}

    with pytest.raises((NotImplementedError, RuntimeError)):
        jacobian_products(function, torch.zeros_like(x), torch.eye(D))


def test_an_open_dual_level_is_refused_and_left_open():
    with torch.autograd.forward_ad.dual_level():
        with pytest.raises(RuntimeError, match="open dual level"):
            local_rank(Between(torch.sin), torch.randn(2, D))
        # theirs still works
        dual = torch.autograd.forward_ad.make_dual(torch.ones(2), torch.ones(2))
        assert torch.autograd.forward_ad.unpack_dual(2 * dual).tangent is not None


class Routed(nn.Module):
    """Each token goes to one of two experts, whose rows so depend on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(D, 2)
        self.experts = nn.ModuleList([nn.Linear(D, D), nn.Linear(D, D)])
        self.head = nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        chosen = self.router(tokens).argmax(-1)
        mixed = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero().squeeze(1)
            mixed = mixed.index_add(0, rows, torch.tanh(expert(tokens[rows])))
        return self.head(mixed.view_as(x).mean(1))


def test_rows_that_depend_on_the_data_are_measured_sample_by_sample():
    """Hazard 18."""
    model = Routed().double()
    x = torch.randn(3, 5, D, dtype=torch.float64)
    names = ["router", "experts.0", "experts.1", "head"]
    found = local_rank(model, x)
    expected = {
        sample: spectra_by_hand(model, names, one_of(x[sample : sample + 1]), 1)
        for sample in range(3)
    }
    for name in names:
        assert found[name].status == "ok", found[name]
        for sample in range(3):
            right, ours = expected[sample][name][0], found[name].spectra[sample]
            r = min(len(right), len(ours))
            assert_spectra(ours[None, :r], right[None, :r], 1e-9)
            assert (ours[r:] <= 1e-9).all()


class Mixing(nn.Module):
    """Subtracts the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(D, D)
        self.last = nn.Linear(D, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.sin(self.first(x))
        return self.last(z - 0.5 * z.mean(0))


def test_a_layer_that_mixes_samples_has_a_reason_unless_there_is_one_sample():
    """Hazard 18: there is no Jacobian of one sample."""
    model, x = Mixing().double(), torch.randn(4, D, dtype=torch.float64)
    found = local_rank(model, x)
    assert found["first"].status == "ok"
    assert "mixes the samples" in found["last"].status
    alone = local_rank(model, x[:1])
    expected = spectra_by_hand(model, ["last"], one_of(x), 1)
    assert_spectra(alone["last"].spectra, expected["last"], 1e-9)
