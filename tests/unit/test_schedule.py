"""When a record is due."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svdhooks.schedule import (
    any_of,
    at,
    check_schedule,
    every,
    log_spaced,
    quiet_until,
)


def _recorded(schedule, steps):
    previous, found = -1, []
    for step in steps:
        if schedule.due(previous, step):
            found.append(step)
        previous = max(previous, step)
    return found


def test_every_records_step_zero_and_multiples():
    assert _recorded(every(3), range(10)) == [0, 3, 6, 9]


def test_a_multiple_that_is_jumped_over_is_not_missed():
    assert _recorded(every(3), [0, 2, 4, 6, 8, 10]) == [0, 4, 6, 10]


def test_the_remainder_rule_would_have_missed_them():
    """The companion: step % n, as it is usually written, on two optimisers."""
    assert [s for s in range(2, 12, 2) if s % 5 == 0] == [10]
    assert _recorded(every(5), [0, *range(2, 12, 2)]) == [0, 6, 10]


def test_a_repeated_step_records_once():
    assert _recorded(every(2), [0, 0, 1, 1, 2, 2, 3, 3, 4]) == [0, 2, 4]


def test_steps_that_go_back_record_nothing():
    assert not every(1).due(5, 3)
    assert not log_spaced().due(5, 3)
    assert not at(3, 4).due(5, 3)


def test_a_resumed_run_records_its_first_state_if_it_is_on_the_grid():
    assert every(100).due(199, 200)
    assert not every(100).due(149, 150)


def test_log_spaced_steps_are_the_rounded_geometric_sequence():
    found = _recorded(log_spaced(10), range(1001))
    expected = {0} | {s for k in range(31) if (s := round(10 ** (k / 10))) <= 1000}
    assert found == sorted(expected)


@given(
    st.integers(1, 12),
    st.integers(1, 20),
    st.lists(st.integers(0, 3000), min_size=1, max_size=40),
)
def test_log_spaced_by_jumps_agrees_with_the_list_of_steps(per_decade, first, steps):
    targets = {0} | {round(first * 10 ** (k / per_decade)) for k in range(12 * 4 + 1)}
    schedule = log_spaced(per_decade, first=first)
    steps = sorted(steps)
    expected, previous = [], -1
    for step in steps:
        if any(previous < t <= step for t in targets):
            expected.append(step)
        previous = max(previous, step)
    # beyond the listed targets nothing is claimed
    reach = first * 10**4 if per_decade == 12 else max(targets)
    assert [s for s in _recorded(schedule, steps) if s <= reach] == [
        s for s in expected if s <= reach
    ]


def test_log_spaced_ends_at_last():
    assert max(_recorded(log_spaced(4, last=50), range(500))) <= 50


def test_at_records_exactly_these_steps():
    assert _recorded(at(5, 2, 2), range(10)) == [2, 5]


def test_any_of_is_a_union():
    assert _recorded(any_of(every(4), at(1, 4)), range(9)) == [0, 1, 4, 8]


def test_schedules_describe_themselves():
    schedule = any_of(every(5), log_spaced(3, last=9), at(1, 2))
    assert (
        str(schedule) == "every 5 steps or 3 steps per decade from 1 until 9 or at 1, 2"
    )
    assert str(every(1)) == "every step"


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize(
    "wrong",
    [
        lambda: every(0),
        lambda: every(2.5),
        lambda: every(True),
        lambda: at(),
        lambda: at(-1),
        lambda: any_of(),
        lambda: log_spaced(0),
        lambda: log_spaced(first=10, last=5),
    ],
)
def test_empty_and_impossible_schedules_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected|empty"):
        wrong()


@pytest.mark.usefixtures("as_a_user_calls")
def test_what_is_no_schedule_is_refused():
    for wrong in (100, every, None):
        with pytest.raises(TypeError, match=r"every\(n\)"):
            check_schedule(wrong)
    with pytest.raises(TypeError, match=r"every\(n\)"):
        any_of(every(3), 5)


_OWN = st.one_of(
    st.integers(1, 150),
    st.lists(st.integers(0, 160), min_size=1, max_size=5),
    st.tuples(st.integers(1, 12), st.integers(1, 30)),
)


def _schedule(rule):
    if isinstance(rule, int):
        return every(rule)
    if isinstance(rule, list):
        return at(*rule)
    return log_spaced(rule[0], first=rule[1], last=150)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(_OWN, min_size=1, max_size=3), max_size=3))
def test_asking_only_when_something_may_be_due_misses_nothing(rules):
    schedules = [any_of(*map(_schedule, several)) for several in rules]
    rule = [] if not schedules else _recorded(any_of(*schedules), range(200))
    found, asked, previous, quiet = [], 0, -1, 0
    for step in range(200):
        if step < quiet:
            continue
        asked += 1
        if any(s.due(previous, step) for s in schedules):
            found.append(step)
        previous = step
        quiet = quiet_until(schedules, step)
        assert quiet > step
    assert found == rule


def test_a_rare_schedule_is_asked_rarely():
    step, asked = 0, 0
    while step < 10_000:
        step, asked = quiet_until([every(1000), at(5)], step), asked + 1
    assert asked < 300


def test_a_schedule_of_somebody_else_is_asked_every_time():
    class Sometimes:
        def due(self, previous_step: int, step: int) -> bool:
            return False

    assert quiet_until([every(1000)], 7) == 7 + 64
    assert quiet_until([every(1000), Sometimes()], 7) == 8
    assert quiet_until([any_of(every(1000), Sometimes())], 7) == 8
