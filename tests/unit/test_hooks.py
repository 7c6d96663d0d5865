"""Hooks see what passes, disturb nothing, and are gone afterwards."""

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svdhooks.hooks import after_each_update, count_calls, observed
from svdhooks.layers import Layer, PointValue, find_layers
from tests.models import InPlace, Reused, mlp
from tests.plain import hooks_on


def _nothing(*_: Any) -> None:
    pass


def _observe(model: nn.Module, *args: Tensor) -> list[tuple[str, str, Tensor]]:
    seen: list[tuple[str, str, Tensor]] = []

    def receive(layer: Layer, values: Mapping[str, PointValue]) -> None:
        seen.extend((layer.name, p, v.tensor.clone()) for p, v in values.items())

    def fail(layer: Layer, error: Exception) -> None:
        raise error

    with observed(find_layers(model).layers, receive, fail):
        model(*args)
    return seen


# --- observed ------------------------------------------------------------------------------


def test_values_are_handed_over_before_a_successor_overwrites_them():
    """Hazard 5: an activation in place."""
    model, x = InPlace(inplace=True), torch.randn(20, 7)
    seen = {(layer, point): value for layer, point, value in _observe(model, x)}
    torch.testing.assert_close(seen["first", "output"], model.first(x))
    assert seen["first", "output"].min() < 0
    assert seen["second", "input"].min() == 0


def test_every_call_is_handed_over():
    seen = _observe(Reused(), torch.randn(4, 5))
    assert [name for name, point, _ in seen if point == "input"] == ["cell"] * 3 + [
        "out"
    ]


def test_inside_no_graph_is_recorded_and_autocast_is_off():
    """Hazard 6: within a hook."""
    model, dtypes = mlp(4, 4), []

    def receive(layer: Layer, values: Mapping[str, PointValue]) -> None:
        z = values["output"].tensor
        dtypes.append((z.dtype, (z.float() @ z.float().T).dtype))
        assert not torch.is_grad_enabled()

    with (
        torch.autocast("cpu", torch.bfloat16),
        observed(find_layers(model).layers, receive, pytest.fail),
    ):
        y = model(torch.randn(3, 4))
    assert y.requires_grad  # the model's own graph is untouched
    assert dtypes == [(torch.bfloat16, torch.float32)]


def test_an_error_goes_to_the_layer_and_not_to_the_model():
    model, failed = mlp(4, 6, 3), []

    def receive(layer: Layer, values: Mapping[str, PointValue]) -> None:
        if layer.name == "0":
            raise ValueError("no")

    with observed(
        find_layers(model).layers,
        receive,
        lambda layer, e: failed.append((layer.name, e)),
    ):
        model(torch.randn(2, 4))
    ((name, error),) = failed
    assert name == "0"
    assert str(error) == "no"


def test_hooks_are_gone_after_an_error_in_the_model():
    model = mlp(4, 6, 3)
    with (
        pytest.raises(RuntimeError),
        observed(find_layers(model).layers, _nothing, _nothing),
    ):
        assert hooks_on(model) == 2
        model(torch.randn(2, 5))
    assert hooks_on(model) == 0


def test_several_layers_of_one_module_share_a_hook():
    model = nn.ModuleList([nn.MultiheadAttention(4, 2)])
    with observed(find_layers(model).layers, _nothing, _nothing):
        assert hooks_on(model) == 1
    assert hooks_on(model) == 0


def test_the_users_own_hooks_stay():
    model = mlp(4, 6, 3)
    model[0].register_forward_hook(_nothing)
    _observe(model, torch.randn(2, 4))
    assert hooks_on(model) == 1


# --- count_calls -----------------------------------------------------------------------------


def test_calls_are_counted_per_module():
    model = Reused()
    with count_calls([model.cell, model.out, model.cell]) as calls:
        model(torch.randn(2, 5))
        model(torch.randn(2, 5))
    assert calls == {id(model.cell): 6, id(model.out): 2}
    assert hooks_on(model) == 0


# --- after_each_update ---------------------------------------------------------------------------


class _Wrapper:
    """What Lightning and Accelerate make of an optimiser."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer


class _Uninitialised(torch.optim.Optimizer):
    """As Accelerate's: a subclass for ``isinstance`` alone."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer


@pytest.mark.parametrize("wrapper", [_Wrapper, _Uninitialised])
def test_updates_are_noticed_through_wrappers_until_the_handle_is_removed(wrapper):
    """Hazard 25: true updates."""
    model, updates = mlp(2, 2), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = after_each_update(wrapper(wrapper(optimizer)), lambda: updates.append(1))
    optimizer.step()
    optimizer.step()
    handle.remove()
    optimizer.step()
    assert len(updates) == 2
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize("wrong", [None, 3, mlp(2, 2), _Wrapper(None), _Wrapper(3)])
def test_what_is_no_optimiser_is_refused(wrong):
    with pytest.raises(TypeError, match=r"expected a torch\.optim\.Optimizer"):
        after_each_update(wrong, _nothing)


def test_the_optimiser_still_copies_and_pickles():
    optimizer = torch.optim.Adam(mlp(2, 2).parameters())
    after_each_update(optimizer, lambda: None)
    copy.deepcopy(optimizer)
    pickle.loads(pickle.dumps(optimizer))
