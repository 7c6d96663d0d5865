"""Compiled functions that call the model, varying shapes, real code generation."""

import copy
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import svdhooks
from svdhooks.reports import RecordingWarning
from svdhooks.sinks.memory import MemorySink
from tests import compiled
from tests.compiled import BATCHES, SHAPES, Net, Run, assert_same_records
from tests.compiled import train_run as run

# dynamo looks at the gradients of its inputs, and warnings are errors here
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")


# --- the model is called by a compiled function --------------------------------------------


def _of_function(
    listen: Callable[[nn.Module], Any] | None, warm: bool = False, hooked: bool = False
) -> Run:
    """Train four steps through a compiled function; what listens ends at the first."""
    with compiled.fresh_dynamo() as counting:
        torch.manual_seed(0)
        model = Net()
        if hooked:
            model.register_forward_pre_hook(lambda *_: None)
        step = torch.compile(lambda x: model(x), backend=counting, fullgraph=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if warm:
            step(BATCHES[0])
        listening = listen(model) if listen is not None else None
        for x in BATCHES[1:5]:
            step(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if listening is not None:
                listening()
        return Run({}, counting.graphs, compiled.attempts(), [*model.parameters()])


def _watching(sink: MemorySink, **options: Any) -> Callable[[nn.Module], Any]:
    def listen(model: nn.Module) -> Callable[[], Any]:
        given = {"every": 1, "sinks": [sink], "max_overhead": None, **options}
        return svdhooks.watch(model, None, **given).step

    return listen


def _hooking(calls: list[Any]) -> Callable[[nn.Module], Any]:
    """The naive capture: a hook, until the first step."""
    return lambda model: (
        model.register_forward_pre_hook(lambda *_: calls.append(1)).remove
    )


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("probe", [BATCHES[0], None], ids=["given", "captured"])
def test_a_model_that_a_compiled_function_calls(probe, warm):
    """Hazard 1: with a probe all is recorded; without, this is said. No graph more."""
    sink, twin = MemorySink(), _of_function(None, warm)
    listen = _watching(sink, probe=probe)
    if probe is None:
        with pytest.warns(RecordingWarning, match="not by a function that is compiled"):
            found = _of_function(listen, warm)
        assert sink.of("covariance") == []
    else:
        found = _of_function(listen, warm)
        assert {r.step for r in sink.of("covariance")} == set(range(5))
    assert {r.step for r in sink.of("weight_spectrum")} == set(range(5))
    assert (found.graphs, found.attempts) == (twin.graphs, twin.attempts) == (1, 1)
    assert all(map(torch.equal, found.state, twin.state))


def test_a_hook_that_captures_costs_a_compiled_function_a_second_graph():
    """Hazard 3, the companion: dynamo guards hooks that it has seen."""
    calls: list[Any] = []
    assert _of_function(_hooking(calls)).graphs == 2
    assert len(calls) == 1  # and it is called by the tracing alone


def test_where_the_user_has_hooks_too_listening_costs_one_graph_and_breaks_nothing():
    """Dynamo then goes through ``Module.__call__``, and sees who stands before it."""
    twin = _of_function(None, hooked=True)
    with pytest.warns(RecordingWarning, match="no reference batch is known"):
        found = _of_function(_watching(MemorySink()), hooked=True)
    assert (twin.graphs, found.graphs) == (1, 2)
    given = _of_function(_watching(MemorySink(), probe=BATCHES[0]), hooked=True)
    assert given.graphs == 1


def test_offering_the_batch_to_step_is_enough():
    sink = MemorySink()
    with compiled.fresh_dynamo() as counting:
        model = Net()
        function = torch.compile(lambda x: model(x), backend=counting)
        with svdhooks.watch(model, None, every=1, sinks=[sink]) as recorder:
            for x in BATCHES[:3]:
                function(x)
                recorder.step(x)
    assert {r.step for r in sink.of("covariance")} == {1, 2, 3}
    assert counting.graphs == 1


# --- shapes that vary, copies ------------------------------------------------------------------


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("probe", [BATCHES[0][:7], None], ids=["given", "captured"])
@pytest.mark.slow
def test_batches_of_varying_size_are_compiled_as_often_as_without_us(dynamic, probe):
    batches = [x[: 12 - i % 5] for i, x in enumerate(BATCHES)]

    def shape(model: nn.Module, backend: Any) -> Any:
        return torch.compile(model, backend=backend, dynamic=dynamic)

    found = run(shape, steps=8, batches=batches, probe=probe)
    twin = run(compiled.eager, steps=8, batches=batches, probe=probe)
    unwatched = run(shape, steps=8, batches=batches, watched=False)
    assert_same_records(found, twin)
    assert unwatched.graphs >= 1
    assert (found.graphs, found.attempts) == (unwatched.graphs, unwatched.attempts)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_compiled_model_is_copied_while_it_is_listened_to(shape):
    """Hazard 12: the copy computes the same and captures nothing."""
    sink = MemorySink()
    with compiled.fresh_dynamo() as counting:
        called = shape(Net(), counting)
        called.eval()(BATCHES[0])
        called.train()
        names = list(called.state_dict())
        with svdhooks.watch(called, None, every=1, sinks=[sink]) as recorder:
            twin = copy.deepcopy(called).eval()
            torch.testing.assert_close(twin(BATCHES[0]), called.eval()(BATCHES[0]))
            twin.train()(BATCHES[1])
            assert list(called.state_dict()) == names
            called.train()(BATCHES[2])
            recorder.step()
    (count,) = {float(r.values["count"]) for r in sink.of("covariance", "first")}
    assert count == len(BATCHES[2])
    by_hand = BATCHES[2].var(dim=0, correction=0).sum().double()
    (record,) = [r for r in sink.of("covariance", "first") if r.point == "input"]
    torch.testing.assert_close(
        torch.as_tensor(record.values["total_variance"]), by_hand, rtol=1e-5, atol=0
    )


# --- generated code -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("probe", [BATCHES[0], None], ids=["given", "captured"])
def test_generated_code_is_recorded_as_eager_code_is(mode, probe):
    """Hazard 1, with the compiler that people use."""

    def shape(model: nn.Module, _backend: Any) -> Any:
        return torch.compile(model, mode=mode)

    def without_dropout() -> nn.Module:  # whose masks are other ones in generated code
        net = Net()
        net.dropout = nn.Identity()
        return net

    # into the compiler's cache, so that the two compared both find it there
    run(shape, watched=False, net=without_dropout)
    found = run(shape, probe=probe, net=without_dropout)
    twin = run(compiled.eager, probe=probe, net=without_dropout)
    assert_same_records(found, twin, rtol=1e-3)
    unwatched = run(shape, watched=False, net=without_dropout)
    assert found.attempts == unwatched.attempts > 0
    assert all(map(torch.equal, found.state, unwatched.state))


@pytest.mark.parametrize("shape", [compiled.outer, compiled.in_place])
@pytest.mark.parametrize("probe", [BATCHES[0], None], ids=["given", "captured"])
@pytest.mark.slow
def test_the_whole_of_the_compiler_but_the_code_generation(shape, probe):
    found = run(shape, probe=probe, backend="aot_eager")
    assert_same_records(found, run(compiled.eager, probe=probe), rtol=1e-4)
    unwatched = run(shape, watched=False, backend="aot_eager")
    assert found.attempts == unwatched.attempts > 0
    assert all(map(torch.equal, found.state, unwatched.state))
