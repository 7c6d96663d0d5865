"""The demos: what they run, write and show, and that their words follow the numbers."""

import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter
from typer.testing import CliRunner

import svdhooks
from svdhooks.cli import (
    app,
    demo_attention,
    demo_plasticity,
    demo_simsiam,
    demo_words,
    measure,
)
from svdhooks.cli.demo_kind import Findings
from svdhooks.cli.demo_screen import Screen
from svdhooks.experiments import attention, plasticity

STEPS = np.array([0, 10, 20, 30])
HEALTHY = np.array([10.0, 10.0, 10.0, 10.0])


# --- words in common ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("collapsed", "first"),
    [
        ([10, 4, 4, 4], 10),
        ([4, 4, 4, 4], 0),
        ([10, 4, 6, 4], 30),  # what counts is from when on it stays
        ([10, 4, 4, 6], None),
        ([10, 5, 5, 5], None),  # half is not below half
        ([10, 9], None),
        ([10, 4], 10),
        ([], None),
    ],
)
def test_runs_are_apart_from_the_step_after_which_they_stay_so(collapsed, first):
    found = demo_words.first_apart(STEPS, HEALTHY, np.array(collapsed, dtype=float))
    assert found == first


def test_a_demo_cell_is_bold_if_it_is_alarming():
    assert demo_words.cell([20.0, 9.9], True) == "[bold red]20 → 9.9[/bold red]"
    assert demo_words.cell([20.0, 9.96], False) == "20 → 10"
    assert demo_words.cell([], False) == "[dim]–[/dim]"


def test_the_ends_of_a_series_are_the_means_of_its_first_and_last_tenth():
    assert demo_words.ends(np.arange(30.0)) == (1.0, 28.0)
    assert demo_words.ends(np.array([4.0, np.nan])) == (4.0, 4.0)
    assert np.isnan(demo_words.ends(np.array([np.nan]))).all()


def test_a_long_path_is_shown_whole_on_a_narrow_terminal(tmp_path):
    where = tmp_path / ("long" * 30)
    panel = demo_words.conclusion(where, ("a", "b"), Findings([("x", "1", "2")], "So."))
    console = Console(file=io.StringIO(), width=80)
    console.print(panel)
    shown = re.sub(r"[\s│]", "", console.file.getvalue())
    assert f"tensorboard--logdir{where}" in shown


# --- each demo's words, from numbers made up --------------------------------------------


def _simsiam(collapsed: list[float], loss: float) -> str:
    names = (demo_simsiam.HEALTHY, demo_simsiam.COLLAPSED)
    ranks = dict(
        zip(names, [(STEPS, HEALTHY), (STEPS, np.array(collapsed))], strict=True)
    )
    losses = dict(
        zip(names, [np.array([0.0, -0.5]), np.array([0.0, loss])], strict=True)
    )
    return demo_simsiam.verdict(ranks, losses)


def test_simsiam_says_what_was_seen_and_nothing_else():
    text = _simsiam([10.0, 9.0, 4.0, 4.0], -0.9)
    assert "From step 20 on" in text
    assert "67 % of the way" in text
    assert "it even looks better" in text
    assert "looks better" not in _simsiam([10.0, 9.0, 4.0, 4.0], -0.1)
    assert "did not stay below" in _simsiam([10.0, 9.0, 9.0, 9.0], -0.9)


KEPT = demo_plasticity.Evidence(
    accuracy=(0.9, 0.85),
    rank=(27.0, 22.0),
    dead=(0.1, 0.2),
    weights={"third, stable rank": (12.0, 11.0), "third, effective rank": (95.0, 94.0)},
)
LOST = demo_plasticity.Evidence(
    accuracy=(0.86, 0.11),
    rank=(24.0, 0.3),
    dead=(0.4, 1.0),
    weights={"third, stable rank": (10.0, 6.0), "third, effective rank": (80.0, 88.0)},
)


def test_plasticity_says_what_was_lost_and_that_weights_hardly_show_it():
    text = demo_plasticity.verdict(KEPT, LOST)
    assert "86 % of the first tasks right and 11 % of the last" in text
    assert "it stays (90 % → 85 %)" in text
    assert "falls (24 → 0.3), and units die (40 % → 100 %)" in text
    assert "hardly show it" in text
    assert "-40 % (stable rank) and +10 % (effective rank)" in text


@pytest.mark.parametrize(
    ("healthy", "plain", "said", "unsaid"),
    [
        ({}, {"accuracy": (0.9, 0.46)}, "did not lose half", "stops learning"),
        ({"accuracy": (0.9, 0.2)}, {}, "it falls too (90 % → 20 %)", "it stays"),
        (
            {},
            {"rank": (24.0, 13.0)},
            "does not halve (24 → 13), but units die",
            "falls (",
        ),
        ({}, {"dead": (0.4, 0.3)}, "but no more units die", "and units die"),
        (
            {},
            {"weights": {"third, stable rank": (10.0, 4.0)}},
            "show it too: third, stable rank, 10 → 4.0",
            "hardly",
        ),
    ],
)
def test_plasticity_takes_back_each_claim_that_the_numbers_do_not_show(
    healthy, plain, said, unsaid
):
    text = demo_plasticity.verdict(replace(KEPT, **healthy), replace(LOST, **plain))
    assert said in text
    assert unsaid not in text


APART = demo_attention.Evidence(
    tokens=([7.0, 5.0, 4.0], [7.0, 6.0, 6.5]),
    pooled=[12.0, 16.0, 18.0],
    embedding=9.0,
    weights=26.0,
    error=0.002,
    floor=0.0616,
)
EQUAL = demo_attention.Evidence(
    tokens=([3.0, 1.02, 1.0], [3.5, 1.1, 1.0]),
    pooled=[16.0, 9.0, 7.5],
    embedding=9.0,
    weights=26.0,
    error=0.0616,
    floor=0.0616,
)


def test_attention_says_where_tokens_are_equal_and_what_does_not_show_it():
    text = demo_attention.verdict(APART, EQUAL)
    assert "from block 3 on (rank 1.00)" in text
    assert "before any training it was so from block 2 on" in text
    assert "still tells them apart (rank 6.5)" in text
    assert "does not show it:[/bold] its effective rank there is 7.5 to 7.5" in text
    assert (
        "Its error ends at 0.0616; the least that equal tokens allow is 0.0616" in text
    )


@pytest.mark.parametrize(
    ("healthy", "collapsed", "said", "unsaid"),
    [
        (
            {},
            {"tokens": ([3.0, 1.0, 1.0], [3.0, 1.0, 1.2])},
            "did not become the same",
            "from block",
        ),
        (
            {},
            {"tokens": ([3.0, 2.0, 1.5], [3.0, 1.0, 1.0])},
            "from block 2 on",
            "before any training",
        ),
        (
            {},
            {"tokens": ([3.0, 2.0, 1.0], [3.0, 2.0, 1.0])},
            "from block 3 on (rank 1.00), and were before any training.",
            "it was so",
        ),
        (
            {"tokens": ([7.0, 5.0, 4.0], [7.0, 6.0, 1.0])},
            {},
            "they become the same too (rank 1.00)",
            "still tells",
        ),
        ({}, {"pooled": [16.0, 9.0, 4.0]}, "falls too", "does not show it"),
        ({}, {"error": 0.08}, "still above the 0.0616", "ends at"),
        ({}, {"error": 0.01}, "still below the 0.0616", "ends at"),
    ],
)
def test_attention_takes_back_each_claim_that_the_numbers_do_not_show(
    healthy, collapsed, said, unsaid
):
    text = demo_attention.verdict(
        replace(APART, **healthy), replace(EQUAL, **collapsed)
    )
    assert said in text
    assert unsaid not in text


# --- from logs ---------------------------------------------------------------------------


def _plasticity_log(
    log_dir: Path, accuracy: list[float], shrink: float
) -> svdhooks.RunLog:
    """A log in which a weight shrinks to four directions."""
    model = plasticity.Classifier(0)
    with (
        SummaryWriter(str(log_dir)) as scalars,
        svdhooks.watch(model, log_dir, every=1, probe=torch.rand(300, 64)) as recorder,
    ):
        for step, value in enumerate(accuracy, start=1):
            with torch.no_grad():
                # the first record after step 0 is what later ones are compared with
                model.third.weight[4:] *= shrink if step > 1 else 1.0
            recorder.step()
            scalars.add_scalar("accuracy", value, step)
            scalars.add_scalar("dead_units", 0.5, step)
    return svdhooks.RunLog(log_dir)


def test_plasticity_reads_logs_that_contradict_it(tmp_path):
    kept = _plasticity_log(tmp_path / "kept", [0.9, 0.9, 0.9], shrink=1.0)
    lost = _plasticity_log(tmp_path / "lost", [0.9, 0.5, 0.1], shrink=1e-3)
    assert "did not lose half" in demo_plasticity.conclude(lost, kept).verdict
    text = demo_plasticity.conclude(kept, lost).verdict
    assert "90 % of the first tasks right and 10 % of the last" in text
    # here it is the weights that fall, and no unit dies
    assert "show it too: third, " in text
    assert "no more units die" in text
    evidence = demo_plasticity.read(lost)
    for kind in ("stable", "effective"):
        steps, values = lost.series("third", f"weight_{kind}_rank")
        expected = (values[steps == 1].item(), values[steps == 3].item())
        assert evidence.weights[f"third, {kind} rank"] == expected


def _attention_log(log_dir: Path, skip: bool, floor: float) -> svdhooks.RunLog:
    images = torch.rand(40, 8, 8)
    model = attention.AttentionOnly(skip, 0)
    taps = {f"block {i + 1}": f"blocks.{i}" for i in range(12)}
    with (
        SummaryWriter(str(log_dir)) as scalars,
        svdhooks.watch(
            model,
            log_dir,
            every=1,
            probe=images,
            taps={"embedding": "place"} | taps,
            quantities=("weight_spectrum", "covariance", svdhooks.TokenRank()),
        ),
    ):
        scalars.add_scalar("error", 0.05, 1)
        scalars.add_scalar("floor_of_equal_tokens", floor, 1)
    return svdhooks.RunLog(log_dir)


@pytest.mark.slow
def test_attention_reads_logs_that_contradict_it(tmp_path):
    apart = _attention_log(tmp_path / "apart", skip=True, floor=0.05)
    equal = _attention_log(tmp_path / "equal", skip=False, floor=0.02)
    assert "did not become the same" in demo_attention.conclude(equal, apart).verdict
    text = demo_attention.conclude(apart, equal).verdict
    assert "all tokens of a digit are the same[/bold] from block 2 on" in text
    assert "0.0500 is still above the 0.0200" in text
    assert "become the same too" in demo_attention.conclude(equal, equal).verdict


# --- the command ---------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, without frames and line breaks."""
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def _run(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from svdhooks.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, "demo", *arguments],
        cwd=where,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"COLUMNS": "120"},
    )


@pytest.mark.usefixtures("as_a_user_calls")
def test_the_first_demo_is_the_default_and_keeps_the_plain_directory():
    assert list(measure.DEMOS) == ["simsiam", "plasticity", "attention"]
    assert measure._default_directory("simsiam") == Path("svdhooks-demo")
    assert measure._default_directory("attention") == Path("svdhooks-demo-attention")
    shown = CliRunner().invoke(app, ["demo", "--help"], env={"COLUMNS": "200"}).output
    assert re.search(r"--which.*simsiam, plasticity or attention", shown)
    steps = [str(demo.steps) for demo in measure.DEMOS.values()]
    assert f"{steps[0]}, {steps[1]} or {steps[2]}" in shown


@pytest.mark.usefixtures("as_a_user_calls")
def test_an_unknown_demo_is_refused():
    done = CliRunner().invoke(app, ["demo", "--which", "mnist"])
    assert done.exit_code == 1
    assert "'mnist' is not one of" in done.output


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize("which", measure.DEMOS)
def test_without_scikit_learn_each_demo_says_what_to_install(
    which, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["demo", "--which", which], env={"COLUMNS": "200"})
    assert done.exit_code == 1
    assert "pip install svdhooks[demo]" in done.output
    assert not list(tmp_path.iterdir())


def test_only_runs_of_demos_make_room(tmp_path):
    console = Console(file=io.StringIO())
    chosen, other = measure.DEMOS["attention"], measure.DEMOS["plasticity"]
    for name in (*chosen.runs, *other.runs):
        (tmp_path / name).mkdir()
    assert measure._make_room(tmp_path, chosen, console)
    assert {p.name for p in tmp_path.iterdir()} == set(other.runs)
    (tmp_path / "mine.txt").write_text("text")
    assert not measure._make_room(tmp_path, other, console)
    assert {p.name for p in tmp_path.iterdir()} == {*other.runs, "mine.txt"}


def test_few_steps_of_plasticity_are_logged_and_worded(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    assert measure.demo("plasticity", None, 120, 0, tensorboard=False) == 0
    # two tasks are too few to lose anything, and the words say so
    assert "did not lose half of its accuracy" in said(capsys)
    found = svdhooks.runs(tmp_path / "svdhooks-demo-plasticity")
    assert set(found) == set(demo_plasticity.DEMO.runs)
    for log in found.values():
        assert log.layers == ("first", "second", "third", "head")
        assert log.steps.tolist() == [0, 112]
        assert log.scalars("accuracy")[0].tolist() == [56, 112]


@pytest.mark.slow
def test_few_steps_of_attention_are_logged_and_worded(tmp_path, capsys, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setenv("COLUMNS", "80")
    assert measure.demo("attention", tmp_path / "out", 20, 0, tensorboard=False) == 0
    text = said(capsys)
    assert "Without skip connections all tokens of a digit are the same" in text
    found = svdhooks.runs(tmp_path / "out")
    assert set(found) == set(demo_attention.DEMO.runs)
    last = {
        name: log.series("block 12", "tokens_effective_rank")[1][-1]
        for name, log in found.items()
    }
    assert last[demo_attention.COLLAPSED] < 1.001
    assert last[demo_attention.HEALTHY] > 2
    # the same number stands in the table
    assert f"rank in one digit, block 12 {last[demo_attention.HEALTHY]:.2f} " in text


def test_the_screen_shows_a_row_for_each_layer_of_the_first_run(tmp_path):
    console = Console(file=io.StringIO(), width=110, record=True)
    chosen = demo_attention.DEMO
    with Screen(console, chosen, 2) as screen:
        for name in chosen.runs:
            tell, sink = screen.progress(name), screen.sink(name)
            tell(0, 0.0)
            images = torch.rand(20, 8, 8)
            model = attention.AttentionOnly(name == chosen.runs[0], 0)
            with svdhooks.watch(
                model,
                None,
                every=1,
                probe=images,
                taps={"[red]a": "blocks.0", "block 12": "blocks.11"},
                quantities=("covariance", svdhooks.TokenRank(layers="*[ak] *")),
                sinks=[sink],
            ) as recorder:
                recorder.step()
            tell(2, 0.5)
    shown = console.export_text()
    assert "2/2 loss 0.5000" in shown
    assert re.search(r"● block 12 +\d\.\d → \d\.\d +1\.0 → 1\.0", shown)


@pytest.mark.slow
def test_the_first_demo_runs_and_its_runs_are_read_back(tmp_path):
    pytest.importorskip("sklearn")
    done = _run(tmp_path, "--steps", "100", "--logdir", "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "what svdhooks saw" in done.stdout
    found = svdhooks.runs(tmp_path / "out")
    assert set(found) == set(demo_simsiam.DEMO.runs)
    ranks = {}
    for name, log in found.items():
        assert log.steps.tolist() == list(range(0, 101, 10))
        ranks[name] = log.series(demo_simsiam.EMBEDDING, "input_effective_rank")[1][-1]
        accuracy = log.scalars("nearest_neighbour_accuracy")[1]
        assert f"{accuracy[-1]:.3f}" in done.stdout
    assert ranks[demo_simsiam.COLLAPSED] < 0.5 * ranks[demo_simsiam.HEALTHY]
    # a directory that holds something else is left alone
    (tmp_path / "out" / "mine.txt").write_text("text")
    refused = _run(tmp_path, "--logdir", "out")
    assert refused.returncode == 1
    assert "mine.txt" in refused.stdout
    assert set(svdhooks.runs(tmp_path / "out")) == set(found)


def test_tensorboard_is_started_on_the_runs_and_its_status_passed_on(monkeypatch):
    calls = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(measure.subprocess, "run", run)
    console = Console(file=io.StringIO(), width=200)
    assert measure._tensorboard(Path("a[b]"), console) == 3
    assert calls == [
        [sys.executable, "-m", "tensorboard.main", "--logdir", "a[b]"],
    ]
    assert "--logdir a[b]" in console.file.getvalue()


def test_the_first_alarm_is_told_and_information_is_none():
    info = {"alarm": "compression", "step": 5, "severity": "info"}
    grave = {"alarm": "collapse", "step": 1600, "severity": "alarm"}
    assert demo_words.first_alarm([]) == demo_words.first_alarm([info]) == "none"
    assert demo_words.first_alarm([info, grave, info]) == "collapse, step 1,600"
