"""Which measures can be monitored, and what they read."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import svdhooks
from svdhooks.conductor.measuring import Measurer
from svdhooks.layers import find_layers
from svdhooks.layers.tap import find_taps
from svdhooks.monitor import Recorded, as_names, check_monitored, monitored_values
from svdhooks.probe import ProbeOptions
from svdhooks.quantities import resolve_quantities
from svdhooks.record import Record
from svdhooks.reports import Reporter


class Tied(nn.Module):
    """An embedding whose weight is also the head's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


def _recorded(
    model: nn.Module, quantities: Any, taps: dict[str, str] | None = None
) -> Recorded:
    found = [
        find_taps({name: source}, dict(model.named_modules()), ())[0]
        for name, source in (taps or {}).items()
    ]
    table = find_layers(model)
    measurer = Measurer(model, table, ProbeOptions(), None, Reporter(), taps=found)
    return measurer.recorded(resolve_quantities(quantities))


def _check(*names: str, quantities: Any = None) -> None:
    check_monitored(names, _recorded(Tied(), quantities))


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


EVERYTHING = [
    svdhooks.WeightSpectrum(heads=True, measures=("power_law_alpha",)),
    svdhooks.Covariance(measures=("saturation",)),
    "light",
    "update_spectrum",
    "attention_logits",
    "token_rank",
    "expert_load",
    "weight_vectors",
    "moments",
    "subspace_drift",
    svdhooks.LiDAR(views=2),
]


def test_what_is_announced_is_what_is_recorded():
    """Every measure of every record is announced, and the other way round."""
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    sink, taps = svdhooks.MemorySink(), {"out": "norm2"}
    with svdhooks.watch(
        model,
        None,
        every=1,
        sinks=[sink],
        probe=torch.randn(6, 5, 16),
        quantities=EVERYTHING,
        taps=taps,
        max_overhead=None,
    ) as recorder:
        recorder.step()
        announced = {
            (name, point, field)
            for name, points in recorder.recorded.items()
            for point, fields in points.items()
            for field in fields
        }
    recorded = {
        (r.layer, r.point, field)
        for r in sink.records
        if r.layer
        for field in r.measures
    }
    assert recorded == announced


def test_taps_tokens_and_attention_can_be_monitored():
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    recorded = _recorded(model, EVERYTHING, {"out": "norm2"})
    names = (
        "tokens_effective_rank/out",
        "output_effective_rank/out",
        "attention_logits_scaled_max/self_attn",
        "attention_logits_max/max",
        "update_relative_norm/linear1",
        "output_saturation/out",
        "weight_stable_rank_error/linear1",
    )
    check_monitored(names, recorded)
    with pytest.raises(ValueError, match="recorded of self_attn"):
        check_monitored(["weight_stable_rank/out"], recorded)


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
