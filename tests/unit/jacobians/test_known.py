"""What was found out of a model is used again, and forgotten where it may be wrong."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

import svdhooks
from tests.models import mlp


class Counting(nn.Module):
    """Counts its calls, outside of what a probe puts back."""

    def __init__(self, calls: list[int]) -> None:
        super().__init__()
        self.body = mlp(6, 8, 3)
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        return self.body(x)


class _Double(torch.autograd.Function):
    """Has no forward-mode derivative."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Double.apply(x)


def test_a_second_call_finds_out_nothing_again() -> None:
    calls: list[int] = []
    model, x = Counting(calls), torch.randn(5, 6)
    first = svdhooks.local_rank(model, x)
    at_first = len(calls)
    calls.clear()
    other = torch.randn(5, 6)
    second = svdhooks.local_rank(model, other, eps=0.1, relative=True)
    assert len(calls) < at_first / 2
    assert second.keys() == first.keys()
    for name, layer in dict(model.body.named_children()).items():
        if isinstance(layer, nn.Linear) and name == "0":
            sigma = torch.linalg.svdvals(layer.weight.detach())
            torch.testing.assert_close(
                second[f"body.{name}"].spectra[0], sigma, rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("size", [4, 7])
def test_another_batch_size_is_found_out_anew(size: int) -> None:
    model = mlp(6, 8, 3)
    svdhooks.local_rank(model, torch.randn(5, 6))
    found = svdhooks.local_rank(model, torch.randn(size, 6))
    assert {len(each.spectra) for each in found.values()} == {size}


def test_a_module_in_between_may_need_another_method() -> None:
    model, x = mlp(6, 8, 3), torch.randn(5, 6)
    assert "forward" in svdhooks.local_rank(model, x)["2"].method
    model[1] = Double()
    found = svdhooks.local_rank(model, x)
    assert "forward" not in found["2"].method
    whole = 2 * model[2].weight.detach() @ model[0].weight.detach()
    torch.testing.assert_close(
        found["2"].spectra[0], torch.linalg.svdvals(whole), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("build", "batch"),
    [
        (
            lambda: nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3)),
            torch.randint(0, 7, (2, 3)),
        ),
        # of which the first layer is the whole model
        (lambda: nn.Linear(20, 4), torch.randn(3, 20)),
    ],
    ids=["embedding", "a layer alone"],
)
def test_no_model_is_kept_alive(build, batch) -> None:
    model = build()
    svdhooks.local_rank(model, batch)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
