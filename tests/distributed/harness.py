"""Several processes that stay alive for a whole session: importing torch takes seconds.

A test gives a function of its module to ``Ranks.run``; every process joins a new group of
gloo (rendezvous by a file), calls the function, and sends back what it returned.
"""

import faulthandler
import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import monotonic
from typing import Any

ROOT = str(Path(__file__).parents[2])
SIZE = 4
COLLECTIVE_SECONDS = 40
IGNORED = (
    # torch's own, of its own code
    ".*The given buffer is not writable.*",
    ".*was not initialised with a device_id.*",
    ".*functools.partial will be a method descriptor.*",
)


class RankFailed(AssertionError):
    """A process raised, died, or did not answer."""


@dataclass
class Died:
    """What a process that was killed returns.

    Attributes:
        exitcode: Of the process.
    """

    exitcode: int | None


@dataclass
class _Process:
    process: Any
    pipe: Connection
    stacks: Path


class Ranks:
    """The processes. They are started at the first use.

    Args:
        folder: For the rendezvous and for stacks.
    """

    def __init__(self, folder: Path) -> None:
        self._processes: list[_Process] = []
        self._folder = folder
        self._runs = 0

    def run(
        self,
        world: int,
        function: Callable[..., Any],
        *args: Any,
        seconds: float = 60.0,
        may_die: bool = False,
    ) -> list[Any]:
        """Call ``function(rank, *args)`` in every process of a new group.

        Args:
            world: Number of processes, at most four.
            function: Of a module that can be imported.
            *args: What pickles.
            seconds: How long to wait for all of them.
            may_die: Whether a process may be killed; then it returns ``Died``.

        Returns:
            What each returned, by rank.

        Raises:
            RankFailed: If one raised, with its traceback; if one did not answer, with
                the stacks of all.
        """
        self._ensure(world)
        self._runs += 1
        store = self._folder / f"store-{self._runs}"
        for rank, each in enumerate(self._processes[:world]):
            each.pipe.send((function, rank, world, str(store), args, seconds))
        return self._collect(world, monotonic() + seconds + 5, may_die)

    def _collect(self, world: int, until: float, may_die: bool) -> list[Any]:
        found: dict[int, Any] = {}
        failed: dict[int, str] = {}
        waiting = {self._processes[rank].pipe: rank for rank in range(world)}
        while waiting and monotonic() < until:
            for pipe in wait(list(waiting), timeout=until - monotonic()):
                rank = waiting.pop(pipe)
                try:
                    good, value = pipe.recv()
                except (EOFError, ConnectionResetError):
                    process = self._processes[rank].process
                    process.join(5)
                    good, value = may_die, Died(process.exitcode)
                (found if good else failed)[rank] = value
            if failed:  # the others may wait for it: not for long
                until = min(until, monotonic() + 10)
        if waiting or failed or any(isinstance(v, Died) for v in found.values()):
            stacks = [
                f"rank {rank} did not answer:\n{self._processes[rank].stacks.read_text()}"
                for rank in waiting.values()
            ]
            self.close()
            if waiting or failed:
                told = [f"rank {rank}: {text}" for rank, text in failed.items()]
                raise RankFailed("\n".join([*told, *stacks]))
        return [found[rank] for rank in range(world)]

    def _ensure(self, world: int) -> None:
        context = multiprocessing.get_context("spawn")
        if any(not each.process.is_alive() for each in self._processes):
            self.close()
        while len(self._processes) < world:
            ours, theirs = context.Pipe()
            stacks = self._folder / f"stacks-{len(self._processes)}"
            process = context.Process(
                target=_serve, args=(theirs, str(stacks)), daemon=True
            )
            process.start()
            theirs.close()
            self._processes.append(_Process(process, ours, stacks))

    def close(self) -> None:
        """End the processes."""
        for each in self._processes:
            each.process.kill()
            each.process.join(10)
            each.pipe.close()
        self._processes = []


def _serve(pipe: Connection, stacks: str) -> None:
    """What a process does until it is killed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, ROOT)
    import torch

    torch.set_num_threads(1)
    with Path(stacks).open("w+") as file:
        while True:
            try:
                function, rank, world, store, args, seconds = pipe.recv()
            except EOFError:
                return
            file.seek(0)
            file.truncate()
            faulthandler.dump_traceback_later(seconds, file=file)
            try:
                answer = True, _call(function, rank, world, store, args)
            except BaseException:  # noqa: BLE001  # it is told to the test
                answer = False, traceback.format_exc()
            faulthandler.cancel_dump_traceback_later()
            pipe.send(answer)


def _call(
    function: Callable[..., Any],
    rank: int,
    world: int,
    store: str,
    args: tuple[Any, ...],
) -> Any:
    import torch
    from torch import distributed

    names = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "NODE_RANK": 0,
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": world,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 29500,  # never used: the group exists already
    }
    os.environ.update({name: str(value) for name, value in names.items()})
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for message in IGNORED:
            warnings.filterwarnings("ignore", message=message)
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=COLLECTIVE_SECONDS),
        )
        # one that is through at once must not be gone before another has connected
        board = distributed.distributed_c10d._get_default_store()
        board.set(f"connected-{rank}", "")
        board.wait([f"connected-{r}" for r in range(world)], timedelta(seconds=30))
        try:
            return function(rank, *args)
        finally:
            distributed.destroy_process_group()
            torch.set_default_dtype(torch.float32)
