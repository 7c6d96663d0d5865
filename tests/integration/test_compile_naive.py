"""What simpler ways to watch a compiled model come to, and what is refused."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import svdhooks
from svdhooks.hooks import observed
from svdhooks.isolation import probe_context
from svdhooks.layers import find_layers
from svdhooks.reports import RecordingWarning
from svdhooks.sinks.memory import MemorySink
from tests import compiled
from tests.compiled import BATCHES, LAYERS, SHAPES, Counting, Net
from tests.plain import hooks_on

# dynamo looks at the gradients of its inputs, and warnings are errors here
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")

WHOLE = [compiled.outer, compiled.fullgraph, compiled.in_place]
"""The shapes in which every layer is inside of what is compiled."""


@pytest.fixture
def counting() -> Iterator[Counting]:
    with compiled.fresh_dynamo() as backend:
        yield backend


def _linears(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


# --- naive hooks -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", WHOLE)
def test_a_hook_added_after_the_first_compiled_call_never_fires(shape, counting):
    """Hazard 1, the companion: it is not even told."""
    model, calls = Net(), []
    called = shape(model, counting)
    called(BATCHES[0])
    for module in _linears(model):
        module.register_forward_hook(lambda *_: calls.append(1))
    called(BATCHES[1])
    assert calls == []
    assert counting.graphs == 1


def test_a_hook_that_is_kept_out_of_the_graph_crashes_a_fullgraph_model(counting):
    """Hazard 2, the companion."""
    model = Net()
    called = compiled.fullgraph(model, counting)

    @torch.compiler.disable
    def hook(*_: Any) -> None:
        pass

    for module in _linears(model):
        module.register_forward_hook(hook)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        called(BATCHES[0])


def test_a_hook_that_appends_to_a_list_is_compiled_again_at_every_call(counting):
    """Hazard 3, the companion: until dynamo gives up and runs it eagerly."""
    model, kept = Net(), []
    called = compiled.outer(model, counting)
    model.first.register_forward_hook(lambda _m, _x, y: kept.append(y.detach()))
    for x in BATCHES[:6]:
        called(x)
    assert counting.graphs == 6


@pytest.mark.parametrize("shape", WHOLE)
def test_without_the_stance_a_probe_after_validation_sees_nothing(shape, counting):
    """Hazard 1, the companion: the graph of the validation pass serves the probe."""
    model, seen = Net(), []
    called = shape(model, counting)
    with torch.no_grad():
        called.eval()(BATCHES[0])

    def probe() -> list[str]:
        seen.clear()
        layers = find_layers(model).layers
        fail = pytest.fail
        with observed(layers, lambda layer, _: seen.append(layer.name), fail):
            called(BATCHES[0])
        return seen

    with torch.no_grad():
        assert probe() == []
    with probe_context(model):
        assert probe() == LAYERS
    assert counting.graphs == 1


@pytest.mark.parametrize("shape", [compiled.outer, compiled.inner, compiled.leaf])
def test_the_modules_own_names_are_not_those_of_the_eager_model(shape, counting):
    """Hazard 39, the companion: a wrapper shows in ``named_modules``."""
    called = shape(Net(), counting)
    names = [n for n, m in called.named_modules() if isinstance(m, nn.Linear)]
    assert any("_orig_mod" in name for name in names)
    assert [layer.name for layer in find_layers(called).layers] == LAYERS


# --- observe="training" --------------------------------------------------------------------


def _observing(model: nn.Module, sink: MemorySink, **options: Any) -> svdhooks.Recorder:
    return svdhooks.watch(
        model,
        None,
        every=2,
        observe="training",
        max_overhead=None,
        probe_options=svdhooks.ProbeOptions(window=1),
        sinks=[sink],
        **options,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_observing_a_compiled_training_is_refused(shape, counting):
    """Hazard 1: hooks would never fire, so this is said at setup."""
    called = shape(Net(), counting)
    with pytest.raises(ValueError, match="needs an eager forward; found") as caught:
        _observing(called, MemorySink())
    assert 'observe="probe"' in str(caught.value)
    assert hooks_on(called) == 0


def test_a_model_that_another_recorder_listens_to_is_not_taken_for_compiled():
    model = Net()
    with (
        svdhooks.watch(model, None, every=2, sinks=[MemorySink()]),
        _observing(model, MemorySink()) as recorder,
    ):
        assert len(recorder.layers) == len(LAYERS)


@pytest.mark.parametrize("warm", [False, True])
def test_a_compilation_that_cannot_be_seen_gives_a_status(warm, counting):
    """Hazard 1: a compiled function calls the model; its layers are said to be silent."""
    model, sink = Net(), MemorySink()
    step = torch.compile(lambda x: model(x), backend=counting, fullgraph=True)
    if warm:
        step(BATCHES[0])
    with _observing(model, sink) as recorder:
        step(BATCHES[1])
        recorder.step()  # the next step is the window of the record at 2
        step(BATCHES[2])
        with pytest.warns(RecordingWarning, match="not called in the training"):
            recorder.step()
        step(BATCHES[3])
    found = sink.of("covariance")
    assert {(r.layer, r.step) for r in found} == {(name, 2) for name in LAYERS}
    assert not any(r.ok for r in found)
    assert all("not called in the training" in r.status for r in found)
    weights = sink.of("weight_spectrum")
    assert weights
    assert all(r.ok for r in weights)
    assert counting.graphs == 1
