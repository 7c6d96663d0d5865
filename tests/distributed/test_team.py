"""How processes find each other, agree, and notice that one is gone."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from svdhooks.distributed import team as team_module
from svdhooks.distributed.setup import check_together
from svdhooks.distributed.team import Team, TeamError, form_team
from tests.distributed.harness import Died, Ranks


def speak(rank: int) -> dict[str, Any]:
    team = form_team()
    total, most = torch.tensor([rank + 1.0]), torch.tensor([rank, -rank])
    team.add(total)
    team.largest(most)
    at_one = torch.tensor([1.0])
    team.add(at_one, to=1)
    found = {
        "size": team.size,
        "writes": team.writes,
        "exchanged": team.exchange({"rank": rank}),
        "collected": team.collect(rank * 10, to=1),
        "all": team.agree(True),
        "some": team.agree(rank != 1),
        "total": float(total),
        "most": most.tolist(),
        "at_one": float(at_one) if rank == 1 else None,
    }
    team.leave()
    return found


def test_processes_speak_with_each_other(ranks: Ranks) -> None:
    first, second, third = ranks.run(3, speak)
    assert [x["size"] for x in (first, second, third)] == [3, 3, 3]
    assert [x["writes"] for x in (first, second, third)] == [True, False, False]
    assert first["exchanged"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
    assert first["collected"] is None
    assert second["collected"] == [0, 10, 20]
    assert first["all"]
    assert not any(x["some"] for x in (first, second, third))
    assert third["total"] == 6.0
    assert third["most"] == [2, 0]
    assert second["at_one"] == 3.0


def test_one_process_is_a_team_of_its_own() -> None:
    team = form_team()
    assert team.alone
    assert team.writes
    assert team.exchange(3) == [3]
    assert team.collect("x", to=0) == ["x"]
    assert team.agree(True)
    assert not team.agree(False)
    tensor = torch.ones(2)
    team.add(tensor)
    assert tensor.tolist() == [1.0, 1.0]


def come_on_one_only(rank: int) -> str:
    if rank == 1:
        return ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(team_module, "PATIENCE", timedelta(seconds=1))
        with pytest.raises(RuntimeError) as caught:
            form_team()
    return str(caught.value)


@pytest.mark.slow
def test_who_is_missing_is_named(ranks: Ranks) -> None:
    told, _ = ranks.run(2, come_on_one_only)
    assert "waited 1 s for rank 1 of 2" in told
    assert "on every rank" in told


def send_what_does_not_pickle(rank: int) -> tuple[str, list[int]]:
    team = form_team()
    value = (lambda: 0) if rank == 1 else rank
    try:
        team.exchange(value)
        told = ""
    except ValueError as error:
        told = str(error)
    return told, team.exchange(rank)  # in step afterwards


def test_what_cannot_be_sent_is_an_error_everywhere(ranks: Ranks) -> None:
    for told, after in ranks.run(2, send_what_does_not_pickle):
        assert "rank 1 could not send" in told
        assert after == [0, 1]


def leave_on_one(rank: int, how: str) -> tuple[bool, float, float]:
    team = form_team()
    team.exchange(rank)
    begun = time.monotonic()
    noticed = False
    if rank == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        team.leave()
    else:
        with pytest.raises(TeamError, match="another process has stopped"):
            team.exchange(rank)
        with pytest.raises(TeamError):  # and at once from then on
            team.agree(True)
        noticed = team.broken is not None
    seconds = time.monotonic() - begun
    total = torch.ones(1)
    if how != "killed":
        distributed.all_reduce(total)  # the training's own group is as it was
    return noticed, seconds, float(total)


def test_who_leaves_is_noticed_at_once_and_training_goes_on(ranks: Ranks) -> None:
    (noticed, seconds, total), _ = ranks.run(2, leave_on_one, "left")
    assert noticed
    assert seconds < 20  # the group's own time-out is 30 minutes
    assert total == 2.0


def test_who_is_killed_is_noticed_at_once(ranks: Ranks) -> None:
    found, died = ranks.run(2, leave_on_one, "killed", may_die=True)
    assert died == Died(-signal.SIGKILL)
    assert found[0]


def wait_for_nobody(rank: int, seconds: float) -> float:
    """What a collective without a member that leaves does: it waits."""
    group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=seconds))
    begun = time.monotonic()
    if rank == 0:
        with pytest.raises(RuntimeError):
            distributed.all_gather_object([None, None], 0, group=group)
        return time.monotonic() - begun
    time.sleep(seconds + 2)
    return 0.0


@pytest.mark.slow
def test_without_leaving_the_others_wait_for_the_whole_time(ranks: Ranks) -> None:
    """The companion: an early return on one rank keeps the other waiting."""
    waited, _ = ranks.run(2, wait_for_nobody, 4.0)
    assert waited > 3.5


def set_up(rank: int, failing: int | None, facts: list[Any]) -> tuple[str, str, Any]:
    team = form_team()
    error = FileExistsError("it holds records") if rank == failing else None
    try:
        check_together(team, error, {"start_step": facts[rank]})
    except Exception as caught:  # noqa: BLE001
        notes = " ".join(getattr(caught, "__notes__", []))
        return type(caught).__name__, f"{caught} {notes}", team.exchange(rank)
    return "", "", team.exchange(rank)


def test_an_error_at_setup_is_raised_everywhere(ranks: Ranks) -> None:
    first, second = ranks.run(2, set_up, 0, [0, 0])
    assert first[0] == second[0] == "FileExistsError"
    assert "it holds records" in second[1]
    assert "happened on rank 0; this is rank 1" in second[1]
    assert first[2] == second[2] == [0, 1]


def test_what_differs_at_setup_is_named(ranks: Ranks) -> None:
    for kind, told, _ in ranks.run(2, set_up, None, [None, 300]):
        assert kind == "ValueError"
        assert "disagree about start_step" in told
        assert "300 on rank 1" in told


def test_what_is_equal_up_to_addresses_is_equal(ranks: Ranks) -> None:
    same = ["<f at 0x7f01>", "<f at 0x7f99>"]
    assert all(kind == "" for kind, *_ in ranks.run(2, set_up, None, same))


def test_an_error_of_a_team_of_one_is_raised_as_it_is() -> None:
    with pytest.raises(KeyError):
        check_together(Team(), KeyError("x"), {})


def end_and_leave(rank: int, folder: str) -> bool:
    team = form_team()
    distributed.destroy_process_group()  # the training ends before the recorder
    team.leave()
    path = str(Path(folder) / "again")  # what the harness will end
    distributed.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=2
    )
    return team.broken is not None


def test_leaving_after_the_end_of_communication(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks.run(2, end_and_leave, str(tmp_path)) == [True, True]
