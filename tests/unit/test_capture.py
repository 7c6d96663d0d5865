"""What stands before a model's calls sees one of them and leaves no trace."""

import copy
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from svdhooks.capture import capture_next_call, compiled_in_place
from tests.models import Reused, TwoInputs, mlp

X = torch.randn(3, 5)


def _nothing(*_: Any) -> None:
    pass


def _slot(model: nn.Module) -> Any:
    return model.__dict__.get("_compiled_call_impl", "nothing")


def _compiled(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


# --- one call ---------------------------------------------------------------------------


def test_the_first_call_in_training_mode_is_handed_over_with_its_keywords():
    model, calls = TwoInputs(), []
    capture_next_call(model, lambda args, kwargs: calls.append((args, kwargs)))
    assert all(not m._forward_pre_hooks for m in model.modules())
    a, b = torch.randn(2, 4), torch.randn(2, 5)
    model.eval()(a, b)
    assert calls == []
    model.train()(a, b=b, scale=2.0)
    model(a, b)
    ((args, kwargs),) = calls
    assert args[0] is a
    assert kwargs["b"] is b
    assert kwargs["scale"] == 2.0
    assert _slot(model) == "nothing"  # it ends by itself


@pytest.mark.parametrize("make", [Reused, lambda: _compiled(Reused())])
def test_the_model_computes_what_it_did_and_gets_its_own_call_back(make):
    model, calls = make(), []
    before, expected = _slot(model), model(X)
    capture_next_call(model, lambda args, _: calls.append(args))
    torch.testing.assert_close(model(X), expected)
    assert len(calls) == 1
    assert _slot(model) is before
    capture_next_call(model, _nothing).remove()
    assert _slot(model) is before


@pytest.mark.parametrize("make", [Reused, lambda: _compiled(Reused())])
def test_a_call_that_raises_is_captured_and_leaves_nothing(make):
    model, calls = make(), []
    before = _slot(model)
    capture_next_call(model, lambda args, _: calls.append(args))
    with pytest.raises(RuntimeError):
        model(torch.zeros(2, 4))
    assert len(calls) == 1
    assert _slot(model) is before


def test_an_error_in_the_receiver_leaves_nothing():
    model = Reused()

    def fail(*_: Any) -> None:
        raise KeyError("ours")

    capture_next_call(model, fail)
    with pytest.raises(KeyError):
        model(X)
    assert _slot(model) == "nothing"


def test_a_captured_call_holds_nothing_afterwards():
    class Owner:
        def take(self, args: Any, kwargs: Any) -> None:
            pass

    model, owner = mlp(4, 4), Owner()
    capture = capture_next_call(model, owner.take)
    reference = weakref.ref(owner)
    model(torch.zeros(1, 4))
    del owner
    assert reference() is None
    capture.remove()


# --- more than one owner ------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("make", [Reused, lambda: _compiled(Reused())])
def test_two_captures_end_in_any_order(make, order):
    model, calls = make(), ([], [])
    before = _slot(model)
    captures = [
        capture_next_call(model, lambda args, _, i=i: calls[i].append(args))
        for i in range(2)
    ]
    captures[order[0]].remove()
    assert compiled_in_place(model) == (before != "nothing")
    model(X)
    assert [len(calls[i]) for i in order] == [0, 1]
    captures[order[1]].remove()
    assert _slot(model) is before


def test_two_captures_see_the_same_call():
    model, calls = Reused(), []
    for _ in range(2):
        capture_next_call(model, lambda args, _: calls.append(args))
    model(X)
    assert len(calls) == 2
    assert _slot(model) == "nothing"


@pytest.mark.parametrize("make", [Reused, lambda: _compiled(Reused())])
def test_a_model_compiled_again_meanwhile_stays_so(make):
    model, calls = make(), []
    capture = capture_next_call(model, lambda args, _: calls.append(args))
    assert not capture.displaced
    model.compile(backend="eager")
    theirs = _slot(model)
    assert capture.displaced
    model(X)
    assert calls == []
    capture.remove()
    assert not capture.displaced
    assert _slot(model) is theirs


def test_compiled_in_place_looks_through_what_listens():
    model = Reused()
    assert not compiled_in_place(model)
    capture_next_call(model, _nothing)
    assert not compiled_in_place(model)
    other = _compiled(Reused())
    capture_next_call(other, _nothing)
    assert compiled_in_place(other)


# --- copies --------------------------------------------------------------------------------


class _WithState(Reused):
    """Keeps all of its attributes in a copy, as few classes do."""

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)


DOUBLES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("double", DOUBLES.values(), ids=DOUBLES)
@pytest.mark.parametrize("make", [Reused, _WithState, lambda: _compiled(Reused())])
def test_copies_capture_nothing_and_leave_the_capture_alone(make, double):
    """Hazard 12: an EMA copy or a checkpoint of the model listens to nothing."""
    model, calls = make(), []
    capture_next_call(model, lambda args, _: calls.append(args))
    shared = make is _WithState and double is copy.copy  # it wants every attribute
    for twin in () if shared else (double(model), double(double(model))):
        torch.testing.assert_close(twin.train()(X), model.eval()(X))
        assert calls == []
    model.train()(X)
    assert calls[0][0] is X


def test_a_hook_that_is_a_bound_method_cannot_be_copied_or_pickled():
    """Hazard 12, the companion: the naive hook takes its owner along or fails."""

    class Owner:
        def __init__(self) -> None:
            self.calls: list[Any] = []
            self.lock = iter(())  # stands for a file or a lock

        def hook(self, _module: nn.Module, args: Any) -> None:
            self.calls.append(args)

    model, owner = Reused(), Owner()
    model.register_forward_pre_hook(owner.hook)
    copied = copy.deepcopy(model)
    (hook,) = copied._forward_pre_hooks.values()
    copied(X)
    assert hook.__self__ is not owner  # the copy records into a copy of the recorder
    assert len(hook.__self__.calls) == 1
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        pickle.dumps(model)


def test_a_whole_model_saved_while_listening_loads_where_nothing_listens(tmp_path):
    model = mlp(4, 6, 3)
    capture_next_call(model, _nothing)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    torch.testing.assert_close(loaded(torch.ones(2, 4)), model(torch.ones(2, 4)))


def test_a_traced_graph_module_is_listened_to_and_pickles_meanwhile():
    traced, calls = fx.symbolic_trace(mlp(4, 6, 3)), []
    capture_next_call(traced, lambda args, _: calls.append(args))
    pickle.loads(pickle.dumps(traced))(torch.ones(2, 4))
    assert calls == []
    traced(torch.ones(2, 4))
    assert len(calls) == 1


def test_a_replica_of_data_parallel_computes_with_its_own_weights():
    """It shares all attributes of the original, so it also calls what listens."""
    model, calls = mlp(4, 3), []
    capture_next_call(model, lambda args, _: calls.append(args))
    replica = model._replicate_for_data_parallel()
    replica._modules = {"0": nn.Linear(4, 3)}
    x = torch.randn(2, 4)

    def own(x: Tensor) -> Tensor:
        return replica._modules["0"](x)

    torch.testing.assert_close(replica(x), own(x))
    assert len(calls) == 1  # a call of the model, in part
    torch.testing.assert_close(replica(x), own(x))
    torch.testing.assert_close(model(x), model[0](x))
