"""Tags and the display form of spectra."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svdhooks import schema

NAMES = st.text(min_size=1, max_size=30)


@pytest.mark.parametrize("n", [0, 1, 2, 255, 256])
def test_a_short_spectrum_is_its_own_display_form(n: int) -> None:
    assert schema.display_index(n).tolist() == list(range(n))


@given(st.integers(257, 60_000))
def test_the_display_form_has_both_ends_and_at_most_256_points(n: int) -> None:
    index = schema.display_index(n)
    assert (index[0], index[-1]) == (0, n - 1)
    assert 250 <= len(index) <= 256
    assert (np.diff(index) > 0).all()


@given(st.integers(1000, 60_000))
def test_the_display_form_is_dense_in_front_and_log_spaced_behind(n: int) -> None:
    index = schema.display_index(n)
    assert index[:25].tolist() == list(range(25))
    gaps = np.diff(np.log(index[-60:] + 1.0))
    assert gaps.max() < 1.5 * gaps.min()  # not equal: indices are whole


def test_a_shared_index_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        schema.display_index(300)[0] = 5


@given(st.sampled_from(schema.POINTS), NAMES)
def test_point_and_layer_are_read_back_from_either_tag(point: str, layer: str) -> None:
    for tag in (schema.spectrum_tag(point, layer), schema.full_tag(point, layer)):
        assert schema.layer_of(tag) == (point, layer)


@given(NAMES, NAMES)
def test_different_layers_have_different_tags(one: str, other: str) -> None:
    same = schema.escape(one) == schema.escape(other)
    assert same == (one == other)


@given(NAMES)
def test_a_layer_name_is_one_component_of_a_tag(layer: str) -> None:
    assert schema.stock_tag("weight", "stable_rank", layer).count("/") == 1
    assert schema.histogram_tag(layer).count("/") == 1


@pytest.mark.parametrize(
    "tag", ["loss", "svdhooks/meta", "svdhooks/measure/weight_a", "other/weight/fc"]
)
def test_other_tags_speak_of_no_layer(tag: str) -> None:
    assert schema.layer_of(tag) is None


def test_the_content_of_a_spectrum_says_how_to_place_its_values() -> None:
    content = json.loads(schema.spectrum_content("fc", "weight", 1000, (1000, 2000)))
    index = schema.display_index(content["n"], content["limit"])
    assert content["k"] == len(index)
    assert content["shape"] == [1000, 2000]


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    "module", ["schema", "record", "eventfile", "runlog", "sinks.tensorboard"]
)
def test_reading_and_writing_logs_loads_no_torch_and_no_pandas(module: str) -> None:
    assert not {"torch", "pandas", "lightning"} & loaded_by(f"import svdhooks.{module}")


def test_the_interface_of_sinks_loads_no_tensorboard() -> None:
    assert "tensorboard" not in loaded_by("from svdhooks.sinks import Sink")


def test_a_module_that_is_loaded_would_be_seen() -> None:
    assert {"torch", "tensorboard"} <= loaded_by("import torch, svdhooks.runlog")
