"""What one record of singular vectors, moments, edges and drift costs.

Each quantity on its own, solved inline, in CPU time; beside it the weight spectra of the
same model, and one training step. Pairs are traced and the probe is rehearsed before.

Usage: python benchmarks/vector_cost.py [--rounds 5] [--tasks mlp resnet gpt]
"""

import argparse
from collections.abc import Callable

import torch
from _bench import show, side_by_side
from models import TASKS, Task

from svdhooks.conductor.measuring import Measurer
from svdhooks.layers import find_layers
from svdhooks.probe import ProbeOptions, ReferenceBatch
from svdhooks.quantities import (
    Quantity,
    SpectralEdges,
    WeightSpectrum,
    WeightVectors,
)
from svdhooks.quantities.drift import SubspaceDrift
from svdhooks.quantities.moments import PointMoments
from svdhooks.reports import Reporter

QUANTITIES: dict[str, Quantity] = {
    "weight_spectrum": WeightSpectrum(),
    "weight_vectors, k = 16": WeightVectors(16),
    "weight_vectors, all": WeightVectors(None),
    "spectral_edges, k = 64": SpectralEdges(64),
    "subspace_drift, k = 8": SubspaceDrift(8),
    "moments": PointMoments(),
}


def step_of(task: Task, model: torch.nn.Module) -> Callable[[], None]:
    """One training step."""
    batch = task.batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step() -> None:
        task.loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def compare(task: Task, rounds: int) -> list[tuple[str, ...]]:
    """A row for each quantity."""
    torch.manual_seed(0)
    model = task.build()
    reference = ReferenceBatch.given(task.batch()[0])
    measurer = Measurer(model, find_layers(model), ProbeOptions(), None, Reporter())
    measurer.rehearse(reference)
    at = 0

    def record(quantity: Quantity) -> Callable[[], None]:
        parts = set(measurer.parts([quantity], probing=True))

        def once() -> None:
            nonlocal at
            at += 1
            with torch.no_grad():  # as an optimiser does: else it is not measured
                for layer in measurer.table.layers:
                    layer.parameter_value()[:1].mul_(1.0)
            found = measurer.measure(at, [quantity], parts, reference).records
            bad = [r.status for r in found if not r.ok]
            assert not bad, bad

        return once

    works = {name: record(quantity) for name, quantity in QUANTITIES.items()}
    times = side_by_side({"a step": step_of(task, model), **works}, rounds)
    base = times["weight_spectrum"]
    return [
        (f"{task.name}: {name}", f"{1e3 * seconds:.1f}", f"{seconds / base:.1f}")
        for name, seconds in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        row
        for name in arguments.tasks
        for row in compare(TASKS[name], arguments.rounds)
    ]
    show("CPU time of one record", rows, ("", "ms", "/ weight spectra"))


if __name__ == "__main__":
    main()
