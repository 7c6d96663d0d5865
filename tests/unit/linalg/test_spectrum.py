"""Singular values and eigenvalues agree with a dense float64 SVD."""

import math

import numpy as np
import pytest
import torch

from svdhooks.linalg import _solvers, spectrum
from svdhooks.linalg.spectrum import (
    eigenvalues,
    gram,
    method_for,
    singular_values,
    spectrum_of_gram,
)
from tests import oracles

LOW = [torch.float32, torch.bfloat16, torch.float16, torch.complex64]
DTYPES = [*LOW, torch.float64, torch.complex128]
SHAPES = [(7, 4), (4, 7), (1, 1), (1, 9), (3, 5, 4), (2, 3, 2, 6), (40, 33)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_singular_values_agree_with_a_dense_svd(shape, dtype):
    A = torch.randn(shape, dtype=dtype)
    found = singular_values(A)
    exact = oracles.singular_values(A)
    torch.testing.assert_close(
        found, torch.as_tensor(exact, dtype=found.dtype), rtol=1e-6, atol=1e-7
    )
    assert (found.diff(dim=-1) <= 0).all()


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_low_precision_gives_float32(dtype):
    assert singular_values(torch.randn(3, 2, dtype=dtype)).dtype == torch.float32
    assert method_for(dtype) == "gram"


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_double_precision_gives_float64(dtype):
    assert singular_values(torch.randn(3, 2, dtype=dtype)).dtype == torch.float64
    assert method_for(dtype) == "svd"


def test_eight_bit_floats_are_matrices_too():
    A = torch.randn(6, 5).to(torch.float8_e4m3fn)
    np.testing.assert_allclose(
        singular_values(A), oracles.singular_values(A), rtol=1e-5
    )


@pytest.mark.parametrize(
    "shape", [(0, 4), (4, 0), (0, 0), (0, 4, 3), (2, 0, 3), (2, 3, 0)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_empty_matrices_and_batches_keep_their_shape(shape, dtype):
    found = singular_values(torch.zeros(shape, dtype=dtype))
    assert found.shape == (*shape[:-2], min(shape[-2:]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_matrix_has_zero_singular_values(dtype):
    assert singular_values(torch.zeros(2, 5, 3, dtype=dtype)).eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_matrix_reads_nan_and_spares_the_rest_of_its_batch(
    dtype, bad, capfd
):
    A = torch.randn(2, 3, 6, 5, dtype=dtype)
    exact = oracles.singular_values(A)
    A[1, 0, 2, 3] = bad
    found = singular_values(A)
    assert found[1, 0].isnan().all()
    exact[1, 0] = math.nan
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)
    assert singular_values(A[1, 0]).isnan().all()
    assert capfd.readouterr() == ("", "")


def test_no_solver_is_called_on_a_non_finite_matrix(monkeypatch):
    def solver(A):
        assert torch.isfinite(A).all()
        return torch.zeros(*A.shape[:-1], dtype=torch.float64)

    monkeypatch.setattr(_solvers, "eigenvalues", solver)
    monkeypatch.setattr(_solvers, "singular_values", solver)
    for dtype in (torch.float32, torch.float64):
        A = torch.eye(3, dtype=dtype).repeat(2, 1, 1)
        A[0, 1, 1] = math.nan
        assert singular_values(A).isnan().any(-1).tolist() == [True, False]
        assert singular_values(A[0]).isnan().all()


def test_numpy_raises_or_is_wrong_where_we_read_nan():
    # the reason for the test above: what happens without looking first
    A = np.eye(3)
    A[1, 1] = math.nan
    try:
        values = np.linalg.svd(A, compute_uv=False)
    except np.linalg.LinAlgError:
        return
    assert np.isnan(values).any()


@pytest.mark.parametrize("scale", [1e38, 1e-38, 2.0**-149])
def test_extreme_float32_values_neither_overflow_nor_vanish(scale):
    A = torch.tensor([[3.0, 0.0], [4.0, 5.0]]) * scale
    exact = oracles.singular_values(A)
    np.testing.assert_allclose(spectrum_of_gram(gram(A)), exact, rtol=1e-12)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(singular_values(A), exact.astype(np.float32))


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_extreme_float64_values_are_exact(scale):
    A = torch.randn(5, 4, dtype=torch.float64)
    np.testing.assert_allclose(
        singular_values(A * scale) / scale, oracles.singular_values(A), rtol=1e-12
    )


def test_the_gram_is_formed_in_float64():
    sigma = np.logspace(0, -6, 7)
    A = oracles.with_singular_values(40, 30, list(sigma)).float()
    exact = oracles.singular_values(A)
    found = singular_values(A).numpy()
    np.testing.assert_allclose(found[:7], exact[:7], rtol=1e-3)
    # the companion: in float32 the squares of the small ones are lost
    coarse = torch.linalg.eigvalsh(A.T @ A).clamp(min=0).sqrt().flip(0).numpy()
    assert abs(coarse[6] / exact[6] - 1) > 0.1


def test_a_fine_resolution_takes_the_svd():
    # AᵀA = [[1 + s², 1 - s²], …] has lost s = 1e-10
    A = torch.tensor([[1.0, 1.0], [1e-10, -1e-10]])
    exact = oracles.singular_values(A)
    assert singular_values(A)[1] / exact[1] > 2 or singular_values(A)[1] == 0
    fine = singular_values(A, resolution=1e-12)
    np.testing.assert_allclose(fine, exact, rtol=1e-6)
    assert fine.dtype == torch.float32


def test_the_resolution_of_the_gram_falls_with_the_root_of_its_side():
    assert method_for("float32", 100, 3.1e-7) == "gram"
    assert method_for("float32", 100, 2.9e-7) == "svd"
    assert method_for("float32", 400, 3.1e-7) == "svd"
    assert method_for("bfloat16", 100, None) == "gram"
    assert method_for(np.float64, 100, 1.0) == "svd"


@pytest.mark.parametrize("n", [16, 64, 256])
@pytest.mark.parametrize("rank", [1, 5])
def test_lost_singular_values_stay_below_the_stated_resolution(n, rank):
    A = oracles.planted(2 * n, n, rank)
    sigma = spectrum_of_gram(gram(A))
    assert sigma[rank] < 3e-8 * n**0.5 * sigma[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (2, 5, 4), (0, 3), (2, 3, 0)])
def test_gram_is_the_product_of_the_smaller_side(shape, dtype):
    A = torch.randn(shape, dtype=dtype)
    B = oracles.as_double(A)
    turned = np.swapaxes(B, -1, -2).conj()
    exact = turned @ B if shape[-2] >= shape[-1] else B @ turned
    found = gram(A)
    assert found.dtype in {torch.float64, torch.complex128}
    np.testing.assert_allclose(found.resolve_conj(), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(50, 7), (7, 50), (4, 3, 9, 5), (5, 0, 3)], ids=str)
def test_a_gram_in_parts_equals_the_whole(shape, monkeypatch):
    A = torch.randn(shape)
    whole, sigma = gram(A), singular_values(A)
    monkeypatch.setattr(_solvers, "COPY_BYTES", 300)
    largest = 0
    product = _solvers.product

    def spy(rows):
        nonlocal largest
        largest = max(largest, rows.numel())
        return product(rows)

    monkeypatch.setattr(_solvers, "product", spy)
    torch.testing.assert_close(gram(A), whole)
    torch.testing.assert_close(singular_values(A), sigma)
    assert largest <= max(300 // 16, 9 * 5)


def test_grams_of_row_blocks_add_up():
    A = torch.randn(20, 4)
    parts = gram(A[:8]) + gram(A[8:])
    np.testing.assert_allclose(
        spectrum_of_gram(parts), oracles.singular_values(A), rtol=1e-10
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_eigenvalues_descend_and_are_not_negative(dtype):
    A = torch.randn(3, 6, 2, dtype=dtype)
    G = A @ A.mH
    found = eigenvalues(G)
    exact = np.linalg.eigvalsh(oracles.as_double(G))[:, ::-1]
    np.testing.assert_allclose(found, exact.clip(0), rtol=1e-9, atol=1e-12)
    assert (found >= 0).all()


def test_indefinite_matrices_keep_their_sign_on_request():
    G = torch.diag(torch.tensor([-2.0, 3.0]))
    assert eigenvalues(G).tolist() == [3.0, 0.0]
    assert eigenvalues(G, semidefinite=False).tolist() == [3.0, -2.0]


def test_neither_gradient_nor_input_is_touched():
    weight = torch.nn.Parameter(torch.randn(5, 3))
    before = weight.detach().clone()
    assert not singular_values(weight).requires_grad
    assert torch.equal(weight, before)
    assert weight.grad is None


@pytest.mark.parametrize("route", [torch.float32, torch.float64], ids=str)
def test_an_active_autocast_changes_nothing(route):
    A = torch.randn(30, 20, dtype=route)
    plain = singular_values(A)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(singular_values(A), plain)
        # the companion: the same product of float32 is cast
        assert (A.float() @ A.float().T).dtype == torch.bfloat16


def test_views_inference_tensors_and_conjugates_are_read():
    A = torch.randn(8, 6, dtype=torch.complex64)
    exact = oracles.singular_values(A)
    np.testing.assert_allclose(singular_values(A.mH), exact, rtol=1e-5)
    np.testing.assert_allclose(singular_values(A.conj()), exact, rtol=1e-5)
    B = torch.randn(8, 12)[:, ::2]
    np.testing.assert_allclose(singular_values(B), oracles.singular_values(B), 1e-5)
    with torch.inference_mode():
        C = torch.randn(5, 4)
        inside = singular_values(C)
    assert torch.equal(singular_values(C), inside)


def test_a_failed_decomposition_is_a_torch_error(monkeypatch):
    def fail(*_, **__):
        raise np.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(np.linalg, "eigvalsh", fail)
    monkeypatch.setattr(np.linalg, "svd", fail)
    for dtype in (torch.float32, torch.float64):
        with pytest.raises(torch.linalg.LinAlgError, match="did not converge"):
            singular_values(torch.eye(2, dtype=dtype))


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize("function", [singular_values, gram, eigenvalues])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers_are_refused_with_a_remedy(function, dtype):
    with pytest.raises(TypeError, match=r"Convert with A\.float\(\)"):
        function(torch.ones(2, 2, dtype=dtype))


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize("function", [singular_values, gram, eigenvalues])
def test_a_vector_is_refused_with_a_remedy(function):
    with pytest.raises(ValueError, match=r"\(3,\).*Give a vector an axis"):
        function(torch.ones(3))


@pytest.mark.usefixtures("as_a_user_calls")
def test_eigenvalues_of_an_oblong_matrix_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\), expected a square"):
        eigenvalues(torch.ones(2, 3))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_device_agrees_with_the_cpu(dtype):
    A = torch.randn(2, 70, 40, dtype=dtype)
    found = spectrum.singular_values(A.cuda())
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), singular_values(A), rtol=1e-5, atol=1e-5)
