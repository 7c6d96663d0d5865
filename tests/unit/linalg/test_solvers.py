"""The choice of library and of threads."""

import ctypes
import os
import threading
import time

import numpy as np
import pytest
import torch
from threadpoolctl import ThreadpoolController

from svdhooks.linalg import _solvers


def openblas_threads() -> set[int]:
    found = ThreadpoolController().select(internal_api="openblas").info()
    # SciPy, where another test loaded it, brings a copy of its own
    own = [library for library in found if "numpy" in library["filepath"]] or found
    return {library["num_threads"] for library in own}


@pytest.fixture
def _two_threads():
    controller = ThreadpoolController().select(internal_api="openblas")
    if not controller.info():
        pytest.skip("numpy is not built on OpenBLAS")
    with controller.limit(limits=2):
        yield


@pytest.mark.usefixtures("_two_threads")
def test_blas_has_one_thread_inside_and_its_own_number_outside():
    assert openblas_threads() == {2}
    with _solvers.one_thread():
        assert openblas_threads() == {1}
        with _solvers.one_thread():
            assert openblas_threads() == {1}
        assert openblas_threads() == {1}
    assert openblas_threads() == {2}


@pytest.mark.usefixtures("_two_threads")
def test_the_number_of_threads_is_restored_after_an_error():
    with pytest.raises(RuntimeError, match="planned"), _solvers.one_thread():
        raise RuntimeError("planned")
    assert openblas_threads() == {2}


@pytest.mark.usefixtures("_two_threads")
def test_overlapping_users_restore_the_first_number():
    first_is_out = threading.Event()

    def second():
        with _solvers.one_thread():
            first_is_out.wait(10)

    thread = threading.Thread(target=second)
    with _solvers.one_thread():
        thread.start()
        time.sleep(0.05)
    first_is_out.set()
    thread.join()
    assert openblas_threads() == {2}


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize(
    ("module", "name", "solve"),
    [
        (np, "matmul", _solvers.product),
        (np.linalg, "eigvalsh", _solvers.eigenvalues),
        (np.linalg, "svd", _solvers.singular_values),
    ],
)
def test_every_solver_runs_on_one_thread(module, name, solve, monkeypatch):
    seen = []
    original = getattr(module, name)

    def spy(*arguments, **options):
        seen.append(openblas_threads())
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, spy)
    solve(torch.eye(3, dtype=torch.float64))
    assert seen == [{1}]
    assert openblas_threads() == {2}


def turns_of_another_thread(work) -> int:
    """How often this thread runs while another does the work."""
    thread = threading.Thread(target=work)
    thread.start()
    turns = 0
    while thread.is_alive():
        time.sleep(0.001)
        turns += 1
    return turns


def test_a_solve_in_a_worker_leaves_the_interpreter_to_others():
    G = torch.randn(700, 700, dtype=torch.float64)
    G = G + G.T
    assert turns_of_another_thread(lambda: _solvers.eigenvalues(G)) > 4


def test_a_worker_that_holds_the_interpreter_is_seen():
    # the companion: PyDLL, unlike CDLL, keeps the lock during the call
    sleep = ctypes.PyDLL(None).usleep
    assert turns_of_another_thread(lambda: sleep(100_000)) <= 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("by_numpy", [True, False])
def test_both_libraries_agree(by_numpy, dtype, monkeypatch):
    monkeypatch.setattr(_solvers, "_by_numpy", lambda _: by_numpy)
    A = torch.randn(3, 9, 5, dtype=dtype)
    G = np.swapaxes(A.numpy(), -1, -2).conj() @ A.numpy()
    np.testing.assert_allclose(_solvers.product(A), G, rtol=1e-12, atol=1e-12)
    squares = _solvers.eigenvalues(torch.from_numpy(G))
    sigma = np.linalg.svd(A.numpy(), compute_uv=False)
    np.testing.assert_allclose(squares.flip(-1), sigma**2, rtol=1e-10)
    np.testing.assert_allclose(_solvers.singular_values(A), sigma, rtol=1e-10)


def test_large_matrices_go_to_torch_where_it_has_many_threads(monkeypatch):
    small, large = torch.empty(10, 10), torch.empty(1025, 1025)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert _solvers._by_numpy(small)
    assert not _solvers._by_numpy(large)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert _solvers._by_numpy(large)
    assert not _solvers._by_numpy(torch.empty(10, 10, device="meta"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("_two_threads")
def test_a_forked_process_has_the_threads_and_the_lock_for_itself():
    """What another thread held at the moment of the fork is never given back there."""
    with _solvers.one_thread(), _solvers._ONE_THREAD._lock:
        child = os.fork()
        if child == 0:
            free = _solvers._ONE_THREAD._lock.acquire(timeout=5)
            os._exit(0 if free and openblas_threads() == {2} else 1)
    assert os.waitpid(child, 0)[1] == 0
