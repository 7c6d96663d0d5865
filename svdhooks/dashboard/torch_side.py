"""What needs torch is done in a process of its own, kept for a while.

TensorBoard never imports torch: that takes seconds and hundreds of megabytes, and the
machine may have none. Requests and answers go through pipes, one at a time.
"""

import contextlib
import importlib.util
import json
import os
import queue
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from svdhooks.dashboard.answers import RequestError

PATIENCE = 120.0
"""Seconds to wait for an answer."""

IDLE = 300.0
"""Seconds after which a process that nobody asks is ended."""

HEAD = struct.Struct("<HI")
"""Before each answer: HTTP status, and how many bytes follow."""

_OK = 200


class TorchSide:
    """Asks the process, which is started when it is needed.

    Args:
        patience: Seconds to wait for an answer.
        idle: Seconds after which the process is ended.
    """

    def __init__(self, patience: float = PATIENCE, idle: float = IDLE) -> None:
        self._patience, self._idle = patience, idle
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[tuple[int, bytes] | None] = queue.Queue()
        self._timer: threading.Timer | None = None

    def ask(self, directory: Path, asked: dict[str, Any]) -> bytes:
        """Ask for something.

        Args:
            directory: Of the run.
            asked: ``step``, and ``source`` and ``target``, or ``layer``.

        Returns:
            A bundle.

        Raises:
            RequestError: If torch is missing, the run has not what is asked for, or the
                process fails.
        """
        if not torch_is_there():
            what = f"This needs torch, which {sys.executable} does not have."
            raise RequestError(501, what, "pip install torch, and restart TensorBoard.")
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            try:
                status, content = self._asked(str(directory), asked)
            finally:
                self._timer = threading.Timer(self._idle, self.close)
                self._timer.daemon = True
                self._timer.start()
        if status != _OK:
            told = json.loads(content)
            raise RequestError(status, told["error"], told["remedy"])
        return content

    def close(self) -> None:
        """End the process, if it runs."""
        with self._lock:
            self._end()

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def _asked(self, directory: str, asked: dict[str, Any]) -> tuple[int, bytes]:
        process = self._process
        if process is None or process.poll() is not None:
            process = self._begin()
        line = json.dumps({"directory": directory, **asked})
        answer = None
        with contextlib.suppress(OSError, queue.Empty):
            if process.stdin is not None:
                process.stdin.write(line.encode() + b"\n")
                process.stdin.flush()
                answer = self._answers.get(timeout=self._patience)
        if answer is None:
            self._end()
            what = "The process that computes with torch ended or took too long."
            raise RequestError(
                500, what, "Try again; TensorBoard's terminal says more."
            )
        return answer

    def _begin(self) -> subprocess.Popen[bytes]:
        self._end()
        environment = {"OMP_NUM_THREADS": "2", **os.environ}
        self._answers = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "svdhooks.dashboard.torch_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        threading.Thread(
            target=_listen,
            args=(self._process.stdout, self._answers),
            name="svdhooks-torch",
            daemon=True,
        ).start()
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def torch_is_there() -> bool:
    """Whether torch could be imported; it is not."""
    return importlib.util.find_spec("torch") is not None


def _listen(pipe: IO[bytes], answers: "queue.Queue[tuple[int, bytes] | None]") -> None:
    """Take answers until the process ends, which is None."""
    with contextlib.suppress(OSError, ValueError):
        while len(head := pipe.read(HEAD.size)) == HEAD.size:
            status, size = HEAD.unpack(head)
            content = pipe.read(size)
            if len(content) < size:
                break
            answers.put((status, content))
    answers.put(None)
