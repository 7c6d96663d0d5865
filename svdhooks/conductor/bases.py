"""The weights that a run began with, kept beside its log for the time after a restart."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from svdhooks.quantities import Quantity
from svdhooks.reports import Reporter
from svdhooks.wholefile import written_whole

FILE = "base.safetensors"
MOST_BYTES = 256 * 2**20
"""More than that is not stored: nobody expects gigabytes from a monitor."""


@runtime_checkable
class KeepsBases(Protocol):
    """A quantity that compares with weights of an earlier step."""

    def bases(self) -> Mapping[str, tuple[int, Tensor]]:
        """Layer -> step and weight, on the CPU."""
        ...

    def restore(self, bases: Mapping[str, tuple[int, Tensor]]) -> None:
        """Take up what `bases` gave in an earlier process."""
        ...


class BaseKeeper:
    """Stores the bases of a run's quantities, and finds them again.

    Args:
        quantities: Those of the run.
        directory: The run's directory; None: nothing is stored.
        start_step: Where a resumed run goes on; None: a new run.
        reporter: Where problems go.
    """

    def __init__(
        self,
        quantities: Sequence[Quantity],
        directory: Path | None,
        start_step: int | None,
        reporter: Reporter,
    ) -> None:
        self._keeping = [q for q in quantities if isinstance(q, KeepsBases)]
        self._path = None if directory is None else directory / FILE
        self._start_step = start_step
        self._reporter = reporter
        self._stored: set[str] = set()

    def restore(self) -> None:
        """Give the quantities of a resumed run their bases back."""
        if not self._keeping or not self._start_step or self._path is None:
            return
        try:
            found = dict(self._read()) if self._path.exists() else {}
        except Exception as error:  # noqa: BLE001  # a damaged file is not fatal
            self._reporter.problem(
                "bases",
                f"svdhooks: could not read the weights that the run began with, "
                f"{self._path} ({error}); W − W₀ is counted from here on.",
                error,
            )
            return
        # what began at or after the step of the restart is superseded
        earlier = {k: v for k, v in found.items() if v[0] < self._start_step}
        self._stored = set(earlier)
        for quantity in self._keeping:
            quantity.restore(earlier)

    def store(self) -> None:
        """Write the bases, where there are more than before."""
        if self._path is None:
            return
        bases = {
            layer: base
            for quantity in self._keeping
            for layer, base in quantity.bases().items()
        }
        if bases.keys() <= self._stored:
            return
        self._stored = set(bases)
        size = sum(weight.nbytes for _, weight in bases.values())
        if size > MOST_BYTES:
            self._reporter.note(
                "bases",
                f"svdhooks: the weights that the run began with ({size / 1e6:.0f} MB) are "
                "not stored; in a resumed run W − W₀ is counted from the restart.",
            )
            return
        try:
            _write(self._path, bases)
        except Exception as error:  # noqa: BLE001  # storing may fail, training may not
            self._reporter.problem(
                "bases",
                "svdhooks: could not store the weights that the run began with "
                f"({error}); in a resumed run W − W₀ is counted from the restart.",
                error,
            )

    def _read(self) -> Iterator[tuple[str, tuple[int, Tensor]]]:
        from safetensors import safe_open

        with safe_open(str(self._path), framework="pt") as file:
            steps: dict[str, int] = json.loads((file.metadata() or {})["steps"])
            for layer, step in steps.items():
                yield layer, (step, file.get_tensor(layer))


def _write(path: Path, bases: Mapping[str, tuple[int, Tensor]]) -> None:
    """All of it or nothing."""
    from safetensors.torch import save_file

    steps: dict[str, Any] = {layer: step for layer, (step, _) in bases.items()}
    tensors = {layer: weight.contiguous() for layer, (_, weight) in bases.items()}
    with written_whole(path) as begun:
        save_file(tensors, str(begun), metadata={"steps": json.dumps(steps)})
