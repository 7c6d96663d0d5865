"""Promise 5: whatever happens to the files of a log, it is read, and nothing is made up."""

import errno
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.tensorboard import SummaryWriter

import svdhooks
from svdhooks.eventfile import writer as eventfile
from svdhooks.eventfile.writer import event_files
from svdhooks.runlog import RunLog
from svdhooks.sinks.memory import MemorySink
from svdhooks.sinks.tensorboard import TensorBoardSink
from tests.logs import largest_file, step_records, weight_record, write_run
from tests.models import mlp

ROOT = Path(__file__).parents[2]
LAYERS = ["fc1", "fc2"]


def agrees(log: RunLog, value_of: Any) -> None:
    """Every spectrum is the one that was written at its step."""
    for layer in log.layers:
        steps, sigma = log.spectra(layer)
        for step, row in zip(steps.tolist(), sigma, strict=True):
            assert np.array_equal(row, value_of(step, layer)), (layer, step)


# --- restarts ---------------------------------------------------------------------

SESSION = st.tuples(
    st.integers(0, 12), st.lists(st.integers(0, 4), max_size=5), st.booleans()
)


def spectrum_of(session: int, step: int) -> np.ndarray:
    return np.array([session + 1.0, step / 100], dtype=np.float32)


@settings(deadline=None, max_examples=20)
@given(st.lists(SESSION, min_size=1, max_size=5))
def test_any_restarts_read_as_the_last_word_on_every_step(
    tmp_path_factory: pytest.TempPathFactory,
    sessions: list[tuple[int, list[int], bool]],
) -> None:
    log_dir = tmp_path_factory.mktemp("restarts")
    told: dict[int, int] = {}  # step -> the session that counts
    live: RunLog | None = None
    for number, (start, gaps, closed) in enumerate(sessions):
        sink = TensorBoardSink(log_dir, start_step=start)
        step = start
        if gaps:  # a sink that writes nothing supersedes nothing
            told = {s: n for s, n in told.items() if s < start}
        for gap in gaps:
            step += gap
            told[step] = number
            record = weight_record(step, "fc1")
            values = {**record.values, "spectrum": spectrum_of(number, step)}
            sink.write([
                svdhooks.record.Record(step, "fc1", "w", values, point="weight")
            ])
            if live is None:
                live = RunLog(log_dir)
            live.refresh()
        if closed:
            sink.close()
    if live is None:
        return
    for log in (live, RunLog(log_dir)):
        assert log.steps.tolist() == sorted(told)
        steps, sigma = log.spectra("fc1")
        assert steps.tolist() == sorted(told)
        expected = [spectrum_of(told[s], s) for s in sorted(told)]
        assert np.array_equal(sigma, expected)


# --- foreign things beside --------------------------------------------------------


def test_foreign_files_beside_ours_are_counted_and_do_no_harm(tmp_path: Path) -> None:
    write_run(tmp_path, [0, 10, 20], LAYERS)
    directory = tmp_path / "svdhooks"
    (directory / "events.out.tfevents.0000000001.empty").touch()
    (directory / "events.out.tfevents.0000000002.text").write_text("no records\n" * 99)
    (directory / "events.out.tfevents.0000000003.zeros").write_bytes(bytes(4096))
    (directory / "events.out.tfevents.0000000004.directory").mkdir()
    (directory / "events.out.tfevents.0000000005.link").symlink_to("nowhere")
    os.mkfifo(directory / "events.out.tfevents.0000000006.pipe")
    (directory / "vectors-notes.safetensors").write_text("not ours")
    # sorts behind ours, whose start would supersede it
    with SummaryWriter(str(directory), filename_suffix=".z") as writer:
        writer.add_scalar("loss", 0.5, 3)
        writer.add_scalar("svdhooks/weight/other", 0.5, 3)
    log = RunLog(tmp_path)
    assert log.steps.tolist() == [0, 10, 20]
    agrees(log, lambda step, layer: weight_record(step, layer).spectrum)
    assert log.damage == {"bad": 2, "resynced": 0, "truncated": 0, "dropped": 0}
    assert log.verify() == log.damage
    assert log.scalars("loss")[1].tolist() == [0.5]


def test_a_file_that_may_not_be_read_is_said_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, [0, 10], LAYERS)
    write_run(tmp_path, [20, 30], LAYERS, start_step=20)
    first, _ = event_files(tmp_path / "svdhooks")
    opened = Path.open

    def refuse(path: Path, *args: Any, **options: Any) -> Any:
        if path == first:  # root may all
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    log = RunLog(tmp_path)
    with pytest.warns(UserWarning, match=r"could not be read: Permission denied"):
        assert log.steps.tolist() == [20, 30]
    assert log.damage["unreadable"] == 1
    monkeypatch.undo()
    assert log.refresh()
    assert log.steps.tolist() == [0, 10, 20, 30]
    assert "unreadable" not in log.damage


# --- two writers ---------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
from svdhooks.sinks.tensorboard import TensorBoardSink
from svdhooks.record import Record
import numpy as np
log_dir, who, go = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
sink = TensorBoardSink(log_dir)
print("ready", flush=True)
while not go.exists():
    time.sleep(0.002)
for step in range(0, 300, 10):
    spectrum = np.array([who + 1.0, step / 1000], dtype=np.float32)
    values = {"spectrum": spectrum, "stable_rank": np.asarray(float(who))}
    values["U"] = np.full((2, 2), float(who))
    sink.write([Record(step, "fc1", "w", values, point="weight")])
    time.sleep(0.002)
sink.close()
"""


def test_two_processes_that_write_at_once_read_as_one_of_them(tmp_path: Path) -> None:
    log_dir, go = tmp_path / "run", tmp_path / "go"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(log_dir), str(who), str(go)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for who in range(2)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    go.touch()
    live: RunLog | None = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        while any(child.poll() is None for child in children):
            if live is None and event_files(log_dir / "svdhooks"):
                live = RunLog(log_dir)
            if live is not None:
                live.refresh()
                if live.layers:  # the file is there before its first record is
                    assert len(set(live.spectra("fc1")[1][:, 0])) <= 1
    said = [child.communicate()[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    live.refresh()
    log = RunLog(log_dir)
    with pytest.warns(UserWarning, match="Two processes wrote to"):
        assert log.steps.tolist() == list(range(0, 300, 10))
    for read in (log, live):
        (who,) = set(read.series("fc1", "weight_stable_rank")[1])
        steps, sigma = read.spectra("fc1")
        assert steps.tolist() == list(range(0, 300, 10))
        expected = [[who + 1, step / 1000] for step in steps.tolist()]
        assert np.array_equal(sigma, np.float32(expected))
        steps, vectors = read.vectors("fc1")
        assert steps.tolist() == list(range(0, 300, 10))
        assert {float(u.mean()) for u in vectors["U"]} == {who}
        assert read.damage["concurrent"] > 0
        assert read.damage["dropped"] == 30
    # the one that began first is told, once
    assert sorted("has appeared in" in text for text in said) == [False, True]
    assert sum("Two processes" in str(w.message) for w in caught) <= 1


def test_a_resumed_run_is_not_taken_for_two_writers(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for start in (None, 20, 10):
            write_run(tmp_path, [start or 0, 20, 30], LAYERS, start_step=start)
        log = RunLog(tmp_path)
        assert "concurrent" not in log.damage


# --- writers that die ----------------------------------------------------------------

KILLED = """
import sys
from pathlib import Path
from svdhooks.sinks.tensorboard import TensorBoardSink
from tests.logs import meta_record, step_records
layers = [f"layer{i}" for i in range(8)]
start = int(sys.argv[2])
sink = TensorBoardSink(Path(sys.argv[1]), start_step=start)
for step in range(start, 100_000):
    meta = [meta_record(dict.fromkeys(layers, 300))] * (step == start)
    sink.write([*meta, *step_records(step, layers, 300)])
    print(step, flush=True)
"""


def test_a_log_is_read_while_its_writers_are_killed_one_after_the_other(
    tmp_path: Path,
) -> None:
    live: RunLog | None = None
    random = np.random.default_rng(0)
    written = -1
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path), str(written + 1)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(int(random.integers(2, 40))):
            written = int(child.stdout.readline())
            live = live or RunLog(tmp_path)
            live.refresh()
            assert live.steps.tolist()[-1] >= written
        child.kill()
        printed = child.communicate()[0].split()
        written = int(printed[-1]) if printed else written
        live.refresh()
        assert set(range(written + 1)) <= set(live.steps.tolist())
    fresh = RunLog(tmp_path)
    assert fresh.verify()["bad"] == 0
    assert live.steps.tolist() == fresh.steps.tolist()
    steps, sigma = live.spectra("layer3")
    assert steps.tolist() == fresh.steps.tolist()
    expected = [weight_record(step, "layer3", 300).spectrum for step in steps.tolist()]
    assert np.array_equal(sigma, expected)


# --- places that cannot be written to ------------------------------------------------


def test_a_directory_that_becomes_read_only_costs_records_and_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, memory = mlp(4, 6, 3), MemorySink()
    recorder = svdhooks.watch(
        model, tmp_path, every=1, probe=torch.randn(12, 4), sinks=[memory]
    )
    recorder.step()

    def refuse(*_: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(eventfile.os, "write", refuse)
        patch.setattr(eventfile.os, "open", refuse)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                recorder.step()
    recorder.step()
    recorder.close()
    assert sum("Read-only file system" in str(w.message) for w in caught) == 1
    log = RunLog(tmp_path)
    assert log.steps.tolist() == [0, 1, 5]
    assert not any(log.verify().values())
    assert {r.step for r in memory.records if r.layer} == set(range(6))


def test_a_full_disk_in_a_large_record_leaves_the_log_whole(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    layers = [f"layer{i}" for i in range(8)]
    sink.write(step_records(0, layers, 300))
    size = sink.path.stat().st_size
    with (
        largest_file(size + 30_000),
        pytest.raises(OSError, match="bytes were written"),
    ):
        sink.write(step_records(1, layers, 300))
    sink.write(step_records(2, layers, 300))
    sink.close()
    log = RunLog(tmp_path)
    assert log.steps.tolist() == [0, 2]
    assert not any(log.verify().values())


def test_a_directory_removed_while_it_is_read_leaves_an_empty_log(
    tmp_path: Path,
) -> None:
    write_run(tmp_path, [0, 10], LAYERS)
    log = RunLog(tmp_path)
    assert log.steps.tolist() == [0, 10]
    shutil.rmtree(tmp_path / "svdhooks")
    assert log.spectra("fc1")[0].tolist() == []
    assert log.frame().empty
    log.refresh()
    assert (log.steps.tolist(), log.layers) == ([], ())
    write_run(tmp_path, [5], LAYERS)
    log.refresh()
    assert log.steps.tolist() == [5]
    agrees(log, lambda step, layer: weight_record(step, layer).spectrum)
