"""Who solves, and a thread that does nothing else."""

import gc
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import svdhooks
from svdhooks import linalg, solving
from svdhooks.conductor.computing import allowed_cores, chosen_compute
from svdhooks.linalg.problems import SingularValues
from svdhooks.solving import INLINE, ThreadSolver, current_solver, solved_by

PACKAGE = str(Path(svdhooks.__file__).parent)
SLOW = {"seconds": 1.0}


# --- the rule ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        # a core is free
        ({"torch_threads": 1, "cores": 2}, "thread"),
        ({"torch_threads": 7, "cores": 8}, "thread"),
        # all are in use
        ({"torch_threads": 2, "cores": 2}, "inline"),
        ({"torch_threads": 8, "cores": 4}, "inline"),
        # as many processes as it takes to use all of them
        ({"torch_threads": 2, "cores": 8, "local_processes": 2}, "thread"),
        ({"torch_threads": 2, "cores": 8, "local_processes": 4}, "inline"),
        # training is on a GPU
        ({"torch_threads": 8, "cores": 8, "on_cuda": True}, "thread"),
        # not worth it
        ({"torch_threads": 1, "cores": 8, "seconds": 0.04}, "inline"),
        ({"torch_threads": 8, "cores": 8, "on_cuda": True, "seconds": 0.0}, "inline"),
        # the processes exchange results at the end of each record
        ({"torch_threads": 1, "cores": 8, "processes": 2}, "inline"),
        ({"on_cuda": True, "torch_threads": 1, "cores": 8, "processes": 2}, "inline"),
    ],
)
def test_a_thread_is_used_where_a_core_is_free(facts, expected):
    """Hazard 33: one thread too many makes training four times slower."""
    facts = {**SLOW, "on_cuda": False, **facts}
    assert chosen_compute("auto", **facts) == expected
    assert chosen_compute("inline", **facts) == "inline"
    alone = facts.get("processes", 1) == 1
    assert chosen_compute("thread", **facts) == ("thread" if alone else "inline")


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "25000", "cpu/cpu.cfs_period_us": "100000"}, 0.25),
        ({"cpu.max": "99900000 100000"}, None),  # more than there are
    ],
)
def test_a_container_may_use_fewer_cores_than_it_sees(tmp_path, files, quota):
    """Hazard 33: torch's threads and ours together would exceed its quota."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    every = allowed_cores(tmp_path / "nothing")
    assert every >= 1
    assert allowed_cores(tmp_path) == (every if quota is None else quota)


@pytest.mark.usefixtures("as_a_user_calls")
def test_other_words_are_refused():
    with pytest.raises(ValueError, match="'auto', 'inline' or 'thread'"):
        svdhooks.ProbeOptions(compute="process")


# --- the thread ----------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_questions():
    """Hazard 35."""
    solver = ThreadSolver()
    several = [SingularValues(torch.randn(n, 9)) for n in (300, 3, 40, 1)]
    solutions = [solver.submit(each) for each in several]
    for place, solution in enumerate(solutions):
        np.testing.assert_array_equal(solution.get(), several[place].now())
        assert all(before.ready for before in solutions[:place])
    assert solver.last is solutions[-1]


class _Fails:
    nbytes = 8

    def later(self):
        return self

    def now(self):
        raise RuntimeError("planned")

    solve = now


def test_errors_come_back_and_the_thread_goes_on():
    solver = ThreadSolver()
    failed, fine = solver.submit(_Fails()), SingularValues(torch.randn(4, 3))
    solution = solver.submit(fine)
    with pytest.raises(RuntimeError, match="planned"):
        failed.get()
    np.testing.assert_array_equal(solution.get(), fine.now())
    with pytest.raises(RuntimeError, match="planned"):
        INLINE.submit(_Fails())


class _Waits:
    """Solved when it is told to."""

    def __init__(self, nbytes=8):
        self.nbytes = nbytes
        self.begun, self.go = threading.Event(), threading.Event()

    def later(self):
        return self

    def now(self):
        return np.zeros(1)

    def solve(self):
        self.begun.set()
        self.go.wait(20)
        return np.ones(1)


def test_snapshots_are_bounded_and_what_does_not_fit_is_answered_at_once(monkeypatch):
    monkeypatch.setattr(solving, "MOST_BYTES", 100)
    solver, first, second = ThreadSolver(), _Waits(60), _Waits(60)
    waiting = solver.submit(first)
    at_once = solver.submit(second)
    assert not waiting.ready
    assert (at_once.ready, at_once.get()[0]) == (True, 0)
    first.go.set()
    assert waiting.get()[0] == 1
    again = solver.submit(second)  # now there is room
    second.go.set()
    assert again.get()[0] == 1


def test_the_thread_ends_with_its_solver():
    solver = ThreadSolver()
    thread = solver._thread
    assert thread.daemon
    del solver
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_a_thread_that_is_gone_answers_nothing_and_keeps_nobody_waiting():
    solver, question = ThreadSolver(), _Waits()
    solver.close(abandon=True)
    solver.join(5.0)
    assert solver.submit(question).get()[0] == 0  # at once
    solver, question = ThreadSolver(), _Waits()
    held = solver.submit(question)
    lost = solver.submit(SingularValues(torch.randn(3, 3)))
    assert question.begun.wait(10)
    solver.close(abandon=True)
    question.go.set()
    solver.join(5.0)
    solver.give_up_if_dead()
    assert held.get()[0] == 1
    with pytest.raises(RuntimeError, match="thread ended"):
        lost.get()


def test_questions_are_answered_by_whom_it_was_said_and_only_inside():
    solver = ThreadSolver()
    assert current_solver() is INLINE
    with pytest.raises(RuntimeError, match="planned"), solved_by(solver):
        assert current_solver() is solver
        raise RuntimeError("planned")
    assert current_solver() is INLINE


# --- what runs in it -------------------------------------------------------------------------


def _calls_in_worker(shape, work=None) -> list[str]:
    """Python functions of the package that the thread calls for one problem."""
    called = []

    def watch(frame, event, _argument):
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(PACKAGE):
            called.append(f"{path.removeprefix(PACKAGE)}:{frame.f_code.co_name}")

    threading.setprofile(watch)
    try:
        solver = ThreadSolver()
    finally:
        threading.setprofile(None)
    question = SingularValues(torch.randn(*shape))
    if work is not None:
        question = _Naive(question, work)
    solver.submit(question).get()
    solver.close()
    solver.join(10.0)
    return called


class _Naive:
    """Does more than to solve, in the thread."""

    nbytes = 8

    def __init__(self, question, work):
        self.now = question.now
        self._solve = question.later().solve
        self._work = work

    def later(self):
        return self

    def solve(self):
        return self._work(self._solve())


ALLOWED = ("/solving.py:", "/linalg/problems.py:", "/linalg/_solvers.py:")


def test_the_thread_does_nothing_but_solve_whatever_the_size():
    """Hazard 32: python work in the worker stops the training thread."""
    several = [_calls_in_worker((n, 2 * n)) for n in (4, 100, 400)]
    several.append(_calls_in_worker((6, 300, 200)))
    for called in several:
        assert called
        assert [c for c in called if not c.startswith(ALLOWED)] == []
    assert len({len(called) for called in several[:3]}) == 1
    assert len(several[3]) < 2 * len(several[0])


def test_measures_in_the_thread_would_be_noticed():
    """The companion: a naive worker also computes what follows from a spectrum."""

    def measures(sigma):
        linalg.measures(sigma, shape=(9, 18), dtype="float32")
        return sigma

    called = _calls_in_worker((9, 18), measures)
    assert [c for c in called if not c.startswith(ALLOWED)]


def test_the_thread_leaves_the_number_of_torch_threads_to_others():
    before = torch.get_num_threads()
    solver = ThreadSolver()
    solver.submit(SingularValues(torch.randn(300, 300))).get()
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [before] == [torch.get_num_threads()]


def test_training_runs_while_lapack_runs():
    """Hazard 32: LAPACK releases the interpreter lock, a loop of Python does not."""
    solver, steps = ThreadSolver(), 0
    solution = solver.submit(SingularValues(torch.randn(700, 700, dtype=torch.float64)))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)  # nobody takes the lock away
    try:
        while not solution.ready and steps < 10**7:
            steps += 1
            time.sleep(0)  # gives the lock away
    finally:
        sys.setswitchinterval(interval)
    assert solution.ready
    assert steps > 1
