"""A record that waits for its spectrum keeps what was said of it meanwhile."""

from dataclasses import replace

import numpy as np

from svdhooks.quantities.pending import Pending, Unfinished
from svdhooks.record import Record


def _failed(status: str) -> Record:
    return Record(3, "a", "q", {"spectrum": np.full(2, np.nan)}, status, point="input")


def _pending(finish) -> Pending:
    return Pending(3, "a", "q", point="input", unfinished=Unfinished(finish, _failed))


def _finished() -> Record:
    values = {"spectrum": np.array([2.0, 1.0])}
    return Record(3, "a", "q", values, method="gram", point="input", marks=("x",))


def test_it_becomes_the_record_that_it_stands_for():
    done = _pending(_finished).complete()
    assert type(done) is Record
    assert (done.step, done.layer, done.quantity, done.point) == (3, "a", "q", "input")
    assert (done.status, done.method, done.marks) == ("ok", "gram", ("x",))
    assert done.spectrum.tolist() == [2, 1]


def test_what_was_changed_meanwhile_is_kept():
    waiting = replace(
        _pending(_finished),
        step=5,
        layer="b",
        point="output",
        seconds=0.5,
        marks=("y",),
    )
    done = waiting.complete()
    assert (done.step, done.layer, done.point, done.seconds) == (5, "b", "output", 0.5)
    assert done.marks == ("x", "y")
    told = replace(waiting, status="called 3 times").complete()
    assert told.status == "called 3 times"
    assert told.spectrum.tolist() == [2, 1]


def test_a_failure_is_the_status_under_the_name_it_has_now():
    def finish() -> Record:
        raise ValueError("planned")

    waiting = replace(_pending(finish), layer="b")
    done = waiting.complete()
    assert (done.layer, done.status) == ("b", "ValueError: planned")
    assert np.isnan(done.spectrum).all()
    assert str(waiting.unfinished.error) == "planned"


def test_points_that_share_a_tensor_are_finished_once():
    finished = []

    def finish() -> Record:
        finished.append(1)
        return _finished()

    one = _pending(finish)
    two = replace(one, layer="b")
    assert [one.complete().layer, two.complete().layer] == ["a", "b"]
    assert finished == [1]
