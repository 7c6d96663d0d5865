"""A log gone through afterwards says what was said live."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

import svdhooks
from svdhooks.alarms import (
    AlarmEvent,
    Reading,
    Watcher,
    alarms_of,
    loss_source,
    readings,
    resolve_alarms,
)
from svdhooks.record import Record
from svdhooks.sinks.memory import MemorySink
from svdhooks.sinks.tensorboard import TensorBoardSink
from tests.logs import meta_record
from tests.unit.alarms.runs import falling, learning, names

BAD = "non-finite values (NaN or Inf)"
PRESETS = ["auto", "ssl", "supervised", "lm"]
LENGTH = 36


def record(
    step: int, layer: str, point: str, values: dict[str, float], **more: Any
) -> Record:
    arrays = {name: np.asarray(value, np.float64) for name, value in values.items()}
    return Record(step, layer, f"of_{point}", arrays, point=point, **more)


def steps_of(length: int = LENGTH) -> Iterator[tuple[int, list[Record]]]:
    """A run in which everything happens: falls, NaN, marks, a late layer, growth."""
    rank = falling(52.0, 1 / 3, length, at=8)  # 1/3 is no float32
    loss = [*learning(length)[: length - 12], math.nan, math.inf, *[3.0] * 10]
    for i in range(length):
        step = 7 * i * (1 + i // 20)
        several = [Record(step, "", "run", {"loss": np.asarray(loss[i])})]
        for layer in ("z", "limited", "broken", *(["late"] if i > 5 else [])):
            ranked = {
                "effective_rank": rank[i],
                "total_variance": 1e39 * rank[i],  # infinite in float32
                "mean_norm": 0.1,
                "dead_fraction": 1 - rank[i] / 60,
            }
            marks = ("sample_limited",) if layer == "limited" else ()
            failed = layer == "broken" and 20 <= i < 24
            more = {"status": BAD if failed else "ok", "marks": marks}
            ranked = dict.fromkeys(ranked, math.nan) if failed else ranked
            several.append(record(step, layer, "input", ranked, **more))
            norm = 1.7**i if layer == "z" else 1.0 + i % 3
            weight = {"spectral_norm": norm, "stable_rank": max(rank[i], 1.0)}
            if i % 3 == 0:  # recorded rarely
                several.append(record(step, layer, "weight", weight))
        yield step, several


def described() -> tuple[Record, dict[str, Any]]:
    meta = meta_record(dict.fromkeys(("z", "limited", "broken", "late"), 128))
    sink = MemorySink()
    sink.write([meta])
    return meta, dict(sink.described)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[svdhooks.RunLog, MemorySink]:
    path = tmp_path_factory.mktemp("run")
    disk, memory = TensorBoardSink(path), MemorySink()
    meta, _ = described()
    for sink in (disk, memory):
        for i, (_, several) in enumerate(steps_of()):
            sink.write([meta, *several] if i == 0 else several)
        sink.close()
    return svdhooks.RunLog(path), memory


@pytest.mark.parametrize("preset", PRESETS)
def test_live_from_memory_and_from_the_log_say_the_same(
    preset: str, run: tuple[svdhooks.RunLog, MemorySink]
) -> None:
    chosen = resolve_alarms(preset)
    assert chosen is not None
    watcher, (_, table) = Watcher(chosen), described()
    live = [
        e for step, several in steps_of() for e in watcher.read(step, several, table)
    ]
    log, memory = run
    assert {"non_finite", "exploding"} <= set(names(live))
    assert alarms_of(log, preset) == live
    assert alarms_of(memory, preset) == live


def test_readings_of_the_log_are_those_that_were_seen_live(
    run: tuple[svdhooks.RunLog, MemorySink],
) -> None:
    log, memory = run
    _, table = described()
    live = [Reading.of(step, several, table) for step, several in steps_of()]
    for found in (list(readings(log)), list(readings(memory))):
        assert [r.step for r in found] == [r.step for r in live]
        for ours, theirs in zip(found, live, strict=True):
            assert ours.values == theirs.values
            assert list(ours.values) == list(theirs.values)
            assert (ours.failed, ours.limited) == (theirs.failed, theirs.limited)
            assert repr(ours.loss) == repr(theirs.loss)
            assert ours.rows == theirs.rows


def test_values_are_rounded_to_float32_and_nan_is_left_out() -> None:
    reading = Reading.of(
        3, [record(3, "z", "input", {"a": 1 / 3, "b": math.nan, "c": 1e39})], {}
    )
    assert reading.values == {
        "z": {"input_a": float(np.float32(1 / 3)), "input_c": math.inf}
    }


def test_only_the_measures_that_are_asked_for_are_read() -> None:
    several = [record(3, "z", "attention_logits", {"max": 1.0, "min": 0.5})]
    reading = Reading.of(3, several, {}, measures={"attention_logits_max"})
    assert reading.values == {"z": {"attention_logits_max": 1.0}}


def test_of_two_records_of_the_same_the_later_counts() -> None:
    several = [
        record(3, "z", "input", {"a": 1.0}),
        record(3, "z", "input", {"a": math.nan}),
    ]
    assert Reading.of(3, several, {}).values == {}


def test_layers_stand_in_the_models_order_whatever_the_order_of_records() -> None:
    several = [record(0, name, "input", {"a": 1.0}) for name in ("y", "b", "x", "a")]
    reading = Reading.of(0, several, {"a": {}, "b": {}})
    assert list(reading.values) == ["a", "b", "x", "y"]


def log_with(path: Path, **scalars: list[float | None]) -> svdhooks.RunLog:
    """A log whose loss stands beside it, as loggers write it."""
    meta, _ = described()
    sink = TensorBoardSink(path)
    for i, (step, several) in enumerate(steps_of()):
        records = [r for r in several if r.layer]
        extra = [Record(step, "", "run", {"seconds": np.asarray(0.1)})]
        sink.write([*([meta] if i == 0 else []), *extra, *records])
    sink.close()
    with SummaryWriter(str(path)) as writer:
        for name, values in scalars.items():
            tag = name.replace("__", "/")
            for (step, _), value in zip(steps_of(), values, strict=False):
                if value is not None:
                    writer.add_scalar(tag, value, step)
    return svdhooks.RunLog(path)


def test_a_training_loss_beside_the_log_is_found_and_joined_by_step(
    tmp_path: Path,
) -> None:
    losses: list[float | None] = [2.0**-i for i in range(LENGTH)]
    zeros: list[float | None] = [0.0] * LENGTH
    log = log_with(
        tmp_path,
        train_loss_epoch=zeros,
        train__loss_step=losses,
        val_loss=zeros,
        truth=zeros,
        loss_scale=zeros,
        lossy=zeros,
    )
    assert loss_source(log) == "train/loss_step"
    assert [reading.loss for reading in readings(log)] == losses
    assert {reading.loss for reading in readings(log, loss="val_loss")} == {0.0}
    with pytest.raises(KeyError, match="Did you mean"):
        list(readings(log, loss="train/los_step"))


def test_a_loss_that_begins_late_is_unknown_before(tmp_path: Path) -> None:
    loss: list[float | None] = [None] * LENGTH
    loss[10], loss[20] = 5.0, math.nan
    found = [r.loss for r in readings(log_with(tmp_path, loss=loss))]
    assert found[:20] == [None] * 10 + [5.0] * 10
    assert all(x is not None and math.isnan(x) for x in found[20:])


def test_without_a_loss_there_is_none(tmp_path: Path) -> None:
    log = log_with(tmp_path, accuracy=[1.0] * LENGTH, val_loss=[1.0] * LENGTH)
    assert loss_source(log) is None
    assert {reading.loss for reading in readings(log)} == {None}


def test_records_in_memory_have_no_scalars_of_others(
    run: tuple[svdhooks.RunLog, MemorySink],
) -> None:
    log, memory = run
    assert loss_source(log) == loss_source(memory) == "loss"
    with pytest.raises(KeyError, match="give the loss to the recorder"):
        list(readings(memory, loss="train_loss"))


def test_no_choice_and_no_records_give_no_events(
    run: tuple[svdhooks.RunLog, MemorySink],
) -> None:
    assert alarms_of(run[0], None) == []
    assert alarms_of(MemorySink()) == []


@pytest.mark.slow
def test_a_training_that_goes_wrong_is_told_of_and_a_healthy_one_is_not(
    tmp_path: Path,
) -> None:
    def train(rate: float) -> list[AlarmEvent]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)
        )
        images = torch.randn(512, 16)
        labels = images[:, :8].argmax(1)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        path = tmp_path / f"{rate}"
        with svdhooks.watch(model, path, every=10, probe=images) as recorder:
            for _ in range(200):
                batch = torch.randint(0, 512, (64,))
                loss = torch.nn.functional.cross_entropy(
                    model(images[batch]), labels[batch]
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.step(context={"loss": loss.item()})
        return alarms_of(svdhooks.RunLog(path))

    assert train(3e-3) == []
    assert "exploding" in names(train(10.0))


def test_long_logs_are_read_in_parts_that_do_not_show(
    run: tuple[svdhooks.RunLog, MemorySink], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [(r.step, dict(r.values)) for r in readings(run[0])]
    monkeypatch.setattr("svdhooks.alarms.afterwards._CHUNK", 5)
    assert [(r.step, dict(r.values)) for r in readings(run[0])] == whole
