"""Products and decompositions in double precision: numpy on the CPU, torch elsewhere.

On the CPU numpy with one BLAS thread is used, not torch and not SciPy. Milliseconds
for a Gram matrix (n × 2n) and its eigenvalues, two cores, torch 2.13 (MKL), numpy 2.4
and SciPy 1.17 (OpenBLAS 0.3.30), best of many:

===============================================  ======  =======  =======  ========
route, one thread                                n = 64  n = 256  n = 512  n = 1024
===============================================  ======  =======  =======  ========
torch ``B @ B.mT``, ``eigvalsh`` (``dsyevd``)      0.11      3.2       21       163
SciPy ``dsyrk``, ``eigvalsh(driver="evd")``        0.12      2.3       14        92
numpy ``B @ B.T``, ``eigvalsh`` (``dsyevd``)       0.11      2.5       15       109
torch, two threads                                 0.13      3.1       17        97
float32 ``svdvals`` of torch                       0.20      6.4       50       403
===============================================  ======  =======  =======  ========

- ``X.T @ X`` of numpy is ``dsyrk``, half the work of a general product. For eigenvalues
  alone all of LAPACK's drivers do the same (8.0 … 8.5 ms at n = 512).
- SciPy holds the interpreter lock: an ``eigvalsh`` of 0.2 s in a worker thread stops
  the training thread for 0.18 s; by numpy or torch for 0.006 s.
- torch (OpenMP) and OpenBLAS each keep a pool of threads that spin while they wait and
  so stall each other. One solve (n × n) between training steps on both cores: alone on
  the machine, one OpenBLAS thread equals two of torch (n = 256: 2.0 and 2.0 ms; n = 512:
  11 … 13 and 12 … 15 ms); beside other work (load 3 … 7) the medians are

  ==============================  ============  ============
  route                           n = 256       n = 512
  ==============================  ============  ============
  torch, two threads              16 … 2338 ms  153 … 369 ms
  numpy, OpenBLAS's own threads   872 … 1536    286 … 828
  numpy, one OpenBLAS thread      11 … 19       89 … 135
  ==============================  ============  ============

  Small ones suffer most: the 32 singular triplets of a 32 × 128 weight (product,
  eigenvectors, QR) take 0.6 ms of CPU time, and 47 ms by two threads of torch (load 12).
"""

import ctypes
import functools
import importlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Inexact
from numpy.typing import NDArray
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

COPY_BYTES = 32 * 2**20
"""Bound on a copy in double precision of a part of a larger matrix."""

_BYTES = 16  # of one complex128
_LARGE = 1024
_FEW_THREADS = 4


def double(A: Inexact[Tensor, "..."]) -> Inexact[Tensor, "..."]:
    """The values in float64 or complex128, without gradient; from MPS on the CPU."""
    A = A.detach().cpu() if A.is_mps else A.detach()  # MPS has no float64
    A = A.to(torch.complex128 if A.is_complex() else torch.float64)
    return A.resolve_conj().resolve_neg()


def in_double(rows: Inexact[Tensor, "*batch k n"]) -> Iterator[Tensor]:
    """Split along the rows, so that each copy in double precision stays small.

    Args:
        rows: Matrices of any floating or complex dtype.

    Yields:
        Blocks of rows in float64 or complex128; at least one, though it be empty.
    """
    per_row = _BYTES * max(rows[..., :1, :].numel(), 1)
    size = max(COPY_BYTES // per_row, 1)
    for start in range(0, max(rows.shape[-2], 1), size):
        yield double(rows[..., start : start + size, :])


def product(rows: Inexact[Tensor, "*batch k n"]) -> Inexact[Tensor, "*batch n n"]:
    """``rowsᴴ rows``, in full.

    Args:
        rows: Matrices in float64 or complex128.

    Returns:
        Gram matrices of the columns.
    """
    if not _by_numpy(rows):
        gram: Tensor = rows.mH @ rows
        return gram
    factor: NDArray[Any] = rows.numpy()
    turned = np.swapaxes(factor, -1, -2)
    turned = turned.conj() if np.iscomplexobj(factor) else turned  # no copy if real
    with one_thread(), np.errstate(all="ignore"):
        return torch.from_numpy(np.matmul(turned, factor))


def times(
    A: Inexact[Tensor, "*batch m k"], B: Inexact[Tensor, "*batch k n"]
) -> Inexact[Tensor, "*batch m n"]:
    """``A B`` of matrices in float64 or complex128."""
    if not _by_numpy(A):
        found: Tensor = A @ B
        return found
    first, second = A.resolve_conj().numpy(), B.resolve_conj().numpy()
    with one_thread(), np.errstate(all="ignore"):
        return torch.from_numpy(np.matmul(first, second))


def eigenvalues(G: Inexact[Tensor, "*batch n n"]) -> Float64[Tensor, "*batch n"]:
    """Eigenvalues of Hermitian matrices of finite numbers, ascending.

    Args:
        G: Matrices in float64 or complex128; the lower triangles are read.

    Returns:
        All eigenvalues.

    Raises:
        torch.linalg.LinAlgError: If LAPACK does not converge.
    """
    if not _by_numpy(G):
        values: Tensor = torch.linalg.eigvalsh(G)
        return values
    with _translated(), one_thread():
        return torch.from_numpy(np.linalg.eigvalsh(G.numpy()))


def eigenpairs(
    G: Inexact[Tensor, "*batch n n"],
) -> tuple[Float64[Tensor, "*batch n"], Inexact[Tensor, "*batch n n"]]:
    """Eigenvalues, ascending, and eigenvectors of Hermitian matrices of finite numbers.

    Args:
        G: Matrices in float64 or complex128; the lower triangles are read.

    Returns:
        Values, and orthonormal vectors as columns.

    Raises:
        torch.linalg.LinAlgError: If LAPACK does not converge.
    """
    if not _by_numpy(G):
        values, vectors = torch.linalg.eigh(G)
        return values, vectors
    with _translated(), one_thread():
        found = np.linalg.eigh(G.numpy())
    return torch.from_numpy(found.eigenvalues), torch.from_numpy(found.eigenvectors)


def svd(
    A: Inexact[Tensor, "*batch m n"],
) -> tuple[
    Inexact[Tensor, "*batch m k"],
    Float64[Tensor, "*batch k"],
    Inexact[Tensor, "*batch k n"],
]:
    """Thin singular value decompositions of matrices of finite numbers.

    Args:
        A: Matrices in float64 or complex128.

    Returns:
        U, σ descending, Vᴴ.

    Raises:
        torch.linalg.LinAlgError: If LAPACK does not converge.
    """
    if not _by_numpy(A):
        U, sigma, Vh = torch.linalg.svd(A, full_matrices=False)
        return U, sigma, Vh
    with _translated(), one_thread():
        found = np.linalg.svd(A.numpy(), full_matrices=False)
    return (
        torch.from_numpy(found.U),
        torch.from_numpy(found.S),
        torch.from_numpy(found.Vh),
    )


def orthonormal(A: Inexact[Tensor, "*batch m n"]) -> Inexact[Tensor, "*batch m k"]:
    """Orthonormal bases of what columns span, by QR.

    Args:
        A: Matrices in float64 or complex128.

    Returns:
        The Q of each.
    """
    if not _by_numpy(A):
        Q: Tensor = torch.linalg.qr(A).Q
        return Q
    with _translated(), one_thread():
        return torch.from_numpy(np.linalg.qr(A.numpy()).Q)


def singular_values(A: Inexact[Tensor, "*batch m n"]) -> Float64[Tensor, "*batch k"]:
    """Singular values of matrices of finite numbers, descending, by an SVD.

    Args:
        A: Matrices in float64 or complex128.

    Returns:
        min(m, n) values per matrix.

    Raises:
        torch.linalg.LinAlgError: If LAPACK does not converge.
    """
    if not _by_numpy(A):
        values: Tensor = torch.linalg.svdvals(A)
        return values
    with _translated(), one_thread():
        return torch.from_numpy(np.linalg.svd(A.numpy(), compute_uv=False))


@contextmanager
def _translated() -> Iterator[None]:
    """Numpy's errors as torch's."""
    try:
        yield
    except np.linalg.LinAlgError as error:
        raise LinAlgError(str(error)) from error


def _by_numpy(A: Tensor) -> bool:
    """Whether numpy on one thread is the fastest."""
    if A.device.type != "cpu":
        return False
    # many threads of torch must win on large matrices; from where on is an estimate
    return min(A.shape[-2:]) <= _LARGE or torch.get_num_threads() <= _FEW_THREADS


class _OneThread:
    """Counts its users, so that the last to leave restores the number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = 1
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_anew)

    def _begin_anew(self) -> None:
        """In a forked process: its users, and who held the lock, are not there."""
        self._lock = threading.Lock()
        if self._users:
            self._users = 0
            _openblas()[1](self._before)

    def __enter__(self) -> None:
        get, set_ = _openblas()
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = get()
                set_(1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                _openblas()[1](self._before)


_ONE_THREAD = _OneThread()


def one_thread() -> _OneThread:
    """A context in which numpy's OpenBLAS, if that is what it uses, has one thread."""
    return _ONE_THREAD


@functools.cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], object]]:
    """Functions that read and set the threads of numpy's OpenBLAS, or do nothing."""
    # not threadpoolctl, which obeys only the first thread that ever asks: solves in a
    # worker would go unlimited, or stay limited
    extension = importlib.import_module("numpy.linalg._umath_linalg").__file__
    library = ctypes.CDLL(extension)  # finds symbols of the libraries it needs, too
    for prefix, suffix in itertools.product(("scipy_", ""), ("64_", "")):
        name = f"{prefix}openblas_{{}}_num_threads{suffix}"
        if hasattr(library, name.format("set")):
            get, set_ = (getattr(library, name.format(verb)) for verb in ("get", "set"))
            return get, set_
    return lambda: 1, lambda _: None
