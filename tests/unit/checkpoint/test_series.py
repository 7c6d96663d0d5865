"""A series of checkpoints is a log like that of a live run."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import svdhooks
from svdhooks import RunLog, scan_series
from svdhooks.analysis import descrambled, layer_snapshot, spectral_graph
from svdhooks.reports import RecordingWarning
from tests.models import mlp

STEPS = (2, 10, 100)


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, dict[int, nn.Module]]:
    """Checkpoints of a network whose first layer is frozen."""
    found = {}
    for step in STEPS:
        torch.manual_seed(0)
        model = mlp(9, 8, 7)
        torch.manual_seed(step)
        with torch.no_grad():
            model[2].weight += torch.randn(7, 8)
        (tmp_path / f"step{step}").mkdir()
        content = {"model": model.state_dict(), "epoch": step // 10}
        torch.save(content, tmp_path / f"step{step}" / "model.pt")
        found[step] = model
    return tmp_path, found


def test_the_log_holds_what_scans_of_the_models_give(trained) -> None:
    place, several = trained
    series = scan_series(f"{place}/step*/", log=place / "log", vectors="all")
    log = RunLog(series)
    assert log.steps.tolist() == list(series.steps) == list(STEPS)
    assert log.damage["dropped"] == 0
    assert log.run_series("epoch")[1].tolist() == [0, 1, 10]
    for step, model in several.items():
        for record in svdhooks.scan(model):
            steps, spectra = log.spectra(record.layer)
            row = spectra[steps.tolist().index(step)]
            np.testing.assert_array_equal(row, record.spectrum)
        weight = layer_snapshot(log, "2", step).weight()
        np.testing.assert_allclose(weight, model[2].weight.detach(), atol=1e-6)
        bias = layer_snapshot(log, "2", step).bias
        np.testing.assert_array_equal(bias, model[2].bias.detach())


def test_what_did_not_change_is_marked_and_listed(trained) -> None:
    place, _ = trained
    series = scan_series(f"{place}/step*/", log=place / "log")
    assert series.unchanged == {"0": (10, 100)}
    marks = {entry.step: entry.marks for entry in RunLog(series.log).statuses("0")}
    assert {step for step, found in marks.items() if "unchanged" in found} == {10, 100}
    assert RunLog(series.log).settings["unchanged"] == {"0": [10, 100]}


def test_analyses_of_the_log_are_those_of_a_live_one(trained) -> None:
    place, several = trained
    series = scan_series(f"{place}/step*/", log=place / "log", vectors="all")
    log = RunLog(series.log)
    model = several[100]
    live = svdhooks.snapshot(model, torch.randn(20, 9))
    graph = spectral_graph(log, pairs=[("0", "2")])
    expected = spectral_graph(live, pairs=[("0", "2")])
    np.testing.assert_allclose(
        np.abs(graph.pairs[0].adjacency),
        np.abs(expected.pairs[0].adjacency),
        atol=1e-5,
    )
    ours, theirs = (descrambled(x, "2", data="white") for x in (log, live))
    np.testing.assert_allclose(
        np.abs(ours.descrambled), np.abs(theirs.descrambled), atol=1e-4
    )


def test_a_checkpoint_that_fails_is_told_and_the_series_goes_on(trained) -> None:
    place, _ = trained
    (place / "step10" / "model.pt").write_bytes(b"x" * 100)
    with pytest.warns(RecordingWarning, match="step10 is passed over"):
        series = scan_series(f"{place}/step*/", log=place / "log")
    assert list(series.steps) == [2, 100]
    assert [path.name for path, _ in series.failed] == ["step10"]
    assert RunLog(series.log).steps.tolist() == [2, 100]


def test_a_series_of_which_nothing_can_be_read_is_an_error(trained) -> None:
    place, _ = trained
    for step in STEPS:
        (place / f"step{step}" / "model.pt").write_bytes(b"x" * 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="None of 3 checkpoints"):
            scan_series(f"{place}/step*/", log=place / "log")


def test_a_log_goes_on_where_it_is_told_to(trained) -> None:
    place, _ = trained
    scan_series(f"{place}/step*/", log=place / "log")
    with pytest.raises(FileExistsError, match="already holds records"):
        scan_series(f"{place}/step*/", log=place / "log")
    again = scan_series(f"{place}/step*/", log=place / "log", start_step=10)
    assert list(again.steps) == [10, 100]
    assert RunLog(place / "log").steps.tolist() == list(STEPS)


@pytest.mark.parametrize(
    ("pattern", "step", "told"),
    [
        ("step*/", r"step(\d", "no regular expression"),
        ("step*/", r"step\d+", "has 0 groups"),
        ("step*/", r"(step)(\d+)", "has 2 groups"),
        ("step*/", r"st(ep)", "expected a whole number"),
        ("step*/", r"epoch(\d+)", "finds no step"),
        ("step*/", r"step(\d)", "are both of step 1"),
        ("nothing*/", r"step(\d+)", "No path matches"),
    ],
)
def test_wrong_patterns_are_told(pattern, step, told, trained) -> None:
    place, _ = trained
    with pytest.raises(ValueError, match=told) as error:
        scan_series(f"{place}/{pattern}", step, log=place / "log")
    assert "\n" not in str(error.value)
    assert not (place / "log").exists()


def test_the_last_place_in_a_path_counts(tmp_path: Path) -> None:
    place = tmp_path / "step1000"
    place.mkdir()
    for step in (1, 2):
        torch.save(mlp(3, 3).state_dict(), place / f"step{step}.pt")
    series = scan_series(f"{place}/*.pt", log=tmp_path / "log")
    assert list(series.steps) == [1, 2]


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize("vectors", [0, -1, True, 1.5, "some"])
def test_wrong_numbers_of_vectors_are_told(vectors: Any, trained) -> None:
    place, _ = trained
    with pytest.raises((TypeError, ValueError), match=r"vectors|WeightVectors"):
        scan_series(f"{place}/step*/", log=place / "log", vectors=vectors)


def test_layers_that_come_later_get_a_row(tmp_path: Path) -> None:
    torch.save(mlp(3, 4).state_dict(), tmp_path / "step1.pt")
    torch.save(mlp(3, 4, 5).state_dict(), tmp_path / "step2.pt")
    log = RunLog(scan_series(f"{tmp_path}/*.pt", log=tmp_path / "log"))
    assert log.layers == ("0", "2")
    assert log.series("2", "weight_stable_rank")[0].tolist() == [2]


def test_a_weight_that_grows_is_told_with_its_step(tmp_path: Path) -> None:
    for step, rows in ((1, 4), (2, 4), (3, 6)):
        torch.save({"wte.weight": torch.randn(rows, 3)}, tmp_path / f"step{step}.pt")
    log = RunLog(scan_series(f"{tmp_path}/*.pt", log=tmp_path / "log"))
    assert log.described["wte"]["shape"] == [3, 4]
    assert log.settings["notes"] == {"wte": "3 x 6 from step 3 on"}
