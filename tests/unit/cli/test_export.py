"""Exported files, read back by others, against the log they are of."""

import csv
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

import svdhooks
from svdhooks import schema
from svdhooks.cli import app
from svdhooks.cli import export as exporting
from svdhooks.cli.export_arrays import members
from svdhooks.cli.kinds import Format, What
from svdhooks.record import Record
from svdhooks.runlog import RunLog, window
from svdhooks.sinks.tensorboard import TensorBoardSink
from tests.logs import (
    covariance_record,
    jacobian_record,
    meta_record,
    run_record,
    weight_record,
    write_run,
)

HOSTILE = (
    "../../etc/x",
    "=cmd|'/c calc'!A1",
    'quote"d, with comma',
    "two\nlines\r\nand a\ttab",
    "<script>alert(1)</script>",
    "ünïcödé 雪 \N{ROCKET}",
    "..",
    "[bold]x[/bold]",
    "C:\\windows\\x",
    "x" * 10_000,
    "雪" * 3_000,
)


def _export(logdir: Path, out: Path, **options: Any) -> str:
    text = io.StringIO()
    console = Console(file=text, width=200, emoji=False, highlight=False)
    assert exporting.export(logdir, exporting.Asked(out, **options), console) == 0
    return text.getvalue()


def _mixed_run(log_dir: Path) -> None:
    """Schedules that differ, a failure, few samples, a resumed run, wide spectra."""
    layers = {"fc1": 300, "fc2": 300, "head": 5}
    for start, steps in ((0, range(0, 60, 10)), (40, range(40, 80, 10))):
        options = {"start_step": start} if start else {}
        sink = TensorBoardSink(log_dir, **options)
        for step in steps:
            records = [meta_record(layers, step)] if step == steps[0] else []
            records.append(run_record(step, logged_step=step, overhead=0.01))
            for layer, n in layers.items():
                records.append(weight_record(step, layer, n))
                if step % 20 == 0:
                    few = min(n, 4 + step // 20)
                    records.append(covariance_record(step, layer, "output", few))
            failed = step == 30
            records.append(jacobian_record(step, "fc1", failed=failed))
            sink.write(records)
        sink.close()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    log_dir = tmp_path_factory.mktemp("mixed")
    _mixed_run(log_dir)
    return log_dir


@pytest.fixture
def in_small_windows(monkeypatch):
    """Two steps of measures, and a spectrum, at a time."""
    monkeypatch.setattr(window, "VALUES", 200)


def _as_matrix(frame: pd.DataFrame, log: RunLog, layer: str, point: str) -> Any:
    """Rows of a table of spectra as `RunLog.spectra` has them."""
    mine = frame[(frame["layer"] == layer) & (frame["point"] == point)]
    wide = mine.pivot(index="step", columns="index", values="value")
    wide = wide.reindex(columns=log.spectrum_index(layer, point))
    return wide.index.to_numpy(), wide.to_numpy()


def _exact(path: Path, column: str) -> list[float]:
    """A column of numbers; Python's floats are exact, some parsers' are not."""
    with path.open(encoding="utf-8", newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def _points(log: RunLog) -> list[tuple[str, str]]:
    there = window.spectra_there(log)
    return [(layer, point) for layer, points in there.items() for point in points]


def _check_measures(frame: pd.DataFrame, log: RunLog) -> None:
    expected = log.frame()
    expected["value"] = expected["value"].astype(np.float32)
    frame = frame.assign(
        value=frame["value"].astype(np.float32),
        **{name: frame[name].astype(str) for name in ("run", "layer", "metric")},
    )
    pd.testing.assert_frame_equal(
        frame.reset_index(drop=True),
        expected.astype(dict.fromkeys(("run", "layer", "metric"), "str")),
        check_dtype=False,
    )


# --- what is in the files -----------------------------------------------------------------


def test_a_csv_of_measures_is_the_frame_of_the_log(mixed, tmp_path):
    told = _export(mixed, tmp_path / "m.csv")
    assert str(tmp_path / "m.csv") in told
    _check_measures(pd.read_csv(tmp_path / "m.csv"), RunLog(mixed))


def test_a_parquet_file_of_measures_is_the_frame_of_the_log(mixed, tmp_path):
    _export(mixed, tmp_path / "m.parquet")
    _check_measures(pd.read_parquet(tmp_path / "m.parquet"), RunLog(mixed))
    schema = pq.read_schema(tmp_path / "m.parquet")
    assert str(schema.field("value").type) == "float"
    assert str(schema.field("layer").type).startswith("dictionary<values=string")


@pytest.mark.usefixtures("in_small_windows")
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_windows_of_steps_change_nothing(mixed, tmp_path, form):
    out = tmp_path / f"all.{form}"
    _export(mixed, out, what=What.ALL)
    read = pd.read_csv if form == "csv" else pd.read_parquet
    log = RunLog(mixed)
    assert len(list(window.measure_windows(log, log.metrics))) > 2
    assert len(list(window.spectrum_windows(log, "fc1", "weight"))) > 2
    _check_measures(read(tmp_path / f"all.measures.{form}"), log)
    _check_spectra(read(tmp_path / f"all.spectra.{form}"), log)


def _check_spectra(frame: pd.DataFrame, log: RunLog) -> None:
    assert len(_points(log)) == 7
    for layer, point in _points(log):
        steps, values = log.spectra(layer, point)
        found_steps, found = _as_matrix(frame, log, layer, point)
        np.testing.assert_array_equal(found_steps, steps)
        np.testing.assert_array_equal(found.astype(np.float32), values)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_exported_spectra_are_those_of_the_log(mixed, tmp_path, form):
    out = tmp_path / f"s.{form}"
    _export(mixed, out, what=What.SPECTRA)
    read = pd.read_csv if form == "csv" else pd.read_parquet
    _check_spectra(read(out), RunLog(mixed))


@pytest.mark.parametrize("windows", ["whole", "small"])
def test_an_archive_holds_the_arrays_of_the_log(mixed, tmp_path, windows, request):
    if windows == "small":
        request.getfixturevalue("in_small_windows")
    _export(mixed, tmp_path / "a.npz", what=What.ALL)
    log = RunLog(mixed)
    found = np.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["steps"], log.steps)
    assert found["layers"].tolist() == list(log.layers)
    assert found["metrics"].tolist() == list(log.metrics)
    for metric in log.metrics:
        matrix = found[f"measures/{metric}"]
        assert matrix.dtype == np.float32
        for place, layer in enumerate(log.layers):
            steps, values = log.series(layer, metric)
            rows = np.isin(log.steps, steps)
            np.testing.assert_array_equal(matrix[rows, place], values)
            assert np.isnan(matrix[~rows, place]).all()
    for layer, point in _points(log):
        steps, values = log.spectra(layer, point)
        below = f"spectra/{layer}/{point}"
        np.testing.assert_array_equal(found[f"{below}/steps"], steps)
        np.testing.assert_array_equal(found[f"{below}/values"], values)
        assert found[f"{below}/values"].dtype == values.dtype
        index = log.spectrum_index(layer, point)
        np.testing.assert_array_equal(found[f"{below}/index"], index)


def test_spectra_in_double_precision_stay_so(tmp_path):
    sink = TensorBoardSink(tmp_path / "log")
    kept = np.array([1 / 3, 1 / 7, 1e-300])
    record = Record(0, "fc1", "weight_spectrum", {"spectrum": kept}, point="weight")
    sink.write([meta_record({"fc1": 3}), run_record(0), record])
    sink.close()
    for form in ("csv", "npz"):
        _export(tmp_path / "log", tmp_path / f"s.{form}", what=What.SPECTRA)
    np.testing.assert_array_equal(_exact(tmp_path / "s.csv", "value"), kept)
    archive = np.load(tmp_path / "s.npz")
    np.testing.assert_array_equal(archive["spectra/fc1/weight/values"], kept[None])


def test_damaged_records_are_left_out_and_counted(tmp_path, capsys):
    write_run(tmp_path / "log", range(0, 100, 10), ("a", "b"), 400)
    (path,) = (tmp_path / "log" / "svdhooks").glob("*tfevents*")
    data = bytearray(path.read_bytes())
    _, values = RunLog(tmp_path / "log").covariance_spectra("a")
    data[data.index(values[5].tobytes())] ^= 0xFF  # the spectrum of step 50
    path.write_bytes(data)
    _export(tmp_path / "log", tmp_path / "s.npz", what=What.SPECTRA)
    assert "1 damaged" in capsys.readouterr().err
    found = np.load(tmp_path / "s.npz")
    np.testing.assert_array_equal(found["spectra/a/output/steps"], range(0, 100, 10))
    exported = found["spectra/a/output/values"]
    shown = found["spectra/a/output/index"][~np.isnan(exported[5])]
    np.testing.assert_array_equal(shown, schema.display_index(400))
    values[5, np.isnan(exported[5])] = np.nan
    np.testing.assert_array_equal(exported, values)


# --- choices ------------------------------------------------------------------------------


def test_layers_and_metrics_are_chosen_by_globs(mixed, tmp_path):
    options = {"layers": "fc*", "metrics": "weight_*,output_count"}
    _export(mixed, tmp_path / "m.csv", **options)
    found = pd.read_csv(tmp_path / "m.csv")
    assert set(found["layer"]) == {"fc1", "fc2"}
    expected = {m for m in RunLog(mixed).metrics if m.startswith("weight_")}
    assert set(found["metric"]) == expected | {"output_count"}


def test_a_measure_that_follows_from_spectra_is_computed_if_named(mixed, tmp_path):
    name = "weight_participation_ratio"
    log = RunLog(mixed)
    assert name in log.derived
    for form in ("csv", "npz", "parquet"):
        _export(mixed, tmp_path / f"m.{form}", metrics=name, layers="fc1")
    steps, values = log.series("fc1", name)
    np.testing.assert_array_equal(_exact(tmp_path / "m.csv", "step"), steps)
    np.testing.assert_array_equal(_exact(tmp_path / "m.csv", "value"), values)
    np.testing.assert_array_equal(
        pd.read_parquet(tmp_path / "m.parquet")["value"], values
    )
    matrix = np.load(tmp_path / "m.npz")[f"measures/{name}"]
    np.testing.assert_array_equal(matrix[:, 0], values)


@pytest.mark.parametrize("form", list(Format))
def test_several_runs_are_told_apart(tmp_path, form):
    for name in ("a", "b/c"):
        write_run(tmp_path / "runs" / name, range(0, 30, 10), ("fc1",))
    write_run(tmp_path / "runs" / "d", range(0, 20, 10), ("fc2",))
    out = tmp_path / f"m.{form}"
    _export(tmp_path / "runs", out)
    logs = svdhooks.runs(tmp_path / "runs")
    if form is Format.NPZ:
        found = np.load(out)
        assert found["runs"].tolist() == ["a", "b/c", "d"]
        for name, member in zip(logs, ("a", "b%2Fc", "d"), strict=True):
            matrix = found[f"{member}/measures/weight_stable_rank"]
            (layer,) = logs[name].layers
            _, values = logs[name].series(layer, "weight_stable_rank")
            np.testing.assert_array_equal(matrix[:, 0], values)
        return
    frame = pd.read_csv(out) if form is Format.CSV else pd.read_parquet(out)
    for name, log in logs.items():
        _check_measures(frame[frame["run"] == name], log)
    assert set(frame["run"]) == {"a", "b/c", "d"}


def test_the_format_is_the_ending_or_what_is_said(mixed, tmp_path):
    _export(mixed, tmp_path / "m.txt", form=Format.CSV)
    assert (tmp_path / "m.txt").read_text().startswith("run,step,layer,metric,value\n")
    _export(mixed, tmp_path / "x.PARQUET")
    assert pq.read_metadata(tmp_path / "x.PARQUET").num_rows == len(
        RunLog(mixed).frame()
    )


# --- hostile names ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    log_dir = tmp_path_factory.mktemp("hostile") / "run"
    write_run(log_dir, range(0, 20, 10), HOSTILE)
    return log_dir


def test_hostile_names_round_trip_through_csv(hostile, tmp_path):
    _export(hostile, tmp_path / "x.csv", what=What.ALL)
    for name in ("measures", "spectra"):
        assert b"\0" not in (tmp_path / f"x.{name}.csv").read_bytes()
        with (tmp_path / f"x.{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(dict.fromkeys(row["layer"] for row in rows)) == list(HOSTILE)
    frame = pd.read_csv(tmp_path / "x.measures.csv", keep_default_na=False)
    assert list(dict.fromkeys(frame["layer"])) == list(HOSTILE)
    _check_measures(frame, RunLog(hostile))


def test_hostile_names_round_trip_through_parquet(hostile, tmp_path):
    _export(hostile, tmp_path / "x.parquet", what=What.ALL)
    for name in ("measures", "spectra"):
        frame = pd.read_parquet(tmp_path / f"x.{name}.parquet")
        assert list(dict.fromkeys(frame["layer"])) == list(HOSTILE)


def test_hostile_names_are_no_paths_in_an_archive(hostile, tmp_path):
    _export(hostile, tmp_path / "x.npz", what=What.ALL)
    found = np.load(tmp_path / "x.npz")
    assert found["layers"].tolist() == list(HOSTILE)
    log = RunLog(hostile)
    for layer, member in zip(HOSTILE, members(HOSTILE), strict=True):
        values = found[f"spectra/{member}/weight/values"]
        np.testing.assert_array_equal(values, log.spectra(layer)[1])
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "below")
    assert len(set(names)) == len(names)
    assert all(name.isascii() and len(name) < 200 for name in names)
    there = [p for p in (tmp_path / "below").rglob("*") if p.is_file()]
    assert sorted(str(p.relative_to(tmp_path / "below")) for p in there) == sorted(
        names
    )


def test_names_that_a_spreadsheet_would_run_are_pointed_out(hostile, tmp_path, capsys):
    _export(hostile, tmp_path / "x.csv")
    assert "look like formulas to" in capsys.readouterr().err


def test_members_are_different_and_name_no_directory():
    names = ["", ".", "..", "a/b", "a%2Fb", "A" * 200, "A" * 201, "%", " ", "fc.1"]
    found = members(names)
    assert len(set(found)) == len(names)
    assert found[-1] == "fc.1"
    assert found[3] == "a%2Fb"
    assert all("/" not in m and m and not m.startswith(".") for m in found)


# --- what goes wrong ----------------------------------------------------------------------


def _error(*arguments: str | Path) -> str:
    """Run a command that fails; returns the one line that says why."""
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_a_directory_that_is_not_there_is_named_with_those_like_it(mixed, tmp_path):
    (tmp_path / "runs").mkdir()
    text = _error(tmp_path / "rusn", "-o", tmp_path / "x.csv")
    assert f"{tmp_path / 'rusn'} is no directory" in text
    assert f"Did you mean {tmp_path / 'runs'}?" in text
    assert "No svdhooks log" in _error(tmp_path / "runs", "-o", tmp_path / "x.csv")
    (tmp_path / "file").touch()
    assert "but a file" in _error(tmp_path / "file", "-o", tmp_path / "x.csv")


def test_names_that_are_not_there_are_named_with_those_like_them(mixed, tmp_path):
    out = tmp_path / "x.csv"
    text = _error(mixed, "-o", out, "--layers", "fc3")
    assert "No layer matches 'fc3'" in text
    assert "'fc2'" in text
    text = _error(mixed, "-o", out, "--metrics", "weight_stable_rnak")
    assert "Did you mean 'weight_stable_rank'" in text
    assert not out.exists()


def test_an_ending_that_is_no_format_is_refused(mixed, tmp_path):
    assert "Did you mean 'parquet'" in _error(mixed, "-o", tmp_path / "x.parqet")


def test_a_file_that_is_there_is_kept_unless_forced(mixed, tmp_path):
    out = tmp_path / "x.csv"
    out.write_text("mine")
    assert "--force" in _error(mixed, "-o", out)
    assert out.read_text() == "mine"
    _export(mixed, out, force=True)
    assert out.read_text() != "mine"
    assert list(tmp_path.iterdir()) == [out]


def test_a_place_where_no_file_can_be_is_refused(mixed, tmp_path):
    assert "make it first" in _error(mixed, "-o", tmp_path / "no" / "x.csv")
    assert "is a directory" in _error(mixed, "-o", tmp_path, "--format", "csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_is_one_line(mixed, tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in _error(mixed, "-o", tmp_path / "x.csv")


@pytest.mark.parametrize("form", list(Format))
def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(
    mixed, tmp_path, form, monkeypatch
):
    out = tmp_path / f"x.{form}"
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "from svdhooks.cli import main; main()\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            "export",
            mixed,
            "-o",
            out,
            "--what",
            "spectra",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_the_remedy_is_named(mixed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    text = _error(mixed, "-o", tmp_path / "x.parquet")
    assert "pip install 'svdhooks[analysis]'" in text


def test_nothing_to_export_is_an_error(tmp_path):
    sink = TensorBoardSink(tmp_path / "log")
    sink.write([meta_record(["fc1"]), run_record(0)])
    sink.close()
    text = _error(tmp_path / "log", "-o", tmp_path / "x.csv", "--what", "spectra")
    assert "no spectra recorded" in text


def test_export_loads_neither_torch_nor_pandas(mixed, tmp_path):
    program = (
        "import sys, json\n"
        "from svdhooks.cli import app\n"
        "for form in ('csv', 'npz'):\n"
        "    app(['export', sys.argv[1], '-o', f'{sys.argv[2]}/x.{form}', '--what', "
        "'all'], standalone_mode=False)\n"
        "sys.stderr.write(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, mixed, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stderr)}
    assert loaded.isdisjoint({"torch", "lightning", "pandas", "pyarrow", "matplotlib"})
    assert "rich" in loaded
    assert (tmp_path / "x.npz").exists()
