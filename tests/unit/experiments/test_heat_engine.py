"""The engine of coins: its exact root, and a count of what two pools can be."""

import math

import pytest
from scipy.optimize import brentq

from svdhooks.experiments.heat_engine import entropy, work_per_coin


def test_the_exact_root_is_what_bisection_of_the_posts_equation_gives():
    def h2(p):
        return -p * math.log2(p) - (1 - p) * math.log2(1 - p)

    low, high = 0.0, 0.2
    for _ in range(60):
        w = (low + high) / 2
        room = (2 - w) * h2((0.3 - w) / (2 - w)) - h2(0.1) - h2(0.2)
        low, high = (w, high) if room > 0 else (low, w)
    assert work_per_coin() == pytest.approx(w, abs=1e-12)
    assert round(work_per_coin(), 7) == 0.0104246
    assert round(100 * work_per_coin() / 0.3, 2) == 3.47
    assert round(100 * work_per_coin() / 0.2, 2) == 5.21


def test_the_posts_own_number_comes_from_rounding_the_entropy():
    assert round(entropy(0.1) + entropy(0.2), 2) == 1.19
    root = brentq(lambda w: (2 - w) * entropy((0.3 - w) / (2 - w)) - 1.19, 0, 0.1)
    assert round(root, 3) == 0.011
    assert 0.0104 < work_per_coin() < root < 0.011
    assert round(100 * 0.011 / 0.3, 1) == 3.7


def test_counting_arrangements_gives_the_same_limit_for_large_pools():
    """Work is possible as long as the rest has room for every arrangement of both pools."""
    n = 200_000

    def log_choose(total: int, heads: int) -> float:
        return (
            math.lgamma(total + 1)
            - math.lgamma(heads + 1)
            - math.lgamma(total - heads + 1)
        )

    both = log_choose(n, n // 10) + log_choose(n, n // 5)
    low, high = 0, n // 5
    while high - low > 1:
        w = (low + high) // 2
        fits = log_choose(2 * n - w, 3 * n // 10 - w) >= both
        low, high = (w, high) if fits else (low, w)
    assert low / n == pytest.approx(work_per_coin(), abs=2e-4)


def test_equal_pools_give_no_work_and_the_order_does_not_matter():
    assert work_per_coin(0.2, 0.2) == pytest.approx(0, abs=1e-7)
    assert work_per_coin(0.2, 0.1) == work_per_coin(0.1, 0.2)
    assert work_per_coin(0.01, 0.4) > work_per_coin(0.1, 0.31) > 0


@pytest.mark.parametrize("shares", [(0.0, 0.2), (0.1, 1.0), (0.6, 0.5), (-0.1, 0.2)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ValueError, match="Found shares of heads"):
        work_per_coin(*shares)
