"""The command line: what it prints of a log."""

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import svdhooks
from svdhooks.cli import app, read
from svdhooks.cli.columns import number, sparkline
from svdhooks.sinks.tensorboard import TensorBoardSink
from tests.logs import (
    LEDGER_FIELDS,
    jacobian_record,
    ledger_record,
    meta_record,
    step_records,
    weight_record,
)

NAMES = ("[bold]x", "a/b", "100%", "[/red]", "face:smile:")


class Chain(nn.Module):
    """Linear layers under names that mean something to others."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.Linear(6, 6) for name in names})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts.values():
            x = part(x)
        return x


def _record(log_dir: Path, model: nn.Module, steps: int = 3, **options: Any) -> None:
    probe = torch.randn(40, 6)
    with svdhooks.watch(model, log_dir, every=1, probe=probe, **options) as recorder:
        for _ in range(steps):
            recorder.step()


def _summary(
    logdir: Path, layers: str = "*", width: int = 100, metrics: str | None = None
) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, emoji=False)
    assert read.summary(logdir, layers, console, metrics) == 0
    return out.getvalue()


def _rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if " → " in line]


def test_the_version_is_shown_without_a_command():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output == f"svdhooks {svdhooks.__version__}\n"


def test_no_command_shows_the_help():
    assert "summary" in CliRunner().invoke(app, []).output


def test_the_summary_shows_first_and_last_rank_of_every_layer(tmp_path):
    model = Chain()
    _record(tmp_path, model)
    rows = _rows(_summary(tmp_path))
    assert len(rows) == len(NAMES)
    for row, name in zip(rows, NAMES, strict=True):
        sigma = np.linalg.svd(
            model.parts[name].weight.detach().double().numpy(), compute_uv=False
        )
        rank = f"{(sigma**2).sum() / sigma[0] ** 2:.2f}"
        assert row.split()[:5] == [f"parts.{name}", "6×6", rank, "→", rank]


def test_taps_tokens_and_attention_are_shown_where_they_have_ranks(tmp_path):
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    with svdhooks.watch(
        model,
        tmp_path,
        probe=torch.randn(6, 5, 16),
        taps={"whole": "norm2"},
        quantities=["weight_spectrum", "covariance", "token_rank", "attention_logits"],
    ) as recorder:
        rank = recorder.last["whole", "tokens"].measures["effective_rank"]
    rows = {row.split()[0]: row.split()[1:] for row in _rows(_summary(tmp_path))}
    assert "self_attn" not in rows  # has none of the ranks
    assert rows["linear1"][0] == "32×16"
    assert rows["whole"][0] == "16"
    assert f"{rank:.2f}" in rows["whole"]


def test_pairs_of_layers_are_shown_where_their_measures_are_asked_for(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    edges = svdhooks.SpectralEdges(pairs=[("0", "2")])
    _record(tmp_path, model, quantities=["weight_spectrum", edges])
    assert "0->2" not in _summary(tmp_path)
    rows = _rows(_summary(tmp_path, metrics="edges_top"))
    assert [row.split()[0] for row in rows if "→" in row] == ["0->2"]


def test_names_are_printed_as_they_are(tmp_path, capsys):
    _record(tmp_path, Chain(), 1)
    assert read.summary(tmp_path, "*") == 0  # with the console that users get
    out = capsys.readouterr().out
    assert all(f"parts.{name}" in out for name in NAMES)


@pytest.mark.parametrize("width", [64, 80, 100, 140])
def test_status_and_numbers_are_whole_at_any_width(tmp_path, width):
    _record(tmp_path, Chain(("short", "a_name_that_is_longer_than_the_column_is")))
    rows = _rows(_summary(tmp_path, width=width))
    assert all(len(row) <= width for row in rows)
    assert [len(re.findall(r"[\d.]+ → [\d.]+", row)) for row in rows] == [3, 3]
    if width > 64:
        assert all(re.search(r" ok\s*$", row) for row in rows)


def test_a_layer_that_failed_says_how_often_and_why(tmp_path):
    model = Chain(("first", "second"))
    with torch.no_grad():
        model.parts["second"].weight[0, 0] = math.nan
    with pytest.warns(svdhooks.reports.RecordingWarning):
        _record(tmp_path, model)
    text = _summary(tmp_path)
    first, second = _rows(text)
    assert first.rstrip().endswith("ok")
    assert second.rstrip().endswith("8 failed")
    assert "parts.second: weight 4 × non-finite values (NaN or Inf); output 4 ×" in text


def test_a_glob_that_matches_no_layer_says_how_many_there_are(tmp_path):
    _record(tmp_path, Chain(("only",)))
    assert "1 layer does not match --layers." in _summary(tmp_path, "nothing*")


@pytest.mark.slow
def test_many_layers_each_have_a_row(tmp_path):
    _record(tmp_path, Chain(tuple(f"layer{i}" for i in range(120))), 1)
    assert len(_rows(_summary(tmp_path))) == 120


def test_a_resumed_run_says_how_many_records_were_superseded(tmp_path):
    model = Chain(("only",))
    _record(tmp_path, model, 5)
    _record(tmp_path, model, 2, start_step=4)
    text = _summary(tmp_path)
    assert "7 records, steps 0–6" in text
    assert "Log: 2 dropped." in text


def test_a_run_is_found_by_its_own_directory_its_parent_and_its_sub_run(tmp_path):
    _record(tmp_path / "runs" / "one", Chain(("only",)))
    for logdir in ("runs", "runs/one", "runs/one/svdhooks"):
        assert "one " in _summary(tmp_path / logdir)
        assert len(_rows(_summary(tmp_path / logdir))) == 1


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("empty", "No svdhooks log below"),
        ("missing", "is no directory"),
        ("file", "is no directory"),
        ("foreign", "No svdhooks log below"),
    ],
)
def test_what_holds_no_run_is_refused_with_a_reason(tmp_path, capsys, place, hint):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "events.out.tfevents.1.host").write_bytes(b"")
    assert read.summary(tmp_path / place, "*") == 1
    assert hint in capsys.readouterr().err


def test_a_sparkline_has_one_character_for_each_span_of_steps():
    steps = np.arange(8)
    assert sparkline(steps, np.arange(8.0), 8) == "▁▂▃▄▅▆▇█"
    # nothing was recorded in the middle
    line = sparkline(np.array([0, 1, 9, 10]), np.full(4, 2.0), 10)
    assert line == "██       █"
    assert sparkline(steps, np.zeros(8), 4) == "▁▁▁▁"


# --- what was asked for by name ----------------------------------------------------------


def _asked(log_dir: Path, names: tuple[str, ...] = NAMES) -> None:
    """Local rank at few steps, of the second layer by a sketch; the ledger at others."""
    sink = TensorBoardSink(log_dir)
    sink.write([meta_record(names)])
    for step in range(0, 1001, 20):
        found = step_records(step, names)
        if step in {0, 20, 60, 200, 1000}:
            found += [
                jacobian_record(step, name, sketch=name == "a/b") for name in names
            ]
        found += [ledger_record(step, name) for name in names]
        sink.write(found)
    sink.close()


def _shown(step: int, name: str, metric: str) -> str:
    value = jacobian_record(step, name).measures[metric]
    return f"{value:.2f}"


@pytest.mark.parametrize("width", [80, 100, 120, 160, 200])
def test_local_ranks_are_shown_first_to_last_where_there_is_room(tmp_path, width):
    _asked(tmp_path)
    text = _summary(tmp_path, width=width)
    assert all(len(line) <= width for line in text.splitlines()[:12])
    rows = dict(zip(NAMES, _rows(text), strict=True))
    relative = [_shown(s, "100%", "relative_local_rank") for s in (0, 1000)]
    assert " → ".join(relative) in rows["100%"]
    absolute = [_shown(s, "100%", "local_rank") for s in (0, 1000)]
    assert (" → ".join(absolute) in rows["100%"]) == (width >= 120)
    assert ("Too narrow for" in text) == (width < 120)
    sketched = [_shown(s, "a/b", "local_rank") for s in (0, 1000)]
    assert (f"≥{sketched[0]} → ≥{sketched[1]}" in rows["a/b"]) == (width >= 120)
    assert "≈" in rows["a/b"]
    assert "≈" not in rows["100%"]
    assert "random directions of the input" in text
    assert "ledger" not in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_any_measure_is_shown_on_request(tmp_path, width):
    _asked(tmp_path, ("fc1", "fc2"))
    text = _summary(tmp_path, width=width, metrics="ledger_*, nothing")
    assert all(len(line) <= width for line in text.splitlines()[:6])
    shown = re.findall(r"(\S+) +→ +(\S+)", text)
    expected = [
        tuple(number(ledger_record(s, name).measures[field]) for s in (0, 1000))
        for field in LEDGER_FIELDS
        for name in ("fc1", "fc2")
    ]
    assert sorted(shown) == sorted(expected)
    assert "stable rank" not in text


def test_measures_that_follow_from_spectra_are_shown_too(tmp_path):
    _asked(tmp_path, ("fc1",))
    (row,) = _rows(_summary(tmp_path, metrics="weight_nuclear_ratio"))
    sigma = weight_record(0, "fc1").spectrum
    assert f"{sigma.sum() / sigma[0]:.2f}" in row


def test_a_glob_that_matches_no_measure_is_answered_with_those_there_are(tmp_path):
    _asked(tmp_path, ("fc1",))
    text = _summary(tmp_path, metrics="nothing*")
    assert "No measure matches --metrics" in text
    assert "ledger_input_null_share" in text


def test_a_sparkline_of_early_steps_gives_each_record_its_share():
    steps = np.array([0, 1, 2, 5, 10, 100, 1000, 10000])
    assert sparkline(steps, np.arange(8.0), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline(steps, np.arange(8.0), 40) == "▁▂▃▄▅▆▇█"
