"""Promise 1 with Jacobians: training is not changed, bit for bit."""

import contextlib
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from svdhooks.jacobians import Differentiator, JacobianOptions, passes
from svdhooks.jacobians.front import local_rank
from svdhooks.layers import find_layers
from svdhooks.probe import ReferenceBatch
from tests.jacobians import assert_spectra, one_of, spectra_by_hand
from tests.models import Everything
from tests.plain import hooks_on

# beartype draws from Python's random stream to choose which items it checks
pytestmark = pytest.mark.usefixtures("as_a_user_calls")

TOKENS = [torch.randint(0, 11, (6, 5)) for _ in range(6)]
LABELS = [torch.randint(0, 3, (6,)) for _ in range(6)]
METHODS = ("forward", "double_backward", "reverse")


def _streams() -> list[Any]:
    python, legacy = random.random(), float(np.random.random())  # noqa: NPY002
    return [python, legacy, float(torch.rand(()))]


def _train(measure: Any = None, counts: bool = True) -> list[Any]:
    """Train; note every loss, gradient, buffer and all streams."""
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    model = Everything()
    if not counts:
        del model.calls
        model.calls = 0
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    trail: list[Any] = []
    hooks = hooks_on(model)
    for tokens, labels in zip(TOKENS, LABELS, strict=True):
        loss = nn.functional.cross_entropy(model(tokens), labels)
        loss.backward()
        if measure is not None:  # between backward and step: gradients are at stake
            measure(model)
        trail += [loss.detach(), *(p.grad.clone() for p in model.parameters())]
        trail += [torch.tensor([p.requires_grad for p in model.parameters()])]
        optimizer.step()
        optimizer.zero_grad()
        trail += [b.clone() for b in model.buffers()]
        trail += [model.plain_calls, model.training, *_streams()]
    assert hooks_on(model) == hooks
    return [*trail, *model.state_dict().values()]


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("method", METHODS)
def test_training_is_bit_identical(method, monkeypatch):
    """Hazard 8: gradients, buffers, flags and streams, whatever the method."""
    from svdhooks.jacobians import ladder

    first = METHODS.index(method)
    monkeypatch.setattr(ladder, "RUNGS", METHODS[first:])
    used: set[str] = set()

    def measure(model: nn.Module) -> None:
        found = local_rank(model, TOKENS[0], directions=4, max_directions=4)
        used.update(each.method for each in found.values() if each.status == "ok")

    # forward mode refuses a buffer that the forward counts up in place
    counts = method != "forward"
    assert _same(_train(counts=counts), _train(measure, counts=counts))
    # small layers take their rows beside a sketch by any method
    assert used == {method, "reverse"}


def test_training_is_bit_identical_after_errors():
    """In the model, and while the spectra are taken."""

    def measure(model: nn.Module) -> None:
        calls = 0

        def fail(*_: Any) -> None:
            nonlocal calls
            calls += 1
            if calls > 5:
                raise ValueError("planted")

        differentiator = Differentiator(model, None, JacobianOptions())
        layers = find_layers(model).layers
        handle = model.head.register_forward_hook(fail)
        try:
            with pytest.raises(ValueError, match="planted"):
                differentiator.measure(layers, ReferenceBatch.given(TOKENS[0]))
        finally:
            handle.remove()
        assert torch.autograd.forward_ad._current_level == -1

    assert _same(_train(), _train(measure))


def test_a_measurement_without_isolation_would_have_changed_it(monkeypatch):
    """The companion: the same passes, unprotected."""
    monkeypatch.setattr(
        passes, "probe_context", lambda model, **_: contextlib.nullcontext()
    )

    def measure(model: nn.Module) -> None:
        with contextlib.suppress(Exception):
            local_rank(model, TOKENS[0], directions=4, max_directions=4)

    assert not _same(_train(), _train(measure))


class Rescaling(nn.Module):
    """Rescales a weight in its forward, and points another elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.twin = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.first.weight.mul_(0.5)
            self.twin.weight.data = 0.5 * self.twin.weight.data + self.first.weight
        return self.last(torch.tanh(self.first(x) + self.twin(x)))


def test_a_forward_that_writes_to_weights_is_undone_after_each_pass():
    """Forward mode is kept from it: there it would end the process."""
    model, x = Rescaling().double(), torch.randn(3, 4, dtype=torch.float64)
    before = [p.clone() for p in model.parameters()]
    places = [(p.data_ptr(), p._version) for p in model.parameters()]
    expected = spectra_by_hand(model, ["last"], one_of(x[:1]), 1)
    found = local_rank(model, x[:1])
    assert all(map(torch.equal, model.parameters(), before))
    assert [(p.data_ptr(), p._version) for p in model.parameters()] == places
    assert found["last"].method.split()[-1] != "forward"
    assert_spectra(found["last"].spectra, expected["last"], 1e-9)
