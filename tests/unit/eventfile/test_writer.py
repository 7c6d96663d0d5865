"""The writing side of event files, against TensorBoard's own writer and reader."""

import copy
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter

from svdhooks.eventfile import writer as eventfile
from svdhooks.eventfile.reader import read_events
from svdhooks.eventfile.values import scalar, tensor
from svdhooks.eventfile.writer import EventFileWriter, event_files, frame, masked_crc
from tests.logs import largest_file


class TickingClock:
    """A clock whose hands the test moves; picklable, unlike a lambda."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def steps_of(directory: Path) -> list[int]:
    """Steps of the events with values, over all files."""
    return [
        event.step
        for path in event_files(directory)
        for event in read_events(path)
        if event.summary.value
    ]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1000])
def test_a_frame_is_what_tensorboards_record_writer_writes(size: int) -> None:
    payload = np.random.default_rng(size).bytes(size)
    theirs = io.BytesIO()
    RecordWriter(theirs).write(payload)
    assert frame(payload) == theirs.getvalue()


def test_the_checksum_of_a_known_message_is_the_published_one() -> None:
    # RFC 3720, B.4: CRC-32C of 32 zeros is 8a9136aa
    crc = 0x8A9136AA
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    assert masked_crc(bytes(32)) == (rotated + 0xA282EAD8) % 2**32


def test_directory_and_file_appear_with_the_first_event(tmp_path: Path) -> None:
    writer = EventFileWriter(tmp_path / "runs" / "a")
    assert list(tmp_path.iterdir()) == []
    assert (writer.path, writer.opened) == (None, False)
    writer.write(0, [scalar("a", 1.0)])
    assert event_files(tmp_path / "runs" / "a") == [writer.path]
    assert writer.opened
    writer.close()


def test_tensorboard_reads_head_and_events(tmp_path: Path) -> None:
    writer = EventFileWriter(tmp_path, start_step=30)
    writer.write(30, [scalar("a", 1.0), scalar("b", 2.0)], wall_time=12.5)
    writer.write(40, [scalar("a", 3.0)])
    writer.close()
    loader = event_file_loader.LegacyEventFileLoader(str(writer.path))
    version, start, first, second = loader.Load()
    assert version.file_version == "brain.Event:2"
    assert (start.session_log.status, start.step) == (SessionLog.START, 30)
    assert (first.step, first.wall_time) == (30, 12.5)
    assert [v.simple_value for v in first.summary.value] == [1.0, 2.0]
    assert second.step == 40


def test_each_event_is_one_write_to_the_operating_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    write = os.write

    def counting(handle: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(handle, data)

    monkeypatch.setattr(os, "write", counting)
    writer = EventFileWriter(tmp_path)
    for step in range(3):
        writer.write(step, [tensor(f"t{i}", np.zeros(100)) for i in range(50)])
    assert len(sizes) == 3
    assert sum(sizes) == writer.size == writer.path.stat().st_size
    writer.close()


@pytest.mark.parametrize("change", [0.0, 0.4, 5.0, -3600.0])
def test_a_later_file_sorts_after_the_earlier_ones(
    tmp_path: Path, change: float
) -> None:
    clock = TickingClock()
    names = []
    for _ in range(12):  # more than ten, since "10" sorts before "9"
        writer = EventFileWriter(tmp_path, clock=clock)
        writer.write(0, [scalar("a", 1.0)])
        names.append(writer.path.name)
        writer.close()
        clock.now += change
    assert names == sorted(names)
    assert len(set(names)) == 12


def test_a_later_file_sorts_after_one_of_another_host_and_a_fast_clock(
    tmp_path: Path,
) -> None:
    other = tmp_path / "events.out.tfevents.1900000000.zzz.1.0"
    other.touch()
    writer = EventFileWriter(tmp_path, clock=TickingClock())
    writer.write(0, [scalar("a", 1.0)])
    assert event_files(tmp_path) == [other, writer.path]
    writer.close()


def test_event_files_are_those_that_tensorboard_takes_for_event_files(
    tmp_path: Path,
) -> None:
    for name in ("b.tfevents.1", "a.tfevents.2", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "c.tfevents.d").mkdir()
    assert [p.name for p in event_files(tmp_path)] == ["a.tfevents.2", "b.tfevents.1"]
    assert event_files(tmp_path / "absent") == []
    assert event_files(tmp_path / "notes.txt") == []


def fill_the_disk(writer: EventFileWriter, room: int) -> None:
    """Write until nothing fits, with so many bytes left for the last event."""
    big = [tensor("big", np.zeros(1000))]
    with (
        largest_file(writer.size + room),
        pytest.raises(OSError, match=r"bytes were written|File too large"),
    ):
        writer.write(2, big)


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_full_disk_costs_only_what_did_not_fit(tmp_path: Path, room: int) -> None:
    writer = EventFileWriter(tmp_path)
    writer.write(1, [scalar("a", 1.0)])
    before = writer.path.read_bytes()
    fill_the_disk(writer, room)
    assert writer.path.read_bytes() == before
    writer.write(3, [scalar("a", 3.0)])  # there is room again
    writer.close()
    assert steps_of(tmp_path) == [1, 3]
    reader = read_events(writer.path)
    list(reader)
    assert reader.counts == {"records": 4, "bad": 0, "resynced": 0, "truncated": 0}


def test_without_taking_back_a_full_disk_would_leave_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventFileWriter, "_take_back", lambda self: None)
    writer = EventFileWriter(tmp_path)
    writer.write(1, [scalar("a", 1.0)])
    fill_the_disk(writer, 100)
    writer.close()
    reader = read_events(writer.path)
    list(reader)
    assert reader.counts["truncated"] == 1


def test_a_disk_full_from_the_start_leaves_no_file(tmp_path: Path) -> None:
    writer = EventFileWriter(tmp_path, start_step=7)
    fill_the_disk(writer, 60)  # enough for the head alone
    assert event_files(tmp_path) == []
    assert not writer.opened
    writer.write(8, [scalar("a", 3.0)])
    writer.close()
    _, start, _ = read_events(writer.path)
    assert start.step == 7
    assert steps_of(tmp_path) == [8]


def test_a_removed_directory_comes_back_with_the_next_event(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    writer = EventFileWriter(directory, start_step=0)
    writer.write(1, [scalar("a", 1.0)])
    writer.path.unlink()
    directory.rmdir()
    assert not writer.opened
    writer.write(2, [scalar("a", 2.0)])
    writer.close()
    _, start, event = read_events(event_files(directory)[0])
    assert (start.step, event.step) == (2, 2)


@pytest.mark.parametrize(
    "twin", [copy.deepcopy, copy.copy, lambda w: pickle.loads(pickle.dumps(w))]
)
def test_a_copy_carries_no_handle_and_begins_a_file_of_its_own(
    tmp_path: Path, twin: object
) -> None:
    writer = EventFileWriter(tmp_path, clock=TickingClock())
    writer.write(1, [scalar("a", 1.0)])
    other = twin(writer)
    assert (other.path, other.size, other.opened) == (None, 0, False)
    other.write(2, [scalar("a", 2.0)])
    writer.write(3, [scalar("a", 3.0)])
    assert other.path != writer.path
    for each in (writer, other):
        each.close()
    _, start, _ = read_events(other.path)
    assert start.step == 2  # which supersedes nothing that is before it


def test_closing_twice_is_closing_once_and_writing_begins_another_file(
    tmp_path: Path,
) -> None:
    writer = EventFileWriter(tmp_path)
    writer.close()
    writer.write(1, [scalar("a", 1.0)])
    first = writer.path
    writer.close()
    writer.close()
    writer.write(2, [scalar("a", 2.0)])
    writer.close()
    assert event_files(tmp_path) == [first, writer.path]
    assert steps_of(tmp_path) == [1, 2]


def test_a_writer_that_is_forgotten_closes_its_file(tmp_path: Path) -> None:
    writer = EventFileWriter(tmp_path)
    writer.write(1, [scalar("a", 1.0)])
    handle = writer._handle
    os.fstat(handle)
    del writer
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


def test_an_event_beyond_the_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventfile, "_MAX_PAYLOAD", 1000)
    writer = EventFileWriter(tmp_path)
    with pytest.raises(ValueError, match=r"1,\d\d\d bytes.*at most 1,000"):
        writer.write(1, [tensor("t", np.zeros(200))])
    assert event_files(tmp_path) == []


@pytest.mark.parametrize("step", [0, 1, 127, 128, 2**31, 2**62, -1])
def test_any_step_comes_back(tmp_path: Path, step: int) -> None:
    writer = EventFileWriter(tmp_path)
    writer.write(step, [scalar("a", 1.0)])
    writer.close()
    assert steps_of(tmp_path) == [step]


def test_an_event_without_values_is_an_event(tmp_path: Path) -> None:
    writer = EventFileWriter(tmp_path)
    writer.write(5, [])
    writer.close()
    *_, event = read_events(writer.path)
    assert event == Event(wall_time=event.wall_time, step=5, summary=event.summary)
