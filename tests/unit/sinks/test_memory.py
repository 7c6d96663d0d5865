"""Records kept in a list."""

from svdhooks.sinks import Sink
from svdhooks.sinks.memory import MemorySink
from tests.logs import step_records, weight_record


def test_records_are_kept_in_the_order_in_which_they_were_made() -> None:
    sink = MemorySink()
    first, second = step_records(0, ["fc1"]), [weight_record(10, "fc1")]
    sink.write(first)
    sink.write(second)
    sink.close()
    assert sink.records == [*first, *second]
    assert sink.closed


def test_records_can_be_chosen_by_quantity_and_layer() -> None:
    sink = MemorySink()
    sink.write(step_records(0, ["fc1", "fc2"]))
    assert [r.layer for r in sink.of("weight_spectrum")] == ["fc1", "fc2"]
    assert [r.point for r in sink.of("covariance", "fc2")] == ["input", "output"]
    assert len(sink.of("run")) == 1
    assert sink.of("nothing") == []


def test_it_is_a_sink() -> None:
    assert isinstance(MemorySink(), Sink)
    assert not isinstance(object(), Sink)
