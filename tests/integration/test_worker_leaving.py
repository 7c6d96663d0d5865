"""Records that are on their way when nobody closes, the process forks, a thread hangs."""

import gc
import os
import threading
import time
import warnings

import pytest
import torch
from torch import nn

import svdhooks
from svdhooks.conductor import delayed, leaving
from svdhooks.reports import RecordingWarning


def _watch(log_dir=None, **options):
    torch.manual_seed(0)
    settings = {
        "every": 1,
        "quantities": "weight_spectrum",
        "max_overhead": None,
        "probe_options": svdhooks.ProbeOptions(compute="thread"),
        "sinks": [svdhooks.MemorySink()],
    } | options
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    return svdhooks.watch(model, log_dir, **settings)


def _steps(recorder):
    (sink,) = recorder._recording.journal.sinks[-1:]
    return [r.step for r in sink.records if r.quantity == "run"]


@pytest.mark.usefixtures("gate")
def test_a_record_of_a_recorder_that_nobody_kept_is_said_to_be_lost():
    recorder = _watch()
    recorder.step()
    with pytest.warns(RecordingWarning, match="step 0, 1 is lost: nobody closed"):
        del recorder
        gc.collect()


def test_a_recorder_that_was_closed_is_forgotten_without_a_word():
    recorder = _watch()
    recorder.step()
    recorder.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del recorder
        gc.collect()


def test_many_recorders_one_after_another_leave_no_thread_behind():
    for _ in range(5):
        with _watch() as recorder:
            recorder.step()
        assert _steps(recorder) == [0, 1]
    solvers = [t for t in threading.enumerate() if t.name == "svdhooks-solver"]
    assert solvers == []


def _fork_and_end(recorder) -> int:
    """In a child, end as a process does that was not told what it holds."""
    child = os.fork()
    if child == 0:
        leaving._at_exit()
        recorder.close()
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_writes_nothing_of_what_is_on_its_way(tmp_path, gate):
    recorder = _watch(tmp_path)
    recorder.step()
    assert recorder._recording.delayed.in_flight
    assert _fork_and_end(recorder) == 0
    assert list((tmp_path / "svdhooks").glob("*tfevents*")) == []
    gate.set()
    recorder.close()
    log = svdhooks.RunLog(tmp_path)
    assert log.steps.tolist() == [0, 1]
    assert {r.status for r in recorder.last.values()} == {"ok"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.usefixtures("gate")
def test_a_forked_process_that_is_not_told_writes_failures(tmp_path, monkeypatch):
    """The companion: in the child no thread runs, so that nothing is solved there."""
    monkeypatch.setattr(delayed.Delayed, "forget", lambda _: None)
    recorder = _watch(tmp_path)
    child = os.fork()
    if child == 0:
        warnings.simplefilter("ignore")
        recorder.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert list((tmp_path / "svdhooks").glob("*tfevents*"))


def test_a_thread_that_hangs_is_waited_for_once(gate, monkeypatch):
    monkeypatch.setattr(delayed, "PATIENCE", 0.3)
    recorder = _watch()
    recorder.step()
    with pytest.warns(RecordingWarning, match="of step 0 are not solved after"):
        assert recorder.last == {}
    begun = time.monotonic()
    monkeypatch.setattr(delayed, "PATIENCE", 60.0)
    with pytest.warns(RecordingWarning, match="step 2 is left out"):
        assert not recorder.step()
    assert recorder.last == {}
    assert time.monotonic() - begun < 30
    gate.set()
    recorder._recording.delayed._flights[-1].awaited.wait(10.0)
    assert recorder.last["0", "weight"].step == 1
    recorder.close()
    assert _steps(recorder) == [0, 1]


def test_ctrl_c_while_a_record_is_completed_loses_nothing(monkeypatch):
    recorder = _watch(every=100)
    recorder._recording.delayed._flights[0].awaited.wait(10.0)
    whole = delayed.Delayed._complete

    def interrupted(self, records):
        monkeypatch.setattr(delayed.Delayed, "_complete", whole)
        raise KeyboardInterrupt

    monkeypatch.setattr(delayed.Delayed, "_complete", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recorder.step()
    recorder.close()
    assert _steps(recorder) == [0]


@pytest.mark.parametrize("around", [True, False])
def test_only_an_error_that_ends_the_training_hurries(gate, monkeypatch, around):
    """A training may be a second attempt, made where the first one's error is handled."""
    monkeypatch.setattr(delayed, "HURRY", 0.01)
    threading.Timer(0.5, gate.set).start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        try:
            if around:
                raise ValueError("the first attempt")
            recorder = _watch()
            raise ValueError("ends it")
        except ValueError:
            if around:
                recorder = _watch()
            recorder.close()
    assert _steps(recorder) == ([0] if around else [])
