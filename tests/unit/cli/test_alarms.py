"""``svdhooks alarms``: what it lists, and when it fails."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from svdhooks import schema
from svdhooks.alarms import AlarmEvent, alarms_of
from svdhooks.cli import alarmed, app
from svdhooks.eventfile.values import scalar, text
from svdhooks.eventfile.writer import EventFileWriter
from svdhooks.record import Record
from svdhooks.runlog import RunLog
from svdhooks.sinks.tensorboard import TensorBoardSink
from tests.logs import meta_record, run_record, weight_record, write_run

STEPS = range(0, 400, 10)
BROKEN = 200
"""The step from which on the weights of a layer are not finite."""
NAME = "[bold]fc[/bold]"


def _failed(step: int, layer: str) -> Record:
    good = weight_record(step, layer)
    values = {name: np.full_like(v, np.nan) for name, v in good.values.items()}
    why = "non-finite values (NaN or Inf)"
    return Record(step, layer, good.quantity, values, status=why, point="weight")


def _run(log_dir: Path, broken: bool = True, loss: bool = True) -> None:
    """A layer that is steady, and one that breaks, or does not."""
    sink = TensorBoardSink(log_dir)
    for step in STEPS:
        more = {"loss": 1.0 / (1 + step)} if loss else {}
        records = [meta_record([NAME, "head"], step)] if step == 0 else []
        records.append(run_record(step, logged_step=step, **more))
        fails = broken and step >= BROKEN
        records.append(_failed(step, NAME) if fails else weight_record(0, NAME))
        records.append(weight_record(0, "head"))
        sink.write([replace(record, step=step) for record in records])
    sink.close()


def _add_live(log_dir: Path, event: AlarmEvent) -> None:
    """An alarm that the training raised, in a file of its own."""
    # a session that starts behind all records supersedes none
    writer = EventFileWriter(log_dir / "svdhooks", start_step=STEPS.stop)
    told = json.dumps({k: v for k, v in event.as_dict().items() if k != "step"})
    writer.write(event.step, [text(schema.ALARM_TAG, told)])
    writer.close()


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    log_dir = tmp_path_factory.mktemp("broken")
    _run(log_dir)
    return log_dir


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    log_dir = tmp_path_factory.mktemp("sound")
    _run(log_dir, broken=False, loss=False)
    return log_dir


def _alarms(logdir: Path, code: int = 0, width: int = 100, **options: Any) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, emoji=False, highlight=False)
    assert alarmed.alarms(logdir, alarmed.Asked(**options), console) == code
    return out.getvalue()


def test_what_the_rules_say_is_listed(broken):
    expected = alarms_of(RunLog(broken))
    assert [event.alarm for event in expected] == ["non_finite"]
    shown = _alarms(broken)
    assert str(expected[0].step) in shown
    assert NAME in shown
    assert "non_finite" in shown
    assert "loss as given to the recorder" in shown
    folded = " ".join(_alarms(broken, width=2000).split())
    assert expected[0].message in folded


def test_a_run_without_alarms_says_so_and_that_it_has_no_loss(sound):
    shown = _alarms(sound, fail_on=("any",))
    assert "No alarms." in shown
    assert "no training loss found, see --loss" in shown


@pytest.mark.parametrize(
    ("fail_on", "code"),
    [
        ((), 0),
        (("non_finite",), 2),
        (("collapse",), 0),
        (("collapse", "non_finite"), 2),
        (("collapse,non_finite",), 2),
        (("alarm",), 2),
        (("info",), 0),
        (("any",), 2),
    ],
)
def test_it_fails_on_what_it_is_told_to(broken, fail_on, code):
    _alarms(broken, code, fail_on=fail_on)


def test_layers_that_are_not_asked_for_do_not_count(broken):
    assert "No alarms." in _alarms(broken, layers="head", fail_on=("any",))


def test_json_holds_the_events_and_their_sources(broken):
    told = json.loads(_alarms(broken, 2, as_json=True, fail_on=("alarm",)))
    assert told["failed"] is True
    (run,) = told["runs"]
    assert run["loss"] == "loss"
    (event,) = run["alarms"]
    assert event.pop("source") == ["read afterwards"]
    assert event == alarms_of(RunLog(broken))[0].as_dict()


def test_alarms_of_the_training_are_marked_live(tmp_path):
    _run(tmp_path)
    other = AlarmEvent(390, "head", "mine", "info", "[red]only live[/red]", 380)
    _add_live(tmp_path, other)
    told = json.loads(_alarms(tmp_path, as_json=True))["runs"][0]["alarms"]
    sources = {one["alarm"]: one["source"] for one in told}
    assert sources == {"non_finite": ["read afterwards"], "mine": ["live"]}
    shown = _alarms(tmp_path)
    assert "[red]only live[/red]" in shown  # as text
    assert "live\n" in "".join(line.rstrip() + "\n" for line in shown.splitlines())


def test_an_alarm_raised_live_and_found_again_is_one(tmp_path):
    _run(tmp_path)
    (same,) = alarms_of(RunLog(tmp_path))
    _add_live(tmp_path, same)
    (one,) = json.loads(_alarms(tmp_path, as_json=True))["runs"][0]["alarms"]
    assert one["source"] == ["live", "read afterwards"]


def test_the_loss_is_a_scalar_of_others_if_it_is_named(tmp_path):
    _run(tmp_path, loss=False)
    writer = EventFileWriter(tmp_path)
    for step in STEPS:
        writer.write(step, [scalar("my/objective", 1.0 / (1 + step))])
    writer.close()
    assert "'my/objective'" in _alarms(tmp_path, loss="my/objective")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fail-on", "colapse"], "Did you mean 'collapse'"),
        (["--preset", "sssl"], "'ssl'"),
        (["--loss", "nothing"], "no scalar 'nothing'"),
        (["--layers", "haed"], "Did you mean 'head'?"),
    ],
)
def test_a_name_that_is_not_there_is_one_line(broken, options, said):
    result = CliRunner().invoke(app, ["alarms", str(broken), *options])
    assert result.exit_code == 1, result.output
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_the_exit_code_reaches_the_shell_without_torch(broken, tmp_path):
    write_run(tmp_path / "run", range(0, 30, 10))
    program = (
        "import sys, atexit\n"
        "atexit.register(lambda: sys.stderr.write(str('torch' in sys.modules)))\n"
        "from svdhooks.cli import main; main()\n"
    )
    for logdir, code in ((broken, 2), (tmp_path / "run", 0)):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                program,
                "alarms",
                logdir,
                "--fail-on",
                "non_finite",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert done.stderr == "False"
