"""Vectors beside the log, against safetensors' own reader."""

import errno
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from svdhooks import schema
from svdhooks.eventfile.vectors import DTYPES, VectorName
from svdhooks.record import Record
from svdhooks.runlog import RunLog
from svdhooks.sinks.tensorboard import TensorBoardSink
from tests.logs import largest_file, weight_record


def arrays(step: int, layer: str, n: int = 4) -> dict[str, Any]:
    random = np.random.default_rng([step, *layer.encode()])
    return {
        "U": random.random((6, n), dtype=np.float32),
        "Vh": random.random((n, 5)),
        "index": np.arange(n + step % 2),
    }


def record(step: int, layer: str, point: str = "weight", n: int = 4) -> Record:
    values = {**weight_record(step, layer).values, **arrays(step, layer, n)}
    return Record(step, layer, "weight_spectrum", values, point=point)


def write(log_dir: Path, steps: Any, layers: Any = ("fc1",), **options: Any) -> None:
    sink = TensorBoardSink(log_dir, **options)
    for step in steps:
        sink.write([record(step, layer) for layer in layers])
    sink.close()


def files(log_dir: Path) -> list[Path]:
    return sorted((log_dir / "svdhooks").glob("*.safetensors"))


def steps_of(log: RunLog, layer: str = "fc1", point: str = "weight") -> list[int]:
    return log.vectors(layer, point)[0].tolist()


def test_vectors_come_back_bit_for_bit(tmp_path: Path) -> None:
    layers = ("fc1", "net/0%")
    write(tmp_path, [0, 10, 15], layers)
    log = RunLog(tmp_path)
    for layer in layers:
        steps, found = log.vectors(layer)
        assert steps.tolist() == [0, 10, 15]
        assert set(found) == {"U", "Vh", "index"}
        for i, step in enumerate(steps.tolist()):
            for field, array in arrays(step, layer).items():
                assert found[field][i].dtype == array.dtype
                assert np.array_equal(found[field][i], array)
        # everything else is where it was
        assert log.spectra(layer)[0].tolist() == [0, 10, 15]
    assert not any(log.verify().values())


def test_safetensors_reads_them_too_and_the_names_say_what_they_are(
    tmp_path: Path,
) -> None:
    write(tmp_path, [7], ("net/0%",))
    (path,) = files(tmp_path)
    name = VectorName.of(path.name)
    assert path.name.startswith("vectors-0000000007-")
    (event_file,) = (tmp_path / "svdhooks").glob("*tfevents*")
    assert event_file.name.endswith(f"tfevents.{name.session}")
    tensors = load_file(path)
    told = arrays(7, "net/0%")
    assert {schema.vector_of(key): key for key in tensors}.keys() == {
        ("weight", "net/0%", field) for field in told
    }
    for field, array in told.items():
        key = schema.vector_name("weight", "net/0%", field)
        assert np.array_equal(tensors[key], array)


OTHERS = [np.dtype(x) for x in (">f4", "<c8", "<c16", ">c8")]


@pytest.mark.parametrize("dtype", [*DTYPES.values(), *OTHERS], ids=str)
def test_any_dtype_of_numbers_is_kept(tmp_path: Path, dtype: np.dtype[Any]) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)[:, ::2]
    values = {"x": array, "none": np.empty((0, 3), dtype)}
    sink = TensorBoardSink(tmp_path)
    sink.write([Record(0, "fc1", "mine", values, point="tokens")])
    sink.close()
    _, found = RunLog(tmp_path).vectors("fc1", "tokens")
    assert np.array_equal(found["x"][0], array)
    assert found["x"][0].dtype == dtype.newbyteorder("<")
    assert found["none"][0].shape == (0, 3)


def test_a_field_that_comes_later_is_none_before(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    sink.write([Record(0, "fc1", "m", {"U": np.ones((2, 2))}, point="weight")])
    both = {"U": np.ones((2, 2)), "V": np.zeros(2)}
    sink.write([Record(5, "fc1", "m", both, point="weight")])
    sink.write([Record(9, "fc1", "m", {"U": np.ones(3)}, point="output")])
    sink.close()
    log = RunLog(tmp_path)
    steps, found = log.vectors("fc1")
    assert steps.tolist() == [0, 5]
    assert [v is None for v in found["V"]] == [True, False]
    assert steps_of(log, point="output") == [9]
    with pytest.raises(KeyError, match=r"no vectors of input .*stored: output, weight"):
        log.vectors("fc1", "input")
    with pytest.raises(KeyError, match="no layer 'fc2'"):
        log.vectors("fc2")


# --- resumption: the rule of the tags -------------------------------------------------

SESSIONS = [
    [(None, [0, 10, 20, 30])],
    [(None, [0, 10, 20, 30]), (15, [20, 40])],
    [(None, [0, 10, 20, 30]), (25, [])],
    [(None, [0, 10]), (0, [0, 5]), (0, [5])],
    [(None, [0, 10, 20]), (10, [15, 25]), (20, [22]), (5, [50])],
    [(None, [0, 10, 20]), (20, [20, 30]), (20, [20]), (40, [40])],
]


@pytest.mark.parametrize("sessions", SESSIONS)
def test_vectors_are_superseded_as_spectra_are(tmp_path: Path, sessions: Any) -> None:
    log = None
    for start, steps in sessions:
        write(tmp_path, steps, start_step=start)
        log = log or RunLog(tmp_path)
        log.refresh()
        expected = log.spectra("fc1")[0].tolist()
        assert steps_of(log) == steps_of(RunLog(tmp_path)) == expected
    stored = {VectorName.of(path.name).step for path in files(tmp_path)}
    assert stored >= set(expected)


def test_a_step_written_twice_has_its_later_vectors(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    for value in (1.0, 2.0):
        sink.write([Record(3, "fc1", "m", {"U": np.full(2, value)}, point="weight")])
    sink.close()
    steps, found = RunLog(tmp_path).vectors("fc1")
    assert (steps.tolist(), found["U"][0].tolist()) == ([3], [2.0, 2.0])


# --- damage, room, disks ---------------------------------------------------------------


def test_no_flipped_byte_gives_a_wrong_vector(tmp_path: Path) -> None:
    write(tmp_path, [0, 10])
    _flip_each(tmp_path)


def test_nor_a_wrong_complex_one(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    for step in (0, 10):
        values = {"U": np.full((2, 2), 1 + step * 1j)}
        sink.write([Record(step, "fc1", "m", values, point="weight")])
    sink.close()
    _flip_each(tmp_path, every=1)


def _flip_each(tmp_path: Path, every: int = 7) -> None:
    whole = RunLog(tmp_path).vectors("fc1")[1]
    path = files(tmp_path)[1]
    data = path.read_bytes()
    for place in range(0, len(data), every):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        path.write_bytes(broken)
        log = RunLog(tmp_path)
        steps, found = log.vectors("fc1")
        for field, column in found.items():
            for step, array in zip(steps.tolist(), column, strict=True):
                assert np.array_equal(array, whole[field][step // 10]), place
        if len(steps) < 2:
            assert log.damage["vectors"] == 1


@pytest.mark.parametrize(
    "content", [None, b"", b"\xff" * 50, b"\x02" + bytes(7) + b"{}"]
)
def test_what_is_cut_or_foreign_is_passed_over_and_counted(
    tmp_path: Path, content: bytes | None
) -> None:
    write(tmp_path, [0, 10, 20])
    path = files(tmp_path)[1]
    path.write_bytes(path.read_bytes()[:-4] if content is None else content)
    log = RunLog(tmp_path)
    assert steps_of(log) == [0, 20]
    assert log.damage["vectors"] == 1
    assert log.verify()["vectors"] == 1
    files(tmp_path)[2].unlink()
    assert steps_of(log) == [0]


def test_vectors_stop_first_when_room_runs_out(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path, max_log_gb=1e-4)
    with pytest.warns(UserWarning, match="half of max_log_gb") as caught:
        for step in range(20):
            sink.write([record(step, "fc1", n=200)])
    assert len(caught) == 1
    sink.close()
    log = RunLog(tmp_path)
    size = sum(path.stat().st_size for path in files(tmp_path))
    assert 3e4 < size < 5e4
    assert steps_of(log) == list(range(len(files(tmp_path))))
    assert len(log.spectra("fc1")[0]) == 20
    # what an earlier session wrote counts
    with pytest.warns(UserWarning, match="half of max_log_gb"):
        write(tmp_path, [20], start_step=20, max_log_gb=5e-5)


def test_vectors_count_for_the_size_of_the_log(tmp_path: Path) -> None:
    big = {"spectrum": np.ones(1000, np.float32), "U": np.ones((100, 100))}
    sink = TensorBoardSink(tmp_path, max_log_gb=1.7e-4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(20):
            sink.write([Record(step, "fc1", "m", big, point="weight")])
    sink.close()
    said = [str(w.message) for w in caught]
    assert ["half" in m for m in said] == [True, False]
    assert "display form" in said[1]


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    sink.write([record(0, "fc1")])
    big = Record(1, "fc1", "m", {"U": np.ones((100, 100))}, point="weight")
    with largest_file(20_000), pytest.raises(OSError, match="File too large"):
        sink.write([big])
    sink.write([record(2, "fc1")])
    sink.close()
    assert len(list((tmp_path / "svdhooks").iterdir())) == 3
    log = RunLog(tmp_path)
    assert log.steps.tolist() == [0, 1, 2]  # the numbers had been written before
    assert steps_of(log) == [0, 2]
    assert not any(log.verify().values())


def test_half_files_of_a_killed_process_are_no_vectors_and_are_cleared_away(
    tmp_path: Path,
) -> None:
    write(tmp_path, [0])
    part = files(tmp_path)[0].with_suffix(".safetensors.part")
    part.write_bytes(b"half")
    log = RunLog(tmp_path)
    assert steps_of(log) == [0]
    assert not any(log.verify().values())
    write(tmp_path, [10], start_step=10)
    assert not part.exists()


def test_a_rename_that_fails_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    sink = TensorBoardSink(tmp_path)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="Read-only"):
        sink.write([record(0, "fc1")])
    sink.close()
    assert len(list((tmp_path / "svdhooks").iterdir())) == 1


def test_reading_vectors_loads_no_torch(tmp_path: Path) -> None:
    write(tmp_path, [0])
    program = (
        "import sys, json; from svdhooks.runlog import RunLog\n"
        f"RunLog({str(tmp_path)!r}).vectors('fc1')\n"
        "print(json.dumps([m for m in ('torch', 'pandas') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
