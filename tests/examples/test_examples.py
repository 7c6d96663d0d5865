"""Every example runs and leaves a log that can be read."""

from pathlib import Path

import pytest

import svdhooks

EXAMPLES = sorted(p.stem for p in (Path(__file__).parents[2] / "examples").glob("*.py"))
LOOPS = ("lightning_callback", "plain_loop")


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.filterwarnings("ignore:.*treespec.*")
def test_the_example_runs_and_leaves_a_log(name, example, tmp_path):
    example(name).main(str(tmp_path), epochs=1)
    (log,) = svdhooks.runs(tmp_path).values()
    assert len(log.steps) > 2
    assert log.damage["bad"] == 0


def test_every_example_is_run_by_a_test():
    tests = "".join(
        path.read_text() for path in Path(__file__).parent.glob("test_*.py")
    )
    assert [name for name in EXAMPLES if f'"{name}"' not in tests] == []
