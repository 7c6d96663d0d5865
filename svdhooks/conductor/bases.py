"""What a run began with, kept beside its log for the time after a restart."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import unquote

import torch
from torch import Tensor

from svdhooks import schema
from svdhooks.quantities import Quantity
from svdhooks.reports import Reporter
from svdhooks.wholefile import written_whole

FILE = "base.safetensors"
MOST_BYTES = 256 * 2**20
"""More than that of one quantity is not stored: nobody expects gigabytes from a monitor."""

_LAYOUT = "2"
_FIRST_KEEPER = "update_spectrum"
"""Whose all tensors are in files without a layout."""

_Bases = dict[str, tuple[int, Tensor]]


@runtime_checkable
class KeepsBases(Protocol):
    """A quantity that compares with an earlier step."""

    @property
    def name(self) -> str:
        """Under which its records are filed."""
        ...

    def bases(self) -> Mapping[str, tuple[int, Tensor]]:
        """A key of its own, such as the layer -> step and tensor, on the CPU."""
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
        self._stored: set[tuple[str, str]] = set()

    def restore(self) -> None:
        """Give the quantities of a resumed run their bases back."""
        if not self._keeping or not self._start_step or self._path is None:
            return
        try:
            found = _read(self._path) if self._path.exists() else {}
        except Exception as error:  # noqa: BLE001  # a damaged file is not fatal
            self._reporter.problem(
                "bases",
                f"svdhooks: could not read what the run began with, {self._path} "
                f"({error}); changes since the start are counted from here on.",
                error,
            )
            return
        for quantity in self._keeping:
            # what began at or after the step of the restart is superseded
            own = found.get(quantity.name, {})
            earlier = {k: v for k, v in own.items() if v[0] < self._start_step}
            self._stored |= {(quantity.name, key) for key in earlier}
            quantity.restore(earlier)

    def store(self) -> None:
        """Write the bases, where there are more than before."""
        if self._path is None:
            return
        several = {q.name: dict(q.bases()) for q in self._keeping}
        keys = {(name, key) for name, bases in several.items() for key in bases}
        if keys <= self._stored:
            return
        self._stored = keys
        small = {
            name: bases for name, bases in several.items() if self._fits(name, bases)
        }
        if not any(small.values()):
            return
        try:
            _write(self._path, small)
        except Exception as error:  # noqa: BLE001  # storing may fail, training may not
            self._reporter.problem(
                "bases",
                f"svdhooks: could not store what the run began with ({error}); in a "
                "resumed run changes since the start are counted from the restart.",
                error,
            )

    def _fits(self, name: str, bases: _Bases) -> bool:
        size = sum(tensor.nbytes for _, tensor in bases.values())
        if size > MOST_BYTES:
            self._reporter.note(
                f"bases of {name}",
                f"svdhooks: what {name} began with ({size / 1e6:.0f} MB) is not stored; in "
                "a resumed run changes since the start are counted from the restart. "
                "Watch fewer layers with it to have them stored.",
            )
        return size <= MOST_BYTES


def _read(path: Path) -> dict[str, _Bases]:
    """Quantity -> its bases."""
    from safetensors import safe_open

    found: dict[str, _Bases] = {}
    with safe_open(str(path), framework="pt") as file:
        said = file.metadata() or {}
        steps: dict[str, int] = json.loads(said["steps"])
        in_parts = set(json.loads(said.get("complex", "[]")))
        for key, step in steps.items():
            owner, _, rest = key.partition("/")
            if "layout" not in said:  # before there were several quantities
                owner, rest = _FIRST_KEEPER, key
            tensor = file.get_tensor(key)
            if key in in_parts:
                tensor = torch.view_as_complex(tensor)
            found.setdefault(unquote(owner), {})[rest] = (step, tensor)
    return found


def _write(path: Path, several: Mapping[str, _Bases]) -> None:
    """All of it or nothing."""
    from safetensors.torch import save_file

    named = {
        f"{schema.escape(name)}/{key}": base
        for name, bases in several.items()
        for key, base in bases.items()
    }
    steps = {key: step for key, (step, _) in named.items()}
    in_parts = sorted(key for key, (_, tensor) in named.items() if tensor.is_complex())
    tensors = {
        # safetensors has no complex128: real and imaginary part, as of vectors
        key: (
            torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
        ).contiguous()
        for key, (_, x) in named.items()
    }
    metadata = {
        "steps": json.dumps(steps),
        "layout": _LAYOUT,
        "complex": json.dumps(in_parts),
    }
    with written_whole(path) as begun:
        save_file(tensors, str(begun), metadata=metadata)
