"""The refit on the command line."""

import importlib.util
import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from svdhooks.cli import app, refit
from svdhooks.experiments.refit import scores as scored
from svdhooks.experiments.refit import summary as summary
from svdhooks.experiments.refit.settings import RefitSettings

pytestmark = pytest.mark.usefixtures("as_a_user_calls")
FEW = ["--seeds", "1", "--restarts", "1", "--steps", "2", "--widths", "64,12,10"]


def run(*arguments: str):
    return CliRunner().invoke(app, ["refit", *arguments], env={"COLUMNS": "80"})


@pytest.mark.slow
def test_one_command_leaves_a_table_its_files_and_a_figure(tmp_path):
    out = tmp_path / "out"
    result = run("--out", str(out), *FEW)
    assert result.exit_code == 0, result.output
    for words in (*refit.ARMS.values(), "fixed − free", "fixed − flat"):
        assert words in result.output
    for name in ("scores", "intervals", "above_chance", "trajectory"):
        assert (out / f"{name}.csv").stat().st_size > 0
    assert (out / refit.FIGURE).read_bytes().startswith(b"\x89PNG")
    assert max(map(len, result.output.split(f"{out}")[0].splitlines())) <= 80
    # a second call has nothing to train, and one with other settings is told so
    kept = {p: p.stat().st_mtime_ns for p in out.glob("seed*")}
    assert run("--out", str(out), *FEW).exit_code == 0
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    refused = run("--out", str(out), *FEW, "--weight-decay", "0")
    assert refused.exit_code == 1
    assert "weight_decay 0.5 instead of 0.0" in " ".join(refused.output.split())


def test_settings_that_make_no_sense_end_with_a_message(tmp_path):
    result = run("--out", str(tmp_path / "out"), "--widths", "64")
    assert result.exit_code == 1
    assert "Found the widths (64,), expected at least two" in " ".join(
        result.output.split()
    )


def test_the_help_says_what_is_tested_and_against_what():
    said = " ".join(run("--help").output.split())
    for words in ("every S fixed", "The controls: W free", "only if S fixed comes"):
        assert words in said


def test_the_introduction_follows_the_settings():
    text = refit.introduction(RefitSettings(seeds=3, restarts=7, widths=(64, 9, 10)))
    assert "Each of 3 ReLU networks 64-9-10" in text
    assert "7 restarts" in text


def cell(mean, half=0.1):
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": 3}


@pytest.fixture
def found():
    cells = {("fixed_s", summary.FIRST): cell(0.42), ("free", scored.GAP): cell(-0.3)}
    differences = {
        ("free", summary.FIRST): cell(-0.4),
        ("free", summary.UNITS): cell(0.05),
        ("flat_s", summary.SIGNAL): cell(0.2),
    }
    ks = {summary.FIRST: 8, summary.LAST: 2, summary.SIGNAL: 8}
    return summary.Summary(ks, cells, differences, 3)


def shown(item) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(item)
    return console.file.getvalue()


def test_the_table_shows_means_half_intervals_and_differences(found):
    text = shown(refit.table_of(found))
    assert "0.42" in text
    assert "±0.10" in text
    assert "-0.30" in text
    assert "-0.40" in text
    assert "+0.20" in text
    assert "k = 8" in text


def test_the_words_name_what_is_clear_and_no_more(found):
    text = " ".join(shown(refit.words(found)).split())
    free = "S fixed against W free: closer to the original in none, farther in V of the first layer."
    flat = "S fixed against S flat: closer to the original in signal of the first layer, farther in none."
    assert free in text
    assert flat in text
    assert "Fewer than five" in text


def test_without_matplotlib_the_figure_is_left_out_and_said_so(
    tmp_path, monkeypatch, found
):
    class Result:
        def write(self, out):
            return []

    there = importlib.util.find_spec
    monkeypatch.setattr(
        refit, "find_spec", lambda name: None if name == "matplotlib" else there(name)
    )
    monkeypatch.setattr(summary, "summarise", lambda result: found)
    console = Console(file=io.StringIO(), width=80)
    refit.show(Result(), tmp_path, console)
    assert "pip install svdhooks[analysis]" in console.file.getvalue()
    assert not list(tmp_path.iterdir())
