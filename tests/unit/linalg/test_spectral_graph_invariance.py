"""What leaves the spectral graph unchanged, and what it costs."""

import tracemalloc

import numpy as np
import pytest
import torch
from torch import Tensor

from svdhooks import linalg
from svdhooks.linalg import spectral_graph as module
from tests.unit.linalg.test_spectral_graph import double, orthogonal


def test_what_leaves_the_adjacency_unchanged():
    earlier, later = double(9, 7), double(8, 9)
    found = linalg.spectral_adjacency(earlier, later)

    def same(a: Tensor, b: Tensor) -> None:
        again = linalg.spectral_adjacency(a, b)
        torch.testing.assert_close(again, found, rtol=0, atol=1e-10)

    same(3.7 * earlier, 1e-6 * later)
    order = torch.randperm(9)
    same(earlier[order], later[:, order])
    Q = orthogonal(9)
    same(Q @ earlier, later @ Q.T)
    same(earlier @ orthogonal(7), orthogonal(8) @ later)


def test_what_leaves_that_of_convolutions_unchanged():
    earlier, later = double(6, 3, 3, 3), double(5, 6, 2, 2)
    found = linalg.spectral_adjacency(earlier, later)
    kernels = linalg.kernel_matrix(earlier, later)
    Q, order = orthogonal(6), torch.randperm(6)
    for a, b in (
        (2.5 * earlier, 1e-3 * later),
        (earlier[order], later[:, order]),
        (
            torch.einsum("po,oixy->pixy", Q, earlier),
            torch.einsum("npxy,qp->nqxy", later, Q),
        ),
    ):
        again = linalg.spectral_adjacency(a, b)
        torch.testing.assert_close(again, found, rtol=0, atol=1e-10)
        again = linalg.kernel_matrix(a, b)
        torch.testing.assert_close(again, kernels, rtol=0, atol=1e-10)


def test_a_kernel_of_one_position_is_fully_connected():
    earlier, later = double(8, 5), double(6, 8)
    expected = linalg.spectral_adjacency(earlier, later)
    spread = earlier[:, :, None, None], later[:, :, None, None]
    for a, b in (spread, (spread[0], later), (earlier, spread[1])):
        for kind in ("svr", "cosvr"):
            found = linalg.spectral_adjacency(a, b, kind=kind)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_rows_add_up_to_at_most_one():
    found = linalg.spectral_adjacency(double(9, 4), double(6, 9))
    assert (found.sum(1) <= 1 + 1e-12).all()
    # of square factors the adjacency is doubly stochastic
    square = linalg.spectral_adjacency(double(9, 9), double(9, 9))
    ones = torch.ones(9, dtype=torch.float64)
    torch.testing.assert_close(square.sum(0), ones)
    torch.testing.assert_close(square.sum(1), ones)
    # of a convolution a column adds up to the positions
    maps = linalg.spectral_adjacency(double(4, 4), double(36, 4, 3, 3))
    torch.testing.assert_close(maps.sum(0), torch.full((4,), 9.0).double())


def test_complex_weights():
    def unitary(n: int) -> Tensor:
        return torch.linalg.qr(torch.randn(n, n, dtype=torch.complex128))[0]

    Q = unitary(6)
    s = torch.diag(torch.arange(6, 0, -1)).to(torch.complex128)
    found = linalg.spectral_adjacency(Q @ s @ unitary(6), unitary(6) @ s @ Q.mH)
    identity = torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(found, identity, rtol=0, atol=1e-12)
    real, later = double(6, 4), torch.randn(5, 6, dtype=torch.complex64)
    for earlier in (real, real.to(torch.complex128)):
        found = linalg.spectral_adjacency(earlier, later)
        U = torch.linalg.svd(real, full_matrices=False)[0].to(torch.complex128)
        Vh = torch.linalg.svd(later.to(torch.complex128), full_matrices=False)[2]
        torch.testing.assert_close(found, (Vh @ U).abs().square())
        kernels = linalg.kernel_matrix(earlier, later)
        torch.testing.assert_close(kernels.square(), found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_dtype_is_computed_in_double(dtype):
    earlier, later = torch.randn(6, 3, 3).to(dtype), torch.randn(5, 6).to(dtype)
    found = linalg.spectral_adjacency(earlier.requires_grad_(), later)
    expected = linalg.spectral_adjacency(earlier.detach().double(), later.double())
    assert found.dtype == torch.float64
    assert not found.requires_grad
    assert torch.equal(found, expected)


def test_the_scale_of_a_weight_does_not_matter():
    earlier, later = double(6, 4), double(5, 6)
    expected = linalg.spectral_adjacency(earlier, later)
    found = linalg.spectral_adjacency(earlier * 1e-200, later * 1e200)
    torch.testing.assert_close(found, expected)


def test_the_blocks_of_rows_change_nothing(monkeypatch):
    U, Vh = orthogonal(12)[:, :5], torch.linalg.qr(double(48, 10))[0].T
    whole = linalg.vector_adjacency(U, Vh)
    for size in (1, 1000, 3000):
        monkeypatch.setattr(module, "BLOCK_BYTES", size)
        torch.testing.assert_close(linalg.vector_adjacency(U, Vh), whole)
        found = linalg.vector_adjacency(U.float(), Vh.float())
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)


def test_the_memory_of_products_is_bounded(monkeypatch):
    # numpy's allocations are traced, torch's are not: count what is multiplied
    sizes: list[int] = []
    products = torch.Tensor.__matmul__

    def counted(a: Tensor, b: Tensor) -> Tensor:
        result = products(a, b)
        sizes.append(result.nbytes + a.nbytes)
        return result

    monkeypatch.setattr(module, "BLOCK_BYTES", 100_000)
    monkeypatch.setattr(torch.Tensor, "__matmul__", counted)
    U, Vh = orthogonal(64), torch.randn(300, 64 * 9)
    linalg.vector_adjacency(U, Vh)
    assert len(sizes) > 10
    assert max(sizes) <= 100_000
    # internal dimensions: a few matrices of the adjacency's size
    A = np.random.default_rng(0).random((400, 400))
    tracemalloc.start()
    linalg.internal_dimensions(A)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * A.nbytes
