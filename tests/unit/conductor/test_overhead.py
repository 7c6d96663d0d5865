"""The guard keeps to its budget, records what it can, and says what it does."""

import pytest
import torch
from torch import nn

from svdhooks.conductor.measuring import Measurer
from svdhooks.conductor.overhead import (
    CALL_SECONDS,
    CREDIT_SECONDS,
    LARGEST_STRETCH,
    Allowance,
    OverheadGuard,
)
from svdhooks.layers import find_layers
from svdhooks.probe import ProbeOptions, ReferenceBatch
from svdhooks.quantities import Covariance, WeightSpectrum
from svdhooks.reports import Reporter


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _train(guard, clock, costs, *, dues, interval, shared=0.0, shared_names=()):
    """Train for ``dues`` due steps; return the parts measured at each record."""
    history = []
    for _ in range(dues):
        clock.now += interval
        if not guard.admits():
            history.append(None)
            continue
        chosen = guard.choose(list(costs), shared_names)
        before = guard.spent
        with guard.timed():
            clock.now += sum(costs[part] for part in chosen)
            clock.now += shared if any(p[0] in shared_names for p in chosen) else 0.0
        guard.finished({p: costs[p] for p in chosen}, guard.spent - before)
        history.append(chosen)
    return history


def _guard(limit=0.01):
    clock = _Clock()
    return OverheadGuard(limit, clock), clock


def test_cheap_records_are_all_whole():
    guard, clock = _guard()
    costs = {("w", "a"): 0.1, ("w", "b"): 0.2}
    history = _train(guard, clock, costs, dues=200, interval=100.0)
    assert all(chosen == set(costs) for chosen in history)


def test_the_credit_is_spent_before_anything_is_left_out():
    guard, clock = _guard()
    history = _train(guard, clock, {("w", "a"): 1.0}, dues=9, interval=0.001)
    assert None not in history


@pytest.mark.parametrize("interval", [0.05, 1.0, 10.0, 60.0])
@pytest.mark.parametrize("layers", [1, 20])
def test_time_spent_stays_within_share_and_credit(interval, layers):
    guard, clock = _guard()
    costs = {("w", str(i)): 2.0 / layers for i in range(layers)}
    _train(guard, clock, costs, dues=4000, interval=interval)
    allowed = 0.01 * guard.elapsed + CREDIT_SECONDS
    assert guard.spent <= allowed
    assert guard.spent > 0.7 * min(allowed, 2.0 * 4000)


def test_without_the_guard_the_same_training_would_exceed_it():
    guard, clock = _guard(None)
    costs = {("w", str(i)): 0.1 for i in range(20)}
    _train(guard, clock, costs, dues=2000, interval=1.0)
    assert guard.spent > 100 * (0.01 * guard.elapsed + CREDIT_SECONDS)


def test_every_part_gets_its_turn():
    guard, clock = _guard()
    costs = {("w", str(i)): 0.5 for i in range(12)}
    history = _train(guard, clock, costs, dues=3000, interval=10.0)
    late = [chosen for chosen in history[1500:] if chosen]
    assert set.union(*late) == set(costs)
    counts = [sum(part in chosen for chosen in late) for part in costs]
    assert max(counts) - min(counts) <= 1 + max(map(len, late)) // len(costs)


def test_the_interval_stretches_at_most_tenfold():
    guard, clock = _guard()
    history = _train(guard, clock, {("w", "a"): 5.0}, dues=500, interval=0.1)
    gaps, gap = [], 0
    for chosen in history:
        gap += 1
        if chosen is not None:
            gaps.append(gap)
            gap = 0
    assert max(gaps) == LARGEST_STRETCH


def test_a_part_beyond_the_budget_is_left_out_until_it_has_been_saved_for():
    guard, clock = _guard()
    history = _train(guard, clock, {("w", "a"): 5.0}, dues=20000, interval=0.1)
    measured = [due for due, chosen in enumerate(history) if chosen]
    assert set() in history
    assert measured[:2] == [0, 1]  # the credit
    assert 4800 <= measured[-1] - measured[-2] <= 5200  # 5 s are 1 % of 500 s


@pytest.mark.parametrize("shared_names", [(), ("cov",)])
def test_cheap_parts_leave_something_for_the_costly_ones(shared_names):
    guard, clock = _guard()
    cheap = {("w", str(i)): 0.05 for i in range(40)}
    costs = cheap | {("cov", "a"): 0.0 if shared_names else 1.0}
    history = _train(
        guard,
        clock,
        costs,
        dues=20000,
        interval=1.0,
        shared=1.0,
        shared_names=shared_names,
    )
    # tenfold stretch, and 0.1 s for each record: half of it is saved for 1 s
    late = [chosen for chosen in history[10000:] if chosen is not None]
    assert 25 <= sum(("cov", "a") in chosen for chosen in late) <= 60
    assert all(any(part in chosen for chosen in late) for part in cheap)


def test_what_a_probe_costs_is_remembered_when_a_record_makes_none():
    guard, _ = _guard()
    guard.allowance = Allowance(1, 10.0)
    for parts, total in (([("w", "a")], 0.2), ([("w", "a"), ("cov", "a")], 1.2)):
        guard.choose(parts, ["cov"])
        guard.finished(dict.fromkeys(parts, 0.1), total)
    guard.choose([("w", "a")], ["cov"])
    guard.finished({("w", "a"): 0.1}, 0.2)
    both = [("w", "a"), ("cov", "a")]
    # 0.1 for each part, 0.1 for the log, 0.9 for the probe; "cov" waits longer
    for seconds, expected in ((1.25, both), (1.15, both[1:]), (1.05, both[:1])):
        guard.allowance = Allowance(1, seconds, earned=seconds)
        assert guard.choose(both, ["cov"]) == set(expected)


def test_the_probe_is_paid_once_by_whoever_needs_it():
    guard, clock = _guard()
    costs = {("cov", str(i)): 0.01 for i in range(10)} | {("w", "0"): 0.01}
    _train(
        guard, clock, costs, dues=3000, interval=10.0, shared=1.5, shared_names=("cov",)
    )
    assert guard.spent <= 0.01 * guard.elapsed + CREDIT_SECONDS + 1.6


def test_what_shares_its_passes_has_its_turn_as_a_whole():
    """Half of the layers would cost as much as all of them."""
    guard, clock = _guard()
    costs = {("jac", str(i)): 1.0 for i in range(8)} | {("w", "a"): 0.1}
    guard.choose(list(costs), whole=["jac"])
    clock.now += 1.0
    guard.finished(costs, sum(costs.values()))
    for seconds, expected in ((9.0, set(costs)), (7.9, {("w", "a")})):
        guard.allowance = Allowance(1, seconds, earned=seconds)
        assert guard.choose(list(costs), whole=["jac"]) == expected
    guard.allowance = Allowance(1, 7.9, earned=7.9)
    apart = guard.choose(list(costs))  # the companion
    assert 0 < sum(name == "jac" for name, _ in apart) < 8


def _with_a_rare_one(rare_names):
    """A second per step; of each 100 one is due; sometimes what takes 20 s is, too."""
    guard, clock = _guard()
    cheap = {("w", str(i)): 0.01 for i in range(30)}
    costly = {("jac", str(i)): 2.0 for i in range(10)}
    history, owed = [], False
    for due in range(400):
        clock.now += 100.0
        owed |= due in {1, 2, 4, 8, 16, 32, 64, 128, 256}
        if not guard.admits():
            history.append(None)
            continue
        costs = cheap | (costly if owed else {})
        chosen = guard.choose(list(costs), whole=["jac"], rare=rare_names)
        before = guard.spent
        with guard.timed():
            clock.now += sum(costs[part] for part in chosen)
        guard.finished({p: costs[p] for p in chosen}, guard.spent - before)
        owed &= ("jac", "0") not in chosen
        history.append(chosen)
        # what nobody knows is the cost of the first
        assert guard.spent <= 0.01 * guard.elapsed + CREDIT_SECONDS + 20.0
    return guard, history


def _without(history, part):
    return [due for due, chosen in enumerate(history) if part not in (chosen or ())]


def test_what_is_rare_and_costly_does_not_make_the_others_rarer():
    guard, history = _with_a_rare_one(["jac"])
    # but for the debt that the first one left, whose cost nobody knew
    assert max(_without(history, ("w", "0"))) < 10
    costly = [due for due in range(400) if ("jac", "9") in (history[due] or ())]
    # 0.7 s of each interval is left to save 20 s from: those of 2 to 32 are two
    assert len(costly) == 5
    assert costly[-2:] == [128, 256]
    assert guard.spent <= 0.01 * guard.elapsed + CREDIT_SECONDS


def test_taken_for_a_regular_one_it_would():
    """The companion."""
    _, history = _with_a_rare_one([])
    assert len(_without(history[10:], ("w", "0"))) > 40


def test_no_limit_measures_everything_always():
    guard, clock = _guard(None)
    costs = {("w", "a"): 50.0}
    assert _train(guard, clock, costs, dues=20, interval=0.1) == [set(costs)] * 20


# --- costs that are not known yet ---------------------------------------------------------


def _train_unknown(guard, clock, costs, *, dues, interval, obeying):
    """Train; costs are learnt only by measuring, and a record stops when told to."""
    for _ in range(dues):
        clock.now += interval
        if not guard.admits():
            continue
        chosen, before, measured = guard.choose(list(costs)), guard.spent, {}
        with guard.timed():
            for part in sorted(chosen):
                if not (obeying and guard.exhausted()):
                    clock.now += costs[part]
                    measured[part] = costs[part]
        guard.finished(measured, guard.spent - before)
        yield set(measured)


def test_a_first_record_stops_when_the_credit_is_used_up():
    guard, clock = _guard()
    costs = {("w", str(i)): 1.5 for i in range(100)}
    records = _train_unknown(guard, clock, costs, dues=40, interval=1e3, obeying=True)
    measured = [parts for parts in records if parts]
    assert len(measured[0]) == 14  # (10 s + 1 % of 1,000 s) / 1.5 s, rounded up
    assert set.union(*measured) == set(costs)
    assert guard.spent <= 0.01 * guard.elapsed + CREDIT_SECONDS + 1.5


def test_a_first_record_that_does_not_stop_takes_what_it_takes():
    """The companion: this is what stopping prevents."""
    guard, clock = _guard()
    costs = {("w", str(i)): 1.5 for i in range(100)}
    list(_train_unknown(guard, clock, costs, dues=1, interval=1e3, obeying=False))
    assert guard.spent == pytest.approx(150.0)


def test_a_record_may_take_much_longer_than_the_last_one():
    guard, clock = _guard()
    costs = {("w", str(i)): 0.1 for i in range(10)}
    records = _train_unknown(guard, clock, costs, dues=4000, interval=60, obeying=True)
    for number, parts in enumerate(records):
        assert parts == set(costs)
        costs.update(dict.fromkeys(costs, 0.1 * (1 + 0.8 * (number % 2))))
    assert number > 1000  # it does not fit every time


def test_without_limit_no_record_stops():
    guard, clock = _guard(None)
    costs = {("w", str(i)): 1e6 for i in range(10)}
    records = _train_unknown(guard, clock, costs, dues=1, interval=1.0, obeying=True)
    assert list(records) == [set(costs)]


@pytest.mark.parametrize("calls", [0, 1, 2, 3, 4])
def test_a_measurer_leaves_out_what_comes_too_late(calls):
    left = iter([False] * calls)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    measurer = Measurer(
        model,
        find_layers(model),
        ProbeOptions(),
        None,
        Reporter("raise"),
        lambda: next(left, True),
    )
    quantities = [WeightSpectrum(), Covariance()]
    reference = ReferenceBatch.given(torch.randn(6, 3))
    parts = measurer.parts(quantities, probing=True)
    measured = measurer.measure(0, quantities, set(parts), reference)
    # asked before each weight, before the probe, and for each layer in the probe
    expected = {0: 0, 1: 1, 2: 2, 3: 2, 4: 3}[calls]
    assert list(measured.costs) == parts[:expected]
    assert all(record.ok for record in measured.records)


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.1, 5.0])
def test_an_impossible_share_is_refused(wrong):
    with pytest.raises(ValueError, match="max_overhead"):
        OverheadGuard(wrong)


def test_calls_between_records_count_too():
    guard, clock = _guard()
    for _ in range(1000):
        clock.now += 0.01
        guard.passed(1, 0.0)
    assert guard.spent == pytest.approx(1000 * CALL_SECONDS)
    assert guard.elapsed == pytest.approx(10.0 - guard.spent)
