"""The processes that the other tests of this folder use."""

import os
import signal
import time

import pytest
import torch
from torch import distributed

from tests.distributed.harness import Died, RankFailed, Ranks


def add_up(rank: int, start: int) -> float:
    total = torch.tensor([float(start + rank)])
    distributed.all_reduce(total)
    return float(total)


def fail_on_one(rank: int) -> None:
    if rank == 1:
        raise ValueError("only here")


def sleep_on_one(rank: int) -> None:
    time.sleep(30 * rank)


def die_on_one(rank: int) -> int:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return rank


@pytest.mark.slow
def test_all_ranks_take_part(ranks: Ranks) -> None:
    assert ranks.run(2, add_up, 10) == [21.0, 21.0]
    assert ranks.run(4, add_up, 0) == [6.0] * 4


@pytest.mark.slow
def test_an_error_of_one_rank_is_told(ranks: Ranks) -> None:
    with pytest.raises(RankFailed, match=r"(?s)rank 1: .*only here"):
        ranks.run(2, fail_on_one)
    assert ranks.run(2, add_up, 0) == [1.0, 1.0]


@pytest.mark.slow
def test_a_rank_that_hangs_is_ended_and_its_stack_shown(ranks: Ranks) -> None:
    with pytest.raises(RankFailed, match=r"(?s)rank 1 did not answer.*sleep_on_one"):
        ranks.run(2, sleep_on_one, seconds=2)
    assert ranks.run(2, add_up, 0) == [1.0, 1.0]


@pytest.mark.slow
def test_a_rank_that_is_killed_is_replaced(ranks: Ranks) -> None:
    found = ranks.run(2, die_on_one, may_die=True)
    assert found == [0, Died(-signal.SIGKILL)]
    assert ranks.run(2, add_up, 0) == [1.0, 1.0]
