"""Every example runs and leaves a log that can be read."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import svdhooks

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
@pytest.mark.filterwarnings("ignore:.*treespec.*")
def test_the_example_runs_and_leaves_a_log(path, tmp_path):
    _load(path).main(str(tmp_path), epochs=1)
    (log,) = svdhooks.runs(tmp_path).values()
    assert len(log.steps) > 2
    assert log.damage["bad"] == 0


def test_there_is_an_example_of_each_way():
    assert {p.stem for p in EXAMPLES} >= {"plain_loop", "lightning_callback"}
