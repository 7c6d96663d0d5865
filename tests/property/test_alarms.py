"""Laws that rules obey for all curves."""

import math
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from svdhooks.alarms import Collapse, Reading, Watcher, resolve_alarms
from svdhooks.alarms.loss import LossLevel
from tests.unit.alarms.runs import falling, readings_of, rows, watch

MEASURES = (
    "input_effective_rank",
    "output_effective_rank",
    "weight_stable_rank",
    "weight_spectral_norm",
    "input_total_variance",
    "input_mean_norm",
    "tokens_effective_rank",
    "jacobian_relative_local_rank",
)
PRESETS = st.sampled_from(["auto", "ssl", "supervised", "lm"])
values = st.floats(1.06, 100, allow_nan=False)
losses = st.lists(st.floats(-10, 10) | st.just(math.nan), min_size=30, max_size=30)


@given(PRESETS, st.dictionaries(st.sampled_from(MEASURES), values, min_size=1), losses)
@settings(max_examples=40)
def test_constant_readings_above_the_floors_raise_nothing(
    preset: str, constants: dict[str, float], loss: list[float]
) -> None:
    # 16 of a width of 16: every rank from 1.06 on is above 1/16 of it
    curves = {"fc": {m: [min(v, 16.0)] * 30 for m, v in constants.items()}}
    finite = [x if math.isfinite(x) else 0.0 for x in loss]
    table = rows("fc", width=16, outputs=16)
    assert watch(preset, readings_of(curves, loss=finite, table=table)) == []


@given(PRESETS, st.lists(st.floats(2, 100), min_size=25, max_size=25), losses)
@settings(max_examples=40)
def test_ranks_that_rise_raise_nothing(
    preset: str, curve: list[float], loss: list[float]
) -> None:
    finite = [x if math.isfinite(x) else 0.0 for x in loss[:25]]
    rising = [min(x, 16.0) for x in sorted(curve)]
    curves = {"fc": dict.fromkeys(MEASURES[:3], rising)}
    table = rows("fc", width=16, outputs=16)
    assert watch(preset, readings_of(curves, loss=finite, table=table)) == []


noise = st.lists(st.floats(0.5, 60), min_size=30, max_size=30)


@given(noise, st.integers(-20, 20))
@settings(max_examples=40)
def test_the_scale_of_weights_activations_and_loss_does_not_matter(
    curve: list[float], power: int
) -> None:
    scale = 2.0**power

    def run(by: float) -> list[Reading]:
        curves: dict[str, Any] = {
            "fc": {
                "input_effective_rank": curve,
                "input_total_variance": [x * by * by for x in curve],
                "input_mean_norm": [40.0 * by] * 30,
            }
        }
        return readings_of(curves, loss=[by * (x - 30.0) for x in curve])

    plain = watch(Collapse(alone=True), run(1.0))
    assert watch(Collapse(alone=True), run(scale)) == plain


@given(noise, st.floats(-1e3, 1e3).map(round))
@settings(max_examples=40)
def test_a_constant_added_to_the_loss_does_not_matter(
    curve: list[float], by: int
) -> None:
    ours, shifted = LossLevel(), LossLevel()
    for value in curve:
        eighth = round(8 * value) / 8  # exact in floating point, also when shifted
        assert ours.observe(eighth) == shifted.observe(eighth + by)


@given(st.integers(2, 7), st.integers(4, 12), st.floats(0.1, 3.0))
@settings(max_examples=25)
def test_a_finer_schedule_loses_no_alarm(finer: int, at: int, end: float) -> None:
    coarse = falling(52.0, end, 30, at=at)
    fine = [x for x in coarse for _ in range(finer)]
    table = rows("z", outputs=128)

    def run(curve: list[float], every: int) -> list[Reading]:
        return readings_of(
            {"z": {"input_effective_rank": curve}}, every=every, table=table
        )

    coarse_event, *_ = watch(Collapse(alone=True), run(coarse, 20 * finer))
    fine_event, *_ = watch(Collapse(alone=True), run(fine, 20))
    assert fine_event.step <= coarse_event.step


@given(PRESETS, st.integers(0, 2**32 - 1), st.integers(0, 30))
@settings(max_examples=40)
def test_a_replayed_run_goes_on_as_if_it_had_not_been_interrupted(
    preset: str, seed: int, at: int
) -> None:
    drawn = random.Random(seed)
    # long stretches, so that something is raised and passes
    levels = [0.0, 1e-3, 1.0, 3.0, 50.0, 1e6, math.inf]
    curves = {
        "fc": {
            m: [x for x in drawn.choices(levels, k=3) for _ in range(10)]
            for m in MEASURES
        }
    }
    loss = [
        x for x in drawn.choices([-1.0, 2.0, 5.0, math.nan], k=3) for _ in range(10)
    ]
    run = readings_of(curves, loss=loss)
    chosen = resolve_alarms(preset)
    if chosen is None:
        raise AssertionError(preset)
    whole, resumed = Watcher(chosen), Watcher(chosen)
    expected = [whole.observe(reading) for reading in run]
    for reading in run[:at]:
        resumed.observe(reading)
    assert [resumed.observe(reading) for reading in run[at:]] == expected[at:]
    assert (resumed.raised, resumed.open) == (whole.raised, whole.open)


@given(PRESETS, noise)
@settings(max_examples=40)
def test_what_is_limited_raises_no_collapse(preset: str, curve: list[float]) -> None:
    curves = {"fc": {"input_effective_rank": curve, "output_effective_rank": curve}}
    limited = frozenset({("fc", "input"), ("fc", "output")})
    run = readings_of(curves, limited=limited, loss=[1.0] * 30)
    assert watch(preset, run) == []
