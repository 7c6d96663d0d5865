"""Whatever happens on one rank, the others neither wait nor lose what is theirs."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import svdhooks
from svdhooks.distributed import team as team_module
from svdhooks.quantities.values import NON_FINITE
from svdhooks.reports import RecordingWarning
from tests.distributed.faulty import run
from tests.distributed.harness import Died, Ranks
from tests.distributed.training import (
    Values,
    batches,
    make,
    shard,
)


def both(ranks: Ranks, log_dir: Path, fault: str, **options: Any) -> Any:
    return ranks.run(2, run, str(log_dir), fault, options)


def statuses(records: Values, quantity: str, step: int) -> set[str]:
    return {
        v["status"] for k, v in records.items() if k[0] == step and k[2] == quantity
    }


def test_without_a_fault_all_is_well(ranks: Ranks, tmp_path: Path) -> None:
    for found in both(ranks, tmp_path, "none"):
        assert found["told"] == []
        assert found["steps"] == 6
        assert found["hooks"] == 0
        assert found["seconds"] < 30


def test_nan_on_one_rank(ranks: Ranks, tmp_path: Path) -> None:
    """Hazard 20."""
    first, second = both(ranks, tmp_path, "nan_weights")
    # the layers that rank 1 measures are NaN, those of rank 0 are not
    for step in (2, 6):
        found = statuses(first["records"], "weight_spectrum", step)
        assert found == {"ok", NON_FINITE}
        assert NON_FINITE in statuses(first["records"], "covariance", step)
    assert first["told"]
    assert second["told"] == []
    assert first["steps"] == second["steps"] == 6
    assert first["team"] == second["team"] == "this process has left the others"


def test_a_decomposition_that_fails_on_one_rank(ranks: Ranks, tmp_path: Path) -> None:
    """Hazard 19."""
    first, second = both(ranks, tmp_path, "no_convergence")
    found = statuses(first["records"], "weight_spectrum", 4)
    assert found == {"ok", "LinAlgError: it did not converge"}
    assert len(first["records"]) == 4 * 9  # nothing is missing
    assert any("did not converge" in text for text in first["told"])
    assert second["steps"] == 6


def test_a_probe_that_fails_on_one_rank(ranks: Ranks, tmp_path: Path) -> None:
    first, _ = both(ranks, tmp_path, "forward_fails")
    assert statuses(first["records"], "covariance", 0) == {"ok"}
    failed = statuses(first["records"], "covariance", 2)
    assert failed == {"probe failed: out of memory (rank 1)"}
    of_rank_0 = first["records"][2, "fc1", "covariance", "output"]
    assert np.isnan(of_rank_0["effective_rank"])  # its share alone is no value
    assert statuses(first["records"], "weight_spectrum", 2) == {"ok"}
    assert statuses(first["records"], "covariance", 4) == {"ok"}  # it goes on
    assert any("(On rank 1.)" in text for text in first["told"])


def test_no_memory_for_samples_on_one_rank(ranks: Ranks, tmp_path: Path) -> None:
    first, _ = both(ranks, tmp_path, "observer_fails")
    assert statuses(first["records"], "covariance", 4) == {"out of memory (rank 1)"}


@pytest.mark.parametrize("fault", ["measuring_fails", "counts_otherwise"])
def test_what_nobody_foresaw_ends_recording_and_not_training(
    ranks: Ranks, tmp_path: Path, fault: str
) -> None:
    first, second = both(ranks, tmp_path, fault)
    assert statuses(first["records"], "covariance", 0) == {"ok"}
    assert statuses(first["records"], "covariance", 4) == set()
    for found in (first, second):
        assert any("recording ends at step" in text for text in found["told"])
        assert found["seconds"] < 30
        assert found["hooks"] == 0
    assert first["steps"] == 6
    assert log_of(tmp_path) == [0]


def observe_apart(rank: int) -> tuple[str | None, int, int]:
    """One rank counts otherwise while the training is observed."""
    model = make()
    data = [shard(x, rank, 2) for x in batches(4)]
    hooks = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        sink = svdhooks.MemorySink()
        with svdhooks.watch(
            model, None, every=2, sinks=[sink], max_overhead=None, observe="training"
        ) as recorder:
            for number, x in enumerate(data):
                model(x)
                recorder.step(step=recorder.steps + (3 if rank and number else 1))
                hooks.append(sum(len(m._forward_hooks) for m in model.modules()))
            return recorder._team.broken, hooks[0], hooks[-1]


def test_nothing_is_observed_once_the_processes_have_parted(ranks: Ranks) -> None:
    """The hooks would cost time in every step, and hold samples, for nothing."""
    for broken, before, after in ranks.run(2, observe_apart):
        assert broken is not None
        assert before > 0
        assert after == 0


def log_of(log_dir: Path) -> list[int]:
    return [int(step) for step in svdhooks.RunLog(log_dir).steps]


@pytest.mark.parametrize("fault", ["interrupted", "training_fails"])
def test_who_stops_is_not_waited_for(ranks: Ranks, tmp_path: Path, fault: str) -> None:
    first, second = both(ranks, tmp_path, fault)
    assert second["raised"] in {"KeyboardInterrupt", "ZeroDivisionError"}
    assert first["raised"] is None
    assert first["steps"] == 6
    assert any("recording ends at step" in text for text in first["told"])
    assert first["seconds"] < 30
    log = svdhooks.RunLog(tmp_path)
    assert 0 in log.steps.tolist()
    assert not any(log.damage.values())


def test_who_is_killed_is_not_waited_for(ranks: Ranks, tmp_path: Path) -> None:
    first, second = ranks.run(2, run, str(tmp_path), "killed", {}, may_die=True)
    assert isinstance(second, Died)
    assert first["steps"] == 6
    assert statuses(first["records"], "covariance", 2) == {"ok"}


@pytest.mark.parametrize("fault", ["no_convergence", "forward_fails"])
@pytest.mark.slow
def test_who_wants_errors_gets_them_everywhere(
    ranks: Ranks, tmp_path: Path, fault: str
) -> None:
    found = both(ranks, tmp_path, fault, on_error="raise")
    assert [x["raised"] for x in found] == ["RecordingError", "RecordingError"]
    assert [x["steps"] for x in found] == [2, 2]


def set_up(rank: int, log_dir: str, wrong: str) -> tuple[str, str, int]:
    model, probe = make(), torch.randn(8, 20)
    options: dict[str, Any] = {"every": 2, "probe": probe}
    if wrong == "layers" and rank == 1:
        model = nn.Linear(20, 3)
    if wrong == "probe" and rank == 1:
        options["probe"] = torch.randn(8, 21)
    if wrong == "schedule":
        options["every"] = 2 + rank
    if wrong == "directory" and rank == 1:
        log_dir = f"{log_dir}-1"
    try:
        with svdhooks.watch(model, log_dir, **options) as recorder:
            size = recorder._team.size
    except Exception as error:  # noqa: BLE001
        hooks = sum(len(m._forward_pre_hooks) for m in model.modules())
        return type(error).__name__, str(error), hooks
    return "", "", size


@pytest.mark.parametrize(
    ("wrong", "kind", "told"),
    [
        ("layers", "ValueError", "disagree about the layers"),
        ("probe", "ValueError", "does not accept the given probe"),
        ("schedule", "ValueError", "disagree about schedule"),
    ],
)
def test_a_wrong_setup_is_told_on_all_ranks(
    ranks: Ranks, tmp_path: Path, wrong: str, kind: str, told: str
) -> None:
    for found in ranks.run(2, set_up, str(tmp_path / "run"), wrong):
        assert found[0] == kind
        assert told in found[1]
        assert found[2] == 0
    assert not (tmp_path / "run").exists()


def test_a_used_directory_is_told_on_all_ranks(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks.run(2, set_up, str(tmp_path), "none") == [("", "", 2)] * 2
    for kind, told, _ in ranks.run(2, set_up, str(tmp_path), "none"):
        assert kind == "FileExistsError"
        assert "start_step" in told


def test_different_directories_are_different_runs(ranks: Ranks, tmp_path: Path) -> None:
    log_dir = str(tmp_path / "run")
    assert ranks.run(2, set_up, log_dir, "directory") == [("", "", 1)] * 2
    assert svdhooks.RunLog(log_dir).steps.tolist() == [0]
    assert svdhooks.RunLog(f"{log_dir}-1").steps.tolist() == [0]


def only_on_rank_zero(rank: int, log_dir: str) -> str:
    from datetime import timedelta

    if rank == 1:
        return ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(team_module, "PATIENCE", timedelta(seconds=1))
        with pytest.raises(RuntimeError) as caught:
            svdhooks.watch(make(), log_dir, every=2)
    return str(caught.value)


def test_a_recorder_on_one_rank_only_is_told(ranks: Ranks, tmp_path: Path) -> None:
    told, _ = ranks.run(2, only_on_rank_zero, str(tmp_path))
    assert "Set up recording on every rank" in told


def decide(rank: int) -> list[Any]:
    """A clock that runs ten times as fast on rank 1: its decisions would be others."""
    from svdhooks.conductor.settings import make_settings
    from svdhooks.recorder import Recorder

    model, sink = make(), svdhooks.MemorySink()
    ticks = {"now": 0.0}

    def clock() -> float:
        ticks["now"] += 0.5 * (1 + 9 * rank)
        return ticks["now"]

    settings = make_settings(1, None, None, probe=torch.ones(8, 20), max_overhead=0.5)
    recorder = Recorder(model, None, settings, sinks=[sink], clock=clock)
    decisions = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        for _ in range(60):
            ticks["now"] += 40.0 * (1 + 2 * rank)
            recorder.step()
            decisions.append((recorder._guard.allowance, recorder._guard.will_admit))
    recorder.close()
    return decisions


def test_the_guard_decides_alike_on_all_ranks(ranks: Ranks) -> None:
    first, second = ranks.run(2, decide)
    assert first == second
    assert (
        len({allowance for allowance, _ in first}) > 1
    )  # there was something to decide


@pytest.mark.slow
def test_alone_each_would_decide_for_itself() -> None:
    """The companion: by its own clock each rank comes to another decision."""
    assert decide(0) != decide(1)
