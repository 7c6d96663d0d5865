"""What ``docs/reading.md`` says: its numbers, measures, pictures, runs and commands.

The runs themselves are not kept: ``docs/reading_pictures.py`` reads each number from its
run into ``tests/data/reading.json``, and here the text is held against that.
"""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from svdhooks import derived
from svdhooks.analysis.reporting.meanings import known
from svdhooks.cli import app

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reading.md"
TEXT = PAGE.read_text()
FLOWING = " ".join(TEXT.split())
TOLD = json.loads((ROOT / "tests" / "data" / "reading.json").read_text())
QUOTED = set(re.findall(r"`([^`\n]+)`", TEXT))
POINTS = ("weight", "input", "output", "tokens", "jacobian", "ledger", "edges")
MEASURE = re.compile(rf"(?:{'|'.join(POINTS)}|attention_logits)_[a-z_]+")
NUMBER = re.compile(r"(?<![\w.σ₁`-])[−-]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w`])")


def numbers_in(text: str) -> list[str]:
    """Numbers as written, without those in code."""
    return NUMBER.findall(re.sub(r"`[^`]*`", "", text))


def agrees(written: str, value: float) -> bool:
    """Whether a value rounds to what is written, to the digits that are written."""
    plain = written.replace(",", "").replace("−", "-")
    digits, _, power = plain.partition("e")
    step = 10.0 ** -len(digits.partition(".")[2]) * 10.0 ** int(power or 0)
    if power == "" and "," in written:
        step = 10.0 ** (len(plain) - len(plain.rstrip("0")))
    return abs(float(plain) - value) <= 0.5000001 * step


def commands() -> Iterator[list[str]]:
    """The lines of the console blocks, in words."""
    for block in re.findall(r"```console\n(.*?)```", TEXT, re.S):
        yield from (shlex.split(line) for line in block.splitlines() if line)


@pytest.mark.parametrize("entry", TOLD["numbers"], ids=lambda e: e["text"])
def test_a_number_is_that_of_its_run(entry: dict[str, Any]) -> None:
    assert entry["text"] in FLOWING
    written = numbers_in(entry["text"])[-len(entry["values"]) :]
    assert len(written) == len(entry["values"])
    for shown, value in zip(written, entry["values"], strict=True):
        assert agrees(shown, value), f"{shown} stands for {value}"
    assert f"`{entry['run']}`" in TEXT


@pytest.mark.parametrize(
    ("written", "value", "good"),
    [
        ("0.978", 0.9781, True),
        ("0.978", 0.9786, False),
        ("63", 62.6, True),
        ("63", 63.6, False),
        ("−0.947", -0.94712, True),
        ("−0.947", 0.947, False),
        ("7e-11", 6.67e-11, True),
        ("7e-11", 6.4e-11, False),
        ("40,600", 40_633.0, True),
        ("40,600", 40_690.0, False),
    ],
)
def test_the_comparison_of_numbers_can_fail(
    written: str, value: float, good: bool
) -> None:
    assert agrees(written, value) is good


def test_ranks_by_number_of_samples() -> None:
    few = re.search(r"from 32 images: ([\d.]+); from 1,024: (\d+\.\d+)", FLOWING)
    assert few is not None
    assert agrees(few[1], TOLD["by_samples"]["32"])
    assert agrees(few[2], TOLD["by_samples"]["1024"])


def test_every_measure_exists() -> None:
    named = {name for name in QUOTED if MEASURE.fullmatch(name)}
    assert len(named) > 15
    unknown = {name for name in named if not known(name) and not _derived(name)}
    assert unknown == set()
    assert not known("output_effective_runk")


def _derived(name: str) -> bool:
    point, _, measure = name.partition("_")
    return measure in derived.MEASURES and not derived.why_not(measure, point)


def test_every_picture_exists_and_is_small() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert len(pictures) > 4
    for picture in pictures:
        assert (PAGE.parent / picture).stat().st_size < 200_000
    own = {p.name for p in (PAGE.parent / "images").glob("reading_*.png")}
    assert own == {Path(p).name for p in pictures if "reading_" in p}


def test_every_linked_page_exists() -> None:
    pages = re.findall(r"(?<!!)\[[^\]]+\]\(([^)#]+)[^)]*\)", TEXT)
    assert pages
    assert all((PAGE.parent / page).exists() for page in pages)


def test_every_run_is_one_that_can_be_trained() -> None:
    sources = (ROOT / "benchmarks" / "alarm_runs").glob("*.py")
    strings = {
        node.value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    named = {entry["run"] for entry in TOLD["numbers"]}
    assert {run for run in named - strings if not run.startswith("decay-")} == set()


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_is_one(words: list[str]) -> None:
    if words[0] == "python":
        assert (ROOT / words[1]).is_file()
        source = (ROOT / words[1]).read_text()
        assert all(w in source for w in words[2:] if w.startswith("--"))
        return
    group = typer.main.get_command(app)
    command = group.commands[words[1]]  # type: ignore[attr-defined]
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words[2:] if word.startswith("-")} <= options
