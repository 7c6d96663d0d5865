"""What the spectral graph costs, beside the way it was published.

- The adjacency from singular vectors: `svdhooks.linalg.vector_adjacency`, in blocks, beside
  one einsum that holds the filters of all pairs of neurons (the layout of the published
  code).
- The whole of it for two square layers: the two SVDs, and the largest memory.
- Finding the pairs of a residual stream in a traced forward, by depth.

CPU time, one thread; every number of memory is the peak of a process of its own, less what
it had before it began.

Usage: OMP_NUM_THREADS=1 python benchmarks/spectral_graph.py [--rounds 3] [--quick]
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _bench import show
from torch import Tensor

from svdhooks.flow.graph import Arrival, Flow, Operation, Step
from svdhooks.flow.pairs import find_pairs
from svdhooks.layers import find_layers
from svdhooks.linalg import spectral_adjacency, vector_adjacency

Case = tuple[int, int, int, int]
"""Features c, neurons m of the earlier layer, neurons n of the later one, positions z."""


def published(U: Tensor, Vh: Tensor) -> Tensor:
    """All effective filters, then their squared norms."""
    filters = Vh.reshape(len(Vh), U.shape[0], -1)
    return torch.einsum("km,nkz->nmz", U, filters).square().sum(-1)


def vectors(case: Case) -> tuple[Tensor, Tensor]:
    c, m, n, z = case
    generator = torch.Generator().manual_seed(0)
    U, Vh = (torch.randn(s, generator=generator).double() for s in ((c, m), (n, c * z)))
    return U / U.norm(dim=0), Vh / Vh.norm(dim=1, keepdim=True)


def weights(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, n, generator=generator), torch.randn(
        n, n, generator=generator
    )


def _measured(
    queue: Any, work: Callable[..., object], make: Callable[..., Any], of: Any
) -> None:
    torch.set_num_threads(1)
    given = make(of)
    work(*make((4, 4, 4, 1) if isinstance(of, tuple) else 8))  # libraries are loaded
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    begin = time.process_time()
    work(*given)
    seconds = time.process_time() - begin
    queue.put((seconds, peak() - before))


def peak() -> float:
    """Largest resident memory of this process, MiB; Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) / 1024


def apart(
    work: Callable[..., object], make: Callable[..., Any], of: Any, rounds: int
) -> tuple[float, float]:
    """CPU seconds and peak MiB, medians over processes."""
    context = multiprocessing.get_context("spawn")
    found = []
    for _ in range(rounds):
        queue = context.Queue()
        process = context.Process(target=_measured, args=(queue, work, make, of))
        process.start()
        found.append(queue.get())
        process.join()
    seconds, memory = (sorted(column)[len(found) // 2] for column in zip(*found))  # noqa: B905
    return seconds, memory


def from_vectors(cases: dict[str, Case], rounds: int) -> None:
    rows = []
    for name, case in cases.items():
        ours = apart(vector_adjacency, vectors, case, rounds)
        theirs = apart(published, vectors, case, rounds)
        rows.append((
            name,
            *(f"{x:.2f}" for x in (ours[0], theirs[0], ours[0] / theirs[0])),
            *(f"{x:.0f}" for x in (ours[1], theirs[1])),
            f"{case[1] * case[2] * 8 / 2**20:.0f}",
        ))
    head = ("", "ours, s", "einsum, s", "ratio", "ours, MiB", "einsum, MiB", "result")
    show("the adjacency from singular vectors", rows, head)


def whole(sizes: list[int]) -> None:
    rows = []
    for n in sizes:
        seconds, memory = apart(spectral_adjacency, weights, n, 1)
        copy = n * n * 8 / 2**20
        rows.append((
            f"{n} × {n}",
            f"{seconds:.1f}",
            f"{memory:.0f}",
            f"{copy:.0f}",
            f"{memory / copy:.1f}",
        ))
    head = ("", "s", "peak, MiB", "one copy, MiB", "copies")
    show("two square layers, full SVDs", rows, head)


def stream(depth: int) -> tuple[Flow, Any]:
    """A residual stream as a trace of it would be: read, written to, and so on."""
    net = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2 * depth))
    steps = [Step((2, 4), ("(input)",))]
    arrivals, last = {}, 0
    for i in range(depth):
        arrivals[str(2 * i)] = (Arrival((last,), (2, 4)),)
        steps.append(Step((2, 4), (str(2 * i),)))
        arrivals[str(2 * i + 1)] = (Arrival((len(steps) - 1,), (2, 4)),)
        steps.append(Step((2, 4), (str(2 * i + 1),)))
        steps.append(
            Step((2, 4), (), Operation("add", "arithmetic"), (last, len(steps) - 1))
        )
        last = len(steps) - 1
    return Flow(tuple(steps), arrivals), find_layers(net).layers


def pairs(depths: list[int]) -> None:
    rows = []
    for depth in depths:
        flow, layers = stream(depth)
        begin = time.process_time()
        found = find_pairs(flow, layers)
        seconds = time.process_time() - begin
        rows.append((f"{depth} blocks", f"{len(found.pairs)}", f"{seconds * 1e3:.0f}"))
    show("pairs of a residual stream", rows, ("", "pairs", "ms"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = {
        "conv 256 → conv 256, 3 × 3": (256, 256, 256, 9),
        "conv 512 → conv 512, 3 × 3": (512, 512, 512, 9),
        "conv 512 → fc 4096, 7 × 7 map": (512, 512, 4096, 49),
        "fc 4096 → fc 4096": (4096, 4096, 4096, 1),
    }
    kept = 1 if arguments.quick else len(cases)
    from_vectors(dict(list(cases.items())[:kept]), arguments.rounds)
    whole([256, 512] if arguments.quick else [512, 1024, 2048, 4096])
    pairs([50, 100] if arguments.quick else [100, 200, 400])


if __name__ == "__main__":
    main()
