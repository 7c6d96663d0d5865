"""What is said of a record, to JSON and back."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svdhooks.runlog import notes
from svdhooks.runlog.notes import Entry

LAYERS = ["fc1", "fc2", "head"]
WORDS = st.text(alphabet=st.characters(exclude_categories=["Z", "C"]), min_size=1)
FIELDS = st.tuples(
    st.sampled_from(LAYERS),
    st.sampled_from(["weight", "input", "output"]),
    st.text(min_size=1),
    st.text(),
    st.lists(WORDS, max_size=3).map(tuple),
    st.floats(0, 1e3).map(lambda x: float(f"{x:.3g}")),
)


@given(st.lists(FIELDS), st.dictionaries(st.text(), st.floats(allow_nan=False)))
def test_a_note_comes_back(rows: list[tuple], run: dict[str, float]) -> None:
    entries = [Entry(7, *row) for row in rows]
    index = {name: place for place, name in enumerate(LAYERS)}
    note = notes.decode(notes.encode(run, entries, index))
    assert note.entries(7, LAYERS) == entries
    for name, value in run.items():
        assert note.run[name] == value or not math.isfinite(value)


def test_numbers_that_json_lacks_become_null() -> None:
    text = notes.encode({"a": math.nan, "b": math.inf, "c": 1.5}, [], {})
    assert json.loads(text)["run"] == {"a": None, "b": None, "c": 1.5}
    read = notes.decode(text).run
    assert math.isnan(read["a"])
    assert read["c"] == 1.5


def test_entries_need_their_layer_table() -> None:
    text = notes.encode({}, [Entry(0, "fc1", "weight")], {"fc1": 0, "fc2": 1})
    assert notes.decode(text).entries(0, ["fc1"]) == []
    assert len(notes.decode(text).entries(0, ["fc1", "fc2"])) == 1


def test_a_note_without_optional_fields_is_read() -> None:
    note = notes.decode('{"layer": [0], "of": 1}')
    assert note.entries(3, ["fc1"]) == [Entry(3, "fc1", "", status="")]


def test_a_hundred_layers_take_a_few_kilobytes() -> None:
    layers = {f"layer{i}": i for i in range(100)}
    entries = [
        Entry(0, layer, point, method="gram", seconds=0.00123)
        for layer in layers
        for point in ("weight", "input", "output")
    ]
    assert len(notes.encode({}, entries, layers)) < 8000


@pytest.mark.parametrize(("status", "ok"), [("ok", True), ("weight is NaN", False)])
def test_an_entry_is_ok_when_its_status_is(status: str, ok: bool) -> None:
    assert Entry(0, "fc1", "weight", status).ok is ok


STATUSES = st.lists(st.sampled_from(["ok", '},"of":', ',"seconds":[', "]"]), max_size=4)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(STATUSES, st.floats(0, 9), st.text(max_size=3))))
@pytest.mark.slow
def test_notes_are_read_after_each_other_as_they_are_read_alone(
    rows: list[tuple[list[str], float, str]],
) -> None:
    decoder = notes.Decoder()
    for statuses, number, name in rows:
        entries = [
            Entry(0, "fc1", "weight", status, seconds=number * i)
            for i, status in enumerate(statuses)
        ]
        run = {name: number, '},"of":': 1.0, ',"seconds":[': 2.0}
        text = notes.encode(run, entries, {"fc1": 0}, {",seconds:[": [name]}).encode()
        for form in (text, json.dumps(json.loads(text), sort_keys=True).encode()):
            assert decoder.decode(form) == notes.decode(form)
