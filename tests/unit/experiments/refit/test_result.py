"""Rows of a refit: intervals, differences, what may be compared, and files."""

import csv
import math

import numpy as np
import pytest
from scipy import stats

from svdhooks.experiments.refit import scores as scored
from svdhooks.experiments.refit import summary as summary
from svdhooks.experiments.refit.result import RefitResult


def row(seed, arm, score, *, chance=0.25, layer="fc1", side="right", k=8, restart=0):
    return {
        "seed": seed,
        "arm": arm,
        "restart": restart,
        "layer": layer,
        "side": side,
        "k": k,
        "score": score,
        "chance": chance,
    }


def test_intervals_are_percentiles_of_the_bootstrap_over_seeds():
    values = [0.4, 0.55, 0.6, 0.48, 0.7, 0.52]
    rows = [
        row(seed, "fixed_s", value + shift, restart=restart)
        for seed, value in enumerate(values)
        for restart, shift in enumerate((-0.05, 0.05))
    ]
    (found,) = RefitResult(rows, []).intervals()
    expected = stats.bootstrap(
        (np.array(values),),
        np.mean,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["low"] == pytest.approx(expected.low, abs=4e-3)
    assert found["high"] == pytest.approx(expected.high, abs=4e-3)
    assert found["seeds"] == 6
    assert found["chance"] == pytest.approx(0.25)


def test_scores_above_chance_are_0_by_chance_and_1_if_equal():
    rows = [row(0, "fixed_s", 1.0), row(0, "haar", 0.25), row(0, "free", 0.625)]
    found = RefitResult(rows, []).intervals(above_chance=True)
    assert {r["arm"]: r["mean"] for r in found} == {
        "fixed_s": 1.0, "haar": 0.0, "free": 0.5,
    }  # fmt: skip
    # where chance is unknown, or is everything, there is nothing above it
    none = [row(0, "free", 0.3, chance=None), row(0, "flat_s", 1.0, chance=1.0)]
    assert RefitResult(none, []).intervals(above_chance=True) == []


def test_what_could_not_be_compared_is_left_out():
    rows = [row(0, "free", math.nan), row(1, "free", 0.5), row(2, "free", 0.7)]
    (found,) = RefitResult(rows, []).intervals()
    assert (found["mean"], found["seeds"]) == (pytest.approx(0.6), 2)
    assert RefitResult(rows[:1], []).intervals() == []


def test_differences_are_paired_by_seed():
    rows = [
        row(seed, arm, base + 0.3 * (arm == "fixed_s"), chance=0.0)
        for seed, base in enumerate((0.1, 0.5, 0.3))
        for arm in ("fixed_s", "free")
    ]
    (found,) = RefitResult(rows, []).differences("free")
    # seeds differ, the difference does not
    for name in ("mean", "low", "high"):
        assert found[name] == pytest.approx(0.3)
    assert RefitResult(rows, []).differences("flat_s") == []


@pytest.fixture
def result():
    rows = []
    for seed in range(3):
        for arm, score in (("fixed_s", 0.6), ("free", 0.8), ("flat_s", 0.9)):
            flat = arm == "flat_s"
            chance = 0.75 if flat else 0.25
            rows += [
                row(seed, arm, score, chance=chance, k=8),
                row(seed, arm, score, chance=chance, k=32),
                row(seed, arm, 0.7, side="left", layer="fc2", k=2, chance=0.2),
                row(seed, arm, 0.7, side="left", layer="fc2", k=10, chance=1.0),
                row(seed, arm, 0.7, side="right", layer="fc2", k=10, chance=1.0),
                row(seed, arm, score - flat, side="units", k=None, chance=0.1),
                row(
                    seed,
                    arm,
                    0.2,
                    side="function",
                    layer=scored.GAP,
                    k=None,
                    chance=None,
                ),
                row(
                    seed,
                    arm,
                    0.3,
                    side="function",
                    layer=scored.CKA,
                    k=None,
                    chance=0.1,
                ),
            ]
    return RefitResult(rows, [])


def test_the_summary_takes_a_quarter_of_the_vectors_at_most_eight(result):
    found = summary.summarise(result)
    assert found.ks[summary.FIRST] == 8
    assert found.ks[summary.LAST] == 2
    assert found.seeds == 3
    cell = found.cells["fixed_s", summary.FIRST]
    assert cell["mean"] == pytest.approx((0.6 - 0.25) / 0.75)
    assert found.cells["free", scored.GAP]["mean"] == pytest.approx(0.2)


def test_a_larger_span_is_not_compared_with_a_small_one(result):
    found = summary.summarise(result)
    assert ("flat_s", summary.FIRST) not in found.cells
    assert ("flat_s", summary.FIRST) not in found.differences
    assert ("free", summary.FIRST) in found.differences
    drawn = summary.rows_to_draw(result)
    assert not [r for r in drawn if r["arm"] == "flat_s" and r["side"] == "right"]
    assert [r for r in drawn if r["arm"] == "flat_s" and r["layer"] == scored.CKA]
    assert {r["layer"] for r in drawn if r["side"] == "function"} == {scored.CKA}


def test_the_verdict_names_what_is_closer_and_what_farther(result):
    found = summary.summarise(result)
    assert found.verdict("free") == ([], [summary.FIRST, summary.UNITS])
    assert found.verdict("flat_s") == ([summary.UNITS], [])


def test_the_tables_are_written_and_read_back(tmp_path, result):
    names = [path.name for path in result.write(tmp_path)]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.table)
    assert float(rows[0]["score"]) == result.table[0]["score"]
    assert rows[5]["k"] == ""
