"""The verdict of a report: right, plain, and no surer than the evidence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svdhooks.alarms import AlarmEvent
from svdhooks.analysis.reporting import page_data
from svdhooks.analysis.reporting.curves import fall_of
from svdhooks.analysis.reporting.evidence import Evidence
from svdhooks.analysis.reporting.verdict import verdict_of
from svdhooks.record import Record
from svdhooks.runlog import RunLog
from svdhooks.sinks.tensorboard import TensorBoardSink
from tests.logs import meta_record, run_record
from tests.reported import Checked

Curve = Callable[[float], float]
"""A value over the run, from 0 to 1."""

WIDTH = 128


def run_of(
    log_dir: Path, rank: Curve, loss: Curve | None, *, records: int = 40, **more: Any
) -> dict[str, Any]:
    """A run of two layers whose rank and loss follow curves; its verdict, checked."""
    sink = TensorBoardSink(log_dir)
    for i in range(records):
        step, t = i * 25, i / max(records - 1, 1)
        known = {} if loss is None else {"loss": loss(t)}
        rows = [
            Record(
                step,
                layer,
                "covariance",
                {
                    "spectrum": np.ones(4, np.float32),
                    "effective_rank": np.asarray(rank(t)),
                    "total_variance": np.asarray(1.0),
                    "count": np.asarray(512.0),
                },
                point="output",
                **more,
            )
            for layer in ("encoder", "head")
        ]
        meta = [meta_record({"encoder": WIDTH, "head": WIDTH}, step)] if i == 0 else []
        sink.write([*meta, run_record(step, **known), *rows])
    sink.close()
    log = RunLog(log_dir)
    page = page_data({"run": log}, "title", "auto", 8e6)
    (run,) = page.tree["runs"]
    Checked(page, run, log).verdict()
    return {**run["verdict"], "text": " ".join(run["verdict"]["sentences"])}


def falling(start: float, end: float) -> Curve:
    return lambda t: end + (start - end) * (1 - t) ** 3


def flat(value: float) -> Curve:
    return lambda _: value


def test_nothing_happened_is_healthy(tmp_path: Path) -> None:
    found = run_of(tmp_path, flat(60.0), falling(2.0, 0.1))
    assert found["level"] == "healthy"
    assert found["headline"] == "No sign of collapse in 2 layers over 40 records."
    assert "The loss fell from 2 at step 0 to 0.1" in found["text"]


def test_a_fall_with_a_better_loss_is_called_compression(tmp_path: Path) -> None:
    found = run_of(tmp_path, falling(60.0, 12.0), falling(2.0, 0.1))
    assert found["level"] == "information"
    assert "compresses" in found["headline"]
    assert "collapse" in found["headline"]
    sentence = "fell from 60 at step 0 to 12 of at most 128 at step 975"
    assert sentence in found["text"]
    assert "In 2 of 2 layers" in found["text"]
    # (1 - t)³ is 1/2 at t = 0.21 and 1/10 at 0.54, and there is a record every 25 steps
    assert "half of the way by step 225 and nine tenths by step 525" in found["text"]


def test_a_deep_fall_without_a_loss_is_left_open(tmp_path: Path) -> None:
    found = run_of(tmp_path, falling(60.0, 1.5), None)
    assert found["level"] == "attention"
    assert "cannot be told apart" in found["headline"]
    assert "recorder.step(loss=loss)" in found["text"]


def test_a_deep_fall_with_a_better_loss_is_no_compression_for_sure(
    tmp_path: Path,
) -> None:
    found = run_of(tmp_path, falling(60.0, 1.5), falling(2.0, 0.1))
    assert found["level"] in {"attention", "alarm"}
    assert "self-supervised" in found["headline"] or found["level"] == "alarm"


def test_a_deep_fall_with_a_worse_loss_is_an_alarm(tmp_path: Path) -> None:
    def loss(t: float) -> float:
        return 2.0 - 1.8 * t / 0.3 if t < 0.3 else 0.2 + 3 * (t - 0.3)

    found = run_of(tmp_path, lambda t: 60.0 if t < 0.4 else 1.5, loss)
    assert found["level"] == "alarm"
    assert "collapse" in found["headline"]
    assert "The loss got worse again" in found["text"]


def test_too_few_samples_carry_no_verdict_of_a_fall(tmp_path: Path) -> None:
    found = run_of(tmp_path, falling(60.0, 1.5), None, marks=("sample_limited",))
    assert found["level"] not in {"attention", "alarm"}
    assert "too few samples" in found["text"]
    assert "probe=" in found["text"]


def test_few_records_say_nothing(tmp_path: Path) -> None:
    found = run_of(tmp_path, falling(60.0, 1.5), None, records=3)
    assert found["level"] == "unknown"
    assert "too few" in found["headline"]


def test_a_loss_that_stays_is_not_called_a_fall(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=1000)
    found = run_of(tmp_path, flat(60.0), lambda t: 1 + 0.3 * float(noise[int(t * 999)]))
    assert "did not fall by more than its own noise" in found["text"]


def test_a_loss_that_broke_is_told_with_its_step(tmp_path: Path) -> None:
    found = run_of(tmp_path, flat(60.0), lambda t: float("nan") if t > 0.5 else 2.0 - t)
    assert "The loss is not finite at step 500, for the first time." in found["text"]


def event(alarm: str, step: int = 300, layer: str = "fc", **more: Any) -> AlarmEvent:
    return AlarmEvent(step, layer, alarm, "alarm", f"what {alarm} says", step, **more)


def test_the_gravest_rule_gives_the_headline() -> None:
    events = [
        event("dead_units", 100),
        event("collapse", 200),
        event("non_finite", 900),
    ]
    found = verdict_of(Evidence(records=50, layers=2, judged=2, events=events))
    assert found.level == "alarm"
    assert found.headline == (
        "Values that are not finite in layer 'fc' since step 900, and 2 other kinds of "
        "alarm."
    )


def test_alarms_of_one_rule_are_one_sentence() -> None:
    events = [event("collapse", step) for step in (300, 600, 900)]
    found = verdict_of(Evidence(records=50, layers=2, judged=2, events=events))
    assert found.sentences[0] == (
        "At step 300: what collapse says. 2 more such alarms followed, the last at step "
        "900."
    )


def test_what_passed_is_said_to_have_passed() -> None:
    evidence = Evidence(
        records=50, layers=2, judged=2, events=[event("collapse")], holding=frozenset()
    )
    found = verdict_of(evidence)
    assert found.level == "attention"
    assert "passed by the end" in found.headline
    evidence.holding = frozenset({"collapse"})
    assert verdict_of(evidence).level == "alarm"


def test_a_measurement_that_never_worked_is_a_reservation() -> None:
    failure = ("place", "output", 0, "not called in the probe")
    never = Evidence(records=50, layers=2, judged=2, failed=50, first_failure=failure)
    assert verdict_of(never).level == "healthy"
    assert "not called in the probe" in " ".join(verdict_of(never).sentences)
    broke = Evidence(
        records=50, layers=2, judged=2, failed=5, broke=True, first_failure=failure
    )
    assert verdict_of(broke).level == "attention"


def test_failures_of_one_point_are_told_as_such() -> None:
    failure = ("place", "output", 0, "not called in the probe")
    options = {"records": 50, "layers": 2, "judged": 2, "first_failure": failure}

    def said(failed: int, broken: int) -> str:
        evidence = Evidence(**options, failed=failed, broken=broken)
        return " ".join(verdict_of(evidence).sentences)

    assert "50 measurements failed, all of the output of layer 'place'" in said(50, 1)
    assert "50 measurements failed; the first: output of layer" in said(50, 2)
    assert "1 measurement failed; the first" in said(1, 1)


def test_a_verdict_does_not_contradict_an_alarm_about_the_loss(tmp_path: Path) -> None:
    """An alarm says that the loss does not fall; it fell, and then stayed."""
    found = run_of(
        tmp_path,
        lambda t: 60.0 if t < 0.3 else 1.5,
        lambda t: 2.0 if t == 0 else 1.0 + 1e-6 * (t * 40 % 2),
    )
    assert "the loss does not fall" in found["text"]
    assert "its last five values, and no longer falls." in found["text"]
    # where nothing is wrong it is not worth a word that a loss has converged
    well = run_of(tmp_path / "well", flat(60.0), lambda t: 1.0 + (t == 0))
    assert "no longer" not in well["text"]


def test_one_finite_loss_is_no_change(tmp_path: Path) -> None:
    found = run_of(tmp_path, flat(60.0), lambda t: float("nan") if t > 0 else 3.0)
    assert "Its only finite value is 3 at step 0." in found["text"]


def test_a_sudden_fall_has_one_date(tmp_path: Path) -> None:
    found = run_of(tmp_path, lambda t: 60.0 if t < 0.5 else 12.0, falling(2.0, 0.1))
    assert "at step 975, nine tenths of the way by step 500." in found["text"]


def test_nobody_is_asked_for_the_loss_of_checkpoints() -> None:
    found = verdict_of(Evidence(records=50, layers=2, judged=2, of_checkpoints=True))
    assert "checkpoints hold none" in " ".join(found.sentences)
    assert "recorder.step" not in " ".join(found.sentences)


def test_without_rules_that_is_said() -> None:
    found = verdict_of(Evidence(records=50, layers=2, judged=2, rules=False))
    assert "No rules were applied" in found.headline


@pytest.mark.parametrize("shift", [0, 7])
def test_half_of_the_way_is_where_the_curve_crosses_its_middle(shift: int) -> None:
    values = np.array([20.0] * 10 + [*np.linspace(100, 20, 81)] + [20.0])
    steps = np.arange(len(values)) * 5 + shift
    fall = fall_of("fc", "output_effective_rank", steps, values)
    assert fall is not None
    assert (fall.high, fall.high_step) == (100.0, 50 + shift)
    assert fall.half_step == (10 + 40) * 5 + shift  # the middle of a straight line
    assert fall.most_step == (10 + 72) * 5 + shift
    assert fall.share == 0.2


def test_a_curve_with_gaps_is_judged_by_what_there_is() -> None:
    values = np.array([np.nan, 8.0, np.nan, 2.0, np.nan])
    fall = fall_of("fc", "output_effective_rank", np.arange(5), values)
    assert fall is not None
    assert (fall.start_step, fall.end_step, fall.share) == (1, 3, 0.25)
    assert fall_of("fc", "x", np.arange(2), np.array([np.nan, 1.0])) is None
