"""``svdhooks scan``."""

import csv
import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from typer.testing import CliRunner

from svdhooks import RunLog, scan_checkpoint
from svdhooks.cli import app
from svdhooks.cli.scan_table import plain
from svdhooks.cli.scanned import scanned
from tests.models import mlp


def run(*args, width: int = 80, **options) -> tuple[int, str]:
    screen = io.StringIO()
    console = Console(file=screen, width=width, emoji=False)
    return scanned(*args, **options, console=console), screen.getvalue()


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(mlp(40, 30, 20).state_dict(), tmp_path / "step7.pt")
    return tmp_path / "step7.pt"


def test_a_row_per_layer_fits_into_80_columns(checkpoint) -> None:
    status, text = run(str(checkpoint), measures="power_law_alpha")
    assert status == 0
    table = text.partition("\n")[2]
    assert max(map(len, table.splitlines())) <= 80
    scan = scan_checkpoint(checkpoint)
    for name, record in zip(("0", "2"), scan.layers, strict=True):
        line = next(line for line in table.splitlines() if line.split()[:1] == [name])
        assert f"{record.measures['stable_rank']:.1f}" in line or (
            f"{record.measures['stable_rank']:.2f}" in line
        )


def test_the_csv_has_every_measure_and_the_skipped_apart(tmp_path) -> None:
    state = {"=cmd.weight": torch.eye(3), "@queue": torch.ones(2, 2)}
    save_file(state, tmp_path / "a.safetensors")
    status, _ = run(str(tmp_path / "a.safetensors"), csv=tmp_path / "out.csv")
    assert status == 0
    (row,) = read(tmp_path / "out.csv")
    assert row["layer"] == "'=cmd"  # no formula
    assert float(row["stable_rank"]) == pytest.approx(3.0)
    assert row["shape"] == "3x3"
    (left,) = read(tmp_path / "out.skipped.csv")
    assert left["tensor"] == "'@queue"


def test_hostile_names_are_text(tmp_path) -> None:
    hostile = "[red]x[/red]\x1b[31m<b>../../:smile:\u202e" + "y" * 10_000
    content = {f"{hostile}.weight": torch.eye(3), f"{hostile}.queue": torch.ones(2, 2)}
    save_file(content, tmp_path / "a.safetensors")
    status, text = run(str(tmp_path / "a.safetensors"), log=tmp_path / "log")
    assert status == 0
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]x[/red]" in text.replace("\n", "").replace(" ", "")
    assert len(text) < 5_000
    assert RunLog(tmp_path / "log").layers == (hostile,)
    assert {p.name for p in tmp_path.iterdir()} == {"a.safetensors", "log"}


def test_plain_text_is_printable_and_bounded() -> None:
    assert plain("a\x1b\nb") == "a\\x1b\\nb"
    assert len(plain("x" * 10_000)) == 200
    assert plain("schön ×") == "schön ×"


def test_a_series_is_logged_and_summed_up(checkpoint) -> None:
    place = checkpoint.parent
    (place / "step9.pt").write_bytes(checkpoint.read_bytes())
    (place / "step11.pt").write_bytes(b"broken")
    status, text = run(
        f"{place}/step*.pt",
        r"step(\d+)",
        "all",
        place / "log",
        place / "out.csv",
    )
    assert status == 0
    assert RunLog(place / "log").steps.tolist() == [7, 9]
    assert "Unchanged through all checkpoints: 0, 2" in text
    assert "Passed over" in text
    rows = read(place / "out.csv")
    assert [(row["step"], row["layer"]) for row in rows] == [
        ("7", "0"),
        ("7", "2"),
        ("9", "0"),
        ("9", "2"),
    ]


def test_a_single_checkpoint_is_logged_at_its_own_step(tmp_path) -> None:
    content = {"state_dict": mlp(3, 3).state_dict(), "global_step": 40, "epoch": 1}
    torch.save(content, tmp_path / "a.ckpt")
    assert run(str(tmp_path / "a.ckpt"), log=tmp_path / "log", vectors=2)[0] == 0
    log = RunLog(tmp_path / "log")
    assert log.steps.tolist() == [40]
    assert log.vectors("0")[1]["sigma"][0].shape == (2,)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"vectors": 3}, "--vectors needs --log"),
        ({"vectors": "many", "log": Path("x")}, "expected a number"),
        ({"step": r"step(\d+)"}, "add --log DIR"),
        ({"layers": "nothing"}, "matches no layer"),
        ({"measures": "nothing"}, "no measure 'nothing'"),
    ],
)
def test_errors_are_one_line_with_the_remedy(options, told, checkpoint, capsys) -> None:
    status, text = run(str(checkpoint), **options)
    assert status == 1
    assert text == ""
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("kept", "many"), [("all", 5), ("2", 2)])
def test_vectors_are_typed_as_a_number_or_all(kept, many, tmp_path) -> None:
    torch.save(torch.nn.Linear(6, 5).state_dict(), tmp_path / "a.pt")
    log = tmp_path / "log"
    typed = ["scan", str(tmp_path / "a.pt"), "--vectors", kept, "--log", str(log)]
    result = CliRunner().invoke(app, typed)
    assert result.exit_code == 0, result.output
    (layer,) = RunLog(log).layers
    assert RunLog(log).vectors(layer)[1]["sigma"][0].shape == (many,)


def test_a_missing_file_is_told(tmp_path, capsys) -> None:
    assert run(str(tmp_path / "[red]nothing.pt"))[0] == 1
    assert "There is no" in capsys.readouterr().err


def test_the_report_of_a_checkpoint_is_a_page(checkpoint) -> None:
    status, _ = run(str(checkpoint), html=checkpoint.parent / "page.html")
    assert status == 0
    page = (checkpoint.parent / "page.html").read_text("utf-8")
    assert page.lstrip().lower().startswith("<!doctype html")
    assert "step7.pt" in page
