"""What one record of all weight spectra costs, against the bare decompositions.

The floor is, for every weight, the float64 Gram matrix of its smaller side by a torch
matmul and ``torch.linalg.eigvalsh``: no measures, no record. A record holds the
spectrum, all ten measures and what is said of them; written, it is in the log as well.

Usage: python benchmarks/record_cost.py [--rounds 15] [--threads 1 2]
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg
import torch
from _bench import show, side_by_side
from models import TASKS, Task
from threadpoolctl import threadpool_limits
from torch import Tensor

from svdhooks.conductor.measuring import Measurer
from svdhooks.conductor.meta import Described, meta_record
from svdhooks.layers import find_layers
from svdhooks.probe import ProbeOptions
from svdhooks.quantities import WeightSpectrum
from svdhooks.record import Record
from svdhooks.reports import Reporter
from svdhooks.sinks.tensorboard import TensorBoardSink

HEADLINES = ("stable_rank", "effective_rank", "numerical_rank", "spectral_norm")


def torch_floor(weights: Sequence[Tensor]) -> list[np.ndarray]:
    """Singular values of each weight by torch alone."""
    found = []
    for weight in weights:
        wide = weight.double()
        wide = wide if wide.shape[0] <= wide.shape[1] else wide.mT
        values = torch.linalg.eigvalsh(wide @ wide.mT)
        found.append(values.clamp(min=0.0).sqrt().flip(0).numpy())
    return found


def dsyrk_floor(weights: Sequence[Tensor]) -> list[np.ndarray]:
    """The same by half a product, ``dsyrk``, and ``dsyevd``, on one OpenBLAS thread."""
    found = []
    with threadpool_limits(1, user_api="blas"):
        for weight in weights:
            wide = weight.double().numpy()
            wide = wide if wide.shape[0] <= wide.shape[1] else wide.T
            # BLAS wants columns in one piece: of the transpose, that is no copy
            gram = scipy.linalg.blas.dsyrk(1.0, wide.T, trans=1)
            values = scipy.linalg.eigh(
                gram, lower=False, eigvals_only=True, driver="evd", check_finite=False
            )
            found.append(np.sqrt(values.clip(min=0.0))[::-1])
    return found


def recording(
    task: Task, directory: str
) -> tuple[list[Tensor], Callable[[], list[Record]], Callable[[], None]]:
    """The weights of a model, a record of them, and a record that is written."""
    torch.manual_seed(0)
    model = task.build()
    table = find_layers(model)
    measurer = Measurer(model, table, ProbeOptions(), None, Reporter())
    quantity, sink = WeightSpectrum(), TensorBoardSink(directory)
    sink.write([meta_record(0, Described(table.layers), {})])
    parts = set(measurer.parts([quantity], probing=False))
    step = 0

    def record() -> list[Record]:
        nonlocal step
        step += 1
        for layer in table.layers:  # as an optimiser does: else it is not measured
            with torch.no_grad():
                layer.parameter_value()[:1].mul_(1.0)
        return measurer.measure(step, [quantity], parts, None).records

    def write() -> None:
        sink.write(record())

    return [layer.weight() for layer in table.layers], record, write


def check(weights: Sequence[Tensor], records: Sequence[Record]) -> None:
    """Both floors and the record must speak of the same singular values."""
    for expected, other, record in zip(
        torch_floor(weights), dsyrk_floor(weights), records, strict=True
    ):
        scale = 1e-6 * expected[0]
        np.testing.assert_allclose(other, expected, rtol=1e-6, atol=scale)
        np.testing.assert_allclose(record.spectrum, expected, rtol=1e-6, atol=scale)
        assert record.measures.keys() >= set(HEADLINES)


def compare(task: Task, rounds: int) -> tuple[str, ...]:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as directory:
        weights, record, write = recording(task, directory)
        check(weights, record())
        times = side_by_side(
            {
                "floor": lambda: torch_floor(weights),
                "dsyrk": lambda: dsyrk_floor(weights),
                "record": record,
                "write": write,
            },
            rounds,
        )
    floor, record_time = times["floor"], times["record"]
    return (
        task.name,
        f"{len(weights)}",
        *(f"{1e3 * seconds:.1f}" for seconds in times.values()),
        f"{record_time / floor:.2f}",
        f"{record_time / times['dsyrk']:.2f}",
    )


HEAD = ("model", "weights", "floor", "dsyrk floor", "record", "written", "/ floor", "/ dsyrk")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    default = [1, torch.get_num_threads()]
    parser.add_argument("--threads", type=int, nargs="+", default=default)
    options = parser.parse_args()
    for threads in dict.fromkeys(options.threads):
        torch.set_num_threads(threads)
        show(
            f"One record of all weight spectra, CPU ms of all threads, median; torch on "
            f"{threads} thread{'s' if threads > 1 else ''}",
            [compare(task, options.rounds) for task in TASKS.values()],
            HEAD,
        )


if __name__ == "__main__":
    main()
