"""A run in a notebook: whole in its frame, bounded, live, harmless to what trains."""

import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from svdhooks.analysis.notebook import NotebookView, view
from svdhooks.analysis.reporting.cell import cell_data
from svdhooks.runlog import RunLog
from svdhooks.sinks.memory import MemorySink
from svdhooks.sinks.tensorboard import TensorBoardSink
from tests.logs import meta_record, run_record, step_records, weight_record
from tests.unit.web.hostile import HOSTILE

LAYERS = ("body.0", "body.1", "head")


class Tags(HTMLParser):
    """The tags of some HTML with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


class Cells:
    """Stands in for IPython: what each cell shows, and the number of the one that runs."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.execution_count = 1
        self.fails = False

    def display(self, what: Any, display_id: bool = False) -> SimpleNamespace:
        self.shown.append(what._repr_html_())
        return SimpleNamespace(update=self.update)

    def update(self, what: Any) -> None:
        if self.fails:
            raise OSError("the browser has gone")
        self.shown.append(what._repr_html_())


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Cells:
    cells, package = Cells(), ModuleType("IPython")
    module = ModuleType("IPython.display")
    module.display = cells.display  # type: ignore[attr-defined]
    package.get_ipython = lambda: cells  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return cells


def records(step: int, names: tuple[str, ...] = LAYERS) -> list[Any]:
    first = [meta_record(list(names))] if step == 0 else []
    return [*first, run_record(step, loss=1.0 / (1 + step)), *step_records(step, names)]


def write(directory: Path, steps: range, names: tuple[str, ...] = LAYERS) -> Path:
    sink = TensorBoardSink(directory)
    for step in steps:
        sink.write(records(step, names))
    sink.close()
    return directory


def remembered(steps: range, names: tuple[str, ...] = LAYERS) -> MemorySink:
    memory = MemorySink()
    for step in steps:
        memory.write(records(step, names))
    return memory


def document(html: str) -> str:
    """What stands in the frame."""
    frames = [attrs for tag, attrs in Tags(html).found if tag == "iframe"]
    assert len(frames) == 1
    return str(frames[0]["srcdoc"])


def records_in(html: str) -> int:
    found = re.search(r'"cell":\{.*?"records":(\d+)', document(html))
    assert found is not None
    return int(found[1])


def test_a_view_is_a_frame_with_a_whole_document_and_a_table_where_there_are_none(
    tmp_path: Path,
) -> None:
    shown = view(RunLog(write(tmp_path / "run", range(5))))
    html = shown._repr_html_()
    inside = Tags(document(html))
    assert [tag for tag, _ in inside.found].count("script") == 3
    assert not [a for _, a in inside.found if a.keys() & {"src", "href"}]
    assert "body.1" in Tags(html).text  # of the table
    assert "iframe~div{display:none}" in html
    assert "5 records" in repr(shown)


def test_names_never_become_markup(tmp_path: Path) -> None:
    names = tuple(dict.fromkeys(HOSTILE))
    log = RunLog(write(tmp_path / "run", range(3), names), name="'\"><b onload=1>&#39;")
    html = view(log)._repr_html_()
    around, inside = Tags(html), Tags(document(html))
    assert {tag for tag, _ in around.found} <= {
        "div", "style", "iframe", "p", "strong", "span", "table", "thead", "tbody",
        "tr", "th", "td", "svg", "g", "polyline", "path", "title", "line", "circle",
    }  # fmt: skip
    assert [tag for tag, _ in inside.found].count("script") == 3
    assert not {"img", "b"} & {tag for tag, _ in inside.found}
    for _, attrs in (*around.found, *inside.found):
        assert not [name for name in attrs if name.startswith("on")]


def test_a_view_is_as_small_as_asked_for_and_says_what_it_left_out(
    tmp_path: Path,
) -> None:
    names = tuple(f"block.{i}" for i in range(24))
    log = RunLog(write(tmp_path / "run", range(40), names))
    html = view(log, max_mb=0.5)._repr_html_()
    assert len(html.encode()) <= 500_000
    assert "had no room" in html or "evenly spread" in html
    page = cell_data(log, "block.7", "key", 1e4)
    assert "block.7" in page.tree["runs"][0]["spectra"]


def test_memory_shows_what_its_log_would(tmp_path: Path) -> None:
    from svdhooks.analysis._remembered import RememberedRun

    log = RunLog(write(tmp_path / "memory", range(6)))
    pages = [
        cell_data(run, None, "key", 1e6)
        for run in (log, RememberedRun(remembered(range(6))))
    ]
    of_log, of_memory = (page.tree["runs"][0] for page in pages)
    for key in ("name", "layers", "notes", "alarms", "local_rank", "ledger"):
        assert of_log[key] == of_memory[key]
    assert [m["name"] for m in of_log["measures"]] == [
        m["name"] for m in of_memory["measures"]
    ]
    for mine, other in zip(of_log["measures"], of_memory["measures"], strict=True):
        arrays = pages[0].array(mine["values"]), pages[1].array(other["values"])
        np.testing.assert_array_equal(*arrays)
    for name in LAYERS:
        for point, entry in of_log["spectra"][name].items():
            found = of_memory["spectra"][name][point]
            for key in ("steps", "index", "values"):
                np.testing.assert_array_equal(
                    pages[0].array(entry[key]), pages[1].array(found[key])
                )


def test_a_memory_redraws_its_view_and_stops_when_closed(cells: Cells) -> None:
    memory = MemorySink()
    shown = view(memory, live=True, seconds=0)
    shown._cost = 0.0
    keys = set()
    for step in (0, 1):
        memory.write(records(step))
        shown._cost = 0.0  # a slow machine would wait
    memory.close()
    assert [records_in(html) for html in cells.shown] == [0, 1, 2]
    for html in cells.shown:
        keys.update(re.findall(r'"cell":\{"key":"(\w+)"', document(html)))
    assert len(keys) == 1  # under which the page remembers what is looked at
    shown.close()
    memory.write(records(2))
    assert len(cells.shown) == 3


def test_nothing_is_redrawn_without_new_records_nor_too_often(cells: Cells) -> None:
    memory = remembered(range(2))
    shown = view(memory, live=True, seconds=3600)
    assert not shown.update()
    memory.write(records(2))
    assert len(cells.shown) == 1
    assert shown.update()
    assert not shown.update()


def test_a_redraw_that_took_long_waits_twenty_times_as_long(cells: Cells) -> None:
    memory = remembered(range(2))
    shown = view(memory, live=True, seconds=0)
    shown._cost = 100.0
    memory.write(records(2))
    assert len(cells.shown) == 1
    assert shown.update()  # asked for by hand


def test_a_view_that_fails_leaves_the_training_alone(cells: Cells) -> None:
    memory = remembered(range(2))
    shown = view(memory, live=True, seconds=0)
    shown._cost, cells.fails = 0.0, True
    memory.write(records(2))  # warnings are errors here, and even that is kept away
    assert "the browser has gone" in shown.problem
    memory.write(records(3))
    memory.close()
    assert memory.steps.tolist() == [0, 1, 2, 3]


def test_a_log_is_followed_in_the_background(cells: Cells, tmp_path: Path) -> None:
    log = RunLog(write(tmp_path / "run", range(2)))
    assert len(log.steps) == 2
    shown = view(log, live=True, seconds=0.05)
    sink = TensorBoardSink(log.log_dir, start_step=2)
    sink.write(records(2))
    sink.close()
    end = time.monotonic() + 30
    while len(cells.shown) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    shown.close()
    assert records_in(cells.shown[-1]) == 3
    assert log.steps.tolist() == [0, 1]  # what the user holds is nobody else's
    follower = shown._follower
    assert follower is not None
    follower.join(30)
    assert not follower.is_alive()


def test_a_later_live_view_takes_over(cells: Cells) -> None:
    memory = remembered(range(2))
    first = view(memory, live=True, seconds=0)
    second = view(memory, live=True, seconds=0)
    memory.write(records(2))
    assert not first.update()
    assert second._closed is False
    assert first._closed


def test_a_live_view_is_not_shown_twice_in_its_cell_but_again_in_another(
    cells: Cells,
) -> None:
    shown = view(remembered(range(2)), live=True)
    shown._ipython_display_()
    assert len(cells.shown) == 1
    cells.execution_count = 2
    shown._ipython_display_()
    assert len(cells.shown) == 2


def test_a_run_without_records_says_so(cells: Cells) -> None:
    html = view(MemorySink())._repr_html_()
    assert "There is no record yet." in document(html)
    assert records_in(html) == 0


@pytest.mark.usefixtures("as_a_user_calls")
def test_what_cannot_be_shown_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = remembered(range(2))
    with pytest.raises(KeyError, match=r"body\.0"):
        view(memory, "body.00")
    with pytest.raises(TypeError, match="MemorySink"):
        view([1, 2])  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        view(tmp_path / "nothing")
    for wrong in ({"height": 3}, {"max_mb": 0.1}, {"seconds": float("nan")}):
        with pytest.raises(ValueError, match=r"expected"):
            view(memory, **wrong)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(ImportError, match=r"pip install"):
        view(memory, live=True)
    assert isinstance(view(memory), NotebookView)  # which needs no IPython


def test_a_log_without_vectors_is_shown_without_torch(tmp_path: Path) -> None:
    write(tmp_path / "run", range(3))
    code = (
        "import sys; from svdhooks.analysis.notebook import view; "
        "view(sys.argv[1])._repr_html_(); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "run"], check=False)
    assert done.returncode == 0


def test_what_memory_recorded_no_spectra_of_is_named() -> None:
    memory = MemorySink()
    memory.write([meta_record(["fc1"]), weight_record(0, "fc1")])
    assert memory.spectra("fc1")[1].shape == (1, 8)
    with pytest.raises(KeyError, match=r"update.*fc1"):
        memory.spectra("fc1", "update")
