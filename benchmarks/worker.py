"""Training steps while another thread solves spectra: LAPACK alone, and a loop of Python.

The share of the training thread's own speed that is left while the worker is busy all the
time. On a core that is free LAPACK costs nothing, because it releases the interpreter
lock; a worker that computes in Python takes the lock back after each of the training's
operations. Run it on an idle machine with fewer threads than cores.

Usage: OMP_NUM_THREADS=1 python benchmarks/worker.py [--seconds 3] [--side 512]
"""

import argparse
import threading
import time
from collections.abc import Callable

import torch
from _bench import show
from torch import nn

from svdhooks.linalg.problems import SingularValues
from svdhooks.solving import ThreadSolver


def training() -> Callable[[], None]:
    """One step of a small transformer."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = torch.randn(8, 32, 128)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return step


def steps_per_second(step: Callable[[], None], seconds: float) -> float:
    """How often a step is made."""
    for _ in range(3):
        step()
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        step()
        count += 1
    return count / (time.perf_counter() - begun)


def beside_lapack(side: int, measure: Callable[[], float]) -> float:
    """Measure while our worker solves one spectrum after the other."""
    solver = ThreadSolver()
    question = SingularValues(torch.randn(side, 2 * side))
    ended = threading.Event()

    class Endless:
        """Asked again as long as the measurement takes."""

        def __init__(self) -> None:
            self.problem = question.later()
            self.nbytes = question.nbytes

        now = question.now

        def later(self) -> "Endless":
            return self

        def solve(self) -> object:
            while not ended.is_set():
                value = self.problem.solve()
            return value

    solution = solver.submit(Endless())
    try:
        return measure()
    finally:
        ended.set()
        solution.get()


def beside_python(measure: Callable[[], float]) -> float:
    """Measure while a naive worker computes in Python."""
    ended = threading.Event()

    def work() -> None:
        total = 0.0
        while not ended.is_set():
            for number in range(10_000):
                total += number**0.5

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        return measure()
    finally:
        ended.set()
        thread.join()


def main() -> None:
    """Print one row per worker, alternating with runs without one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--side", type=int, default=512)
    chosen = parser.parse_args()
    step = training()

    def alone() -> float:
        return steps_per_second(step, chosen.seconds)

    candidates = {
        f"LAPACK, n = {chosen.side}": lambda: beside_lapack(chosen.side, alone),
        "LAPACK, n = 64": lambda: beside_lapack(64, alone),
        "a loop of Python": lambda: beside_python(alone),
    }
    rows = []
    for name, work in candidates.items():
        before, beside, after = alone(), work(), alone()
        ratio = (before + after) / 2 / beside
        rows.append((name, f"{1000 / beside:.1f}", f"{ratio:.2f}"))
    threads = torch.get_num_threads()
    head = ("beside", "ms per step", "times as long")
    show(f"A training step on {threads} thread(s)", rows, head)


if __name__ == "__main__":
    main()
