"""What each sink is handed, and when the layer table is told again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import svdhooks
from svdhooks.conductor.journal import Journal, check_sinks
from svdhooks.conductor.meta import Described
from svdhooks.layers import find_layers
from svdhooks.record import Record
from svdhooks.reports import RecordingWarning, Reporter
from svdhooks.sinks.memory import MemorySink
from tests.models import mlp


class _Fails(MemorySink):
    """Fails when it is told to."""

    broken = False

    def write(self, records: Sequence[Record]) -> None:
        if self.broken:
            raise OSError("full")
        super().write(records)


def _write(journal: Journal, step: int, table: Any) -> None:
    record = Record(step, "0", "weight_spectrum", {"spectrum": np.ones(3)})
    described = Described(table.layers)
    journal.write(step, [record], {"seconds": 0.5}, table, lambda: described)


def _told(sink: MemorySink) -> list[tuple[int, str]]:
    return [(r.step, r.quantity) for r in sink.records]


def test_the_layer_table_comes_first_and_once():
    sink, table = MemorySink(), find_layers(mlp(4, 3))
    journal = Journal([sink], {}, Reporter())
    _write(journal, 0, table)
    _write(journal, 1, table)
    step = [(0, "run"), (0, "weight_spectrum")]
    assert _told(sink) == [(0, "meta"), *step, (1, "run"), (1, "weight_spectrum")]


def test_the_layer_table_is_told_again_after_ctrl_c_between_the_sinks():
    class Interrupted(MemorySink):
        def write(self, records: Sequence[Record]) -> None:
            raise KeyboardInterrupt

    sink, table = MemorySink(), find_layers(mlp(4, 3))
    journal = Journal([Interrupted(), sink], {}, Reporter())
    with pytest.raises(KeyboardInterrupt):
        _write(journal, 0, table)
    journal.sinks = (sink,)
    _write(journal, 1, table)
    assert _told(sink)[0] == (1, "meta")


def test_another_layer_table_is_told():
    sink, model = MemorySink(), mlp(4, 3)
    journal = Journal([sink], {}, Reporter())
    for step in range(2):
        _write(journal, step, find_layers(model))
    assert [step for step, quantity in _told(sink) if quantity == "meta"] == [0, 1]


def test_after_a_failure_the_table_is_told_again_and_the_others_miss_nothing():
    sink, other, table = _Fails(), MemorySink(), find_layers(mlp(4, 3))
    journal = Journal([sink, other], {}, Reporter())
    sink.broken = True
    with pytest.warns(RecordingWarning, match="_Fails could not write.*step 0.*full"):
        _write(journal, 0, table)
    sink.broken = False
    _write(journal, 1, table)
    assert _told(sink)[0] == (1, "meta")
    assert [step for step, quantity in _told(other) if quantity == "run"] == [0, 1]


def test_closing_closes_all_whatever_one_of_them_does():
    class Stuck(MemorySink):
        def close(self) -> None:
            raise OSError("stuck")

    last = MemorySink()
    with pytest.warns(RecordingWarning, match="Stuck could not be closed: stuck"):
        Journal([Stuck(), last], {}, Reporter("raise")).close()
    assert last.closed


@pytest.mark.usefixtures("as_a_user_calls")
def test_what_cannot_take_records_is_refused():
    check_sinks(())
    check_sinks([svdhooks.MemorySink()])
    for wrong in (MemorySink(), [MemorySink], [print], [None], iter([MemorySink()])):
        with pytest.raises(TypeError, match="MemorySink"):
            check_sinks(wrong)
