"""Local rank and ledger of a layer, written and read back, by log and by memory."""

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from svdhooks import schema
from svdhooks.derived import why_not
from svdhooks.record import Record
from svdhooks.runlog import RunLog
from svdhooks.runlog.histories import LedgerHistory, LocalRankHistory
from svdhooks.sinks.memory import MemorySink
from svdhooks.sinks.tensorboard import TensorBoardSink
from tests.logs import (
    LEDGER_FIELDS,
    jacobian_record,
    ledger_record,
    meta_record,
    step_records,
    weight_record,
)
from tests.unit.test_display import Page

LOCAL_RANK_FIELDS = (
    "local_rank",
    "relative_local_rank",
    "effective_rank",
    "stable_rank",
    "spectral_norm",
    "frobenius_norm",
    "weight_rank",
    "relative_weight_rank",
    "weight_stable_rank",
    "rank_bound",
    "eps",
    "relative_eps",
    "samples",
    "directions",
)
STEPS = [0, 1, 3, 10, 31, 100, 316, 1000]
LONG = "λ" * 10_000
LAYERS = ["fc1", "fc2", "head/<b>%ü", LONG]


def records(step: int) -> list[Record]:
    """All layers but the last have a local rank; ``fc2`` has a sketch from step 10 on."""
    of_layers = [weight_record(step, layer) for layer in LAYERS]
    jacobians = [
        jacobian_record(step, layer, sketch=layer == "fc2" and step >= 10)
        for layer in LAYERS[:3]
    ]
    ledgers = [ledger_record(step, layer) for layer in LAYERS[1:]]
    return [*of_layers, *jacobians, *(ledgers if step in STEPS[::2] else [])]


def write(log_dir: Path, steps: list[int] = STEPS) -> RunLog:
    sink = TensorBoardSink(log_dir)
    for step in steps:
        head = [meta_record(LAYERS)] if step == steps[0] else []
        sink.write([*head, *records(step)])
    sink.close()
    return RunLog(log_dir, name="exp1")


def remember(log_dir: Path) -> MemorySink:
    memory = MemorySink()
    for step in STEPS:
        memory.write(records(step))
    return memory


@pytest.fixture(scope="module", params=[write, remember], ids=["log", "memory"])
def source(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> RunLog | MemorySink:
    """What was recorded, to be read in both ways."""
    return request.param(tmp_path_factory.mktemp("run"))


# --- local rank ------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS[:3])
@pytest.mark.parametrize("relative", [False, True])
def test_local_rank_comes_back_as_it_was_measured(source, layer, relative):
    history = source.local_rank(layer, relative=relative)
    prefix = "relative_" if relative else ""
    steps, mean = history
    assert steps.tolist() == STEPS
    made = [jacobian_record(step, layer) for step in STEPS]
    for name, end in (("mean", ""), ("std", "_std"), ("min", "_min"), ("max", "_max")):
        expected = [r.measures[f"{prefix}local_rank{end}"] for r in made]
        np.testing.assert_allclose(getattr(history, name), expected, rtol=1e-6)
    assert mean is history.mean
    assert history.samples.tolist() == [32] * 8
    assert history.directions.tolist() == [6] * 8
    assert history.eps.tolist() == [0.1 if relative else 0.01] * 8  # not 0.0099999998
    assert np.array_equal(history.spectra, [r.spectrum for r in made])
    bounded = [layer == "fc2" and step >= 10 for step in STEPS]
    assert history.lower_bound.tolist() == bounded


def test_the_spectra_are_those_of_any_point(tmp_path):
    log = write(tmp_path)
    steps, sigma = log.spectra("fc1", "jacobian")
    history = log.local_rank("fc1")
    assert np.array_equal(steps, history.steps)
    assert np.array_equal(sigma, history.spectra)


def test_a_step_that_failed_is_nan_and_no_bound(tmp_path):
    sink = TensorBoardSink(tmp_path)
    for step in (0, 10):
        sink.write([jacobian_record(step, "fc1", failed=step == 10)])
    sink.close()
    history = RunLog(tmp_path).local_rank("fc1")
    assert history.steps.tolist() == [0, 10]
    assert np.isfinite(history.mean).tolist() == [True, False]
    assert history.samples.tolist() == [32, 0]
    assert np.isnan(history.spectra[1]).all()
    assert history.lower_bound.tolist() == [False, False]
    assert str(history).splitlines()[-1].split() == ["10", *"––––"]


def test_what_is_added_is_read_live(tmp_path):
    sink = TensorBoardSink(tmp_path)
    sink.write([meta_record(LAYERS), *records(0)])
    log = RunLog(tmp_path)
    assert log.local_rank("fc1").steps.tolist() == [0]
    sink.write(records(10))
    assert log.refresh()
    assert log.local_rank("fc2").lower_bound.tolist() == [False, True]
    assert log.local_rank("fc1").spectra.shape == (2, 6)
    sink.close()


def test_other_quantities_at_other_steps_leave_no_gap(tmp_path):
    sink = TensorBoardSink(tmp_path)
    for step in range(0, 50, 5):
        sink.write(step_records(step, ["fc1"]))
        if step in {0, 20}:
            sink.write([jacobian_record(step, "fc1")])
    sink.close()
    assert RunLog(tmp_path).local_rank("fc1").steps.tolist() == [0, 20]


def test_a_spectrum_of_another_length_stands_at_its_own_step(tmp_path):
    sink = TensorBoardSink(tmp_path / "other")
    memory = MemorySink()
    for step, n in ((0, 4), (10, 6)):
        for to in (sink, memory):
            to.write([jacobian_record(step, "fc1", n=n)])
    sink.close()
    for read in (RunLog(tmp_path / "other"), memory):
        spectra = read.local_rank("fc1").spectra
        short = jacobian_record(0, "fc1", n=4).spectrum
        assert np.array_equal(spectra[0], [*short, 0, 0])


# --- ledger ----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS[1:])
def test_the_ledger_comes_back_by_name_and_by_dot(source, layer):
    ledger = source.ledger(layer)
    steps, fields = ledger
    assert steps.tolist() == STEPS[::2]
    made = [ledger_record(step, layer).measures for step in STEPS[::2]]
    assert list(fields) == list(made[0])
    for name in made[0]:
        expected = [values[name] for values in made]
        np.testing.assert_allclose(ledger[name], expected, rtol=1e-6)
        assert getattr(ledger, name) is ledger[name]
        assert name in ledger
    assert dict(ledger).keys() == fields.keys()


def test_a_field_that_is_not_there_is_answered_with_those_that_are(source):
    ledger = source.ledger("fc2")
    with pytest.raises(KeyError, match="no field 'nothing'; it has input_null_share"):
        ledger["nothing"]
    with pytest.raises(AttributeError, match="no field 'nothing'"):
        _ = ledger.nothing
    assert "nothing" not in ledger


def test_a_field_that_one_layer_lacks_is_nan(tmp_path):
    last = dict(ledger_record(0, "fc2").values)
    last["nonlinearity_removed_share"] = np.asarray(np.nan)
    made = [ledger_record(0, "fc1"), Record(0, "fc2", "ledger", last, point="ledger")]
    sink, memory = TensorBoardSink(tmp_path), MemorySink()
    sink.write(made)
    memory.write(made)
    sink.close()
    for read in (RunLog(tmp_path), memory):
        assert np.isfinite(read.ledger("fc1").nonlinearity_removed_share).all()
        assert np.isnan(read.ledger("fc2").nonlinearity_removed_share).all()
        (line,) = [t for t in str(read.ledger("fc2")).splitlines() if "removed" in t]
        assert line.split() == ["nonlinearity", "removed", "share", "–"]


def test_both_copy_and_pickle(source):
    for history in (source.local_rank("fc1"), source.ledger("fc2")):
        for same in (copy.deepcopy(history), pickle.loads(pickle.dumps(history))):
            assert type(same) is type(history)
            assert str(same) == str(history)


# --- what there is not -----------------------------------------------------------------


def test_a_layer_without_is_answered_with_those_that_have_it(source):
    with pytest.raises(KeyError, match="recorded no local rank of layer") as caught:
        source.local_rank(LONG)
    assert "of 'fc1', 'fc2', 'head/<b>%ü'" in caught.value.args[0]
    with pytest.raises(KeyError, match="recorded no ledger of layer 'fc1'; of 'fc2'"):
        source.ledger("fc1")
    for ask in (source.local_rank, source.ledger):
        with pytest.raises(KeyError, match=r"layer 'fc3'"):
            ask("fc3")


def test_a_memory_without_says_so():
    memory = MemorySink([weight_record(0, "fc1")])
    with pytest.raises(KeyError, match="recorded no local rank"):
        memory.local_rank("fc1")
    with pytest.raises(KeyError, match="recorded no ledger"):
        memory.ledger("fc1")


def test_nothing_is_derived_from_the_mean_of_many_spectra(tmp_path):
    log = write(tmp_path)
    assert log.derived
    assert not [name for name in log.derived if name.startswith(("jacobian", "ledger"))]
    assert "many Jacobians" in why_not("stable_rank", "jacobian")
    assert "no spectrum" in why_not("stable_rank", "ledger")


# --- for the eye -----------------------------------------------------------------------


def test_the_table_says_threshold_samples_and_what_is_bounded(source):
    lines = str(source.local_rank("fc2")).splitlines()
    head = "Local rank of fc2: σ > 0.01, 8 records, steps 0 to 1,000, 32 samples"
    assert lines[0] == head
    assert lines[1].split() == ["step", "mean", "std", "min", "max"]
    assert [line.count("≥") for line in lines[2:10]] == [0, 0, 0, 3, 3, 3, 3, 3]
    assert lines[10] == "≥ by 6 random directions of the input: at least that many."
    relative = source.local_rank("fc2", relative=True)
    # σ₁ of a sketch is a lower bound too, so that the relative rank is none
    assert "≥" not in str(relative)
    assert "≈ by 6 random directions" in str(relative)
    assert "σ > 0.1·σ₁" in repr(relative)
    assert "≥" not in str(source.local_rank("fc1"))


def test_a_relative_rank_of_a_sketch_may_exceed_the_true_one():
    # one large direction that 4 of 64 directions hardly see
    J = np.diag([1000.0, *np.ones(63)])
    directions, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 4)))
    sigma, sketched = (np.linalg.svd(m, compute_uv=False) for m in (J, J @ directions))
    assert (sketched <= sigma[:4] * (1 + 1e-12)).all()
    eps = 0.004
    assert (sigma > eps * sigma[0]).sum() == 1
    assert (sketched > eps * sketched[0]).sum() == 4
    assert (sketched > eps).sum() <= (sigma > eps).sum()


def test_a_long_history_is_thinned_and_keeps_its_ends():
    memory = MemorySink()
    memory.write([jacobian_record(step, "fc1") for step in range(0, 500, 5)])
    lines = str(memory.local_rank("fc1")).splitlines()
    assert lines[2].split()[0] == "0"
    assert lines[-2].split()[0] == "495"
    assert lines[-1] == "… and 76 records between"


@pytest.mark.parametrize("layer", ["head/<b>%ü", LONG, "<script>alert(1)</script>"])
def test_a_layer_s_name_stays_text(layer):
    memory = MemorySink([jacobian_record(0, layer), ledger_record(0, layer)])
    for history in (memory.local_rank(layer), memory.ledger(layer)):
        page = Page(history._repr_html_())
        assert not page.open
        assert {"b", "script"}.isdisjoint(page.tags)
        assert any(layer in text for text in page.text)
        lines = [*str(history).splitlines(), repr(history)]
        assert max(map(len, lines)) < 120
        assert all(line.isprintable() for line in lines)


def test_the_page_has_the_numbers_and_a_curve_for_mean_and_ends(source):
    html = source.local_rank("fc2")._repr_html_()
    page = Page(html)
    assert page.tags.count("svg") == 1
    assert page.text.count("mean") == 3  # key, column, tooltip
    last = jacobian_record(1000, "fc2").measures["local_rank"]
    assert f"≥ {last:.3g}" in page.text
    ledger = Page(source.ledger("fc2")._repr_html_())
    assert "information (nats)" in ledger.text
    assert ledger.tags.count("tr") == 1 + 10


def test_the_ledger_needs_no_spectrum_and_no_tag_of_its_own(tmp_path):
    write(tmp_path)
    log = RunLog(tmp_path)
    assert "ledger_noise" in log.metrics
    with pytest.raises(KeyError, match="no ledger spectrum"):
        log.spectra("fc2", "ledger")
    assert "ledger" in schema.RESERVED
    assert isinstance(log.ledger("fc2"), LedgerHistory)
    assert isinstance(log.local_rank("fc2"), LocalRankHistory)


def test_every_field_is_explained():
    text = (Path(__file__).parents[3] / "docs" / "measures.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert {*LEDGER_FIELDS, *LOCAL_RANK_FIELDS} <= named
