"""The plugin's routes: what they refuse, and what they never do."""

import logging
import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from tensorboard.plugins import base_plugin
from werkzeug.test import Client

from svdhooks.dashboard.files import TYPES
from svdhooks.dashboard.loader import SAMPLES, Loader
from svdhooks.dashboard.plugin import SpectraPlugin
from tests.logs import write_run
from tests.unit.dashboard.serving import BASE, content_of, context, files_page
from tests.unit.web.hostile import HOSTILE

NO_FILES = ("\x00", "/")
"""What no name of a file has."""


def test_what_is_not_there_is_told_with_what_is(tmp_path: Path) -> None:
    write_run(tmp_path / "resnet", range(3), ("encoder.0", "encoder.1"))
    page = files_page(tmp_path)
    error = page.json("overview", 404, run="resnt")
    assert error["error"] == "There is no run 'resnt'."
    assert error["remedy"] == "Did you mean 'resnet'?"
    error = page.json("layer", 404, run="resnet", layer="encoder.2")
    assert "'encoder.1'" in error["remedy"]
    error = page.json("descrambled", 404, run="resnet", layer="encoder.2")
    assert "'encoder.1'" in error["remedy"]
    query = {"run": "resnet", "source": "encoder.0", "target": "encoder.1"}
    assert page.json("pair", 404, **query)["remedy"]


@pytest.mark.parametrize("route", ["overview", "layer", "pairs", "pair", "descrambled"])
def test_what_is_missing_is_named(tmp_path: Path, route: str) -> None:
    write_run(tmp_path / "run", range(3))
    assert "'run'" in files_page(tmp_path).json(route, 400)["error"]
    assert "'layer'" in files_page(tmp_path).json("layer", 400, run="run")["error"]


def test_numbers_are_numbers(tmp_path: Path) -> None:
    write_run(tmp_path / "run", range(3))
    page = files_page(tmp_path)
    query = {"run": "run", "layer": "fc1"}
    assert page.json("layer", 400, **query, records="many")["remedy"]
    for records in ("", "-5", "0", "9" * 30):
        page.bundle("layer", **query, records=records)


def test_only_get(tmp_path: Path) -> None:
    write_run(tmp_path / "run", range(3))
    page = files_page(tmp_path)
    for route in ("runs", "overview", "static/index.js"):
        answer = page.ask(route, method="POST")
        assert answer.status_code == 405
        assert answer.headers["Allow"] == "GET, HEAD"
    assert page.ask("runs", method="HEAD").get_data() == b""


def test_a_fault_of_ours_is_an_answer_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    page = files_page(tmp_path)

    def fail(_: object) -> None:
        raise ZeroDivisionError("<b>by zero</b>")

    monkeypatch.setattr(page.plugin._catalog, "summaries", fail)
    with caplog.at_level(logging.ERROR):
        error = page.json("runs", 500)
    assert error == {
        "error": "ZeroDivisionError: <b>by zero</b>",
        "remedy": "Reload the page. TensorBoard's terminal has the details.",
    }
    assert "by zero" in caplog.text


def test_names_are_text(tmp_path: Path) -> None:
    names = ("a/b", "x" * 10_000, "run=1&run=2#?%", *HOSTILE)
    write_run(tmp_path / "run", range(3), names)
    page = files_page(tmp_path)
    tree, _ = page.bundle("overview", run="run")
    assert [row["name"] for row in tree["run"]["layers"]] == list(names)
    for name in names:
        found, _ = page.bundle("layer", run="run", layer=name)
        assert found["layer"] == name
        assert set(found["spectra"]) == {"weight", "input", "output"}
        raw = content_of(page.ask("layer", run="run", layer=name + "x"))
        assert b"<" not in raw  # not even where somebody sniffs


def test_names_of_runs_are_text(tmp_path: Path) -> None:
    names = [n for n in HOSTILE if len(n) < 200 and not set(NO_FILES) & set(n)]
    names += ["a&run=b", "50%", "#x", "..name", "-"]
    for name in names:
        write_run(tmp_path / name, range(3))
    page = files_page(tmp_path)
    assert {row["name"] for row in page.json("runs")["runs"]} == set(names)
    for name in names:
        tree, _ = page.bundle("overview", run=name)
        assert tree["run"]["name"] == name


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "run/../../secret", "\x00", ""])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / "secret", range(3))
    write_run(tmp_path / "logs" / "run", range(3))
    assert files_page(tmp_path / "logs").json("overview", 404, run=name)["remedy"]


def test_no_file_but_the_pages_own(tmp_path: Path) -> None:
    page = files_page(tmp_path)
    for name in (
        "../plugin.py",
        "..%2Fplugin.py",
        "%2e%2e/plugin.py",
        "/etc/passwd",
        "..\\plugin.py",
        "static/style.css",
        "style.css/",
        "style.css\x00.js",
        "templates/report.html",
        ".",
        "",
        "__init__.py",
    ):
        answer = Client(page.apps["/static/*"]).get(f"{BASE}static/{name}")
        assert answer.status_code == 404, name
        assert "remedy" in answer.get_json()


def test_every_file_of_the_page_is_served(tmp_path: Path) -> None:
    page = files_page(tmp_path)
    seen = 0
    for package in ("svdhooks.dashboard", "svdhooks.web"):
        directory = files(package).joinpath("static")
        for file in directory.iterdir() if directory.is_dir() else ():
            suffix = Path(file.name).suffix
            if suffix not in TYPES:
                continue
            answer = page.ask(f"static/{file.name}")
            assert answer.status_code == 200
            assert answer.mimetype == TYPES[suffix]
            seen += content_of(answer) == file.read_bytes()
    assert seen > 20


def test_without_a_run_the_tab_says_how_to_make_one(tmp_path: Path) -> None:
    page = files_page(tmp_path)
    told = page.json("runs")
    assert told["runs"] == []
    assert "svdhooks.watch(" in told["help"]["code"]
    assert not page.plugin.is_active()
    write_run(tmp_path / "run", range(3))
    told = page.json("runs")
    assert told["help"] is None
    assert page.plugin.is_active()


def test_the_list_of_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "b" / "deep", range(0, 30, 10))
    write_run(tmp_path / "a", [5], ("fc",))
    page = files_page(tmp_path)
    first, second = page.json("runs")["runs"]
    assert (first["name"], first["layers"], first["records"]) == ("a", 1, 1)
    assert (second["name"], second["first"], second["last"]) == ("b/deep", 0, 20)
    assert not first["pending"]
    assert second["written"] > 1e9
    tree, _ = page.bundle("overview", run="a")
    row = page.json("runs")["runs"][0]
    assert row["token"] == tree["token"]
    shutil.rmtree(tmp_path / "a")
    assert [row["name"] for row in page.json("runs")["runs"]] == ["b/deep"]
    assert page.json("overview", 404, run="a")["remedy"]


def test_a_directory_that_cannot_be_read_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_run(tmp_path / name, range(2))
    listed = Path.iterdir

    def forbidden(path: Path) -> Iterator[Path]:
        if path == tmp_path / "b" / "svdhooks":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", forbidden)
    rows = {row["name"]: row for row in files_page(tmp_path).json("runs")["runs"]}
    assert [rows[name].get("records") for name in "abc"] == [2, None, 2]
    assert "Permission denied" in rows["b"]["error"]


def test_a_run_is_asked_for_by_the_name_that_is_shown(tmp_path: Path) -> None:
    """Whatever bytes its directory's name is made of."""
    write_run(tmp_path / os.fsdecode(b"n\xff"), range(2))
    page = files_page(tmp_path)
    (row,) = page.json("runs")["runs"]
    assert row["name"] == "n\\xff"
    assert len(page.bundle("overview", run=row["name"])[0]["run"]["layers"]) == 2


def test_one_bad_log_leaves_the_others(tmp_path: Path) -> None:
    write_run(tmp_path / "good", range(3))
    bad = tmp_path / "bad" / "svdhooks"
    bad.mkdir(parents=True)
    (bad / "events.out.tfevents.0000000001.x.1.0").write_bytes(b"\x00\xff" * 500)
    page = files_page(tmp_path)
    rows = {row["name"]: row for row in page.json("runs")["runs"]}
    assert rows["good"]["records"] == 3
    assert rows["bad"]["records"] == 0
    page.bundle("overview", run="good")
    page.bundle("overview", run="bad")


def test_about(tmp_path: Path) -> None:
    told = files_page(tmp_path).json("about")
    assert told["torch"]
    assert "overview" in told["routes"]


# --- the loader ------------------------------------------------------------------------


def test_the_loader_makes_the_plugin(tmp_path: Path) -> None:
    plugin = Loader().load(context(tmp_path))
    assert isinstance(plugin, SpectraPlugin)
    meta = plugin.frontend_metadata()
    assert (meta.tab_name, meta.es_module_path) == ("svdhooks", "/static/index.js")
    assert plugin.get_plugin_apps().keys() >= {"/static/*", "/runs"}


def test_the_loader_makes_a_plugin_of_nothing() -> None:
    empty: Any = base_plugin.TBContext()
    plugin = Loader().load(empty)
    assert plugin is not None
    assert not plugin.is_active()


@pytest.mark.parametrize("error", [ImportError("no"), RuntimeError("x"), SystemError()])
def test_a_loader_that_fails_says_one_line(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(SpectraPlugin, "__init__", fail)
    with caplog.at_level(logging.WARNING):
        assert Loader().load(base_plugin.TBContext()) is None
    (line,) = caplog.messages
    assert line.startswith("The svdhooks tab is missing")


def test_a_broken_module_of_ours_breaks_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "svdhooks.dashboard.plugin", None)
    assert Loader().load(base_plugin.TBContext()) is None


def test_more_samples_are_kept_unless_the_user_says_how_many() -> None:
    asked = Namespace(samples_per_plugin={"scalars": 7})
    Loader().fix_flags(asked)
    assert asked.samples_per_plugin == {"scalars": 7, "svdhooks": SAMPLES}
    asked = Namespace(samples_per_plugin={"svdhooks": 3})
    Loader().fix_flags(asked)
    assert asked.samples_per_plugin == {"svdhooks": 3}
    Loader().fix_flags(Namespace())
