"""Values that are not finite, zeros, growth, dead units, equal tokens, compression."""

import math
from dataclasses import replace
from typing import Any

import pytest

from svdhooks.alarms import (
    AlarmEvent,
    AllZero,
    AttentionLogits,
    Compression,
    DeadUnits,
    Exploding,
    NonFinite,
    Reading,
    TokenCollapse,
)
from tests.unit.alarms.runs import (
    falling,
    flat,
    learning,
    names,
    readings_of,
    rows,
    watch,
)

NORM = "weight_spectral_norm"
BAD = "non-finite values (NaN or Inf)"


def failing(run: list[Reading], at: int, *keys: tuple[str, str]) -> list[Reading]:
    bad = dict.fromkeys(keys, BAD)
    return [
        replace(r, failed=bad, values={}) if i >= at else r for i, r in enumerate(run)
    ]


# --- non_finite -------------------------------------------------------------------------


def test_a_weight_of_nan_is_told_once_and_at_once() -> None:
    run = failing(readings_of({"fc": {NORM: [1.0] * 10}}), 4, ("fc", "weight"))
    (event,) = watch(NonFinite(), run)
    assert (event.step, event.since, event.layer) == (80, 80, "fc")
    assert event.message.startswith("The weight of layer 'fc' holds NaN or Inf")


def test_the_weight_is_named_before_what_follows_from_it() -> None:
    keys = [("a", "input"), ("a", "output"), ("b", "weight"), ("b", "output")]
    run = failing(
        readings_of({"a": {NORM: [1.0] * 5}, "b": {NORM: [1.0] * 5}}), 2, *keys
    )
    (event,) = watch(NonFinite(), run)
    assert event.layer == "b"
    assert "1 other layer: 'a'" in event.message


@pytest.mark.parametrize(("point", "lost"), [("weight", True), ("output", False)])
def test_the_advice_is_for_what_is_lost(point: str, lost: bool) -> None:
    (event,) = watch(
        NonFinite(), failing(readings_of({"a": {NORM: [1.0] * 5}}), 2, ("a", point))
    )
    assert ("go back to a checkpoint" in event.message) == lost
    assert ("No weight is known to hold any yet" in event.message) != lost


def test_a_measurement_that_failed_otherwise_is_none() -> None:
    run = readings_of({"fc": {NORM: [1.0] * 5}})
    out = [replace(r, failed={("fc", "output"): "out of memory"}) for r in run]
    assert watch(NonFinite(), out) == []


def test_one_loss_of_nan_is_made_good_and_two_are_not() -> None:
    once = readings_of({}, loss=[1.0, math.nan, 1.0, math.nan, 1.0])
    assert watch(NonFinite(), once) == []
    stays = readings_of({}, loss=[1.0, 1.0, *[math.nan] * 9])
    (event,) = watch(NonFinite(), stays)
    assert (event.layer, event.message.partition(",")[0]) == (
        "",
        "The loss is NaN or Inf",
    )


def test_a_layer_that_was_repaired_and_breaks_again_is_told_again() -> None:
    good = readings_of({"fc": {NORM: [1.0] * 12}})
    bad = failing(good, 0, ("fc", "weight"))
    events = watch(NonFinite(), [*good[:3], *bad[3:6], *good[6:9], *bad[9:]])
    assert [event.step for event in events] == [60, 180]


# --- all_zero ---------------------------------------------------------------------------


def test_a_weight_that_becomes_zero_is_told_once() -> None:
    (event,) = watch(AllZero(), readings_of({"fc": {NORM: [1.0, 1.0, *[0.0] * 8]}}))
    assert (event.step, event.layer) == (40, "fc")


def test_what_was_zero_from_the_start_is_none() -> None:
    adapter = {"lora_b": {NORM: [0.0, 0.0, 0.1, 0.5]}, "last": {NORM: [0.0] * 4}}
    assert watch("auto", readings_of(adapter)) == []


def test_outputs_that_became_zero_are_told_and_constant_ones_are_not() -> None:
    constant: dict[str, Any] = {
        "fc": {"output_total_variance": [1.0, 0.0, 0.0], "output_mean_norm": [1.0] * 3}
    }
    assert watch(AllZero(), readings_of(constant)) == []
    zero: dict[str, Any] = {
        "fc": {"output_total_variance": [1.0, 0, 0], "output_mean_norm": [1.0, 0, 0]}
    }
    assert "output of layer 'fc'" in watch(AllZero(), readings_of(zero))[0].message


def test_a_frozen_layer_is_left_alone() -> None:
    frozen: dict[str, Any] = {
        "fc": {
            NORM: [2.5] * 40,
            "weight_stable_rank": [1.2] * 40,
            "input_effective_rank": [40.0] * 40,
        }
    }
    assert watch("supervised", readings_of(frozen, loss=learning(40))) == []


# --- growth -----------------------------------------------------------------------------


def growing(length: int, by: float = 1.5) -> list[float]:
    return [by**i for i in range(length)]


def test_a_norm_that_grows_without_end_is_told_once() -> None:
    (event,) = watch(Exploding(), readings_of({"fc": {NORM: growing(30)}}))
    assert event.evidence["grown"] > 100
    assert "grew" in event.message


def test_with_a_loss_that_rises_a_tenfold_norm_is_enough() -> None:
    norm = [min(x, 20.0) for x in growing(30)]
    assert watch(Exploding(), readings_of({"fc": {NORM: norm}})) == []
    loss = learning(10) + [3.0] * 20
    (event,) = watch(Exploding(), readings_of({"fc": {NORM: norm}}, loss=loss))
    assert "the loss got worse" in event.message


def test_an_infinite_norm_is_a_large_one() -> None:
    norm = [1.0] * 5 + [math.inf] * 9
    assert names(watch(Exploding(), readings_of({"fc": {NORM: norm}}))) == ["exploding"]


def test_a_branch_that_starts_at_zero_is_compared_with_one() -> None:
    assert watch(Exploding(), readings_of({"b": {NORM: [0.0, *growing(9)]}})) == []


def test_bounds_of_logits_that_grow_a_thousandfold_are_told() -> None:
    measure = "attention_logits_scaled_max"
    small = [0.01 * min(x, 90.0) for x in growing(40)]
    assert watch(AttentionLogits(), readings_of({"q->k": {measure: small}})) == []
    large = [0.0, *growing(40)]
    (event,) = watch("lm", readings_of({"q->k": {measure: large}}))
    assert (event.alarm, event.layer) == ("attention_logits", "q->k")


def test_factor_and_alone_must_be_in_order() -> None:
    with pytest.raises(ValueError, match="Give alone at least the value of factor"):
        Exploding(factor=200.0)


# --- dead_units -------------------------------------------------------------------------


def test_units_that_die_are_told_and_codes_sparse_from_the_start_are_not() -> None:
    dying = {"fc": {"input_dead_fraction": [0.1] * 5 + [0.95] * 10}}
    (event,) = watch(DeadUnits(), readings_of(dying))
    assert "95% of the units before layer 'fc' are dead" in event.message
    assert "10% at step 0" in event.message
    sparse = {"fc": {"input_dead_fraction": [0.97] * 15}}
    assert watch(DeadUnits(), readings_of(sparse)) == []


def test_a_layer_with_no_unit_left_is_told_also_from_the_start() -> None:
    (event,) = watch(
        DeadUnits(), readings_of({"fc": {"input_dead_fraction": [1.0] * 9}})
    )
    assert event.since == 40  # the third record is the first with a median


# --- token_collapse ---------------------------------------------------------------------


def tokens(*ranks: float, residual: float = 0.0, length: float = 8.0) -> list[Reading]:
    curves: dict[str, Any] = {
        f"l{i}": {
            "tokens_effective_rank": [rank] * 10,
            "tokens_residual": [residual if rank < 1.5 else 0.5] * 10,
            "tokens_length": [length] * 10,
        }
        for i, rank in enumerate(ranks)
    }
    return readings_of(curves)


def test_tokens_equal_from_some_layer_to_the_end_are_a_collapse() -> None:
    (event,) = watch(TokenCollapse(), tokens(4.0, 3.0, 1.0, 1.0, 1.0))
    assert "From layer 'l2' to the last, 3 of 5 layers" in event.message


def test_branches_with_equal_tokens_beside_a_stream_are_none() -> None:
    assert watch("lm", tokens(4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0)) == []


def test_tokens_equal_only_towards_the_end_are_pooling_unless_the_loss_rises() -> None:
    run = tokens(4.0, 4.0, 4.0, 4.0, 1.0, 1.0)
    assert watch(TokenCollapse(), run) == []
    loss = [0.1] * 5 + [5.0] * 25
    longer = [replace(run[0], step=20 * i, run={"loss": x}) for i, x in enumerate(loss)]
    assert names(watch(TokenCollapse(), longer)) == ["token_collapse"]


def test_one_huge_token_among_others_is_none() -> None:
    assert watch(TokenCollapse(), tokens(1.0, 1.0, 1.0, residual=0.9)) == []


def test_sequences_of_one_token_are_none() -> None:
    assert watch(TokenCollapse(), tokens(1.0, 1.0, 1.0, length=1.0)) == []


# --- compression ------------------------------------------------------------------------


def compressed(loss: list[float]) -> list[AlarmEvent]:
    curves = {"fc": {"input_effective_rank": falling(60.0, 12.0, 40)}}
    return watch("supervised", readings_of(curves, loss=loss))


def test_a_fall_while_the_loss_falls_is_compression_and_information() -> None:
    (event,) = compressed(learning(40))
    assert (event.alarm, event.severity) == ("compression", "info")


def test_a_fall_while_the_loss_does_not_fall_is_none() -> None:
    assert compressed(flat(2.3, 40)) == []


def test_one_direction_left_is_no_compression() -> None:
    curves = {"fc": {"jacobian_relative_local_rank": [60.0] * 10 + [1.0] * 30}}
    assert watch(Compression(), readings_of(curves, loss=learning(40), table={})) == []


def test_a_fall_of_the_local_rank_is_told_of() -> None:
    curves = {"fc": {"jacobian_relative_local_rank": falling(60.0, 12.0, 40)}}
    run = readings_of(curves, loss=learning(40), table=rows("fc"))
    assert "local rank of layer 'fc'" in watch(Compression(), run)[0].message
