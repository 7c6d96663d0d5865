"""Curves of which it is known when they fall, against what is found."""

import itertools

import numpy as np
import pytest
from scipy import stats

from svdhooks.analysis.trajectory import correlation, fall_order, phases, time_to
from svdhooks.analysis.trajectory_pieces import cuts, noise
from tests.planted import RANK, Planted

STEPS = np.arange(0, 1000, 10)


def bent(noise_size=0.0, seed=0):
    """Flat to step 300, a fall by e³ to step 600, flat, with noise."""
    y = 3 - 3 * np.clip((STEPS - 300) / 300, 0, 1)
    y = y + noise_size * np.random.default_rng(seed).standard_normal(len(STEPS))
    return np.exp(y)


@pytest.mark.parametrize("noise_size", [0.0, 0.02, 0.1])
def test_plateau_fall_plateau_is_found_where_it_is(noise_size):
    for seed in range(5):
        found = phases(STEPS, bent(noise_size, seed))
        assert [phase.kind for phase in found] == ["plateau", "fall", "plateau"]
        assert abs(found[1].start - 300) <= 10 + 400 * noise_size
        assert abs(found[1].end - 600) <= 10 + 400 * noise_size
        np.testing.assert_allclose(found[0].first, np.exp(3), rtol=0.2)
        np.testing.assert_allclose(found[2].last, 1.0, rtol=0.2)


def test_phases_follow_each_other_without_gaps():
    random = np.random.default_rng(1)
    for _ in range(30):
        y = np.cumsum(random.standard_normal(60))
        found = phases(np.arange(60), y)
        assert (found[0].start, found[-1].end) == (0, 59)
        for before, after in itertools.pairwise(found):
            assert before.end == after.start
            assert before.kind != after.kind


def test_the_pieces_are_the_best_of_all_pieces():
    random = np.random.default_rng(2)
    x = np.linspace(0, 1, 9)
    for _ in range(20):
        y = np.cumsum(random.standard_normal(9))
        spread = max(noise(y), 0.01 * np.ptp(y))
        penalty = 3 * np.log(9) * spread**2

        def cost(ends, y=y, penalty=penalty):
            total = 0.0
            for a, b in itertools.pairwise(ends):
                line = np.polyfit(x[a : b + 1], y[a : b + 1], 1)
                total += ((np.polyval(line, x[a : b + 1]) - y[a : b + 1]) ** 2).sum()
            return total + penalty * (len(ends) - 1)

        every = [
            (0, *inner, 8)
            for count in range(4)
            for inner in itertools.combinations(range(2, 7), count)
            if all(b - a >= 2 for a, b in itertools.pairwise((0, *inner, 8)))
        ]
        found = [0, *(b for _, b in cuts(x, y, noise(y)))]
        np.testing.assert_allclose(cost(found), min(map(cost, every)), atol=1e-9)


def test_a_curve_that_hardly_changes_is_flat_whatever_its_noise():
    random = np.random.default_rng(3)
    y = 50 * np.exp(0.005 * random.standard_normal(100))
    assert [phase.kind for phase in phases(STEPS, y)] == ["plateau"]
    assert [phase.kind for phase in phases(STEPS, np.zeros(100))] == ["plateau"]
    assert [phase.kind for phase in phases(STEPS, np.full(100, 7.0))] == ["plateau"]


def test_one_outlier_makes_no_phase():
    curve = bent()
    curve[70] = 1e3
    assert phases(STEPS, curve) == phases(STEPS, bent())


def test_lines_are_straight_in_log_time_where_records_are_early():
    steps = np.unique(np.geomspace(1, 100_000, 60).astype(int)) - 1
    t = np.log1p(steps)
    values = np.exp(-np.clip(t - 5, 0, 3))
    found = phases(steps, values)
    assert [phase.kind for phase in found] == ["plateau", "fall", "plateau"]
    assert abs(np.log1p(found[1].start) - 5) < 0.6
    assert abs(np.log1p(found[1].end) - 8) < 0.6


def test_long_curves_are_thinned_and_what_is_not_finite_is_left_out():
    steps = np.arange(20_000)
    values = np.interp(steps, [0, 8_000, 12_000, 20_000], [9.0, 9, 1, 1])
    values[100:200] = np.nan
    found = phases(steps, values)
    assert [phase.kind for phase in found] == ["plateau", "fall", "plateau"]
    assert abs(found[1].start - 8_000) < 300


def test_too_few_values_have_no_phases():
    assert phases([], []) == phases([0, 1], [1.0, 2.0]) == []
    assert phases([0, 1, 2], [np.nan, 1.0, 2.0]) == []


@pytest.mark.parametrize(
    ("steps", "values", "message"),
    [
        ([0, 1], [1.0], r"Found steps \(2,\) and values \(1,\)"),
        ([1, 0, 2], [1.0, 2.0, 3.0], "steps do not increase"),
    ],
)
def test_curves_that_are_none_are_refused(steps, values, message):
    with pytest.raises(ValueError, match=message):
        phases(steps, values)


def test_the_time_to_a_level_is_the_first_record_that_stays():
    steps, values = [0, 1, 2, 3, 4, 5], [10.0, 4, 8, 5, 4, 3]
    assert time_to(steps, values, fraction=0.5) == 3
    assert time_to(steps, values, fraction=0.5, records=1) == 1
    assert time_to(steps, values, level=3.0) == 5  # the last record stands alone
    assert time_to(steps, values, level=1.0) is None
    assert time_to(steps, values, level=12.0) is None  # from below
    assert time_to(steps, [1, 2, 3, 4, 5, 6], level=4.0) == 3
    assert time_to([], [], level=1.0) is None
    assert time_to(steps, [10, np.nan, 4, 4, 4, 4], fraction=0.5) == 2


@pytest.mark.parametrize("given", [{}, {"level": 1.0, "fraction": 0.5}])
def test_a_level_or_a_fraction(given):
    with pytest.raises(ValueError, match="expected exactly one of them"):
        time_to([0], [1.0], **given)


def test_layers_are_ordered_by_when_they_fall():
    def fall(at):
        return np.where(at > STEPS, 8.0, 2.0)

    log = Planted(
        {
            "late": fall(700),
            "never": np.full(100, 5.0),
            "early": fall(200),
            "failed": np.full(100, np.nan),
        },
        STEPS.tolist(),
    )
    assert fall_order(log, RANK) == [("early", 200), ("late", 700), ("never", None)]
    assert fall_order(log, RANK, 0.1)[0][1] is None
    with pytest.raises(ValueError, match="between 0 and 1"):
        fall_order(log, RANK, 50.0)
    with pytest.raises(KeyError, match="nothing"):
        fall_order(log, "nothing")


def test_correlations_are_spearmans_of_values_and_of_changes():
    random = np.random.default_rng(4)
    loss = np.cumsum(random.standard_normal(60))
    with_it = loss**3
    against = -loss + 0.01 * random.standard_normal(60)
    apart = random.standard_normal(60)
    broken = with_it.copy()
    broken[5] = np.nan
    log = Planted(
        {"apart": apart, "with": with_it, "against": against, "broken": broken,
         "still": np.ones(60)},
        run={"loss": loss},
    )  # fmt: skip
    found = {c.layer: c for c in correlation(log, RANK)}
    np.testing.assert_allclose(found["with"].levels, 1)
    for name, curve in (("apart", apart), ("with", with_it), ("against", against)):
        rho = stats.spearmanr(curve, loss).statistic
        changes = stats.spearmanr(np.diff(curve), np.diff(loss)).statistic
        np.testing.assert_allclose(found[name].levels, rho)
        np.testing.assert_allclose(found[name].changes, changes)
    assert found["broken"].records == 59
    assert np.isnan(found["still"].levels)
    assert [c.layer for c in correlation(log, RANK)][-1] == "still"


def test_two_trends_go_together_but_their_changes_do_not():
    random = np.random.default_rng(5)
    trend = np.linspace(5, 1, 200)
    rank, loss = (trend + 0.05 * random.standard_normal(200) for _ in range(2))
    (found,) = correlation(Planted({"fc": rank}, run={"loss": loss}), RANK)
    assert found.levels > 0.9
    assert abs(found.changes) < 0.25


@pytest.mark.parametrize("lag", [-3, 0, 2])
def test_a_lag_shifts_the_measure_against_the_loss(lag):
    loss = np.random.default_rng(6).standard_normal(50)
    # the loss does what the measure did so many records before
    rank = np.roll(loss, -lag)
    log = Planted({"fc": rank}, run={"loss": loss})
    (found,) = correlation(log, RANK, lag=lag)
    np.testing.assert_allclose(found.levels, 1)
    assert found.records == 50 - abs(lag)
