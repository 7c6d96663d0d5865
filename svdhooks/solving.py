"""Who solves: the training thread, at once, or one thread beside it.

The worker does nothing but LAPACK. A loop of Python in it would make training many
times slower, because each operation of the training thread has to take the interpreter
lock back; so what follows from a spectrum is computed where it is asked for.
"""

import atexit
import contextlib
import ctypes
import functools
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal, Protocol, runtime_checkable

from numpy.typing import NDArray

from svdhooks.linalg.problems import Problem, Question

Compute = Literal["auto", "inline", "thread"]

MOST_BYTES = 2**30
"""Of all snapshots that wait to be solved."""


class Solution:
    """An answer that is there, or will be.

    Args:
        value: The answer, if it is there.
    """

    __slots__ = ("_done", "_error", "_value")

    def __init__(self, value: NDArray[Any] | None = None) -> None:
        self._value = value
        self._error: BaseException | None = None
        self._done = None if value is not None else threading.Event()

    @property
    def ready(self) -> bool:
        """Whether ``get`` does not wait."""
        return self._done is None or self._done.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for the answer.

        Args:
            seconds: At most.

        Returns:
            Whether it is there.
        """
        return self._done is None or self._done.wait(max(seconds, 0.0))

    def settle(self, value: NDArray[Any] | None, error: BaseException | None) -> None:
        """Give the answer, or the reason why there is none."""
        self._value, self._error = value, error
        if self._done is not None:
            self._done.set()

    def get(self) -> NDArray[Any]:
        """The answer.

        Returns:
            The spectrum.

        Raises:
            BaseException: What was raised where it was solved.
            RuntimeError: If there is none.
        """
        if self._done is not None:
            self._done.wait()
        if self._error is not None:
            raise self._error
        if self._value is None:
            raise RuntimeError("there is no answer")
        return self._value


@runtime_checkable
class Solver(Protocol):
    """Answers questions.

    Attributes:
        deferred: Whether answers may come later.
    """

    deferred: bool

    def submit(self, question: Question) -> Solution:
        """Have a question answered; it may change afterwards."""
        ...


class InlineSolver:
    """Answers at once."""

    deferred = False

    def submit(self, question: Question) -> Solution:
        """Answer a question.

        Args:
            question: What is asked for.

        Returns:
            The answer; errors are raised.
        """
        return Solution(question.now())


INLINE = InlineSolver()

_SOLVER: ContextVar[Solver] = ContextVar("svdhooks_solver", default=INLINE)


def current_solver() -> Solver:
    """Who answers what is asked inside `solved_by`; at once, elsewhere."""
    return _SOLVER.get()


@contextlib.contextmanager
def solved_by(solver: Solver) -> Iterator[None]:
    """Have what is asked inside answered by a solver.

    Args:
        solver: Answers.
    """
    token = _SOLVER.set(solver)
    try:
        yield
    finally:
        _SOLVER.reset(token)


class ThreadSolver:
    """Has questions answered one after the other by one thread.

    The thread ends with this object and never keeps the process from ending.

    Attributes:
        last: The latest answer that is to come, or came.
    """

    deferred = True

    def __init__(self) -> None:
        self.last: Solution | None = None
        self._asked: deque[Solution] = deque()
        self._desk = _Desk()
        self._thread = threading.Thread(
            target=_work, args=(self._desk,), name="svdhooks-solver", daemon=True
        )
        self._thread.start()
        weakref.finalize(self, self._desk.tasks.put, None)
        _DESKS.add(self._desk)
        _leave_safely()

    @property
    def alive(self) -> bool:
        """Whether the thread runs; after a fork, it does not in the child."""
        return self._thread.is_alive()

    def submit(self, question: Question) -> Solution:
        """Have a question answered, at once if there is no room for a snapshot.

        Args:
            question: What is asked for; may change afterwards.

        Returns:
            The answer, now or later; errors of a snapshot are raised.
        """
        desk = self._desk
        fits = desk.held + question.nbytes <= MOST_BYTES
        problem = question.later() if fits and self.alive else None
        if problem is None:
            return Solution(question.now())
        while self._asked and self._asked[0].ready:
            self._asked.popleft()
        self.last = solution = Solution()
        self._asked.append(solution)
        desk.hold(problem.nbytes)
        desk.tasks.put((problem, solution))
        return solution

    def give_up_if_dead(self) -> None:
        """Give up the answers that nobody will give."""
        if not self.alive:
            for solution in self._asked:
                if not solution.ready:
                    solution.settle(None, RuntimeError("the solving thread ended"))

    def close(self, abandon: bool = False) -> None:
        """Let the thread end.

        Args:
            abandon: What is not begun is not solved.
        """
        self._desk.abandoned |= abandon
        self._desk.tasks.put(None)

    def join(self, seconds: float) -> None:
        """Wait for the thread to end.

        Args:
            seconds: At most.
        """
        self._thread.join(max(seconds, 0.0))


class _Desk:
    """What the thread shares with the solver, which it must not keep alive."""

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[tuple[Problem, Solution] | None]
        self.tasks = queue.SimpleQueue()
        self.held = 0
        self.abandoned = False
        self.busy = False
        self._lock = threading.Lock()

    def hold(self, nbytes: int) -> None:
        with self._lock:
            self.held += nbytes


def _work(desk: _Desk) -> None:
    """The thread."""
    while (task := desk.tasks.get()) is not None:
        desk.busy = True  # before the next line: see _leave
        if desk.abandoned:
            break
        problem, solution = task
        nbytes, value, error = problem.nbytes, None, None
        try:
            value = problem.solve()
        except BaseException as raised:  # noqa: BLE001  # told where it is asked for
            error = raised.with_traceback(None)  # which would hold the snapshot
        desk.busy = False
        desk.hold(-nbytes)
        del task, problem
        solution.settle(value, error)
        del solution, value
    desk.busy = False


# --- the end of the process -----------------------------------------------------------

_DESKS: "weakref.WeakSet[_Desk]" = weakref.WeakSet()
_LAST_WAIT = 0.2


@functools.cache
def _leave_safely() -> None:
    atexit.register(_leave)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_DESKS.clear)  # the threads are not there


def _leave() -> None:
    """End the process without the C library's exit handlers if LAPACK still runs.

    They unmap the memory that OpenBLAS works in, so that the process would end by a
    segmentation fault. Python's own handlers have run or will run; files are flushed.
    """
    until = time.monotonic() + _LAST_WAIT
    for desk in list(_DESKS):
        desk.abandoned = True
        desk.tasks.put(None)
    while any(desk.busy for desk in list(_DESKS)):
        if time.monotonic() > until:
            _skip_exit_handlers()
            return
        time.sleep(0.01)


def _skip_exit_handlers() -> None:
    with contextlib.suppress(OSError, AttributeError):  # on_exit is of glibc
        library = ctypes.CDLL(None)
        library.fflush(None)
        # called with the status of the process, before all that was registered earlier
        library.on_exit(ctypes.cast(library._exit, ctypes.c_void_p), None)
