"""Few runs on each side, against scipy, closed forms and simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats

from svdhooks.analysis.comparison import compare
from svdhooks.analysis.comparison.statistics import detectable, gap, holm, stretch
from tests.planted import seeds

NO_FLOOR = np.zeros(1)


def column(values):
    return np.asarray(values, dtype=np.float64)[:, None]


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 3), (3, 5), (5, 2)])
def test_welchs_t_is_scipys(n, m):
    random = np.random.default_rng(n * 10 + m)
    a, b = random.standard_normal((n, 4)), 3 * random.standard_normal((m, 4)) + 1
    found = gap(a, b, np.zeros(4))
    expected = stats.ttest_ind(b, a, equal_var=False)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found.p, expected.pvalue)
    np.testing.assert_allclose(found.low, interval.low)
    np.testing.assert_allclose(found.high, interval.high)
    np.testing.assert_allclose(found.difference, b.mean(axis=0) - a.mean(axis=0))


def test_one_run_is_held_against_the_prediction_interval_of_the_others():
    several, one = column([1.0, 2.0, 4.0, 5.0]), column([9.0])
    s, n = several.std(ddof=1), 4
    t = (9 - 3) / (s * np.sqrt(1 + 1 / n))
    for found, sign in (
        (gap(several, one, NO_FLOOR), 1),
        (gap(one, several, NO_FLOOR), -1),
    ):
        np.testing.assert_allclose(found.p, 2 * stats.t.sf(t, n - 1))
        np.testing.assert_allclose(found.difference, sign * 6.0)


def test_two_single_runs_have_a_difference_and_no_spread():
    found = gap(column([1.0]), column([3.0]), NO_FLOOR)
    assert found.difference == 2
    for unknown in (found.low, found.high, found.p, found.effect):
        assert np.isnan(unknown).all()


def test_the_effect_is_hedges_g():
    a, b = column([1.0, 2.0, 3.0]), column([4.0, 6.0, 8.0])
    pooled = np.sqrt((2 * 1 + 2 * 4) / 4)
    expected = (6 - 2) / pooled * (1 - 3 / (4 * 4 - 1))
    np.testing.assert_allclose(gap(a, b, NO_FLOOR).effect, expected)


def test_runs_that_agree_to_the_last_digit_are_not_infinitely_sure():
    equal = column([2.0, 2.0, 2.0])
    same = gap(equal, equal, np.full(1, 1e-12))
    assert (same.p, same.effect) == (1, 0)
    other = gap(equal, equal + 1e-7, np.full(1, 1e-12))
    assert other.p > 0.05


def test_holm_is_the_sequential_rejection_that_it_stands_for():
    random = np.random.default_rng(0)
    for _ in range(200):
        p = random.random(int(random.integers(1, 9))) ** 3
        adjusted = holm(p)
        for alpha in (0.01, 0.05, 0.2):
            rejected = set()
            for rank, i in enumerate(np.argsort(p)):
                if p[i] > alpha / (len(p) - rank):
                    break
                rejected.add(int(i))
            assert set(np.flatnonzero(adjusted <= alpha).tolist()) == rejected


def test_what_was_not_tested_is_not_counted():
    adjusted = holm(np.array([0.01, np.nan, 0.04]))
    np.testing.assert_allclose(adjusted, [0.02, np.nan, 0.04])
    assert holm(np.empty(0)).shape == (0,)


def test_a_stretch_to_the_end_is_the_first_from_which_nine_of_ten_are_apart():
    random = np.random.default_rng(1)
    for _ in range(300):
        apart = random.random(int(random.integers(1, 25))) < random.random()
        starts = [
            i for i in range(len(apart)) if apart[i] and apart[i:].mean() >= 0.9 - 1e-12
        ]
        expected = (starts[0], len(apart) - 1) if starts else None
        assert stretch(apart, to_end=True) == expected


def test_the_longest_stretch_has_no_break():
    random = np.random.default_rng(2)
    for _ in range(200):
        apart = random.random(int(random.integers(1, 25))) < 0.6
        runs, at = [], 0
        for value, own in itertools.groupby(apart.tolist()):
            length = len(list(own))
            if value:
                runs.append((-length, at, at + length - 1))
            at += length
        expected = min(runs)[1:] if runs else None
        assert stretch(apart, to_end=False) == expected


def test_what_can_be_found_is_where_half_of_the_tests_reach():
    # a t of exactly the critical value: effect · sqrt(nm/(n+m)) = t
    n, m, tests = 4, 6, 20
    critical = stats.t.ppf(1 - 0.05 / (2 * tests), n + m - 2)
    found = detectable(n, m, tests, 0.05)
    np.testing.assert_allclose(found * np.sqrt(n * m / (n + m)), critical)
    assert detectable(1, 1, 1, 0.05) == np.inf


def simulated(trials, first, second, layers, shift=None, since=0):
    """How often something is called different that is not, and the share found."""
    random = np.random.default_rng(7)
    false, found, starts = 0, [], []
    for _ in range(trials):
        runs = [
            *seeds(random, first, layers),
            *seeds(random, second, layers, shift, since=since),
        ]
        names = {
            f"{'a' if i < first else 'b'} seed{i}": run for i, run in enumerate(runs)
        }
        rows = compare(names).differences
        moved = {f"layer{i}" for i in shift or {}}
        called = {row.layer for row in rows if row.differs}
        false += bool(called - moved)
        found.append(len(called & moved) / max(len(moved), 1))
        starts += [
            row.since for row in rows if row.layer in moved and row.when == "end"
        ]
    return false / trials, float(np.mean(found)), starts


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(3, 3), (5, 5), (1, 4)])
def test_seeds_of_one_setting_are_rarely_called_different(first, second):
    trials = 200
    false, _, _ = simulated(trials, first, second, layers=10)
    # 5 % are allowed; a binomial count of 200 exceeds 20 with a chance below 0.2 %
    assert false * trials <= stats.binom.ppf(0.998, trials, 0.05)


@pytest.mark.slow
def test_a_planted_difference_is_found_with_its_beginning():
    # twelve spreads of single runs, from record 12 (step 120) on
    _, power, starts = simulated(40, 5, 5, layers=10, shift={2: 1.8, 5: -1.8}, since=12)
    assert power > 0.95
    assert np.mean([start == 120 for start in starts]) > 0.8
