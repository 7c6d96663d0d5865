"""torch.compile in every shape: the records of the eager twin, and no graph more."""

from functools import cache

import pytest
import torch

import svdhooks
from svdhooks.reports import RecordingWarning
from svdhooks.sinks.memory import MemorySink
from tests import compiled
from tests.compiled import BATCHES, SHAPES, Net, Run, Shape, assert_same_records
from tests.compiled import train_run as run

# dynamo looks at the gradients of its inputs, and warnings are errors here
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")

ATTACH = ["before", pytest.param("after", marks=pytest.mark.slow), "validation"]
PROBES = {"given": BATCHES[0][:5], "captured": None}
# those compile most; the others keep each way in the fast set
SOME_SLOW = [
    pytest.param(shape, marks=pytest.mark.slow)
    if shape in {compiled.in_place_fullgraph, compiled.inner_in_place, compiled.outer}
    else shape
    for shape in SHAPES
]


@cache
def _eager(attach: str, probe: str) -> Run:
    return run(compiled.eager, attach, probe=PROBES[probe])


@cache
def _unwatched(shape: Shape, attach: str) -> Run:
    return run(shape, attach, watched=False)


def _assert_undisturbed(found: Run, unwatched: Run) -> None:
    """The same graphs, nothing of ours compiled, the same training."""
    assert unwatched.graphs > 0
    assert (found.graphs, found.attempts) == (unwatched.graphs, unwatched.attempts)
    assert all(map(torch.equal, found.state, unwatched.state))


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("attach", ATTACH)
@pytest.mark.parametrize("shape", SOME_SLOW)
def test_a_compiled_model_records_what_its_eager_twin_does(shape, attach, probe):
    """Hazards 1, 2 and 39: all layers, under the same names, the same graphs."""
    found = run(shape, attach, probe=PROBES[probe])
    assert_same_records(found, _eager(attach, probe))
    covariances = {step for step, _, _, kind in found.records if kind == "covariance"}
    assert covariances == set(range(0 if probe == "given" else 1, 4))
    _assert_undisturbed(found, _unwatched(shape, attach))


@pytest.mark.parametrize("shape", SOME_SLOW)
def test_twenty_recordings_compile_nothing_more(shape):
    """Hazard 3: neither another graph nor a recompilation."""
    found = run(shape, steps=20)
    assert len({step for step, *_ in found.records}) == 21
    short = run(shape, watched=False, steps=2)
    assert (found.graphs, found.attempts) == (short.graphs, short.attempts) == (1, 1)


# --- compiled later ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [compiled.outer, compiled.fullgraph])
@pytest.mark.parametrize("probe", PROBES)
def test_a_model_wrapped_after_watch_is_captured_through_the_wrapper(shape, probe):
    found = run(shape, "first", probe=PROBES[probe])
    assert_same_records(found, _eager("before", probe))
    _assert_undisturbed(found, _unwatched(shape, "before"))


@pytest.mark.parametrize("shape", [compiled.in_place, compiled.in_place_fullgraph])
def test_a_model_compiled_in_place_after_watch_is_captured_one_step_later(shape):
    with pytest.warns(RecordingWarning, match="no reference batch is known"):
        found = run(shape, "first", on_error="warn")
    # the batch of the second update: the first call went to what compile() put in place
    expected = run(compiled.eager, "first", probe=BATCHES[2])
    late = {key: r for key, r in found.records.items() if key[0] >= 2}
    twin = {key: r for key, r in expected.records.items() if key[0] >= 2}
    assert_same_records(Run(late), Run(twin))
    _assert_undisturbed(found, _unwatched(shape, "before"))


@pytest.mark.parametrize("shape", [compiled.outer, compiled.in_place, compiled.leaf])
@pytest.mark.parametrize("probe", PROBES)
def test_a_model_compiled_between_records_is_recorded_on(shape, probe, caplog):
    def train(shape: Shape, watched: bool) -> Run:
        sink, recorder = MemorySink(), None
        with compiled.fresh_dynamo() as counting:
            torch.manual_seed(0)
            model = Net()
            called = model
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            if watched:
                recorder = svdhooks.watch(
                    model, None, every=1, probe=PROBES[probe], sinks=[sink]
                )
            for step, x in enumerate(BATCHES[:5]):
                if step == 3:
                    called = shape(model, counting)
                optimizer.zero_grad()
                called(x).square().mean().backward()
                optimizer.step()
                if recorder is not None:
                    recorder.step()
            state = list(model.state_dict().values())
            records = compiled.as_records(sink)
            return Run(records, counting.graphs, compiled.attempts(), state)

    found = train(shape, True)
    assert_same_records(found, train(compiled.eager, True))
    _assert_undisturbed(found, train(shape, False))
    assert "modules of the model were replaced" not in caplog.text
