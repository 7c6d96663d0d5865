"""What the plugin keeps: bounded, and read by one request at a time."""

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from svdhooks.dashboard import catalog as catalogs
from svdhooks.dashboard.catalog import Catalog
from svdhooks.dashboard.live import LiveRun
from svdhooks.dashboard.locating import Root
from svdhooks.runlog import RunLog
from svdhooks.runlog.table import RunTable
from svdhooks.sinks.tensorboard import TensorBoardSink
from svdhooks.web.page import PageData
from tests.logs import meta_record, step_records, write_run
from tests.unit.dashboard.serving import files_page

NAMES = tuple(f"layer{i}" for i in range(6))


def test_nothing_is_left_of_a_refresh_but_the_record(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    sink.write([meta_record(dict.fromkeys(NAMES, 64))])
    live = LiveRun("run", RunLog(tmp_path), rest=0.0)
    token, step, objects = "", 0, []
    for _ in range(4):
        for _ in range(8):
            sink.write(step_records(step, NAMES, 64))
            step += 10
            token, content = live.overview(token)
            assert content is not None
            live.layer(NAMES[step // 10 % 6], 200, None)
        gc.collect()
        objects.append(gc.get_objects())
        kinds = [type(one) for one in objects[-1]]
        assert kinds.count(RunTable) == 1
        assert kinds.count(PageData) == 0
        objects[-1] = len(objects[-1])
    sink.close()
    assert (objects[3] - objects[2]) / 8 < 40  # what is said of a record
    assert len(live._layers) <= 8


def test_few_runs_are_kept_open(tmp_path: Path) -> None:
    for i in range(catalogs.OPEN + 4):
        write_run(tmp_path / f"run{i}", range(2))
    catalog = Catalog(str(tmp_path), None, None, rest=0.0)
    first = catalog.run("run0", "")
    assert catalog.run("run0", "") is first
    for i in range(1, catalogs.OPEN + 4):
        catalog.run(f"run{i}", "")
    assert len(catalog._open) == catalogs.OPEN
    assert catalog.run("run0", "") is not first


def test_nobody_waits_for_a_slow_disk_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "a", range(2))
    catalog = Catalog(str(tmp_path), None, None, rest=0.0)
    monkeypatch.setattr(catalogs, "_SLOW", -1.0)  # the disk is slow
    assert list(catalog.places("")) == ["a"]
    find, disk, asked = catalogs.found_on_disk, threading.Event(), threading.Event()

    def slow(known: tuple[Root, ...]) -> Iterator[tuple[str, Path]]:
        asked.set()
        assert disk.wait(timeout=30)
        yield from find(known)

    monkeypatch.setattr(catalogs, "found_on_disk", slow)
    write_run(tmp_path / "b", range(2))
    answers: list[object] = []

    def ask() -> None:
        answers.append(list(catalog.places("")))
        answers.append(catalog.run("a", "").name)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert answers == [["a"], "a"]
    assert asked.wait(timeout=10)
    disk.set()
    worker = catalog._worker
    assert worker is not None
    assert worker.daemon  # it does not keep TensorBoard alive
    worker.join(timeout=10)
    assert list(catalog.places("")) == ["a", "b"]


def test_many_runs_are_summed_up_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        write_run(tmp_path / f"run{i}", range(2))
    monkeypatch.setattr(catalogs, "_SECONDS", -1.0)
    page = files_page(tmp_path)
    told = page.json("runs")
    assert told["pending"]
    assert all(row["pending"] and "records" not in row for row in told["runs"])
    monkeypatch.setattr(catalogs, "_SECONDS", 10.0)
    told = page.json("runs")
    assert not told["pending"]
    assert [row["records"] for row in told["runs"]] == [2] * 4


def test_requests_at_once_are_answered_as_one_by_one(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path / "run")
    sink.write([meta_record(dict.fromkeys(NAMES, 16)), *step_records(0, NAMES, 16)])
    write_run(tmp_path / "other", range(0, 50, 10), NAMES, n=16)
    page = files_page(tmp_path)
    wrong: list[object] = []
    done = threading.Event()

    def ask(number: int) -> None:
        try:
            while not done.is_set():
                tree, arrays = page.bundle("overview", run="run")
                steps = arrays.array(tree["run"]["steps"])
                measures = tree["run"]["measures"]
                shapes = {arrays.array(m["values"]).shape for m in measures}
                wrong.extend(shapes - {(len(steps), 6)})
                page.bundle("layer", run="run", layer=NAMES[number])
                page.json(
                    "compare", run=["run", "other"] if number % 2 else ["other", "run"]
                )
                page.json("runs")
        except Exception as error:  # noqa: BLE001  whatever a thread meets fails the test
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for step in range(10, 150, 10):
        sink.write(step_records(step, NAMES, 16))
    done.set()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    sink.close()
    assert not wrong
    tree, arrays = page.bundle("overview", run="run")
    expected = RunLog(tmp_path / "run").steps
    np.testing.assert_array_equal(arrays.array(tree["run"]["steps"]), expected)


def test_who_has_everything_does_not_wait_for_who_has_not(tmp_path: Path) -> None:
    write_run(tmp_path, range(3))
    live = LiveRun("run", RunLog(tmp_path), rest=0.0)
    token, _ = live.overview(None)
    answers: list[object] = []
    with live.lock:  # somebody reads
        thread = threading.Thread(target=lambda: answers.append(live.overview(token)))
        thread.start()
        thread.join(timeout=10)
    assert answers == [(token, None)]
