"""What the tab is told of a run against the log itself, and against the report."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svdhooks.alarms import alarms_of
from svdhooks.analysis.comparison import compare
from svdhooks.analysis.reporting import page_data
from svdhooks.dashboard.gathered import SIZE
from svdhooks.eventfile.values import scalar
from svdhooks.eventfile.writer import EventFileWriter
from svdhooks.record import Record
from svdhooks.runlog import RunLog
from svdhooks.sinks.tensorboard import TensorBoardSink
from svdhooks.web.page import ARRAY, PageData
from tests.logs import (
    covariance_record,
    jacobian_record,
    ledger_record,
    meta_record,
    run_record,
    step_records,
    weight_record,
    write_run,
)
from tests.reported import Checked
from tests.unit.dashboard.serving import Page, files_page


def everything(log_dir: Path, steps: range, names: tuple[str, ...] = ("a", "b")) -> Any:
    """A run with all kinds of records; the sink is open."""
    sink = TensorBoardSink(log_dir)
    for step in steps:
        meta = [meta_record(names, step)] if step == steps[0] else []
        records = [
            record
            for layer in names
            for record in (
                weight_record(step, layer),
                covariance_record(step, layer, "input"),
                covariance_record(step, layer, "output", marks=("sample_limited",)),
                jacobian_record(step, layer, sketch=step > 50),
                ledger_record(step, layer),
            )
        ]
        sink.write([*meta, run_record(step, overhead=0.01, loss=1.0), *records])
    return sink


def moved(node: Any, page: PageData, into: PageData) -> Any:
    """A tree whose arrays stand in another page."""
    if isinstance(node, list):
        return [moved(one, page, into) for one in node]
    if isinstance(node, dict):
        if ARRAY in node:
            return into.add(page.array(node))
        return {key: moved(one, page, into) for key, one in node.items()}
    return node


def whole(page: Page, run: str) -> tuple[dict[str, Any], PageData]:
    """All that the tab is told of a run, put together as the report has it."""
    into = PageData()
    tree, first = page.bundle("overview", run=run)
    found = moved(tree["run"], first, into)
    found |= {"spectra": {}, "local_rank": {}, "ledger": {}, "pairs": []}
    found |= {"descrambled": []}
    for row in tree["run"]["layers"]:
        told, arrays = page.bundle("layer", run=run, layer=row["name"])
        assert told["row"] == row
        for key in ("spectra", "local_rank", "ledger"):
            if told[key]:
                found[key][row["name"]] = moved(told[key], arrays, into)
    told, arrays = page.bundle("pairs", run=run)
    found["internal"] = moved(told["internal"], arrays, into)
    return found, into


def test_every_figure_is_in_the_log(tmp_path: Path) -> None:
    everything(tmp_path / "run", range(0, 100, 10)).close()
    found, arrays = whole(files_page(tmp_path), "run")
    assert Checked(arrays, found, RunLog(tmp_path / "run")).all() > 60


def test_the_tab_says_what_the_report_says(tmp_path: Path) -> None:
    everything(tmp_path / "run", range(0, 100, 10)).close()
    found, arrays = whole(files_page(tmp_path), "run")
    page = page_data({"run": RunLog(tmp_path / "run")}, "", "auto", SIZE)
    (expected,) = page.tree["runs"]
    for name in ("has", "pending", "rules_read"):
        del found[name]
    for points in found["spectra"].values():
        del points["jacobian"]  # which the report leaves to the local rank
    assert plain(found, arrays) == plain(expected, page)


def plain(node: Any, page: PageData) -> Any:
    """A tree with its arrays as text, so that NaN equals NaN."""
    if isinstance(node, list):
        return [plain(one, page) for one in node]
    if isinstance(node, dict):
        if ARRAY in node:
            return repr(page.array(node).tolist())
        return {key: plain(one, page) for key, one in node.items()}
    return node


def test_a_layer_is_thinned_to_what_was_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path / "run", range(100), n=300)
    log = RunLog(tmp_path / "run")
    tree, page = files_page(tmp_path).bundle("layer", run="run", layer="fc2", records=7)
    steps, values = log.spectra("fc2", "output")
    index = log.spectrum_index("fc2", "output")
    entry = tree["spectra"]["output"]
    shown = page.array(entry["steps"])
    assert len(shown) == 7
    assert {shown[0], shown[-1]} == {0, 99}
    assert (entry["of"], entry["thinned"], entry["entries"]) == (100, True, 300)
    columns = np.isin(index, page.array(entry["index"]))
    assert columns.sum() == len(entry["index"]) or columns.sum() <= 256
    expected = values[np.ix_(np.isin(steps, shown), columns)]
    np.testing.assert_array_equal(page.array(entry["values"]), expected)
    (curve,) = [m for m in tree["measures"] if m["name"] == "weight_stable_rank"]
    at, measured = log.series("fc2", "weight_stable_rank")
    kept = np.isin(at, page.array(curve["steps"]))
    assert kept.sum() == 7
    np.testing.assert_array_equal(
        page.array(curve["values"]), measured[kept].astype(np.float32)
    )


def test_a_layer_has_each_of_its_measures(tmp_path: Path) -> None:
    everything(tmp_path / "run", range(0, 50, 10)).close()
    log = RunLog(tmp_path / "run")
    tree, page = files_page(tmp_path).bundle("layer", run="run", layer="a")
    assert {m["name"] for m in tree["measures"]} == set(log.metrics)
    for curve in tree["measures"]:
        steps, values = log.series("a", curve["name"])
        np.testing.assert_array_equal(page.array(curve["steps"]), steps)
        np.testing.assert_array_equal(
            page.array(curve["values"]), values.astype(np.float32)
        )


def test_nothing_is_sent_twice(tmp_path: Path) -> None:
    sink = everything(tmp_path / "run", range(0, 50, 10))
    page = files_page(tmp_path)
    first, _ = page.bundle("overview", run="run")
    layer, _ = page.bundle("layer", run="run", layer="a")
    same = {"unchanged": True, "token": first["token"]}
    assert page.json("overview", run="run", known=first["token"]) == same
    known = layer["token"]
    assert page.json("layer", run="run", layer="a", known=known)["unchanged"]
    sink.write(step_records(60, ("a", "b")))
    later, arrays = page.bundle("overview", run="run", known=first["token"])
    assert not later["partial"]
    assert arrays.array(later["run"]["steps"])[-1] == 60
    layer, _ = page.bundle("layer", run="run", layer="a", known=known)
    assert layer["token"] != known
    sink.close()


def test_of_a_loss_that_grows_between_records_only_that_is_sent(tmp_path: Path) -> None:
    write_run(tmp_path / "run", range(0, 50, 10))
    writer = EventFileWriter(tmp_path / "run")
    writer.write(0, [scalar("train/loss", 2.0)])
    page = files_page(tmp_path)
    first, _ = page.bundle("overview", run="run")
    writer.write(5, [scalar("train/loss", 1.0)])
    later, arrays = page.bundle("overview", run="run", known=first["token"])
    assert later["partial"]
    assert set(later["run"]) == {"name", "scalars", "run_measures"}
    (loss,) = later["run"]["scalars"]
    assert loss["is_loss"]
    assert arrays.array(loss["values"]).tolist() == [2.0, 1.0]
    assert page.json("overview", run="run", known=later["token"])["unchanged"]
    writer.close()


def collapsing(log_dir: Path, records: int) -> None:
    """A representation that collapses half way, while the loss stalls."""
    sink = TensorBoardSink(log_dir)
    for i in range(records):
        rank = 60.0 if i < records // 2 else max(60.0 * 0.8 ** (i - records // 2), 1.2)
        values = {
            "effective_rank": np.asarray(rank),
            "total_variance": np.asarray(1.0),
            "count": np.asarray(512.0),
        }
        meta = [meta_record({"fc": 64})] if i == 0 else []
        point = Record(i * 100, "fc", "covariance", values, point="output")
        sink.write([*meta, run_record(i * 100, loss=1.0), point])
    sink.close()


def test_alarms_are_those_of_the_rules(tmp_path: Path) -> None:
    collapsing(tmp_path / "run", 60)
    tree, _ = files_page(tmp_path).bundle("overview", run="run")
    run = tree["run"]
    expected = [e.as_dict() for e in alarms_of(RunLog(tmp_path / "run"), "auto")]
    assert expected
    assert [e | {"source": "read afterwards"} for e in expected] == run["alarms"]
    assert (run["pending"], run["rules_read"]) == (False, 60)
    assert run["verdict"]["level"] == "alarm"


def test_of_a_large_log_the_alarms_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svdhooks.dashboard.rules._AT_ONCE", 0)
    begin = threading.Event()
    monkeypatch.setattr(
        "svdhooks.dashboard.rules.time.sleep", lambda _: begin.wait(timeout=10)
    )
    collapsing(tmp_path / "run", 60)
    page = files_page(tmp_path)
    live = page.plugin._catalog.run("run", "")
    first, _ = page.bundle("overview", run="run")
    assert first["run"]["pending"]
    assert first["run"]["verdict"]["level"] == "unknown"
    begin.set()
    live.rules._worker.join()
    later, _ = page.bundle("overview", run="run", known=first["token"])
    assert later["partial"]
    assert "measures" not in later["run"]
    assert not later["run"]["pending"]
    assert {a["alarm"] for a in later["run"]["alarms"]} == {
        e.alarm for e in alarms_of(RunLog(tmp_path / "run"), "auto")
    }
    assert page.json("overview", run="run", known=later["token"])["unchanged"]


def test_rules_that_fail_leave_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a rule")

    monkeypatch.setattr("svdhooks.dashboard.rules.alarmed", fail)
    write_run(tmp_path / "run", range(3))
    tree, _ = files_page(tmp_path).bundle("overview", run="run")
    assert tree["run"]["alarms"] == []
    assert tree["run"]["measures"]


def test_runs_are_compared_as_by_hand(tmp_path: Path) -> None:
    for name in ("x,1", "y&2"):
        write_run(tmp_path / name, range(0, 100, 10))
    page = files_page(tmp_path)
    found = page.json("compare", run=["x,1", "y&2"], metric="weight_stable_rank")
    logs = {name: RunLog(tmp_path / name) for name in ("x,1", "y&2")}
    expected = compare(logs, metric=["weight_stable_rank"]).as_dict(curves=60)
    assert found["rows"] == expected["rows"]
    assert found["curves"] == expected["curves"]
    assert found["metrics"] == ["weight_stable_rank"]
    error = page.json("compare", 404, run=["x,1", "y&2"], metric="weight_stable_rnk")
    assert "weight_stable_rank" in error["remedy"]
    assert page.json("compare", 400, run="x,1")["remedy"]


def test_a_run_without_a_record_is_shown(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path / "run")
    sink.write([meta_record(("a",)), run_record(0)])
    sink.close()
    tree, _ = files_page(tmp_path).bundle("overview", run="run")
    assert [row["name"] for row in tree["run"]["layers"]] == ["a"]
