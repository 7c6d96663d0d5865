"""Whatever a forward on the side writes into parameters is undone."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

from svdhooks import originals
from svdhooks.hooks import observed
from svdhooks.isolation import probe_context
from svdhooks.layers import Layer, find_layers
from tests.models import mlp


class Writes(nn.Module):
    """Writes to its weight in its forward, one way or another."""

    def __init__(self, write: Callable[[nn.Parameter], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.write(self.linear.weight)
        return self.linear(x)


def _assign(weight: nn.Parameter) -> None:
    weight.data = weight.data * 0.9


WAYS: dict[str, Callable[[nn.Parameter], Any]] = {
    "in place": lambda w: w.div_(2),
    "of its data": lambda w: w.data.mul_(2),
    "of a view": lambda w: w.T[1:].zero_(),
    "by index": lambda w: w.__setitem__(0, 7.0),
    "several at once": lambda w: torch._foreach_mul_([w], 2.0),
    "as out=": lambda w: torch.add(w.clone(), 1, out=w),
    "another memory": lambda w: w.set_(torch.ones(3, 3)),
    "by assignment": _assign,
    "both": lambda w: (_assign(w), w.mul_(2)),
    "both, the other way": lambda w: (w.mul_(2), _assign(w)),
    "its initialisation": nn.init.normal_,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "copied", [None, 0, 2**20], ids=["forward", "watched", "copied"]
)
def test_what_a_forward_writes_into_a_parameter_is_undone(
    way: str, copied: int | None, monkeypatch: pytest.MonkeyPatch
):
    """In a forward, and under derivatives of a model that is large or small."""
    monkeypatch.setattr(originals, "COPIED_BYTES", copied)
    derivatives = copied is not None
    model, x = Writes(WAYS[way]), torch.randn(4, 3)
    weight = model.linear.weight
    loss = nn.functional.linear(torch.randn(2, 3).requires_grad_(), weight).sum()
    content, memory, version = weight.clone(), weight.data_ptr(), weight._version
    for _ in range(2):
        with probe_context(model, derivatives=derivatives):
            model(x)
            assert not torch.equal(weight, content)  # it is really at risk
        assert torch.equal(weight, content)
        assert (weight.data_ptr(), weight._version) == (memory, version)
    assert model.linear.weight is weight
    loss.backward()  # would raise if the version of the saved weight had moved
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(weight, content)


def test_what_other_processes_may_write_is_not_put_back():
    """Hogwild: a copy of the whole would undo what they did meanwhile."""
    model = mlp(3, 4, 2).share_memory()
    weight = model[0].weight
    with probe_context(model, derivatives=True):
        # as another process would, not by an operation of this one
        weight.detach().numpy()[:] = 5.0
    assert (weight == 5.0).all()


def test_it_is_undone_after_an_exception():
    model = Writes(lambda w: w.zero_())
    content = model.linear.weight.clone()
    with pytest.raises(RuntimeError, match="shapes"), probe_context(model):
        model(torch.randn(4, 2))
    assert torch.equal(model.linear.weight, content)


def test_parameters_that_share_their_memory_come_back_together():
    model = Writes(lambda w: w.zero_())
    model.alias = nn.Parameter(model.linear.weight.data[1:])
    before = [p.clone() for p in model.parameters()]
    with probe_context(model):
        model(torch.randn(4, 3))
    assert all(map(torch.equal, before, model.parameters()))


def test_a_buffer_that_is_assigned_comes_back():
    model = nn.BatchNorm1d(3)
    buffer, content = model.running_mean, model.running_mean.clone()
    with probe_context(model):
        buffer.data = buffer.data + 1
        buffer.add_(1)
    assert model.running_mean is buffer
    assert torch.equal(buffer, content)


def test_what_no_operation_of_torch_writes_is_noticed():
    """A kernel of somebody else that says so, as torch asks it to."""
    model = Writes(torch.autograd.graph.increment_version)
    refused = pytest.raises(RuntimeError, match=r"in place \(linear.weight\)")
    with refused, probe_context(model):
        model(torch.randn(4, 3))


def test_nothing_is_copied_where_nothing_is_written(monkeypatch: pytest.MonkeyPatch):
    copies: list[Tensor] = []
    clone = Tensor.clone
    monkeypatch.setattr(Tensor, "clone", lambda x: copies.append(x) or clone(x))
    for model, expected in ((mlp(3, 4, 2), 0), (Writes(lambda w: w.zero_()), 1)):
        copies.clear()
        with probe_context(model):
            model(torch.randn(4, 3))
        assert len(copies) == expected


def test_only_operations_of_the_model_are_looked_at(monkeypatch: pytest.MonkeyPatch):
    """What is measured in a hook has many more."""
    looked: list[str] = []
    monkeypatch.setattr(
        originals, "_written", lambda func: looked.append(str(func)) or ()
    )

    def receive(_layer: Layer, values: Any) -> None:
        torch.linalg.svdvals(values["output"].tensor)
        assert not torch.is_grad_enabled()

    def fail(_layer: Layer, error: Exception) -> None:
        raise AssertionError from error

    model = mlp(3, 4, 2)
    layers = find_layers(model).layers
    with probe_context(model), observed(layers, receive, fail):
        model(torch.randn(4, 3))
    assert any("addmm" in name for name in looked)
    assert not any("svd" in name for name in looked)


def test_a_probe_imports_no_compiler():
    """It takes seconds, and a model that is not compiled has no need of it."""
    program = """
import sys, torch
from svdhooks.isolation import probe_context
model = torch.nn.Linear(3, 3)
with probe_context(model):
    model(torch.zeros(1, 3))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


class Flex(nn.Module):
    """Attention by an operator of higher order."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 1, 8)).permute(2, 0, 3, 1, 4)

        def score(s: Tensor, _b: Any, _h: Any, i: Tensor, j: Tensor) -> Tensor:
            return torch.where(i >= j, s, -torch.inf)

        return flex_attention(q, k, v, score_mod=score)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_operators_of_higher_order_run_as_outside():
    model, x = Flex(), torch.randn(2, 5, 8)
    with torch.no_grad():
        expected = model(x)
    with probe_context(model):
        assert torch.equal(model(x), expected)
