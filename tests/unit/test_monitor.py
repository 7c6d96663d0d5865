"""Which measures can be monitored, and what they read."""

import math

import numpy as np
import pytest
from torch import nn

from svdhooks.layers import find_layers
from svdhooks.monitor import as_names, check_monitored, measures, monitored_values
from svdhooks.quantities import resolve_quantities
from svdhooks.record import Record


class Tied(nn.Module):
    """An embedding whose weight is also the head's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


LAYERS = find_layers(Tied()).layers


def _check(*names: str, quantities: str | None = None) -> None:
    check_monitored(names, LAYERS, resolve_quantities(quantities))


def test_what_is_recorded_can_be_monitored():
    _check(
        "weight_stable_rank/embed",
        "output_effective_rank/embed",
        "input_effective_rank/head",
        "weight_stable_rank/min",
        "input_effective_rank/median",
    )


@pytest.mark.parametrize(
    ("name", "quantities", "hint"),
    [
        ("weight_stabel_rank/embed", None, "weight_stable_rank"),
        ("weight_stable_rank/embe", None, "did you mean embed"),
        ("weight_stable_rank", None, "median"),
        ("input_effective_rank/embed", None, "recorded of head"),
        ("weight_stable_rank/head", None, "tied"),
        ("weight_stable_rank/embed", "covariance", "not recorded"),
        ("weight_stable_rank/max", "covariance", "no layer"),
        ("output_effective_rank/median", "weight_spectrum", "not recorded"),
    ],
)
def test_what_no_record_will_fill_is_refused_with_a_hint(name, quantities, hint):
    with pytest.raises(ValueError, match=hint):
        _check(name, quantities=quantities)


def test_one_name_need_not_be_a_list():
    assert as_names("weight_stable_rank/min") == ("weight_stable_rank/min",)
    assert as_names(["a", "b"]) == ("a", "b")


def test_measures_of_all_points_are_known():
    known = measures()
    assert len(known) == len(set(known))
    assert {"weight_stable_rank", "input_effective_rank", "output_count"} <= set(known)


def _record(layer: str, value: float, status: str = "ok") -> Record:
    values = {"stable_rank": np.array(value)}
    return Record(3, layer, "weight_spectrum", values, status, point="weight")


def _values(*records: Record) -> dict[str, float]:
    names = [f"weight_stable_rank/{s}" for s in ("a", "min", "median", "max")]
    last = {(record.layer, record.point): record for record in records}
    found = monitored_values(names, last)
    return {name.partition("/")[2]: value for name, value in found.items()}


def test_values_are_of_one_layer_or_of_all():
    found = _values(_record("a", 4.0), _record("b", 1.0), _record("c", 9.0))
    assert found == {"a": 4.0, "min": 1.0, "median": 4.0, "max": 9.0}


def test_a_failed_record_gives_no_value_that_would_stop_a_training():
    failed = _record("a", math.nan, "non-finite values")
    assert _values(failed, _record("b", 2.0)) == {"min": 2, "median": 2, "max": 2}
    assert _values(failed) == {}


def test_what_was_not_recorded_yet_has_no_value():
    assert _values() == {}
