"""``svdhooks report`` on the command line; the page itself is tested elsewhere."""

import webbrowser
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from svdhooks.cli import app
from tests.logs import write_run


@pytest.fixture(scope="module")
def logdir(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run") / "exp1"
    write_run(path, range(0, 30, 10))
    return path


def _report(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_the_page_is_written_and_its_place_and_size_are_told(logdir, tmp_path):
    out = tmp_path / "page.html"
    result = _report(logdir, "-o", out, "--title", "<b>mine</b>")
    assert result.exit_code == 0, result.output
    page = out.read_text(encoding="utf-8")
    assert "&lt;b&gt;mine&lt;/b&gt;" in page
    assert "<b>mine</b>" not in page
    assert " ".join(result.stdout.split()).startswith(f"{out} ")
    kilobytes = float(result.stdout.split()[-2])
    assert result.stdout.split()[-1] == "kB"
    assert kilobytes == pytest.approx(out.stat().st_size / 1000, abs=0.05)
    assert result.stderr == ""


def test_a_page_that_is_there_is_kept_unless_forced(logdir, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("mine")
    result = _report(logdir, "-o", out)
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert out.read_text() == "mine"
    assert _report(logdir, "-o", out, "--force").exit_code == 0
    assert out.read_text() != "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing"], "is no directory"),
        (["exp1", "-o", "missing/page.html"], "make it first"),
        (["exp1", "--preset", "sssl"], "'ssl'"),
    ],
)
def test_what_is_wrong_is_one_line(logdir, arguments, said, monkeypatch):
    monkeypatch.chdir(logdir.parent)
    result = _report(*arguments)
    assert result.exit_code == 1, result.output
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("report.html").exists()


def test_the_page_is_opened_if_asked(logdir, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    out = tmp_path / "a page.html"
    assert _report(logdir, "-o", out, "--open").exit_code == 0
    assert opened == [out.as_uri()]


def test_without_a_browser_the_page_is_there_all_the_same(
    logdir, tmp_path, monkeypatch
):
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    result = _report(logdir, "-o", tmp_path / "page.html", "--open")
    assert result.exit_code == 0
    assert "No browser was found" in result.stderr
    assert (tmp_path / "page.html").exists()
