"""The records that speak of the whole run."""

import json

import numpy as np
import torch
from torch import nn

import svdhooks
from svdhooks import schema
from svdhooks.conductor.meta import Described, meta_record, run_record
from svdhooks.layers import Skipped, find_layers
from tests.models import Tied


class Bare(nn.Module):
    """Holds a matrix of which nothing is known."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(4, 5))


def _described(model: nn.Module, **settings: object) -> dict[str, object]:
    table = find_layers(model)
    skipped = [*table.skipped, Skipped("head (output)", "covariance: too wide")]
    record = meta_record(7, Described(table.layers, skipped), settings)
    assert (record.step, record.layer, record.quantity) == (7, "", "meta")
    return json.loads(str(record.values["json"]))


def test_the_layer_table_says_how_each_layer_is_read():
    meta = _described(Tied(), every=3)
    assert meta["schema"] == schema.VERSION
    assert meta["svdhooks"] == svdhooks.__version__
    assert meta["settings"] == {"every": 3}
    rows = {row["name"]: row for row in meta["layers"]}
    assert list(rows) == ["embedding", "body", "head"]
    assert rows["body"] == {
        "name": "body",
        "kind": "linear",
        "shape": [6, 6],
        "groups": 1,
        "rank_limit": 6,
        "dtype": "float32",
        "points": {"input": 6, "output": 6},
        "tied_to": None,
    }
    assert rows["embedding"]["shape"] == [6, 13]  # out × in, as a map
    assert rows["embedding"]["points"] == {"output": 6}
    assert rows["head"]["tied_to"] == "embedding"


def test_a_grouped_convolution_counts_the_singular_values_of_all_groups():
    meta = _described(nn.Sequential(nn.Conv2d(8, 12, 3, groups=4)))
    (row,) = meta["layers"]
    assert (row["shape"], row["groups"], row["rank_limit"]) == ([3, 18], 4, 12)


def test_whatever_is_not_watched_is_listed_with_the_reason():
    model = nn.Sequential(nn.Linear(3, 4), Bare(), nn.LayerNorm((2, 5)))
    meta = _described(model)
    reasons = {entry["name"]: entry["reason"] for entry in meta["skipped"]}
    assert reasons["head (output)"] == "covariance: too wide"
    assert "no rule" in reasons["1.matrix"]
    assert "not a linear map" in reasons["2.weight"]


def test_the_start_is_that_of_the_run_and_not_of_the_record():
    assert _described(Tied())["start_step"] == 0
    assert _described(Tied(), start_step=None)["start_step"] == 0
    assert _described(Tied(), start_step=5)["start_step"] == 5


def test_a_run_record_holds_numbers():
    record = run_record(3, {"seconds": 0.5, "epoch": 2})
    assert (record.step, record.layer, record.quantity) == (3, "", "run")
    assert record.measures == {"seconds": 0.5, "epoch": 2.0}
    assert all(np.ndim(value) == 0 for value in record.values.values())
