"""Tags over several files, against a slow model of TensorBoard's rule."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto import summary_pb2, types_pb2
from torch.utils.tensorboard import SummaryWriter

from svdhooks.eventfile.values import scalar, tensor, text
from svdhooks.eventfile.writer import EventFileWriter
from svdhooks.runlog import RunLog
from svdhooks.runlog.tagstore import TagStore
from tests.logs import write_run


def read(directory: Path) -> TagStore:
    store = TagStore(directory)
    store.refresh()
    return store


def columns(store: TagStore) -> dict[str, list[tuple[int, Any]]]:
    """Tag -> steps and values, of the tags that have any left."""
    found = {tag: store.column(tag) for tag in store.tags}
    return {
        tag: list(zip(column.steps.tolist(), map(plain, column.values), strict=True))
        for tag, column in found.items()
        if column is not None
    }


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def build(tag: str, kind: str, number: int) -> tuple[bytes, Any]:
    """A serialised value and what is to be read."""
    if kind == "scalar":
        return scalar(tag, float(number)), float(number)
    if kind == "text":
        return text(tag, str(number)), str(number).encode()
    array = np.arange(number % 4, dtype=np.float32)  # empty ones too
    return tensor(tag, array), array.tolist()


# a tag stays with its plugin; within ours it may change from text to tensor
VALUES = st.one_of(
    st.tuples(st.sampled_from("ab"), st.just("scalar"), st.integers(0, 5)),
    st.tuples(
        st.sampled_from("cd"), st.sampled_from(["text", "tensor"]), st.integers(0, 5)
    ),
)
EVENTS = st.tuples(st.integers(0, 8), st.lists(VALUES, max_size=4))
FILES = st.lists(st.tuples(st.integers(0, 8), st.lists(EVENTS, max_size=6)), max_size=3)


@settings(deadline=None, max_examples=150)
@given(FILES)
@pytest.mark.slow
def test_every_tag_follows_the_data_servers_rule(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[int, list[tuple[int, list[tuple[str, str, int]]]]]],
) -> None:
    directory = tmp_path_factory.mktemp("log")
    model: dict[str, list[tuple[int, Any]]] = {}
    live = TagStore(directory)
    for start, events in files:
        writer = EventFileWriter(directory, start_step=start)
        for tag in model if events else ():
            model[tag] = [row for row in model[tag] if row[0] < start]
        for step, values in events:
            entries = []
            for tag, kind, number in values:
                entry, read_back = build(tag, kind, number)
                entries.append(entry)
                kept = [row for row in model.get(tag, []) if row[0] < step]
                model[tag] = [*kept, (step, read_back)]
            writer.write(step, entries)
            live.refresh()
        writer.close()
    expected = {tag: rows for tag, rows in model.items() if rows}
    assert columns(read(directory)) == expected
    assert columns(live) == expected  # read while it grew


def test_what_is_superseded_is_counted(tmp_path: Path) -> None:
    for start, steps in ((0, range(10)), (6, range(6, 8)), (3, range(5, 9))):
        writer = EventFileWriter(tmp_path, start_step=start)
        for step in steps:
            writer.write(step, [scalar("a", 1.0), *([scalar("b", 1.0)] * (step == 7))])
        writer.close()
    store = read(tmp_path)
    assert columns(store)["a"] == [(s, 1.0) for s in (0, 1, 2, 5, 6, 7, 8)]
    assert store.dropped("a") == 4 + 5
    assert store.dropped("b") == 2
    assert store.dropped("never written") == 0
    assert store.column("never written") is None


def test_of_two_values_at_one_step_the_later_counts(tmp_path: Path) -> None:
    writer = EventFileWriter(tmp_path)
    writer.write(4, [scalar("a", 1.0), scalar("a", 2.0)])
    writer.write(5, [scalar("a", 3.0)])
    writer.write(5, [scalar("b", 0.0), scalar("a", 4.0)])  # among other tags
    writer.close()
    assert columns(read(tmp_path))["a"] == [(4, 2.0), (5, 4.0)]


def test_a_tag_may_change_how_its_numbers_are_written(tmp_path: Path) -> None:
    boxed = summary_pb2.Summary.Value(
        tag="a", metadata={"plugin_data": {"plugin_name": "scalars"}}
    )
    boxed.tensor.dtype = 1
    boxed.tensor.tensor_content = np.float32(0.75).tobytes()
    entry = summary_pb2.Summary(value=[boxed]).SerializeToString()
    writer = EventFileWriter(tmp_path)
    for step, value in enumerate((scalar("a", 0.5), entry, scalar("a", 0.0), entry)):
        writer.write(step, [value])
    writer.close()
    assert columns(read(tmp_path))["a"] == [(0, 0.5), (1, 0.75), (2, 0.0), (3, 0.75)]


def test_a_tag_all_of_whose_values_are_superseded_has_no_column(tmp_path: Path) -> None:
    for start, tag in ((0, "a"), (0, "b")):
        writer = EventFileWriter(tmp_path, start_step=start)
        writer.write(0, [scalar(tag, 1.0)])
        writer.close()
    store = read(tmp_path)
    assert store.column("a") is None
    assert store.tags == ["a", "b"]


def test_the_first_value_says_what_the_tag_is(tmp_path: Path) -> None:
    writer = EventFileWriter(tmp_path)
    for step, content in enumerate(("first", "second")):
        writer.write(step, [tensor("t", np.ones(2), content=content)])
    writer.close()
    assert read(tmp_path).column("t").content == b"first"


def test_values_of_tensorboards_other_writers_are_read(tmp_path: Path) -> None:
    vector = torch.tensor([1.5, float("nan"), -2.0])
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(3):
            writer.add_scalar("old", step / 2, step)
            writer.add_scalar("new", step / 4, step, new_style=True)
            writer.add_tensor("vector", vector, step)
            writer.add_tensor("constant", torch.full((2, 3), 7.0), step)
            writer.add_tensor("integers", torch.arange(4), step)
            writer.add_histogram("histogram", vector[:1], step)
            writer.add_text("text", "words", step)
    store = read(tmp_path)
    assert columns(store)["old"] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert columns(store)["new"] == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert sorted(store.scalar_tags) == ["new", "old"]
    for array in store.column("vector").values:
        np.testing.assert_array_equal(array, vector.numpy())
    assert columns(store)["constant"][0] == (0, [7.0] * 6)
    assert columns(store)["integers"][2] == (2, [0, 1, 2, 3])
    assert columns(store)["text/text_summary"][1] == (1, b"words")
    assert store.column("histogram") is None  # of no use here, and no harm


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("dtype", ["float", "double"])
def test_a_scalar_of_the_newer_style_is_a_number(
    tmp_path: Path, listed: bool, dtype: str
) -> None:
    numpy_dtype, name = {"float": ("<f4", 1), "double": ("<f8", 2)}[dtype]
    message = summary_pb2.Summary.Value(
        tag="s", metadata={"plugin_data": {"plugin_name": "scalars"}}
    )
    message.tensor.dtype = name
    if listed:
        getattr(message.tensor, f"{dtype}_val").append(0.75)
    else:
        message.tensor.tensor_content = np.array(0.75, dtype=numpy_dtype).tobytes()
    entry = summary_pb2.Summary(value=[message]).SerializeToString()
    writer = EventFileWriter(tmp_path)
    writer.write(3, [entry])
    writer.close()
    store = read(tmp_path)
    assert columns(store) == {"s": [(3, 0.75)]}
    assert store.scalar_tags == ["s"]


def test_a_file_that_vanishes_between_listing_and_reading_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = EventFileWriter(tmp_path)
    writer.write(0, [scalar("a", 1.0)])
    writer.close()
    gone = tmp_path / "events.out.tfevents.0000000001.gone"
    monkeypatch.setattr(
        "svdhooks.runlog.tagstore.event_files", lambda directory: [gone, writer.path]
    )
    assert columns(read(tmp_path)) == {"a": [(0, 1.0)]}


def test_refresh_says_whether_anything_is_new(tmp_path: Path) -> None:
    store = TagStore(tmp_path)
    assert not store.refresh()
    writer = EventFileWriter(tmp_path)
    writer.write(0, [scalar("a", 1.0)])
    assert store.refresh()
    assert not store.refresh()
    writer.write(1, [scalar("a", 1.0)])
    assert store.refresh()
    writer.close()


def test_damage_is_summed_over_the_files(tmp_path: Path) -> None:
    for start in (0, 5):
        writer = EventFileWriter(tmp_path, start_step=start)
        for step in range(start, start + 3):
            writer.write(step, [scalar("a", 1.0)])
        writer.close()
        data = bytearray(writer.path.read_bytes())
        data[-70] ^= 1
        writer.path.write_bytes(data[:-3])
    counts = read(tmp_path).damage
    assert (counts["bad"], counts["truncated"]) == (2, 2)


def test_values_that_look_alike_are_read_as_what_they_are(tmp_path: Path) -> None:
    short, long = np.arange(8, dtype="<f4"), np.arange(8, 12, dtype="<f8")
    blocks = [
        # of one length, but with another tag, dtype or length in front of the last
        [scalar("aa", 1.0), tensor("b", short)],
        [scalar("aa", 2.0), tensor("b", short + 1)],
        [scalar("aa", np.nan), tensor("b", short + 2)],
        [scalar("aa", 3.0), tensor("b", long)],
        [text("aa", "xyz!"), tensor("b", short)],
        [scalar("aa", 4.0), text("b", "x" * 30)],
        [scalar("aa", 5.0), tensor("b", short.reshape(2, 4))],
    ]
    writer = EventFileWriter(tmp_path)
    for step in range(40):
        writer.write(step, blocks[step % 3 if step < 20 else step % len(blocks)])
    writer.close()
    found = columns(read(tmp_path))
    for step in range(40):
        block = blocks[step % 3 if step < 20 else step % len(blocks)]
        (value,) = summary_pb2.Summary.FromString(block[1]).value
        expected = (
            value.tensor.string_val[0]
            if value.tensor.string_val
            else np.frombuffer(
                value.tensor.tensor_content,
                "<f8" if value.tensor.dtype == types_pb2.DT_DOUBLE else "<f4",
            ).tolist()
        )
        assert found["b"][step] == (step, expected)


@pytest.mark.parametrize("apart", [False, True])
def test_values_alike_are_one_array_whose_memory_is_the_reader_s(
    tmp_path: Path, apart: bool
) -> None:
    between = [tensor("z", np.zeros(5000, dtype="<f4"))] if apart else []
    writer = EventFileWriter(tmp_path)
    for step in range(700):
        array = np.full(300, step, dtype="<f4")
        writer.write(step, [tensor("v", array), scalar("s", step / 2), *between])
    writer.close()
    store = read(tmp_path)
    values = store.column("v").values
    assert values.shape == (700, 300)
    np.testing.assert_array_equal(values, np.arange(700)[:, None].repeat(300, axis=1))
    values[:] = -1
    assert store.column("v").values[5, 5] == 5
    np.testing.assert_array_equal(store.column("s").values, np.arange(700) / 2)


def test_nothing_is_left_of_a_run_whose_files_are_gone(tmp_path: Path) -> None:
    """A run begun anew in its directory may have other layers, of other shapes."""
    write_run(tmp_path, range(0, 50, 10), ("first", "both"), n=8)
    log = RunLog(tmp_path)
    assert log.layers == ("first", "both")
    assert log.described["both"]["shape"] == [8, 8]
    shutil.rmtree(tmp_path / "svdhooks")
    write_run(tmp_path, range(0, 30, 10), ("both", "second"), n=4)
    log.refresh()
    fresh = RunLog(tmp_path)
    assert log.layers == fresh.layers == ("both", "second")
    assert log.described == fresh.described
    assert log.metrics == fresh.metrics
    assert log._store.tags == fresh._store.tags
    assert log.steps.tolist() == [0, 10, 20]
