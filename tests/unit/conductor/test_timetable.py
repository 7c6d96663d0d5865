"""When what is due, also where records become rarer."""

from svdhooks import at, every
from svdhooks.conductor.timetable import Timetable
from svdhooks.quantities import Covariance, JacobianSpectrum, WeightSpectrum

QUANTITIES = [WeightSpectrum(), JacobianSpectrum(schedule=at(3))]


def _names(quantities):
    return [q.name for q in quantities]


def test_what_has_a_schedule_of_its_own_comes_with_the_next_record():
    table = Timetable(QUANTITIES, every(2))
    assert _names(table.take(1, 2)) == ["weight_spectrum"]
    assert _names(table.take(2, 3)) == ["local_rank"]  # and no record is made
    assert table.take(4, 5) == []  # it does not make one by itself
    due = table.take(5, 6)
    assert _names(due) == ["weight_spectrum", "local_rank"]
    table.settle(due, {"local_rank"})  # no time for it
    due = table.take(7, 8)
    assert _names(due) == ["weight_spectrum", "local_rank"]
    table.settle(due, set())
    assert _names(table.take(9, 10)) == ["weight_spectrum"]


def test_what_follows_the_recorder_becomes_rarer_with_it():
    table = Timetable([Covariance(), JacobianSpectrum(schedule=at(3))], every(2))
    table.take(1, 2)
    assert _names(table.take(2, 3)) == ["local_rank"]


def test_to_look_ahead_owes_nothing():
    table = Timetable(QUANTITIES, every(2))
    assert _names(table.due(2, 3)) == ["local_rank"]
    assert _names(table.due(3, 4)) == ["weight_spectrum"]
