"""A report of written logs: bounded, honest about what is left out, never surprised."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import svdhooks
from svdhooks.analysis.reporting import page_data
from svdhooks.record import Record
from svdhooks.runlog import RunLog
from svdhooks.sinks.tensorboard import TensorBoardSink
from svdhooks.web.page import PageData
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
from tests.reported import Checked, arrays_without_a_call

HOSTILE = (
    "../../etc/passwd",
    "</script><img src=x onerror=alert(1)>",
    "a.\N{BLACK HEART SUIT}.\N{RIGHT-TO-LEFT OVERRIDE}\n'\"\\",
    "x" * 10_000,
)


def page_of(
    log_dir: Path, size: int | float = 8e6
) -> tuple[PageData, dict[str, Any], RunLog]:
    log = RunLog(log_dir)
    page = page_data({"run": log}, "title", "auto", size)
    json.dumps(page.tree, allow_nan=False)
    return page, page.tree["runs"][0], log


def write(
    log_dir: Path,
    steps: range,
    layers: tuple[str, ...],
    records: Callable[[int, str], list[Record]],
    **more: Any,
) -> None:
    sink = TensorBoardSink(log_dir)
    for step in steps:
        meta = [meta_record(layers, step)] if step == steps[0] else []
        rows = [record for layer in layers for record in records(step, layer)]
        sink.write([*meta, run_record(step, overhead=0.01, **more), *rows])
    sink.close()


def everything(step: int, layer: str) -> list[Record]:
    return [
        weight_record(step, layer),
        covariance_record(step, layer, "input"),
        covariance_record(step, layer, "output", marks=("sample_limited",)),
        jacobian_record(step, layer, sketch=step > 50),
        ledger_record(step, layer),
    ]


def test_every_figure_is_in_the_log(tmp_path: Path) -> None:
    write(tmp_path, range(0, 100, 10), ("fc1", "fc2"), everything, loss=1.0)
    page, run, log = page_of(tmp_path)
    assert not run["notes"]
    assert Checked(page, run, log).all() > 60
    limited = {m["name"]: m["limited"] for m in run["measures"]}
    assert page.array(limited["output_effective_rank"]).all()
    assert limited["input_effective_rank"] is None
    assert limited["output_total_variance"] is None  # a sum is not limited
    assert page.array(limited["jacobian_local_rank"]).sum() == 2 * 4


def test_names_are_data_and_nothing_else(tmp_path: Path) -> None:
    layers = (*HOSTILE, "fc")
    write(tmp_path, range(0, 30, 10), layers, everything)
    page, run, log = page_of(tmp_path)
    assert [row["name"] for row in run["layers"]] == list(layers)
    assert Checked(page, run, log).all() > 60
    out = svdhooks.report(tmp_path, tmp_path / "report.html", title=HOSTILE[1])
    text = out.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.html",
        "svdhooks",
    ]


@pytest.mark.slow
def test_a_large_log_makes_a_small_page(tmp_path: Path) -> None:
    layers = tuple(f"blocks.{i}.fc" for i in range(30))
    write(tmp_path, range(0, 500, 10), layers, everything, loss=1.0)
    page, run, log = page_of(tmp_path, size=150_000)
    assert page.nbytes + len(json.dumps(page.tree)) < 1.5 * 150_000
    assert Checked(page, run, log).all() > 500
    steps = page.array(run["steps"])
    assert {0, 490} <= set(steps.tolist())
    assert len(steps) < 50
    notes = " ".join(run["notes"])
    assert f"{len(steps)} of 50 records" in notes
    assert f"{len(run['spectra'])} of 30 layers have their spectra" in notes
    assert "log.spectra(layer, point)" in notes


@pytest.mark.slow
def test_the_page_is_no_larger_than_asked_for(tmp_path: Path) -> None:
    # names weigh more than arrays here, so that the first try is too large
    layers = tuple(f"{'x' * 3000}{i}" for i in range(25))
    write(tmp_path, range(0, 50, 10), layers, everything)
    out = svdhooks.report(tmp_path, tmp_path / "report.html", max_mb=1)
    assert out.stat().st_size <= 1_000_000


def test_layers_that_alarms_name_come_first(tmp_path: Path) -> None:
    layers = tuple(f"fc{i}" for i in range(40))

    def records(step: int, layer: str) -> list[Record]:
        found = weight_record(step, layer)
        if layer == "fc23" and step >= 50:
            values = {name: np.full_like(v, np.nan) for name, v in found.values.items()}
            status = "non-finite values (NaN or Inf)"
            return [
                Record(
                    step, layer, found.quantity, values, status=status, point="weight"
                )
            ]
        return [found]

    write(tmp_path, range(0, 100, 10), layers, records)
    _, run, _ = page_of(tmp_path, size=60_000)
    assert {row["layer"] for row in run["alarms"]} == {"fc23"}
    assert "fc23" in run["spectra"]
    assert len(run["spectra"]) < 40
    assert run["failed"] == 5
    assert run["failures"][0] == [
        "fc23",
        "weight",
        50,
        "non-finite values (NaN or Inf)",
    ]
    assert run["verdict"]["level"] == "alarm"


@pytest.mark.slow
def test_rare_measures_are_not_thinned_away(tmp_path: Path) -> None:
    layers = tuple(f"fc{i}" for i in range(12))
    rare = (0, 1, 3, 7, 20, 55, 148)

    def records(step: int, layer: str) -> list[Record]:
        more = [jacobian_record(step, layer)] if step in rare else []
        return [weight_record(step, layer), *more]

    write(tmp_path, range(150), layers, records)
    page, run, _ = page_of(tmp_path, size=60_000)
    steps = set(page.array(run["steps"]).tolist())
    assert len(steps) < 150
    assert set(rare) <= steps


def test_one_record_says_that_nothing_changed_yet(tmp_path: Path) -> None:
    write(tmp_path, range(0, 10, 10), ("fc1", "fc2"), everything)
    page, run, log = page_of(tmp_path)
    assert run["verdict"]["level"] == "unknown"
    assert "too few" in run["verdict"]["headline"]
    assert Checked(page, run, log).all() > 30
    assert svdhooks.report(tmp_path, tmp_path / "one.html").stat().st_size > 1000


def test_a_run_without_a_record_yet_is_a_page_too(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    sink.write([meta_record(("fc1",))])
    sink.close()
    _, run, _ = page_of(tmp_path)
    assert run["verdict"]["level"] == "unknown"
    assert not run["measures"]
    svdhooks.report(tmp_path, tmp_path / "none.html")


@pytest.mark.parametrize("point", ["weight", "output"])
def test_a_run_of_one_point_alone(tmp_path: Path, point: str) -> None:
    def records(step: int, layer: str) -> list[Record]:
        if point == "weight":
            return [weight_record(step, layer)]
        return [covariance_record(step, layer, point)]

    write(tmp_path, range(0, 80, 10), ("tap",), records)
    page, run, log = page_of(tmp_path)
    assert set(run["spectra"]["tap"]) == {point}
    assert {m["point"] for m in run["measures"]} == {point}
    assert Checked(page, run, log).all() >= 5


def test_a_damaged_log_says_so(tmp_path: Path) -> None:
    write(tmp_path, range(0, 200, 10), ("fc1", "fc2"), everything)
    (path,) = (tmp_path / "svdhooks").iterdir()
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 40):
        content[place] ^= 0xFF
    path.write_bytes(content[:-20])
    log = RunLog(tmp_path)
    log.verify()
    page = page_data({"run": log}, "title", "auto", 8e6)
    (run,) = page.tree["runs"]
    assert run["damage"] == log.damage
    assert run["damage"]["bad"] + run["damage"]["truncated"] > 0
    assert any("could not be read" in said for said in run["verdict"]["sentences"])
    assert Checked(page, run, log).all() > 60


def test_a_log_that_is_being_written_is_read_as_it_is(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    for step in range(0, 60, 10):
        meta = [meta_record(("fc1",), step)] if step == 0 else []
        sink.write([*meta, *step_records(step, ("fc1",))])
    before = page_of(tmp_path)[1]
    for step in range(60, 90, 10):
        sink.write(step_records(step, ("fc1",)))
    after = page_of(tmp_path)[1]
    sink.close()
    assert before["facts"][0][1].startswith("6,")
    assert after["facts"][0][1].startswith("9,")


def test_several_runs_are_compared(tmp_path: Path) -> None:
    for name in ("a", "b/deep", "c"):
        write_run(tmp_path / name, range(0, 100, 10))
    out = svdhooks.report([tmp_path / "a", tmp_path], tmp_path / "all.html")
    logs = svdhooks.runs(tmp_path)
    page = page_data(logs, "title", "auto", 8e6)
    assert [run["name"] for run in page.tree["runs"]] == ["a", "b/deep", "c"]
    assert page.tree["comparison"]["call"] == "svdhooks.compare(runs)"
    assert out.exists()


def test_paths_stand_on_a_page_as_they_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "a", range(0, 100, 10))
    monkeypatch.chdir(tmp_path)
    given = page_data({"a": svdhooks.RunLog("a")}, "title", "auto", 8e6).tree
    assert given["runs"][0]["path"] == "a"
    assert str(tmp_path) not in json.dumps(given)


def test_curves_of_a_comparison_are_what_their_call_gives(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_run(tmp_path / name, range(0, 100, 10))
    logs = svdhooks.runs(tmp_path)
    compared = page_data(logs, "title", "auto", 8e6).tree["comparison"]
    assert compared["curves"]
    for curve in compared["curves"]:
        names = {"svdhooks": svdhooks, "runs": logs}
        first, last = curve["call"].splitlines()
        exec(first, names)
        for group, found in zip(compared["groups"], eval(last, names), strict=True):
            shown = curve["groups"][group["name"]]
            for own, values in zip(("mean", "low", "high"), found, strict=True):
                told = np.array(shown[own], dtype=float)  # six figures
                np.testing.assert_allclose(told, values, rtol=1e-5)


def test_runs_that_cannot_be_compared_still_stand_side_by_side(tmp_path: Path) -> None:
    write(
        tmp_path / "a", range(0, 50, 10), ("one",), lambda s, n: [weight_record(s, n)]
    )
    write(
        tmp_path / "b",
        range(0, 50, 10),
        ("other",),
        lambda s, n: [covariance_record(s, n, "output")],
    )
    page = page_data(svdhooks.runs(tmp_path), "title", "auto", 8e6)
    assert len(page.tree["runs"]) == 2
    svdhooks.report(tmp_path, tmp_path / "both.html")


@pytest.mark.slow
def test_scalars_are_shown_the_loss_first(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    write_run(tmp_path, range(0, 100, 10))
    with SummaryWriter(tmp_path) as writer:
        for step in range(1500):
            writer.add_scalar("accuracy", step / 1500, step)
            writer.add_scalar("train/loss", 1 / (step + 1), step)
    page, run, log = page_of(tmp_path)
    assert [s["tag"] for s in run["scalars"]] == ["train/loss", "accuracy"]
    assert [s["is_loss"] for s in run["scalars"]] == [True, False]
    assert all(len(page.array(s["steps"])) == 1000 for s in run["scalars"])
    assert all(s["of"] == 1500 for s in run["scalars"])
    assert Checked(page, run, log).all() > 20


def test_the_noise_edge_is_that_of_the_law(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def records(step: int, layer: str) -> list[Record]:
        sigma = np.linalg.svd(random.normal(size=(64, 64)), compute_uv=False)
        return [
            Record(
                step,
                layer,
                "weight_spectrum",
                {"spectrum": sigma.astype(np.float32)},
                point="weight",
            )
        ]

    sink = TensorBoardSink(tmp_path)
    for step in range(0, 50, 10):
        meta = [meta_record({"fc": 64}, step)] if step == 0 else []
        sink.write([*meta, run_record(step), *records(step, "fc")])
    sink.close()
    page, run, _ = page_of(tmp_path)
    edge = page.array(run["spectra"]["fc"]["weight"]["edge"])
    np.testing.assert_allclose(edge, 2 * 64**0.5, rtol=0.15)  # σ(√m + √n), σ = 1


def test_no_torch_without_vectors(tmp_path: Path) -> None:
    import subprocess
    import sys

    write_run(tmp_path, range(0, 100, 10))
    code = (
        "import sys, svdhooks; svdhooks.report(sys.argv[1], sys.argv[2]); "
        "sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "r.html")]
    assert subprocess.run(arguments, check=False).returncode == 0


def test_a_page_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", range(0, 50, 10))
    out = tmp_path / "report.html"
    svdhooks.report(tmp_path / "run", out)
    before = out.read_bytes()

    def broken(*_: object) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr("svdhooks.web.embedding.embedded_page", broken)
    with pytest.raises(OSError, match="no space"):
        svdhooks.report(tmp_path / "run", out)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run"]


class TestErrors:
    def test_no_such_directory(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="does not exist"):
            svdhooks.report(tmp_path / "nothing", tmp_path / "r.html")

    def test_a_directory_without_a_run(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match="holds no svdhooks records"):
            svdhooks.report(tmp_path / "empty", tmp_path / "r.html")

    def test_a_file_instead_of_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "events").write_text("")
        with pytest.raises(NotADirectoryError, match="expected the directory"):
            svdhooks.report(tmp_path / "events", tmp_path / "r.html")

    def test_no_path_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="Found no log directory"):
            svdhooks.report([], tmp_path / "r.html")

    def test_where_the_page_cannot_be(self, tmp_path: Path) -> None:
        write_run(tmp_path, range(0, 30, 10))
        with pytest.raises(IsADirectoryError, match="expected a file"):
            svdhooks.report(tmp_path, tmp_path)
        with pytest.raises(FileNotFoundError, match="Make it first"):
            svdhooks.report(tmp_path, tmp_path / "no" / "r.html")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
    def test_where_nothing_may_be_written(self, tmp_path: Path) -> None:
        write_run(tmp_path / "run", range(0, 30, 10))
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        with pytest.raises(PermissionError, match="give another path"):
            svdhooks.report(tmp_path / "run", closed / "r.html")

    @pytest.mark.usefixtures("as_a_user_calls")
    def test_options_that_are_none(self, tmp_path: Path) -> None:
        write_run(tmp_path, range(0, 30, 10))
        out = tmp_path / "r.html"
        with pytest.raises(ValueError, match="expected 1 or more"):
            svdhooks.report(tmp_path, out, max_mb=0.1)
        with pytest.raises(ValueError, match="no such preset or rule"):
            svdhooks.report(tmp_path, out, alarms="nonsense")
        assert not out.exists()


def test_the_check_finds_an_array_without_a_call() -> None:
    tree = {
        "steps": {"$array": 0},
        "a": [{"values": {"$array": 1}}],
        "b": {"call": "", "x": {"$array": 2}},
    }
    assert list(arrays_without_a_call(tree)) == [".a[0].values"]
