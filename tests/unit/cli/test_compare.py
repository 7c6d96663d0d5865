"""svdhooks compare: tables that fit, names that are text, errors in one line."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from svdhooks.cli.compared import compared
from tests.planted import write_planted


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep")
    random = np.random.default_rng(0)
    for lr in (0.1, 1.0):
        for seed in range(4):
            noise = np.exp(0.05 * random.standard_normal((25, 12)).cumsum(axis=1) / 12)
            curves = {f"block.{i}.fc": 30 * noise[i] for i in range(24)}
            curves["[red]head[/red]\n"] = (30 if lr == 0.1 else 3) * noise[24]
            write_planted(
                path / f"lr{lr}-{seed}", curves, hparams={"lr": lr, "seed": seed}
            )
    return path


def shown(width: int, logdirs: list[Path], **options) -> str:
    given = {"by": None, "seeds": None, "metrics": None, "layers": "*", "align": "step"}
    out = io.StringIO()
    console = Console(file=out, width=width, emoji=False)
    assert compared(logdirs, **(given | options), console=console) == 0
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_names_the_layer_that_differs(
    root: Path, width: int
) -> None:
    text = shown(width, [root])
    assert "8 runs in 2 groups, aligned by step" in text
    assert "lr=1.0 against lr=0.1: 1 of 25 layers differs beyond what seeds do" in text
    assert max(map(len, text.splitlines())) <= width
    (line,) = [x for x in text.splitlines() if " yes " in x]
    assert line.startswith("[red]head[/red]")
    others = [x for x in text.splitlines() if x.startswith("block.")]
    assert len(others) == 19
    assert all(" no" in x for x in others)
    assert "… and 5 more layers, 0 of which differ" in text
    assert ("95 %" in text) == (width >= 100)


def test_one_layer_and_one_run_of_each_kind(root: Path) -> None:
    text = shown(80, [root / "lr0.1-0", root / "lr1.0-0"], layers="block.3.fc")
    assert "what seeds alone do is not known" in " ".join(text.split())
    assert "differs" not in text
    assert "block.3.fc" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "depth"}, "No run has the hyper-parameter 'depth'; there is lr, seed"),
        ({"metrics": "nothing"}, "No measure matches metric='nothing'"),
        ({"align": "loss"}, "align='loss': no run can be aligned by it"),
    ],
)
def test_errors_are_one_line_with_what_there_is(root, options, message, capsys) -> None:
    given = {"by": None, "seeds": None, "metrics": None, "layers": "*", "align": "step"}
    assert compared([root], **(given | options)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_directory_without_runs_is_an_error(tmp_path: Path, capsys) -> None:
    assert compared([tmp_path], None, None, None, "*", "step") == 1
    assert "Found no run" in capsys.readouterr().err
