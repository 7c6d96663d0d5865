"""When a fall of rank is a collapse, and when it is not."""

import math
import pickle
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from svdhooks.alarms import Collapse, Patience, Watcher, resolve_alarms
from tests.unit.alarms.runs import (
    falling,
    flat,
    learning,
    names,
    readings_of,
    row,
    rows,
    watch,
)

RANK = "input_effective_rank"
COLLAPSE = Collapse()
SSL = Collapse(alone=True)


def test_a_fall_to_a_tenth_while_the_loss_falls_is_no_collapse() -> None:
    curves = {
        "fc": {
            RANK: falling(80.0, 9.0, 40),
            "weight_stable_rank": falling(33.0, 2.5, 40),
        }
    }
    assert watch("auto", readings_of(curves, loss=learning(40))) == []


def test_a_fall_below_the_floor_while_the_loss_gives_back_its_gain_is_one() -> None:
    loss = learning(20) + [2.3] * 20
    curve = [80.0] * 20 + falling(80.0, 3.0, 20, at=1)
    (event,) = watch(COLLAPSE, readings_of({"fc": {RANK: curve}}, loss=loss))
    assert (event.layer, event.severity) == ("fc", "alarm")
    assert 20 * 20 <= event.since < event.step
    assert "what enters layer 'fc' fell from 80 (step 0)" in event.message
    assert "the loss got worse" in event.message
    assert event.evidence["now"] < 8.0


def test_without_any_other_sign_a_fall_alone_is_told_by_the_ssl_preset_only() -> None:
    curves = {"z": {RANK: falling(52.0, 3.0, 30)}}
    run = readings_of(curves, table=rows("z", outputs=128))
    assert watch(COLLAPSE, run) == []
    assert names(watch(SSL, run)) == ["collapse"]


def test_the_healthy_embedding_from_52_to_31_of_128_is_left_alone() -> None:
    curves = {"z": {RANK: falling(52.0, 31.0, 30)}}
    run = readings_of(
        curves, table=rows("z", outputs=128), loss=learning(30, -0.1, -0.8)
    )
    assert watch("ssl", run) == []


def test_a_collapse_before_the_second_record_is_measured_from_the_first() -> None:
    curves = {"z": {RANK: [40.0] + [1.0] * 9}}
    (event,) = watch(SSL, readings_of(curves, table=rows("z", outputs=128)))
    assert event.evidence["highest"] == 40.0


def test_a_rank_that_the_answer_needs_no_more_of_is_not_low() -> None:
    # 6 of 128 is below 1/16, and above half of the 9 directions of ten classes
    curve = falling(60.0, 6.0, 40)
    stalled = learning(10) + flat(0.3, 30)
    assert watch(COLLAPSE, readings_of({"fc": {RANK: curve}}, loss=stalled)) == []
    needs_more = readings_of(
        {"fc": {RANK: curve}}, loss=stalled, table=rows("fc", outputs=100)
    )
    assert names(watch(COLLAPSE, needs_more)) == ["collapse"]


def test_a_low_rank_is_no_collapse_once_next_to_nothing_is_left_of_the_loss() -> None:
    # a linear network whose answers are of rank 2, of which no table tells
    curves = {"fc": {RANK: falling(42.0, 2.0, 40)}}
    table = rows("fc", outputs=64)
    learnt = learning(20, 1.4, 0.0) + flat(0.01, 20)
    assert watch(COLLAPSE, readings_of(curves, loss=learnt, table=table)) == []
    stuck = learning(20, 1.4, 0.8) + flat(0.8, 20)
    assert names(watch(COLLAPSE, readings_of(curves, loss=stuck, table=table))) == [
        "collapse"
    ]
    negative = learning(20, 0.1, -0.9) + flat(-0.9, 20)  # a cosine: no ratio is known
    assert names(watch(COLLAPSE, readings_of(curves, loss=negative, table=table))) == [
        "collapse"
    ]


@pytest.mark.parametrize(("outputs", "found"), [(1, []), (2, []), (3, ["collapse"])])
def test_one_direction_of_a_weight_is_enough_for_two_classes(
    outputs: int, found: list[str]
) -> None:
    curves = {"fc": {"weight_stable_rank": falling(17.0, 1.1, 40)}}
    stalled = learning(10, 0.7, 0.3) + flat(0.3, 30)
    run = readings_of(curves, loss=stalled, table=rows("fc", outputs=outputs))
    assert names(watch(COLLAPSE, run)) == found
    worse = learning(10, 0.7, 0.3) + flat(0.9, 30)
    run = readings_of(curves, loss=worse, table=rows("fc", outputs=outputs))
    assert names(watch(COLLAPSE, run)) == ["collapse"]


@pytest.mark.parametrize(("entering", "found"), [(1.9, []), (30.0, ["collapse"])])
def test_data_of_few_directions_need_no_more(entering: float, found: list[str]) -> None:
    curves = {"in": {RANK: flat(entering, 40)}, "fc": {RANK: flat(1.6, 40)}}
    loss = learning(10, 2.3, 0.9) + flat(0.9, 30)
    run = readings_of(curves, loss=loss)
    assert names(watch(COLLAPSE, run)) == found
    few = frozenset({("in", "input")})  # then it is not known
    limited = readings_of(curves, loss=loss, limited=few)
    assert names(watch(COLLAPSE, limited)) == ["collapse"]
    for first in ({"kind": "conv2d"}, {"points": {"input": 3, "output": 128}}):
        # a pixel, or a number of a series, is not all that there is of a sample
        table = rows("in", "fc") | {"in": row("in") | first}
        by_parts = readings_of(curves, loss=loss, table=table)
        assert names(watch(COLLAPSE, by_parts)) == ["collapse"]


def test_a_network_that_never_learns_and_never_had_any_rank_is_one() -> None:
    curves = {"fc": {RANK: [0.0] * 20}}
    (event,) = watch(COLLAPSE, readings_of(curves, loss=flat(2.3, 20)))
    assert "is 0 of at most 128" in event.message
    assert event.step > event.since


def test_dying_units_agree_with_a_fall_when_no_loss_is_known() -> None:
    dead = [0.2] * 5 + [0.95] * 25
    curves: dict[str, Any] = {
        "fc": {RANK: falling(60.0, 2.0, 30), "input_dead_fraction": dead}
    }
    (event,) = watch(COLLAPSE, readings_of(curves))
    assert "95% of the units before it are dead" in event.message


def test_units_that_are_never_positive_but_pass_something_are_not_dead() -> None:
    # as behind GELU: 120 directions cannot come from 6 units
    curves: dict[str, Any] = {
        "fc": {
            RANK: falling(60.0, 2.0, 30),
            "input_dead_fraction": [0.2] * 5 + [0.95] * 25,
            "input_numerical_rank": [120.0] * 30,
        }
    }
    assert watch("auto", readings_of(curves)) == []


def test_equal_tokens_agree_with_a_fall() -> None:
    curves: dict[str, Any] = {
        "fc": {
            "output_effective_rank": falling(60.0, 2.0, 30),
            "tokens_effective_rank": [1.0] * 30,
            "tokens_residual": [0.0] * 30,
            "tokens_length": [8.0] * 30,
        }
    }
    (event,) = watch(COLLAPSE, readings_of(curves))
    assert "the tokens of a sequence are the same" in event.message


def test_outputs_that_are_the_same_for_all_samples_are_a_collapse_at_any_rank() -> None:
    variance = [10.0] * 5 + [1e-9] * 25
    curves: dict[str, Any] = {
        "fc": {
            "output_effective_rank": [60.0] * 30,
            "output_total_variance": variance,
            "output_mean_norm": [1.0] * 30,
        }
    }
    (event,) = watch(SSL, readings_of(curves, table=rows("fc", outputs=128)))
    assert "differs between samples" in event.message


def test_a_mean_that_is_large_from_the_start_is_no_collapse() -> None:
    curves: dict[str, Any] = {
        "fc": {"output_total_variance": [1e-4] * 30, "output_mean_norm": [1.0] * 30}
    }
    assert watch(SSL, readings_of(curves, loss=flat(1.0, 30))) == []


def test_one_direction_of_a_weight_is_a_collapse_only_if_the_loss_does_not_fall() -> (
    None
):
    curves = {"fc": {"weight_stable_rank": falling(30.0, 1.05, 30)}}
    assert watch(COLLAPSE, readings_of(curves, loss=learning(30, end=0.0))) == []
    assert names(watch(COLLAPSE, readings_of(curves, loss=flat(2.3, 30)))) == [
        "collapse"
    ]
    assert watch(SSL, readings_of(curves)) == []


def test_what_rests_on_too_few_samples_never_alarms() -> None:
    curves = {"z": {RANK: falling(52.0, 1.0, 30)}}
    limited = frozenset({("z", "input")})
    assert watch(SSL, readings_of(curves, limited=limited, loss=flat(1.0, 30))) == []
    elsewhere = frozenset({("z", "output")})
    assert watch(SSL, readings_of(curves, limited=elsewhere)) != []


def test_a_dip_shorter_than_the_patience_is_nothing() -> None:
    curve = [52.0] * 10 + [2.0] * 3 + [52.0] * 10
    run = readings_of({"z": {RANK: curve}}, table=rows("z", outputs=128))
    assert watch(SSL, run) == []
    hasty = Collapse(alone=True, patience=Patience(records=1, steps=0))
    assert names(watch(hasty, run)) == ["collapse"]


def test_patience_in_steps_holds_where_every_step_is_recorded() -> None:
    curve = [52.0] * 10 + [2.0] * 60
    (event,) = watch(SSL, readings_of({"z": {RANK: curve}}, every=1))
    assert event.step - event.since == Patience().steps


def test_one_event_per_collapse_and_another_after_recovery() -> None:
    once = falling(52.0, 2.0, 15, at=3)
    curve = once + [40.0] * 10 + once[3:] + [2.0] * 10
    events = watch(SSL, readings_of({"z": {RANK: curve}}))
    assert names(events) == ["collapse", "collapse"]
    assert events[1].since >= 25 * 20


def test_a_recovery_too_small_does_not_arm_again() -> None:
    wavering = [*[2.0] * 6, *[11.0] * 6] * 5  # the floor is 8, its end 12
    assert len(watch(SSL, readings_of({"z": {RANK: [52.0] * 5 + wavering}}))) == 1


def test_many_layers_are_one_event_and_a_spread_is_told_as_it_doubles() -> None:
    at_once = {f"l{i}": {RANK: falling(52.0, 2.0, 20)} for i in range(64)}
    (event,) = watch(SSL, readings_of(at_once))
    assert "63 other layers" in event.message
    assert event.evidence["layers"] == 64.0
    spreading = {
        f"l{i:02}": {RANK: falling(52.0, 2.0, 80, at=5 + i)} for i in range(64)
    }
    events = watch(SSL, readings_of(spreading))
    assert [e.evidence["layers"] for e in events] == [
        1.0,
        2.0,
        4.0,
        8.0,
        16.0,
        32.0,
        64.0,
    ]


def test_a_layer_that_appears_late_has_a_baseline_of_its_own() -> None:
    late: list[float | None] = [None] * 20
    curves = {
        "z": {RANK: [52.0] * 40},
        "late": {RANK: [*late, *falling(50.0, 2.0, 20)]},
    }
    (event,) = watch(SSL, readings_of(curves))
    assert (event.layer, event.evidence["highest"]) == ("late", 50.0)


def test_a_measure_that_is_recorded_rarely_is_judged_by_its_own_records() -> None:
    dense = falling(52.0, 2.0, 40, at=8)
    at = {0, 1, 2, 4, 8, 16, 24, 32, 39}
    rare = [value if i in at else None for i, value in enumerate(dense)]
    (event,) = watch(SSL, readings_of({"z": {RANK: rare}}))
    assert event.step == 39 * 20


def test_where_steps_jump_three_records_are_patience_enough() -> None:
    run = readings_of({"z": {RANK: falling(52.0, 2.0, 20)}})
    jumping = [replace(reading, step=reading.step**2) for reading in run]
    (event,) = watch(SSL, jumping)
    first = next(r.step for r in run if r.step**2 == event.since)
    assert event.step == (first + 2 * 20) ** 2


def test_a_loss_of_nan_agrees_with_a_fall() -> None:
    loss = [1.0] * 5 + [math.nan] * 25
    curves = {"fc": {RANK: falling(60.0, 2.0, 30)}}
    assert (
        "the loss is not finite"
        in watch(COLLAPSE, readings_of(curves, loss=loss))[0].message
    )


def test_one_record_is_no_run() -> None:
    curves = {"fc": {RANK: [0.0], "input_dead_fraction": [1.0]}}
    assert watch("ssl", readings_of(curves, loss=[2.3])) == []


def test_without_a_layer_table_only_a_constant_is_low() -> None:
    assert (
        watch(SSL, readings_of({"z": {RANK: falling(52.0, 2.0, 30)}}, table={})) == []
    )
    assert (
        watch(SSL, readings_of({"z": {RANK: falling(52.0, 0.0, 30)}}, table={})) != []
    )


def test_rows_that_lack_everything_are_read_as_unknown() -> None:
    table = {
        "z": {"name": "z"},
        "tap": {"name": "tap", "points": {}},
        "bad": row("bad"),
    }
    assert watch("auto", readings_of({"z": {RANK: [5.0] * 9}}, table=table)) == []


def test_open_events_are_those_whose_condition_holds() -> None:
    chosen = resolve_alarms(SSL)
    assert chosen is not None
    watcher = Watcher(chosen)
    run = readings_of({"z": {RANK: falling(52.0, 2.0, 20) + [50.0] * 20}})
    for reading in run[:20]:
        watcher.observe(reading)
    assert names(watcher.open) == ["collapse"]
    for reading in run[20:]:
        watcher.observe(reading)
    assert watcher.open == ()
    assert watcher.raised == {"collapse": 1}


def test_rules_copy_and_pickle() -> None:
    assert pickle.loads(pickle.dumps(SSL)) == SSL == deepcopy(SSL)


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"fall": 1.5}, ValueError, "below 1"),
        ({"floor": 0}, ValueError, "above 0"),
        ({"floor": "low"}, TypeError, "found str, expected a number"),
        ({"alone": 1}, TypeError, "True or False"),
        ({"patience": 3}, TypeError, "Patience(records=3, steps=50)"),
        ({"severity": "bad"}, ValueError, "'alarm' or 'info'"),
        ({"name": ""}, TypeError, "expected a word"),
    ],
)
def test_wrong_options_say_what_is_expected(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as caught:
        Collapse(**options)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"Collapse({next(iter(options))}=")


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize("options", [{"records": 0}, {"steps": -1}, {"records": 2.5}])
def test_patience_is_in_whole_numbers(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match="Patience"):
        Patience(**options)
