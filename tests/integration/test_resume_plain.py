"""A run that is interrupted and resumed again and again reads as one run."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import svdhooks
from svdhooks.probe import ProbeOptions
from svdhooks.reports import RecordingWarning
from svdhooks.schema import SUBDIRECTORY
from tests.models import mlp
from tests.oracles import covariance_eigenvalues
from tests.plain import points_by_hand, train

BATCHES = torch.randn(40, 16, 4)


def _model() -> nn.Module:
    torch.manual_seed(5)
    return mlp(4, 6, 3)


def _checkpoint(path: Path, model: nn.Module, step: int) -> None:
    torch.save({"model": model.state_dict(), "step": step}, path)


def _session(
    directory: Path,
    until: int,
    save_at: int | None = None,
    *,
    every: int = 3,
    **options: Any,
) -> nn.Module:
    """One process's part of a run: load, train, save on the way, then stop dead."""
    model, begin = _model(), None
    checkpoint = directory / "last.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        begin = saved["step"]
    recorder = svdhooks.watch(
        model,
        directory / "run",
        every=every,
        start_step=begin,
        max_overhead=None,
        **options,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range((begin or 0) + 1, until + 1):
        train(model, [BATCHES[step - 1]], recorder, optimizer)
        if step == save_at:
            _checkpoint(checkpoint, model, step)
    return model  # and never closed: a crash closes nothing


def test_three_restarts_read_as_one_run(tmp_path):
    # each part runs on for a while after its checkpoint: that is done again
    parts = [(7, 5), (13, 11), (22, 20), (30, None)]
    for until, save_at in parts:
        _session(tmp_path, until, save_at)
    whole = tmp_path / "whole"
    whole.mkdir()
    _session(whole, 30)

    resumed = svdhooks.RunLog(tmp_path / "run")
    straight = svdhooks.RunLog(whole / "run")
    assert resumed.steps.tolist() == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
    assert (np.diff(resumed.steps) > 0).all()
    assert resumed.layers == straight.layers
    for layer in ("0", "2"):
        for found, expected in zip(
            resumed.spectra(layer), straight.spectra(layer), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
        for point in ("input", "output"):
            steps, found = resumed.covariance_spectra(layer, point)
            expected_steps, expected = straight.covariance_spectra(layer, point)
            np.testing.assert_array_equal(steps, expected_steps)
            # the same reference batch as before the restarts
            np.testing.assert_array_equal(found, expected)
    for metric in set(straight.metrics):
        for found, expected in zip(
            resumed.series("2", metric), straight.series("2", metric), strict=True
        ):
            np.testing.assert_array_equal(found, expected)


def test_superseding_is_what_removes_the_duplicates(tmp_path):
    """The companion: there were duplicates to be removed."""
    _session(tmp_path, 7, 5)
    _session(tmp_path, 9)
    log = svdhooks.RunLog(tmp_path / "run")
    assert log.steps.tolist() == [0, 3, 6, 9]
    # step 6 was recorded twice: before the crash, and again after the resume
    assert log.damage["dropped"] >= 1


@pytest.mark.parametrize("begin", [5, 6, 7])
def test_a_record_due_at_the_step_of_the_checkpoint_is_there_once(tmp_path, begin):
    _session(tmp_path, 8, begin)
    _session(tmp_path, 9)
    log = svdhooks.RunLog(tmp_path / "run")
    assert log.steps.tolist() == [0, 3, 6, 9]


def test_resuming_from_0_replaces_everything(tmp_path):
    _session(tmp_path, 9)
    _checkpoint(tmp_path / "last.pt", _model(), 0)
    _session(tmp_path, 4)
    log = svdhooks.RunLog(tmp_path / "run")
    assert log.steps.tolist() == [0, 3]


def test_resuming_where_nothing_is_recorded_begins_a_log(tmp_path):
    _checkpoint(tmp_path / "last.pt", _model(), 10)
    _session(tmp_path, 15)
    log = svdhooks.RunLog(tmp_path / "run")
    assert log.steps.tolist() == [12, 15]
    assert log.meta["start_step"] == 10


# --- the reference batch -----------------------------------------------------------------


def _probed(directory: Path, model: nn.Module, probe: torch.Tensor) -> None:
    """The last record is of this probe."""
    steps, found = svdhooks.RunLog(directory / "run").covariance_spectra("0")
    by_hand = points_by_hand(model, probe)["0", "output"]
    np.testing.assert_allclose(
        found[-1], covariance_eigenvalues(by_hand), rtol=1e-4, atol=1e-6
    )
    assert len(steps) == len(found)


PROBE, OTHER = torch.randn(20, 4), torch.randn(20, 4)


def test_a_given_probe_is_stored_and_used_again(tmp_path):
    _session(tmp_path, 3, 3, probe=PROBE)
    assert (tmp_path / "run" / SUBDIRECTORY / "probe.pt").exists()
    model = _session(tmp_path, 6)
    _probed(tmp_path, model, PROBE)


def test_the_same_probe_again_is_not_remarked(tmp_path):
    _session(tmp_path, 3, 3, probe=PROBE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _session(tmp_path, 6, probe=PROBE.clone())


def test_another_probe_is_said_once_and_is_the_one_stored_from_then_on(tmp_path):
    _session(tmp_path, 3, 3, probe=PROBE)
    with pytest.warns(RecordingWarning, match="reference batch differs") as caught:
        model = _session(tmp_path, 6, 6, probe=OTHER)
    assert len(caught) == 1
    _probed(tmp_path, model, OTHER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = _session(tmp_path, 9)
    _probed(tmp_path, model, OTHER)


@pytest.mark.parametrize("options", [{"keep": "hash"}, {"max_bytes": 100}])
def test_with_the_hash_alone_a_change_is_noticed(tmp_path, options):
    options = {"probe_options": ProbeOptions(**options)}
    _session(tmp_path, 3, 3, probe=PROBE, **options)
    assert not (tmp_path / "run" / SUBDIRECTORY / "probe.pt").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _session(tmp_path, 5, probe=PROBE, **options)
    with pytest.warns(RecordingWarning, match="differs"):
        _session(tmp_path, 6, **options)  # captures another batch


def test_a_new_run_does_not_use_what_an_old_one_left(tmp_path):
    _session(tmp_path, 3, probe=PROBE)
    directory = tmp_path / "run" / SUBDIRECTORY
    for file in directory.glob("*tfevents*"):
        file.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = _session(tmp_path, 3, 3, probe=OTHER)
    _probed(tmp_path, model, OTHER)
    model = _session(tmp_path, 6)
    _probed(tmp_path, model, OTHER)


def test_a_damaged_stored_probe_is_told_and_another_is_captured(tmp_path):
    _session(tmp_path, 3, 3, probe=PROBE)
    (tmp_path / "run" / SUBDIRECTORY / "probe.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.warns(RecordingWarning) as caught:
        model = _session(tmp_path, 6)
    messages = [str(w.message) for w in caught]
    assert sum("could not read the stored reference batch" in m for m in messages) == 1
    assert sum("differs" in m for m in messages) == len(messages) - 1 == 1
    _probed(tmp_path, model, BATCHES[3])


def test_a_stored_probe_is_read_without_running_code(tmp_path):
    """A log directory may come from somebody else."""

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    _session(tmp_path, 3, 3, probe=PROBE)
    stored = tmp_path / "run" / SUBDIRECTORY / "probe.pt"
    torch.save({"batch": Evil(), "args": (), "kwargs": {}}, stored)
    with pytest.warns(RecordingWarning):
        _session(tmp_path, 6)
    assert not (tmp_path / "ran").exists()
