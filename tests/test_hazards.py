"""Every known hazard has a test that proves it is met, and one which shows that it is real."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
HAZARDS = tomllib.loads((TESTS / "hazards.toml").read_text())
PAGE = (TESTS.parent / "docs" / "compatibility.md").read_text()


@cache
def docstrings(file: str) -> dict[str, str]:
    """Name -> docstring of the tests of a file."""
    tree = ast.parse((TESTS / file).read_text())
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    return {f.name: ast.get_docstring(f) or "" for f in functions}


def test_all_hazards_are_listed() -> None:
    assert {int(number) for number in HAZARDS} == set(range(1, 41))


@pytest.mark.parametrize("number", HAZARDS)
def test_a_hazard_has_its_tests(number: str) -> None:
    row = HAZARDS[number]
    named = False
    for test in row["proof"]:
        file, _, name = test.partition("::")
        assert name in docstrings(file), test
        found = re.search(r"[Hh]azards? ([\d, and]+| 1 to 3)", docstrings(file)[name])
        named |= found is not None and number in re.findall(r"\d+", found[1])
    assert named, f"no proving test of hazard {number} says so"
    assert row["companion"]
    for test in row["companion"]:
        file, _, name = test.partition("::")
        assert name in docstrings(file), test


def test_the_page_on_compatibility_claims_what_tests_show() -> None:
    named = re.findall(r"`tests/([\w/]+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) > 40
    for file, name in named:
        assert (TESTS / file).exists(), file
        assert not name or name in docstrings(file), f"{file}::{name}"


def test_every_row_of_the_page_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    for row in rows:
        heading = "| test" in row or set(row) <= set("|- ")
        assert heading or "`tests/" in row, row
