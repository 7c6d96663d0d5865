"""The command line as a whole: its help, its exit codes, how it is stopped."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import typer.main
from typer.testing import CliRunner

from svdhooks.cli import app
from svdhooks.cli.root import LOOK, MEASURE, TRY
from tests.logs import write_run

COMMANDS = {
    "summary": LOOK,
    "alarms": LOOK,
    "compare": LOOK,
    "report": LOOK,
    "export": LOOK,
    "plan": MEASURE,
    "scan": MEASURE,
    "demo": TRY,
    "refit": TRY,
}


def _help(*command: str) -> str:
    environment = {"COLUMNS": "80", "TERMINAL_WIDTH": "80"}
    result = CliRunner().invoke(app, [*command, "--help"], env=environment)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_help_groups_the_commands():
    text = _help()
    places = [text.index(f" {panel} ─") for panel in (LOOK, MEASURE, TRY)]
    assert places == sorted(places)
    for command, panel in COMMANDS.items():
        found = re.search(rf"^│ {command} ", text, re.MULTILINE)
        assert found is not None
        mine = [place for place in places if place < found.start()][-1]
        assert text[mine:].startswith(f" {panel}")
    assert set(typer.main.get_command(app).commands) == set(COMMANDS)


def test_the_help_says_what_exit_codes_mean():
    assert "Exit codes: 0 fine, 1 error, 2 alarms" in _help()
    assert "2 found" in _help("alarms")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_examples_that_fit(command):
    lines = [line.rstrip() for line in _help(command).splitlines()]
    assert max(map(len, lines)) <= 80
    begin = lines.index(" Examples")
    end = next(i for i, line in enumerate(lines) if line.startswith("╭"))
    examples = [line.strip() for line in lines[begin + 1 : end] if line.strip()]
    assert 2 <= len(examples) <= 3 or command == "demo"
    assert all(line.startswith(f"svdhooks {command}") for line in examples)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_in_the_help_can_be_parsed(command):
    import shlex

    group = typer.main.get_command(app)
    for line in _help(command).splitlines():
        if not line.strip().startswith(f"svdhooks {command}"):
            continue
        arguments = shlex.split(line.strip())[2:]
        parsed = group.commands[command].make_context(command, arguments)
        assert parsed.params


@pytest.mark.parametrize(
    "arguments",
    [["summary"], ["summary", "x", "--nothing"], ["smmary"], ["export", "x", "-o"]],
)
def test_what_is_mistyped_ends_with_one_for_two_means_alarms(arguments):
    assert CliRunner().invoke(app, arguments).exit_code == 1


@pytest.mark.slow
def test_ctrl_c_ends_without_a_traceback_and_leaves_nothing(tmp_path):
    write_run(tmp_path / "run", range(40), ("a", "b"), 64)
    program = (
        "import time\n"
        "from svdhooks.cli import export_parts, main\n"
        "read = export_parts.spectrum_windows\n"
        "def slowly(*arguments):\n"
        "    time.sleep(1)\n"
        "    yield from read(*arguments)\n"
        "export_parts.spectrum_windows = slowly\n"
        "main()\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    arguments = ["export", str(tmp_path / "run"), "-o", str(out / "x.csv")]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments, "--what", "spectra"],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not list(out.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(out.iterdir())  # it is being written
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode in {1, 130}
    assert "Traceback" not in errors
    assert list(out.iterdir()) == []
