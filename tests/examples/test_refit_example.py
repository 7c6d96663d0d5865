"""The example of the refit runs and leaves its tables and its figure."""

import pytest


@pytest.mark.slow
def test_the_refit_runs_and_leaves_tables_and_a_figure(example, tmp_path):
    few = {"seeds": 1, "restarts": 1, "steps": 2, "chance_draws": 2}
    result = example("refit_digits").main(str(tmp_path / "out"), **few)
    assert {row["layer"] for row in result.table if row["side"] == "right"} == {
        "fc1", "fc2", "fc3",
    }  # fmt: skip
    found = {path.suffix for path in (tmp_path / "out").iterdir()}
    assert found >= {".csv", ".png", ".json", ".safetensors"}
