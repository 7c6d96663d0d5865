"""What is shown without a plugin of quantities that are asked for by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.plugins.custom_scalar import layout_pb2

from svdhooks import schema
from svdhooks.eventfile.writer import event_files
from svdhooks.record import Record
from svdhooks.sinks.loggers import LoggerSink
from svdhooks.sinks.tensorboard import TensorBoardSink
from tests.logs import (
    LOADERS,
    jacobian_record,
    ledger_record,
    meta_record,
    step_records,
)

LAYERS = ["fc1", "a/b%", "λ" * 100]
ASKED = ("weight_spectrum", "covariance", "local_rank", "ledger")
ORDER = [
    "svd_jacobian_relative_local_rank",
    "svd_jacobian_local_rank",
    "svd_ledger_input_null_share",
    "svd_ledger_nonlinearity_removed_share",
]


@pytest.fixture(params=list(LOADERS))
def load(request: pytest.FixtureRequest) -> Any:
    """One of TensorBoard's readers, as a context manager over a log directory."""
    return LOADERS[request.param]


def records(step: int) -> list[Record]:
    """Local rank at every fourth step, the ledger at every second."""
    found = step_records(step, LAYERS)
    if step % 40 == 0:
        found += [jacobian_record(step, layer) for layer in LAYERS]
    if step % 20 == 0:
        found += [ledger_record(step, layer) for layer in LAYERS]
    return found


def write(log_dir: Path, quantities: tuple[str, ...], new: bool = True) -> Path:
    settings = {"quantities": [{"name": name} for name in quantities]}
    sink = TensorBoardSink(log_dir, clock=lambda: 1e9)
    sink.write([meta_record(LAYERS, settings=settings)])
    for step in range(0, 90, 10):
        sink.write(records(step) if new else step_records(step, LAYERS))
    sink.close()
    (path,) = event_files(log_dir / "svdhooks")
    return path


def test_tensorboard_reads_them_of_each_layer_at_their_own_steps(tmp_path, load):
    write(tmp_path, ASKED)
    with load(tmp_path) as loader:
        scalars = loader.scalars()
    for layer in LAYERS:
        mine = [tag for tag in scalars if tag.endswith(f"/{schema.escape(layer)}")]
        assert len(mine) == 8
    steps, values = scalars["svd_jacobian_relative_local_rank/a%2Fb%25"]
    assert steps == [0, 40, 80]
    expected = [
        jacobian_record(step, "a/b%").measures["relative_local_rank"] for step in steps
    ]
    assert values == pytest.approx(expected, rel=1e-6)
    steps, values = scalars["svd_ledger_input_null_share/fc1"]
    assert steps == [0, 20, 40, 60, 80]
    assert values[1] == pytest.approx(
        ledger_record(20, "fc1").measures["input_null_share"], rel=1e-6
    )
    steps, values = scalars["svd_summary/jacobian_local_rank_median"]
    at_zero = [jacobian_record(0, layer).measures["local_rank"] for layer in LAYERS]
    assert steps == [0, 40, 80]
    assert values[0] == pytest.approx(np.median(at_zero), rel=1e-6)


def test_they_have_charts_relative_before_absolute(tmp_path, load):
    write(tmp_path, ASKED)
    with load(tmp_path) as loader:
        _, (value,) = loader.tensors("custom_scalars")["custom_scalars__config__"]
        scalars = loader.scalars()
    layout = layout_pb2.Layout.FromString(value.item())
    bands, lines = layout.category
    patterns = [chart.multiline.tag[0] for chart in lines.chart]
    assert [pattern.partition("/")[0] for pattern in patterns[4:]] == ORDER
    titles = [chart.title for chart in lines.chart]
    assert [chart.title for chart in bands.chart] == titles
    assert titles[4:6] == [
        "local rank (relative threshold)",
        "local rank (absolute threshold)",
    ]
    assert max(map(len, titles)) <= 48  # what two columns of charts have room for
    for chart in bands.chart:
        (band,) = chart.margin.series
        assert {band.value, band.lower, band.upper} <= set(scalars)


@pytest.mark.parametrize("quantities", [(), ASKED[:2], ("token_rank",)])
def test_a_log_without_them_is_what_it_was(tmp_path, monkeypatch, quantities):
    now = write(tmp_path / "now", quantities, new=False).read_bytes()
    before = {
        name: schema.ON_REQUEST[name]
        for name in ("token_rank", "update_spectrum", "attention_logits")
    }
    stock = (*schema.HEADLINES, *(one for (one,) in before.values()))
    monkeypatch.setattr(schema, "ON_REQUEST", before)
    monkeypatch.setattr(schema, "STOCK", stock)
    assert write(tmp_path / "before", quantities, new=False).read_bytes() == now
    # and this would be seen
    assert write(tmp_path / "asked", ASKED, new=False).read_bytes() != now or (
        not quantities
    )


class Plain:
    """A logger."""

    def __init__(self) -> None:
        self.calls: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.calls.append(metrics)


def test_loggers_get_their_medians_before_others_of_the_same_point():
    logger = Plain()
    LoggerSink(logger).write(records(0))
    (metrics,) = logger.calls
    assert len(metrics) == 24
    extra = {name.split("/")[1] for name in metrics if name.count("/") == 2}
    assert {tag.removeprefix("svd_") for tag in ORDER} <= extra


def test_loggers_get_them_of_each_layer_on_request():
    logger = Plain()
    LoggerSink(logger, per_layer=True).write(records(0))
    (metrics,) = logger.calls
    assert sum(name.startswith("svdhooks_layers/") for name in metrics) == 8 * 3
    told = metrics["svdhooks_layers/jacobian_local_rank/fc1"]
    assert told == jacobian_record(0, "fc1").measures["local_rank"]
