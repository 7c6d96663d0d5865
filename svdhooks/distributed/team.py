"""The processes that record one run together, and how they speak to each other.

Everything that is exchanged goes through a gloo group of their own. So it never mixes with
the communication of the training, it carries what lies on the CPU whatever the training
uses, and an error in it is an error and not the end of the process. The rule that keeps
processes from waiting for each other for ever: whatever fails on one of them is told to the
others at the next agreed point; who cannot go on leaves, which the others notice at once.
"""

import itertools
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

T = TypeVar("T")

PATIENCE = timedelta(minutes=5)
"""How long to wait until every process has set up its recorder."""

SILENCE = timedelta(minutes=10)
"""How long one process may be late at a record, say by saving a checkpoint alone."""


class TeamError(RuntimeError):
    """The processes cannot speak to each other any more."""


@dataclass(frozen=True)
class _Unsent:
    """Stands for what could not be pickled."""

    reason: str


class Team:
    """The processes of one run, or this one alone.

    All methods but `leave` are collective: every process calls them in the same order.

    Args:
        group: Of this team and nobody else; None: this process is alone.

    Attributes:
        rank: Number of this process; 0 writes.
        size: Number of processes.
        broken: Why the processes cannot speak to each other any more; None if they can.
    """

    def __init__(self, group: Any = None) -> None:
        self._group = group
        self.rank = 0 if group is None else distributed.get_rank(group)
        self.size = 1 if group is None else distributed.get_world_size(group)
        self.broken: str | None = None

    @property
    def alone(self) -> bool:
        """Whether there is nobody else."""
        return self.size == 1

    @property
    def writes(self) -> bool:
        """Whether this process writes for all."""
        return self.rank == 0

    def exchange(self, value: T) -> list[T]:
        """Give a value to all.

        Args:
            value: What pickles.

        Returns:
            What each process gave, by rank.

        Raises:
            ValueError: On every process, if one of them gave what does not pickle.
            TeamError: If the others cannot be reached.
        """
        if self.alone:
            return [value]
        packed: bytes | _Unsent = _packed(value)
        found: list[Any] = [None] * self.size
        self._speak(
            lambda group: distributed.all_gather_object(found, packed, group=group)
        )
        return [_unpacked(rank, each) for rank, each in enumerate(found)]

    def collect(self, value: T, to: int) -> list[T] | None:
        """Give a value to one of the processes.

        Args:
            value: What pickles.
            to: Rank of who gets it.

        Returns:
            What each process gave, by rank; None for the others.

        Raises:
            ValueError: For who gets it, if one gave what does not pickle.
            TeamError: If the others cannot be reached.
        """
        if self.alone:
            return [value]
        packed = _packed(value)
        found: list[Any] | None = [None] * self.size if self.rank == to else None
        self._speak(
            lambda group: distributed.gather_object(packed, found, dst=to, group=group)
        )
        return found and [_unpacked(rank, each) for rank, each in enumerate(found)]

    def agree(self, ok: bool) -> bool:
        """Whether all processes are ready for what comes next.

        Args:
            ok: Whether this one is.

        Returns:
            The same answer everywhere.

        Raises:
            TeamError: If the others cannot be reached.
        """
        if self.alone:
            return ok
        answer = torch.tensor([int(ok)])
        self._reduce(answer, distributed.ReduceOp.MIN)
        return bool(answer)

    def add(self, tensor: Tensor, to: int | None = None) -> None:
        """Add up a tensor over the processes, in place.

        Args:
            tensor: On the CPU, of the same shape and dtype everywhere; real numbers.
            to: Rank of who gets the sum; None: all. Others are left with anything.

        Raises:
            TeamError: If the others cannot be reached.
        """
        if self.alone or tensor.numel() == 0:
            return
        if to is None:
            self._reduce(tensor, distributed.ReduceOp.SUM)
        else:
            self._speak(lambda group: distributed.reduce(tensor, dst=to, group=group))

    def largest(self, tensor: Tensor) -> None:
        """Take the largest value over the processes, element by element, in place.

        Args:
            tensor: As for `add`; without NaN, of which nothing is promised.

        Raises:
            TeamError: If the others cannot be reached.
        """
        if not self.alone and tensor.numel():
            self._reduce(tensor, distributed.ReduceOp.MAX)

    def _reduce(self, tensor: Tensor, how: Any) -> None:
        self._speak(lambda group: distributed.all_reduce(tensor, how, group=group))

    def _speak(self, call: Callable[[Any], Any]) -> None:
        if self._group is None:
            raise TeamError(self.broken or "this process has left the others")
        try:
            call(self._group)
        except Exception as error:
            self.leave(_said_by_gloo(error))
            raise TeamError(str(self.broken)) from error

    def leave(self, reason: str = "this process has left the others") -> None:
        """Speak to nobody any more; communicates with nobody, may be called twice.

        The others notice it when they speak the next time, and do not have to wait.

        Args:
            reason: Why.
        """
        group, self._group = self._group, None
        if group is None:
            return
        self.broken = reason
        # the training may have ended communication altogether: then it is gone already
        if distributed.is_initialized():
            try:
                distributed.destroy_process_group(group)
            except (ValueError, RuntimeError, AssertionError):
                return


def _said_by_gloo(error: Exception) -> str:
    if not distributed.is_initialized():
        return "communication was ended by destroy_process_group"
    # without the line of its source, and without advice on what is no error here
    first_line = str(error).strip().partition("\n")[0]
    reason = re.sub(r"^\[[^\]]*\] *", "", first_line).partition(". ")[0]
    return f"another process has stopped, or is late ({reason})"


def _packed(value: Any) -> bytes | _Unsent:
    try:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # noqa: BLE001  # the others wait for something
        return _Unsent(f"{type(error).__name__}: {error}")


def _unpacked(rank: int, packed: bytes | _Unsent) -> Any:
    if isinstance(packed, bytes):
        return pickle.loads(packed)
    raise ValueError(f"rank {rank} could not send what it measured: {packed.reason}")


def form_team() -> Team:
    """Find the other processes of this program; collective where there are several.

    Returns:
        A team of all processes of ``torch.distributed``, or of this one alone where that
        is not in use.

    Raises:
        RuntimeError: If some do not take part in time, or cannot be reached.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return Team()
    rank, size = distributed.get_rank(), distributed.get_world_size()
    if size == 1:
        return Team()
    board = _board(rank)
    _wait_for_all(board, "here", rank, size)
    error = None
    try:
        group = distributed.new_group(backend="gloo", timeout=SILENCE)
    except Exception as failure:  # noqa: BLE001  # the others have to know
        error = failure
        board.set(f"failed-{rank}", f"{type(failure).__name__}: {failure}")
    _wait_for_all(board, "grouped", rank, size)
    failed = [r for r in range(size) if board.check([f"failed-{r}"])]
    if failed:
        reason = board.get(f"failed-{failed[0]}").decode()
        raise RuntimeError(_NO_GLOO.format(rank=failed[0], reason=reason)) from error
    return Team(group)


def _board(rank: int) -> Any:
    """Where processes see who is there, without having to wait for each other."""
    store = distributed.distributed_c10d._get_default_store()
    boards = (PrefixStore(f"svdhooks/{n}", store) for n in itertools.count(1))
    return next(board for board in boards if not board.check([f"here-{rank}"]))


def _wait_for_all(board: Any, word: str, rank: int, size: int) -> None:
    board.set(f"{word}-{rank}", "")
    try:
        board.wait([f"{word}-{other}" for other in range(size)], PATIENCE)
    except Exception as error:
        there = [r for r in range(size) if board.check([f"{word}-{r}"])]
        missing = [r for r in range(size) if r not in there]
        raise RuntimeError(
            f"svdhooks waited {PATIENCE.total_seconds():g} s for rank"
            f"{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))} of "
            f"{size}. {_EVERY_RANK}"
        ) from error


_EVERY_RANK = (
    "Set up recording on every rank, at the same place of the program (svdhooks.watch, or "
    "the callback of the trainer), not only on rank 0: the others take part in the "
    "measurement; only rank 0 writes."
)
_NO_GLOO = (
    "svdhooks could not open a gloo group between the processes; rank {rank}: {reason}. It "
    "needs one besides the training's own for what lies on the CPU. Often the network "
    "interface has to be named: GLOO_SOCKET_IFNAME=eth0."
)
