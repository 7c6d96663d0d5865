"""Saying things once, and raising for those who want it."""

import logging
import warnings

import pytest
import torch

from svdhooks.reports import RecordingError, RecordingWarning, Reporter, status_of


def test_each_subject_is_said_once(caplog):
    reporter = Reporter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with caplog.at_level(logging.DEBUG, "svdhooks"):
            reporter.problem("layer a", "first of a")
            reporter.problem("layer a", "second of a")
            reporter.note("layer a", "third of a")
            reporter.problem("layer b", "first of b")
    assert [str(w.message) for w in caught] == ["first of a", "first of b"]
    assert {w.category for w in caught} == {RecordingWarning}
    # what is not repeated can still be found
    assert [r.getMessage() for r in caplog.records] == ["second of a", "third of a"]


def test_reporters_are_independent():
    for _ in range(2):
        with pytest.warns(RecordingWarning, match="said"):
            Reporter().note("subject", "said")


def test_a_filter_that_makes_errors_of_warnings_is_survived(caplog):
    reporter = Reporter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reporter.problem("subject", "what happened", ValueError("why"))
    assert caplog.messages == ["what happened"]


def test_a_filter_that_ignores_warnings_is_obeyed(caplog):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        Reporter().problem("subject", "what happened")
    assert not caught
    assert not caplog.messages


def test_raising_names_the_cause_every_time():
    reporter, cause = Reporter("raise"), ValueError("why")
    for _ in range(2):
        with pytest.raises(RecordingError, match=r"^what happened$") as caught:
            reporter.problem("subject", "what happened", cause)
        assert caught.value.__cause__ is cause
    assert isinstance(caught.value, RuntimeError)


def test_an_error_that_was_raised_is_not_wrapped_again():
    reporter = Reporter("raise")
    with pytest.raises(RecordingError, match="inner") as inner:
        reporter.problem("layer", "inner")
    with pytest.raises(RecordingError, match="inner") as outer:
        reporter.problem("record", "outer", inner.value)
    assert outer.value is inner.value


def test_notes_never_raise():
    with pytest.warns(RecordingWarning):
        Reporter("raise").note("subject", "for information")


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize("wrong", ["ignore", "Warn", "", None, True])
def test_other_choices_are_refused(wrong):
    with pytest.raises(ValueError, match="expected 'warn' or 'raise'"):
        Reporter(wrong)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (ValueError("\n one"), "ValueError: one"),
        (ValueError(), "ValueError"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to …"), "out of memory"),
        (MemoryError(), "out of memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "out of memory",
        ),
        (torch.linalg.LinAlgError("no"), "LinAlgError: no"),
    ],
)
def test_statuses_are_one_line(error, status):
    assert status_of(error) == status
