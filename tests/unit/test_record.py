"""Records as they are handed to sinks."""

import copy
import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from svdhooks.record import OK, Record


def weight() -> Record:
    values = {
        "spectrum": np.array([3.0, 1.0], dtype=np.float32),
        "stable_rank": np.array(1.25),
        "numerical_rank": np.array(2),
    }
    return Record(5, "fc1", "weight_spectrum", values, point="weight")


def test_measures_are_the_scalar_fields_as_floats() -> None:
    measures = weight().measures
    assert measures == {"stable_rank": 1.25, "numerical_rank": 2.0}
    assert all(isinstance(value, float) for value in measures.values())


def test_the_spectrum_is_that_field_and_empty_without_it() -> None:
    assert weight().spectrum.tolist() == [3.0, 1.0]
    assert Record(0, "", "run").spectrum.shape == (0,)


def test_a_record_is_ok_until_it_says_otherwise() -> None:
    assert weight().ok
    assert weight().status == OK == "ok"
    assert not Record(5, "fc1", "weight_spectrum", status="weight holds NaN").ok


def test_a_record_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        weight().step = 6  # type: ignore[misc]


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))]
)
def test_a_record_can_be_copied_and_sent(copied: object) -> None:
    twin = copied(weight())
    assert (twin.step, twin.layer, twin.measures) == (5, "fc1", weight().measures)
    assert twin.spectrum.tolist() == [3.0, 1.0]
