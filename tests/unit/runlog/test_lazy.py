"""Large logs are read in parts, each of which is checked by itself."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svdhooks.eventfile import contents, reader
from svdhooks.eventfile.outline import outline
from svdhooks.eventfile.reader import read_events
from svdhooks.eventfile.writer import event_files
from svdhooks.runlog import RunLog
from tests.logs import weight_record, write_run

LAYERS = [f"layer{i}" for i in range(6)]
STEPS = list(range(0, 80, 10))
N = 400


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lazy") / "run"
    write_run(path, STEPS, LAYERS, n=N)
    return path


@pytest.fixture
def run(source: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    (path,) = event_files(source / "svdhooks")
    (tmp_path / "svdhooks").mkdir()
    (tmp_path / "svdhooks" / path.name).write_bytes(path.read_bytes())
    return tmp_path


def file_of(run: Path) -> Path:
    (path,) = event_files(run / "svdhooks")
    return path


def everything(log: RunLog) -> dict[Any, Any]:
    """All numbers of a log, by what they are of."""
    found: dict[Any, Any] = {}
    for layer in log.layers:
        for point in ("weight", "input", "output"):
            for step, row in zip(*log.spectra(layer, point), strict=True):
                found[layer, point, int(step)] = row.tolist()
        for metric in log.metrics:
            for step, value in zip(*log.series(layer, metric), strict=True):
                found[layer, metric, int(step)] = float(value)
        for entry in log.statuses(layer):
            found[layer, entry.point, "status", entry.step] = entry
    return found


def agrees(found: dict[Any, Any], whole: dict[Any, Any]) -> bool:
    """Whether everything found is in the whole, but for numbers that became NaN."""
    return all(
        np.array_equal(np.where(np.isnan(value), whole[what], value), whole[what])
        if isinstance(value, float | list)
        else value == whole[what]
        for what, value in found.items()
    )


# --- little is read ---------------------------------------------------------------


PROGRAM = """
import sys
from svdhooks.runlog import RunLog
def read():
    return int(dict(l.split(": ") for l in open("/proc/self/io"))["rchar"])
log = RunLog(sys.argv[1])
before = read()
log.layers, log.steps, log.metrics
opened = read()
log.spectra("layer3")
one = read()
log.verify()
print(opened - before, one - opened, read() - one)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts bytes by /proc")
def test_opening_and_one_layer_read_a_small_part_of_the_file(tmp_path: Path) -> None:
    layers = [f"layer{i}" for i in range(60)]
    write_run(tmp_path, STEPS, layers, n=2000)
    size = file_of(tmp_path).stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    opened, one, whole = map(int, done.stdout.split())
    # three layouts are looked through whole (the layer table is in two Events)
    assert opened < (3 / len(STEPS) + 0.1) * size
    assert one < 2 * size / 60
    assert whole > size  # the companion: such reading is seen


def test_a_setup_reads_no_values_either(source: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("svdhooks.runlog.tagvalues.decode", None)
    with pytest.raises(FileExistsError, match="steps 0 to 70"):
        write_run(source, [0])
    log = RunLog(source)
    assert log.steps.tolist() == STEPS
    with pytest.raises(TypeError):  # the companion
        log.spectra("layer0")


# --- in parts or whole, the same -----------------------------------------------------


@pytest.fixture(params=[1, 10**9], ids=["in parts", "whole"])
def _threshold(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "SMALLEST", request.param)
    monkeypatch.setattr(reader, "SMALLEST", request.param)


@pytest.mark.usefixtures("_threshold")
def test_what_is_read_in_parts_is_what_is_read_whole(
    source: Path, tmp_path: Path
) -> None:
    write_run(tmp_path, STEPS, LAYERS, n=N)
    assert everything(RunLog(tmp_path)) == everything(RunLog(source))


def test_values_are_those_written(source: Path) -> None:
    steps, sigma = RunLog(source).spectra("layer2")
    assert steps.tolist() == STEPS
    written = [weight_record(s, "layer2", N).spectrum for s in STEPS]
    assert np.array_equal(sigma, written)


# --- damage ------------------------------------------------------------------------


@pytest.mark.slow
def test_no_flipped_byte_ever_gives_a_wrong_value(source: Path, run: Path) -> None:
    whole = everything(RunLog(source))
    data, path = file_of(source).read_bytes(), file_of(run)
    random = np.random.default_rng(0)
    touched = 0
    for place in random.integers(0, len(data), 30).tolist():
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        path.write_bytes(broken)
        log = RunLog(run)
        found = everything(log)
        assert agrees(found, whole), place
        touched += log.damage["bad"]
        damage = log.verify()
        assert damage["bad"] + damage["truncated"] == 1, place
        assert log.damage == damage
    assert touched > 15  # most of a file are values that are asked for


def place_of(path: Path, tag: str, event: int) -> int:
    """A place in the numbers of a value."""
    starts = [0]
    for payload in read_events(path).payloads():
        found = outline(payload)
        if len(starts) == event + 1:
            return starts[-1] + 12 + found.ends[found.tags.index(tag.encode())] - 9
        starts.append(starts[-1] + 16 + len(payload))
    raise AssertionError


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def test_a_damaged_spectrum_costs_itself_and_is_counted_when_it_is_met(
    run: Path,
) -> None:
    # the file's head is two Events; the second layout begins at the fourth
    flip(file_of(run), place_of(file_of(run), "svdhooks_full/weight/layer1", 6))
    log = RunLog(run)
    assert log.steps.tolist() == STEPS
    assert not any(log.damage.values())
    assert log.spectra("layer0")[0].tolist() == STEPS
    assert not any(log.damage.values())
    steps, sigma = log.spectra("layer1")
    assert steps.tolist() == STEPS  # its display form is sound
    assert np.isnan(sigma).any(axis=1).tolist() == [s == 40 for s in STEPS]
    assert log.damage["bad"] == 1
    log.spectra("layer1")
    assert log.damage["bad"] == 1  # not counted again
    assert len(log.frame()) == len(STEPS) * len(LAYERS) * 9
    assert log.verify()["bad"] == 1


def test_a_damaged_note_costs_the_statuses_of_its_step(run: Path) -> None:
    flip(file_of(run), place_of(file_of(run), "svdhooks/record", 6))
    log = RunLog(run)
    assert log.steps.tolist() == STEPS
    assert [e.step for e in log.statuses("layer0") if e.point == "weight"] == [
        s for s in STEPS if s != 40
    ]
    assert log.series("layer0", "weight_stable_rank")[0].tolist() == STEPS
    assert 40 not in log.run_series("overhead")[0]
    assert log.damage["bad"] == 1


def test_a_damaged_event_of_a_kind_not_seen_before_is_left_out(run: Path) -> None:
    flip(file_of(run), place_of(file_of(run), "svdhooks_full/weight/layer1", 4))
    log = RunLog(run)
    assert log.steps.tolist() == [s for s in STEPS if s != 20]
    assert log.spectra("layer1")[0].tolist() == log.steps.tolist()
    assert log.damage["bad"] == 1 == log.verify()["bad"]


# --- files that change between looking and reading -------------------------------------


def test_a_file_that_shrank_gives_what_is_left(run: Path, source: Path) -> None:
    log, path = RunLog(run), file_of(run)
    assert log.steps.tolist() == STEPS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    steps, sigma = log.spectra("layer1")
    assert 0 < len(steps) < len(STEPS)
    assert np.array_equal(sigma, RunLog(source).spectra("layer1")[1][: len(steps)])
    assert log.damage["bad"] >= 3
    assert log.refresh()
    assert everything(log) == everything(RunLog(run))
    assert log.damage == RunLog(run).damage


def test_a_file_that_was_removed_gives_nothing(run: Path) -> None:
    log = RunLog(run)
    assert log.steps.tolist() == STEPS
    file_of(run).unlink()
    for layer in LAYERS:
        steps, sigma = log.spectra(layer)
        assert (len(steps), sigma.shape) == (0, (0, N))
    assert len(log.frame()) == 0
    assert log.damage["unreadable"] == 1
    assert log.refresh()
    assert log.steps.tolist() == []
    assert log.damage == {"bad": 0, "resynced": 0, "truncated": 0, "dropped": 0}


def test_a_file_that_was_replaced_gives_no_wrong_value(run: Path, source: Path) -> None:
    log, path = RunLog(run), file_of(run)
    assert log.steps.tolist() == STEPS
    write_run(run / "other", [5, 15, 25], LAYERS, n=N)
    path.unlink()
    file_of(run / "other").rename(path)
    whole = everything(RunLog(source))
    assert agrees(everything(log), whole)
    assert log.refresh()
    assert log.steps.tolist() == [5, 15, 25]
    assert everything(log) == everything(RunLog(run))


def test_a_file_that_was_copied_anew_and_longer_is_followed(run: Path) -> None:
    data, path = file_of(run).read_bytes(), file_of(run)
    path.write_bytes(data[: len(data) // 2])
    log = RunLog(run)
    before = log.steps.tolist()
    copied = path.with_name("copy")
    copied.write_bytes(data)
    copied.rename(path)  # as rsync does
    assert log.refresh()
    assert log.steps.tolist() == STEPS > before
    assert everything(log) == everything(RunLog(run))
    assert not any(log.verify().values())


def test_once_verified_a_growing_log_stays_verified(run: Path) -> None:
    log = RunLog(run)
    assert not any(log.verify().values())
    write_run(run, [80, 90], LAYERS, n=N, start_step=80)
    log.refresh()
    later = event_files(run / "svdhooks")[1]
    assert not any(log.damage.values())
    flip(later, place_of(later, "svdhooks_full/weight/layer1", 3))
    assert RunLog(run).verify()["bad"] == 1


# --- holes --------------------------------------------------------------------------


def start_of(path: Path, event: int) -> int:
    """Where an Event's record begins in a sound file."""
    payloads = list(read_events(path).payloads())
    return sum(16 + len(payload) for payload in payloads[:event])


@pytest.mark.parametrize("size", [1, 300, 9000])
@pytest.mark.parametrize("what", ["missing", "too many"])
def test_a_record_of_another_length_than_it_says_costs_itself(
    run: Path, source: Path, what: str, size: int
) -> None:
    path = file_of(run)
    place = start_of(path, 6) + 20_000
    data = path.read_bytes()
    rest = data[place + size :] if what == "missing" else bytes(size) + data[place:]
    path.write_bytes(data[:place] + rest)
    log = RunLog(run)
    assert log.steps.tolist() == [s for s in STEPS if s != 40]
    assert agrees(everything(log), everything(RunLog(source)))
    expected = {"bad": 1, "resynced": 1, "truncated": 0, "dropped": 0}
    assert log.damage == log.verify() == expected


@pytest.mark.parametrize("begin", [-5000, -30, 0, 6, 11])
def test_a_hole_over_a_header_costs_what_it_touches(
    run: Path, source: Path, begin: int
) -> None:
    path = file_of(run)
    place = start_of(path, 6) + begin
    data = bytearray(path.read_bytes())
    data[place : place + 5040] = bytes(5040)
    path.write_bytes(data)
    log = RunLog(run)
    lost = {40} if begin >= 0 else {30, 40}
    assert {s for s in STEPS if s not in lost} <= set(log.steps.tolist())
    assert 40 not in log.steps.tolist()
    assert agrees(everything(log), everything(RunLog(source)))
    assert log.verify()["bad"] >= 1


def test_the_last_record_cut_short_is_read_when_it_is_whole(run: Path) -> None:
    data, path = file_of(run).read_bytes(), file_of(run)
    for cut in (10, 5000, 30_000):
        path.write_bytes(data[:-cut])
        log = RunLog(run)
        assert log.steps.tolist() == STEPS[:-1]
        assert log.damage["truncated"] == 1
        with path.open("ab") as file:
            file.write(data[-cut:])
        assert log.refresh()
        assert log.steps.tolist() == STEPS
        assert not any(log.verify().values())
