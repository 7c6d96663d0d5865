"""Alarms of several processes: one speaks, all decide alike."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import svdhooks
from svdhooks.alarms import AlarmEvent, Alarms
from tests.distributed.harness import Ranks
from tests.distributed.training import batches, make


def run(rank: int, log_dir: str, break_at: int, start: int | None = None) -> Any:
    """A rank whose loss is its number plus the step; weights break everywhere at once."""
    model, called = make(), list[AlarmEvent]()
    alarms = Alarms("auto", on_alarm=called.append, stop=True)
    stops, counts = [], []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with svdhooks.watch(
            model,
            log_dir,
            every=1,
            probe=batches(1)[0],
            max_overhead=None,
            alarms=alarms,
            start_step=start,
        ) as recorder:
            for step in range((start or 0) + 1, (start or 0) + 5):
                if step == break_at:
                    with torch.no_grad():
                        model.fc1.weight[0, 0] = float("nan")
                recorder.step(loss=float(step + rank))
                stops.append(recorder.should_stop)
                counts.append(dict(recorder.alarms))
    told = [
        str(w.message) for w in said if called and called[0].message in str(w.message)
    ]
    return stops, counts, [event.step for event in called], len(told)


@pytest.mark.distributed
def test_one_rank_speaks_and_all_decide_alike(ranks: Ranks, tmp_path: Path) -> None:
    first, second = ranks.run(2, run, str(tmp_path), 3)
    assert first[0] == second[0] == [False, False, True, True]
    assert first[1] == second[1]
    assert set(first[2]) == {3}
    assert second[2] == []
    assert (first[3], second[3]) == (1, 0)
    log = svdhooks.RunLog(tmp_path)
    steps, losses = log.run_series("loss")
    assert dict(zip(steps.tolist(), losses.tolist(), strict=True)) == {
        step: step + 0.5 for step in range(1, 5)
    }


@pytest.mark.distributed
@pytest.mark.slow
def test_a_resumed_team_knows_what_came_before(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(2, run, str(tmp_path), 3)
    before = svdhooks.RunLog(tmp_path).alarms()
    first, second = ranks.run(2, run, str(tmp_path), 0, 4)
    assert first[0] == second[0] == [False] * 4  # what was raised before stops nothing
    assert first[1] == second[1]
    assert first[1][0]["raised"] >= 1  # and is counted
    assert svdhooks.RunLog(tmp_path).alarms() == before
