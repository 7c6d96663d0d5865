"""Records that a thread solves are those that are solved at once, and come in order."""

import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import svdhooks
from svdhooks import solving
from svdhooks.conductor import delayed
from svdhooks.linalg.problems import _RowsProblem
from svdhooks.record import Record
from svdhooks.reports import RecordingError, RecordingWarning


class Net(nn.Module):
    """Tied, frozen, convolutional, grouped, attending, half and broken layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, groups=2, padding=1)
        self.up = nn.Linear(8, 24)
        self.frozen = nn.Linear(24, 24).requires_grad_(False)
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)
        self.wide = nn.Linear(24, 24, dtype=torch.float64)
        self.shared = nn.Linear(24, 24)
        self.again = nn.Linear(24, 24)
        self.again.weight = self.shared.weight
        self.broken = nn.Linear(24, 6)
        self.zero = nn.Linear(24, 3)
        with torch.no_grad():
            self.broken.weight[1, 2] = torch.nan
            self.zero.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.up(self.conv(x).flatten(2).mT)
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        tokens = self.again(torch.relu(self.shared(self.frozen(tokens))))
        tokens = tokens + self.wide(tokens.double()).float()
        self.broken(tokens)
        return self.zero(tokens).mean(1) + tokens.mean()


X = torch.randn(8, 4, 5, 5, generator=torch.Generator().manual_seed(3))
HEADS = (svdhooks.WeightSpectrum(heads=True, measures=("power_law_alpha",)),)


def _train(
    compute: str,
    model: nn.Module | None = None,
    steps: int = 7,
    every: int = 1,
    each: Callable[[svdhooks.Recorder], None] = lambda _: None,
    data: Tensor = X,
    **options: object,
) -> tuple[list[Record], nn.Module]:
    torch.manual_seed(1)
    model = model or Net()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9
    )
    sink = svdhooks.MemorySink()
    settings = {
        "every": every,
        "probe": data,
        "probe_options": svdhooks.ProbeOptions(compute=compute),
        "max_overhead": None,
        **options,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        with svdhooks.watch(model, None, sinks=[sink], **settings) as recorder:
            for _ in range(steps):
                optimizer.zero_grad()
                model(data).square().sum().backward()
                optimizer.step()
                recorder.step()
                each(recorder)
    return sink.records, model


def _content(records: list[Record]) -> list[tuple[object, ...]]:
    return [
        (
            r.step,
            r.layer,
            r.quantity,
            r.point,
            r.status,
            r.method,
            r.marks,
            {k: (v.dtype, v.shape, v.tobytes()) for k, v in r.values.items()},
        )
        for r in records
        if r.quantity not in {"run", "meta"}
    ]


def _steps(records: list[Record]) -> list[int]:
    return [r.step for r in records if r.quantity == "run"]


# --- the same records ------------------------------------------------------------------


@pytest.mark.parametrize("quantities", [None, (*HEADS, "covariance")])
@pytest.mark.slow
def test_a_thread_records_what_is_recorded_at_once_bit_for_bit(quantities):
    """Hazards 35 and 36."""
    inline, one = _train("inline", quantities=quantities)
    thread, two = _train("thread", quantities=quantities)
    assert _steps(thread) == _steps(inline) == list(range(8))
    assert _content(thread) == _content(inline)
    assert {r.status for r in thread} > {"ok"}  # the broken layer is told
    assert any("below_noise" in r.marks for r in thread)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(
            two.state_dict()[name], value, rtol=0, atol=0, equal_nan=True
        )


def test_half_precision_and_the_experts_are_the_same_too():
    from tests.golden.models import build

    model, _ = build("mixtral")
    for name in ("inline", "thread"):
        records = []
        for dtype in (torch.float32, torch.bfloat16):
            twin, sink = deepcopy(model).to(dtype), svdhooks.MemorySink()
            options = svdhooks.ProbeOptions(compute=name)
            with svdhooks.watch(
                twin,
                None,
                sinks=[sink],
                quantities="weight_spectrum",
                probe_options=options,
            ):
                pass
            records += sink.records
        if name == "inline":
            expected = _content(records)
    assert _content(records) == expected
    assert any("_max" in field for *_, values in expected for field in values)


def test_what_is_observed_of_the_training_may_be_solved_by_a_thread():
    inline, _ = _train("inline", observe="training", probe=None, every=3)
    thread, _ = _train("thread", observe="training", probe=None, every=3)
    assert _content(thread) == _content(inline)


def test_without_a_snapshot_the_optimiser_tears_what_is_solved(monkeypatch):
    """Hazard 36, the companion: solving a view of the weight gives another step's."""
    go = threading.Event()

    def view(self):
        return _Late(self.matrix.detach().numpy(), go)

    inline, _ = _train("inline", quantities="weight_spectrum", steps=2, every=2)
    monkeypatch.setattr("svdhooks.linalg.problems.SingularValues.later", view)

    def each(recorder):
        if recorder.steps == 1:  # the update was made
            go.set()

    torn, _ = _train(
        "thread", quantities="weight_spectrum", steps=2, every=2, each=each
    )
    first = [
        (a.spectrum, b.spectrum)
        for a, b in zip(inline, torn, strict=True)
        if (a.step, a.layer, a.quantity) == (0, "up", "weight_spectrum")
    ]
    assert len(first) == 1
    assert not np.allclose(*first[0], rtol=1e-4)


class _Late(_RowsProblem):
    def __init__(self, matrix, go):
        super().__init__(matrix)
        self.go = go

    def solve(self):
        self.go.wait(20)
        return super().solve()


# --- a thread that is slow, fails, hangs --------------------------------------------------


def _small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))


def _watch(sink, **options):
    model = _small()
    settings = {
        "every": 1,
        "quantities": "weight_spectrum",
        "probe_options": svdhooks.ProbeOptions(compute="thread"),
        **options,
    }
    return model, svdhooks.watch(model, None, sinks=[sink], **settings)


def test_records_are_left_out_while_two_are_on_their_way_and_that_is_said(gate):
    sink = svdhooks.MemorySink()
    model, recorder = _watch(sink)
    assert recorder.step()  # 0 and 1 are on their way
    with pytest.warns(RecordingWarning, match="step 2 is left out") as said:
        assert not recorder.step()
        assert not recorder.step()
    assert len(said) == 1
    assert sink.records == []
    gate.set()
    assert recorder.last["0", "weight"].step == 1  # which waits
    assert recorder.step()
    recorder.close()
    runs = {r.step: r.measures for r in sink.records if r.quantity == "run"}
    assert [*runs] == [0, 1, 4]
    assert runs[4]["dropped"] == 2
    assert "dropped" not in runs[0] | runs[1]
    del model


def test_nothing_is_left_out_where_nothing_may_be(gate):
    sink = svdhooks.MemorySink()
    _, recorder = _watch(sink, max_overhead=None)
    threading.Timer(0.2, gate.set).start()
    for _ in range(5):
        assert recorder.step()
    recorder.close()
    assert _steps(sink.records) == [0, 1, 2, 3, 4, 5]


def test_a_record_without_a_thread_waits_for_those_before_it(gate):
    """Hazard 35: the quantities of the second are solved at once."""
    sink = svdhooks.MemorySink()
    quick = svdhooks.Light(schedule=svdhooks.at(1))
    slow = svdhooks.WeightSpectrum(schedule=svdhooks.at(0, 2))
    _, recorder = _watch(sink, quantities=(slow, quick), max_overhead=None)
    assert recorder.step()
    assert sink.records == []
    gate.set()
    assert recorder.step()
    recorder.close()
    assert _steps(sink.records) == [0, 1, 2]


def test_what_is_solved_is_written_at_the_next_step(gate):
    sink = svdhooks.MemorySink()
    _, recorder = _watch(sink, every=100)
    for _ in range(3):
        recorder.step()
    assert sink.records == []
    gate.set()
    recorder._recording.delayed._flights[0].awaited.wait(10.0)
    assert not recorder.step()
    assert _steps(sink.records) == [0]
    assert not recorder._recording.delayed.in_flight
    recorder.step()
    assert recorder._quiet_until > recorder.steps  # and the quick way is taken again
    recorder.close()


def test_seconds_are_those_of_the_training_thread(gate):
    sink = svdhooks.MemorySink()
    _, recorder = _watch(sink, every=100)
    time.sleep(0.5)
    gate.set()
    recorder.close()
    (run,) = (r.measures for r in sink.records if r.quantity == "run")
    assert 0 < run["seconds"] < 0.5
    assert all(0 < r.seconds < 0.5 for r in sink.records if r.layer)


def _diverge(self):
    raise np.linalg.LinAlgError("Eigenvalues did not converge")


def test_an_error_in_the_thread_is_the_status_of_its_layer(monkeypatch):
    original = _RowsProblem.solve

    def solve(self):
        return _diverge(self) if self.matrix.shape == (5, 6) else original(self)

    monkeypatch.setattr(_RowsProblem, "solve", solve)
    sink = svdhooks.MemorySink()
    with pytest.warns(RecordingWarning, match="layer '0'.*converge") as said:
        _, recorder = _watch(sink, max_overhead=None)
        for _ in range(3):
            recorder.step()
        recorder.close()
    assert len(said) == 1
    found = [r for r in sink.records if r.layer]
    assert {r.status for r in found if r.layer == "2"} == {"ok"}
    failed = [r for r in found if r.layer == "0"]
    assert {r.status for r in failed} == {"LinAlgError: Eigenvalues did not converge"}
    assert len(failed) == 4
    assert all(np.isnan(r.spectrum).all() for r in failed)


def test_an_error_in_the_thread_stops_those_who_want_that(monkeypatch):
    monkeypatch.setattr(_RowsProblem, "solve", _diverge)
    _, recorder = _watch(svdhooks.MemorySink(), on_error="raise", every=100)
    recorder._recording.delayed._flights[0].awaited.wait(10.0)
    with pytest.raises(RecordingError, match="converge"):
        recorder.step()
    recorder.close()
    _, recorder = _watch(svdhooks.MemorySink(), on_error="raise", every=100)
    with pytest.raises(RecordingError, match="converge"):
        recorder.close()


@pytest.mark.usefixtures("gate")
def test_a_thread_that_hangs_does_not_keep_close_waiting(monkeypatch):
    """Hazard 34."""
    monkeypatch.setattr(delayed, "PATIENCE", 0.3)
    sink = svdhooks.MemorySink()
    _, recorder = _watch(sink)
    recorder.step()
    with pytest.warns(RecordingWarning, match="record of step 0, 1 is lost"):
        recorder.close()
    assert sink.records == []


def test_a_thread_that_is_gone_is_told_in_the_records(monkeypatch):
    """After a fork, or where it was killed."""
    monkeypatch.setattr(solving, "_work", lambda _desk: None)
    sink = svdhooks.MemorySink()
    with pytest.warns(RecordingWarning, match="thread ended|never"):
        model = _small()
        monkeypatch.setattr(solving.ThreadSolver, "alive", _AliveOnce())
        recorder = svdhooks.watch(
            model,
            None,
            sinks=[sink],
            quantities="weight_spectrum",
            probe_options=svdhooks.ProbeOptions(compute="thread"),
        )
        recorder.close()
    assert {r.status for r in sink.records if r.layer} == {
        "RuntimeError: the solving thread ended"
    }


class _AliveOnce:
    """True while questions are asked; then the truth."""

    def __init__(self):
        self.asked = 0

    def __get__(self, solver, kind=None):
        self.asked += 1
        return self.asked <= 2


# --- the rest of the process ----------------------------------------------------------------


def test_the_model_copies_and_pickles_while_the_thread_works(gate):
    """Hazard 12."""
    model, recorder = _watch(svdhooks.MemorySink())
    assert recorder._recording.delayed.in_flight
    for twin in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.state_dict().keys() == model.state_dict().keys()
    gate.set()
    recorder.close()


class _Lapack(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, place):
        # what a worker of ours would need: the same locks
        return svdhooks.linalg.singular_values(torch.randn(40, 40)).sum()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_of_a_loader_do_not_hang_while_the_thread_solves():
    model = nn.Linear(600, 600)
    options = svdhooks.ProbeOptions(compute="thread")
    with svdhooks.watch(
        model,
        None,
        every=1,
        quantities="weight_spectrum",
        probe_options=options,
        sinks=[svdhooks.MemorySink()],
    ) as recorder:
        for _ in range(4):
            loader = DataLoader(
                _Lapack(),
                batch_size=2,
                num_workers=2,
                multiprocessing_context="fork",
                timeout=30,
            )
            recorder.step()
            assert len([*loader]) == 4


SCRIPT = """
    import sys, torch, warnings
    from torch import nn
    import svdhooks
    warnings.simplefilter("ignore")
    small, large = nn.Linear(8, 8), nn.Linear({n}, {n}, dtype=torch.float64)
    options = svdhooks.ProbeOptions(compute="thread")
    recorder = svdhooks.watch(
        {{"small": small, "large": large}}, sys.argv[1], max_overhead=None,
        probe_options=options, quantities=(
            svdhooks.WeightSpectrum(schedule=svdhooks.at(0, 2)),
        ), layers=None)
"""


def _run(tmp_path, body: str, n: int) -> tuple[int, float, str]:
    """Exit status, seconds from the moment when the error is raised, and what was said."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.format(n=n)) + textwrap.dedent(body))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    ended = time.time()
    raised = [x for x in done.stdout.splitlines() if x.startswith("raised")]
    return done.returncode, ended - float(raised[0].split()[1]), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("closes", [True, False])
def test_a_process_ends_soon_after_an_error_while_a_large_svd_runs(tmp_path, closes):
    """Hazard 34: the SVD would take a minute; the exit status is that of the error."""
    body = f"""
    import time
    time.sleep(0.5)
    try:
        print("raised", time.time(), flush=True)
        raise ValueError("planned")
    finally:
        if {closes}:
            recorder.close()
    """
    status, seconds, said = _run(tmp_path, body, n=5000)
    assert "planned" in said
    assert status == 1  # not -11
    assert seconds < 5


@pytest.mark.slow
def test_a_thread_that_has_to_be_joined_keeps_the_process(tmp_path):
    """The companion: a pool of threads is waited for at the end."""
    body = """
    import concurrent.futures, numpy, time
    matrix = numpy.random.default_rng(0).normal(size=(5000, 5000))
    pool = concurrent.futures.ThreadPoolExecutor(1)
    pool.submit(numpy.linalg.svd, matrix, compute_uv=False)
    raise ValueError("planned")
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(body))
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, str(script)], capture_output=True, timeout=7)
