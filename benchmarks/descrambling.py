"""What exact descrambling costs, beside the optimiser that it replaces.

- The cost of `svdhooks.linalg.descramble` for n outputs, beside one eigendecomposition of the
  moment by the same torch, which is the floor.
- The optimiser of the paper (Cayley transform and L-BFGS, float64, numpy): how long until it
  ends, and how far above the minimum.
- One fit of the biexponential to 64 points.

CPU time, one thread, median; candidates side by side.

Usage: OMP_NUM_THREADS=1 python benchmarks/descrambling.py [--rounds 3] [--quick]
"""

import argparse
import time

import numpy as np
import torch
from _bench import show, side_by_side
from torch import Tensor

from svdhooks.linalg import descramble, fit_signal_model, smoothness_operator
from svdhooks.linalg.signal_models import biexponential
from tests import cayley


def moment(n: int) -> Tensor:
    """Of the outputs of a random layer of random data."""
    generator = torch.Generator().manual_seed(n)
    W, X = (torch.randn(n, m, generator=generator).double() for m in (n, 2 * n))
    S = W @ X
    return S @ S.T / (2 * n)


def exact(sizes: list[int], rounds: int) -> None:
    rows = []
    for n in sizes:
        B = moment(n)
        found = side_by_side(
            {
                "exact": lambda B=B: descramble(B),
                "eigh": lambda B=B: torch.linalg.eigh(B),
            },
            rounds,
        )
        ratio = found["exact"] / found["eigh"]
        gap = abs(descramble(B).relative_gap)
        rows.append((
            f"n = {n}",
            f"{found['exact'] * 1e3:.0f}",
            f"{found['eigh'] * 1e3:.0f}",
            f"{ratio:.2f}",
            f"{gap:.0e}",
        ))
    head = ("", "descramble, ms", "eigh alone, ms", "ratio", "relative gap")
    show("exact descrambling", rows, head)


def optimiser(sizes: list[int]) -> None:
    rows = []
    for n in sizes:
        B, D = moment(n), smoothness_operator(n)
        A = D.T @ D
        seconds = side_by_side({"exact": lambda B=B: descramble(B)}, 21)["exact"]
        begin = time.process_time()
        P = torch.from_numpy(cayley.descrambler(A.numpy(), B.numpy()))
        spent = time.process_time() - begin
        above = float((A * (P @ B @ P.T)).sum()) / descramble(B).cost - 1
        rows.append((
            f"n = {n}",
            f"{seconds * 1e3:.2f}",
            f"{spent:.1f}",
            f"{spent / seconds:.0f}",
            f"{above:.0e}",
        ))
    head = ("", "exact, ms", "optimiser, s", "ratio", "its cost above the minimum")
    show("the optimiser of the paper, from the identity", rows, head)


def fits(rounds: int) -> None:
    t = np.linspace(0, 800, 64)
    noise = np.random.default_rng(0).standard_normal((rounds, 64))
    clean = biexponential(t, 0.6, 300.0, -0.4, 80.0, 0.0)
    seconds, found = [], []
    for row in noise:
        begin = time.process_time()
        found.append(fit_signal_model(t, clean + 0.02 * row).r_squared)
        seconds.append(time.process_time() - begin)
    noise_alone = [fit_signal_model(t, row).r_squared for row in noise]
    show(
        "biexponential, 64 points",
        [
            (
                f"{np.median(seconds) * 1e3:.0f}",
                f"{np.median(found):.4f}",
                f"{np.median(noise_alone):.3f}",
            )
        ],
        ("ms per fit", "R², noise 0.02", "R², noise alone"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    exact([256, 1024] if arguments.quick else [256, 1024, 2048], arguments.rounds)
    optimiser([8, 12] if arguments.quick else [8, 12, 16, 24])
    fits(5 if arguments.quick else 25)


if __name__ == "__main__":
    main()
