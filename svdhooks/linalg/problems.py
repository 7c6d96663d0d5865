"""Spectra that are prepared in one thread and solved in another.

What is asked for (`SingularValues`, `Eigenvalues`) is answered at once by ``now()``, or
becomes a `Problem` by ``later()``: a snapshot that shares no memory with the question,
whose ``solve`` is numpy on one BLAS thread and gives the same bits as ``now()``. It
makes the same few calls whatever the size, and they release the interpreter lock.
Nothing of torch computes in it, because torch would start threads of its own for each
thread that calls it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Inexact, Shaped
from numpy.typing import NDArray
from torch import Tensor

from svdhooks.linalg import _solvers, spectrum

_SINGLE = (torch.float32, torch.float16, torch.bfloat16)
_LARGE_COPY = 2**27
_AT_ONCE = 2**23  # entries of the Gram matrices of experts or heads: 64 MiB

# by the table in _solvers: 0.8 … 1.5 times the measured time from n = 256 on
_GRAM_SECONDS = 4e-11


@runtime_checkable
class Problem(Protocol):
    """A decomposition that remains to be done.

    Attributes:
        nbytes: What it keeps in memory.
    """

    @property
    def nbytes(self) -> int:
        """What it keeps in memory."""
        ...

    def solve(self) -> NDArray[Any]:
        """The spectrum, descending; LAPACK and nothing else."""
        ...


@runtime_checkable
class Question(Protocol):
    """A spectrum that is asked for."""

    @property
    def nbytes(self) -> int:
        """What its problem would keep in memory."""
        ...

    def now(self) -> NDArray[Any]:
        """The spectrum, descending."""
        ...

    def later(self) -> Problem | None:
        """A problem with the same answer; None if it has to be answered now."""
        ...


def seconds_for(side: int, rows: int = 0, many: int = 1) -> float:
    """About how long spectra take on one thread of a CPU.

    Args:
        side: Smaller side n of a matrix.
        rows: Larger side m, where the Gram matrix has to be formed first; 0: it is
            given.
        many: How many matrices.

    Returns:
        Seconds.
    """
    return many * _GRAM_SECONDS * side**2 * (side + rows)


@dataclass(frozen=True, eq=False)
class SingularValues:
    """The singular values of a matrix, or of many of one shape.

    Attributes:
        matrix: The matrix, or the matrices.
    """

    matrix: Shaped[Tensor, "*batch m n"]

    @property
    def nbytes(self) -> int:
        """What its problem would keep in memory."""
        A = self.matrix
        return (
            self._gram_bytes if self._by_gram else max(A.element_size(), 4) * A.numel()
        )

    @property
    def _gram_bytes(self) -> int:
        A = self.matrix
        return 8 * A.shape[:-2].numel() * min(A.shape[-2:]) ** 2

    @property
    def _by_gram(self) -> bool:
        """Whether the Gram is formed at once: on a GPU, or to keep memory bounded."""
        A = self.matrix
        large = 4 * A.numel() > max(_LARGE_COPY, self._gram_bytes)
        return A.dtype in _SINGLE and (A.is_cuda or large)

    def now(self) -> NDArray[Any]:
        """The singular values, descending, in parts that bound the Gram matrices."""
        A = self.matrix
        if A.ndim != 3:
            return _host(spectrum.singular_values(A))
        size = max(_AT_ONCE // max(min(A.shape[1:]) ** 2, 1), 1)
        parts = map(spectrum.singular_values, torch.split(A, size))
        return np.concatenate([_host(part) for part in parts])

    def later(self) -> Problem | None:
        """A problem with the same answer; None if it has to be answered now."""
        A = self.matrix.detach()
        plain = type(A) is Tensor and A.layout is torch.strided  # no DTensor
        if not plain or A.ndim not in {2, 3} or A.numel() == 0 or A.is_neg():
            return None
        if A.dtype is torch.float64:
            return _of_host(A, "svd") if A.is_cpu else _of_device(A, "svd")
        if A.dtype not in _SINGLE:
            return None
        if A.is_cuda:
            return _of_device(spectrum.gram(A), "roots")
        if not A.is_cpu:
            return None
        if self._by_gram:
            return _DenseProblem(spectrum.gram(A).numpy(), "roots")
        return _RowsProblem(A.to(torch.float32, copy=True).numpy())


@dataclass(frozen=True, eq=False)
class Eigenvalues:
    """The eigenvalues of a covariance, or of another semi-definite matrix.

    Attributes:
        matrix: The matrix; not to be changed any more.
    """

    matrix: Inexact[Tensor, "n n"]

    @property
    def nbytes(self) -> int:
        """What its problem would keep in memory."""
        return self.matrix.nbytes

    def now(self) -> NDArray[Any]:
        """The eigenvalues, descending."""
        return _host(spectrum.eigenvalues(self.matrix))

    def later(self) -> Problem | None:
        """A problem with the same answer; None if it has to be answered now."""
        A = self.matrix
        if A.dtype is not torch.float64 or A.numel() == 0:
            return None
        if A.is_cpu:
            return _DenseProblem(A.numpy(), "eigenvalues")
        return _of_device(A, "eigenvalues") if A.is_cuda else None


def _host(values: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = values.cpu().numpy()
    return found


# --- on the CPU -----------------------------------------------------------------------


@dataclass(eq=False)
class _RowsProblem:
    """Singular values of float32 matrices, by their Gram matrices in float64."""

    matrix: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes

    def solve(self) -> NDArray[Any]:
        turned = np.swapaxes(self.matrix, -1, -2)
        tall = self.matrix if turned.shape[-1] >= turned.shape[-2] else turned
        if tall.ndim == 2:
            return _answer(_gram(tall), "roots")
        size = max(_solvers.COPY_BYTES // (16 * tall[0].size), 1)
        starts = range(0, len(tall), size)
        parts = (tall[start : start + size] for start in starts)
        return np.concatenate([_answer(_gram(part), "roots") for part in parts])


def _gram(tall: NDArray[np.float32]) -> NDArray[np.float64]:
    """The Gram matrices of the columns, formed exactly as by ``spectrum.gram``."""
    total: NDArray[np.float64] | None = None
    with _solvers.one_thread(), np.errstate(all="ignore"):
        for block in _in_double(tall):
            gram = np.matmul(np.swapaxes(block, -1, -2), block)
            total = gram if total is None else np.add(total, gram, out=total)
    return np.empty(0) if total is None else total


def _in_double(tall: NDArray[np.float32]) -> Iterator[NDArray[np.float64]]:
    size = max(_solvers.COPY_BYTES // (16 * tall[..., :1, :].size), 1)
    for start in range(0, tall.shape[-2], size):
        yield tall[..., start : start + size, :].astype(np.float64)


@dataclass(eq=False)
class _DenseProblem:
    """A spectrum of float64 matrices as they are."""

    matrix: NDArray[np.float64]
    kind: str

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes

    def solve(self) -> NDArray[Any]:
        return _answer(self.matrix, self.kind)


def _of_host(matrix: Tensor, kind: str) -> Problem:
    return _DenseProblem(matrix.clone().numpy(), kind)


def _answer(A: NDArray[np.float64], kind: str) -> NDArray[Any]:
    """Decompose the matrices without NaN and infinity; the others get NaN."""
    finite = np.isfinite(A).all((-2, -1))
    values: NDArray[Any]
    if finite.all():
        values = _decomposed(A, kind)
    else:
        values = np.full((*A.shape[:-2], min(A.shape[-2:])), np.nan)
        if finite.any():
            values[finite] = _decomposed(A[finite], kind)
    if kind == "svd":
        return values
    values = np.maximum(values[..., ::-1], 0.0)
    with np.errstate(over="ignore"):
        if kind == "roots":
            values = np.sqrt(values).astype(np.float32)
    return values


def _decomposed(A: NDArray[np.float64], kind: str) -> NDArray[Any]:
    values: NDArray[Any]
    with _solvers.one_thread():
        if kind == "svd":
            values = np.linalg.svd(A, compute_uv=False)
        else:
            values = np.linalg.eigvalsh(A)
    return values


# --- on a GPU -------------------------------------------------------------------------


@dataclass(eq=False)
class _DeviceProblem:
    """Float64 matrices on their way to the host; nobody waits before ``solve``."""

    device: Tensor | None  # alive until the copy is made
    host: Tensor
    copied: torch.cuda.Event
    kind: str

    @property
    def nbytes(self) -> int:
        return self.host.nbytes

    def solve(self) -> NDArray[Any]:
        self.copied.synchronize()
        self.device = None
        return _answer(self.host.numpy(), self.kind)


def _of_device(matrix: Tensor, kind: str) -> Problem:
    """Copy to pinned memory behind what is queued on the device."""
    with torch.cuda.device(matrix.device):
        # the next update waits behind the copy, on the same stream
        host = torch.empty(matrix.shape, dtype=matrix.dtype, pin_memory=True)
        host.copy_(matrix, non_blocking=True)
        # blocking: the thread that waits sleeps
        copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        copied.record()
    return _DeviceProblem(matrix, host, copied, kind)
