"""A forward on the side leaves no trace: promise 1, at its root."""

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from svdhooks.isolation import probe_context
from tests.models import Checkpointed, Everything, mlp

TOKENS = torch.randint(0, 11, (4, 6))


def _state(model: nn.Module) -> dict[str, Any]:
    return {
        "tensors": {k: v.clone() for k, v in model.state_dict().items()},
        "training": [m.training for m in model.modules()],
        "plain": getattr(model, "plain_calls", None),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "max_norm": model.embedding.max_norm,
        "rebound": id(model.rebound),
        "version": model.calls._version,
    }


def _changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    changed = {
        name
        for name, value in before["tensors"].items()
        if not torch.equal(value, after["tensors"][name])
    }
    for key in before.keys() - {"tensors", "torch"}:
        if before[key] != after[key]:
            changed.add(key)
    return changed | (
        set() if torch.equal(before["torch"], after["torch"]) else {"torch"}
    )


@pytest.fixture
def model() -> Everything:
    model = Everything()
    with torch.no_grad():
        model.embedding.weight.mul_(10)
    model.norm.eval()  # frozen by the user
    return model


def test_a_forward_inside_changes_nothing(model):
    """Hazard 8 and 11: and what the user froze stays frozen."""
    before = _state(model)
    with probe_context(model):
        assert not any(m.training for m in model.modules())
        assert not torch.is_grad_enabled()
        model(TOKENS)
    assert _changed(before, _state(model)) == set()
    assert model.training
    assert not model.norm.training


def test_a_forward_outside_would_have_changed_all_of_it(model):
    """The companion: every one of these is really at risk."""
    model.norm.train()
    before = _state(model)
    model.zero_grad()
    model(TOKENS)
    changed = _changed(before, _state(model))
    assert changed >= {
        "calls",
        "rebound",
        "plain",
        "embedding.weight",
        "norm.running_mean",
        "norm.num_batches_tracked",
        "spectral.parametrizations.weight.0._u",
        "python",
        "numpy",
        "torch",
    }


def test_everything_is_restored_after_an_exception(model):
    before = _state(model)
    handle = model.head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), probe_context(model):
        model(TOKENS)
    handle.remove()
    assert _changed(before, _state(model)) == set()


def test_equal_probes_of_a_random_model_are_equal(model):
    def probe() -> torch.Tensor:
        with probe_context(model):
            return model(TOKENS)

    first = probe()
    random.random()
    torch.rand(3)
    torch.testing.assert_close(probe(), first, rtol=0, atol=0)


def test_a_graph_that_saved_a_buffer_can_still_run_backward():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.register_buffer("scale", torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x) * self.scale
            with torch.no_grad():
                self.scale.mul_(2)
            return y

    model = Scaled()
    loss = (model.linear(torch.randn(2, 3)) * model.scale).sum()
    with probe_context(model):
        model(torch.randn(2, 3))
    loss.backward()  # would raise if the version of the saved buffer had moved
    assert model.linear.weight.grad is not None


@pytest.mark.parametrize(
    "outer", [torch.no_grad, torch.inference_mode, torch.enable_grad]
)
def test_the_callers_gradient_mode_does_not_matter(outer: Callable[[], Any]):
    """Hazard 7: nor does inference mode."""
    model = mlp(3, 4, 2)
    with outer():
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        with probe_context(model):
            assert not torch.is_inference_mode_enabled()
            y = model(torch.zeros(1, 3))
            assert not y.is_inference()
            assert not y.requires_grad
        with probe_context(model, derivatives=True):
            assert model(torch.zeros(1, 3)).requires_grad
        assert modes == (torch.is_grad_enabled(), torch.is_inference_mode_enabled())


def test_autocast_is_off_inside():
    """Hazard 6: of the user's."""
    model = mlp(3, 4, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with probe_context(model):
            assert model(torch.zeros(1, 3)).dtype == torch.float32
        assert model(torch.zeros(1, 3)).dtype == torch.bfloat16


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_segments_run_once(reentrant: bool):
    """Hazard 4: in a probe."""
    model = Checkpointed(reentrant)
    calls = []
    model.body[0].register_forward_hook(lambda *_: calls.append(1))
    original = torch.utils.checkpoint.CheckpointFunction
    with probe_context(model):
        model(torch.zeros(2, 6))
    assert calls == [1]
    assert torch.utils.checkpoint.CheckpointFunction is original


def test_a_compiled_part_runs_eagerly():
    inner = mlp(3, 4, 2)
    graphs = []

    def backend(graph: Any, _example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model = nn.Sequential(torch.compile(inner, backend=backend))
    model(torch.zeros(1, 3))
    assert len(graphs) == 1
    calls = []
    handle = inner[0].register_forward_hook(lambda *_: calls.append(1))
    with probe_context(model):
        model(torch.zeros(5, 3))
    handle.remove()
    assert calls == [1]
    assert len(graphs) == 1


def test_the_attention_fast_path_is_off_inside_and_back_afterwards():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    calls = []
    layer.linear1.register_forward_hook(lambda *_: calls.append(1))
    with probe_context(layer):
        assert not torch.backends.mha.get_fastpath_enabled()
        layer(torch.zeros(1, 3, 8))
    assert torch.backends.mha.get_fastpath_enabled()
    assert calls == [1]


def test_gradients_stay_as_they_are():
    model = mlp(3, 4, 2)
    model(torch.randn(2, 3)).sum().backward()
    before = copy.deepcopy([p.grad for p in model.parameters()])
    with probe_context(model):
        model(torch.randn(2, 3))
    assert all(map(torch.equal, before, (p.grad for p in model.parameters())))
