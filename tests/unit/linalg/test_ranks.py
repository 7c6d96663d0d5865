"""Closed-form truths of every measure, in numpy and in torch."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from svdhooks import linalg
from svdhooks.linalg import ranks
from tests import oracles

RANKS = [
    "stable_rank",
    "effective_rank",
    "variance_effective_rank",
    "participation_ratio",
    "numerical_rank",
]
MEASURES = [
    *RANKS,
    "spectral_norm",
    "frobenius_norm",
    "spectral_entropy",
    "condition_number",
    "noise_floor",
]
# sigma = (2, 1): p = (2/3, 1/3) and (4/5, 1/5)
TWO_ONE = {
    "spectral_norm": 2.0,
    "frobenius_norm": 5**0.5,
    "stable_rank": 1.25,
    "effective_rank": 1.889882,
    "variance_effective_rank": 1.649385,
    "participation_ratio": 1.470588,
    "numerical_rank": 2.0,
    "condition_number": 2.0,
    "spectral_entropy": 0.721928,
    "noise_floor": 2.0 * 2 * 2.0**-52,
}


def measure(name, sigma, **options):
    """The measure of a spectrum, as a numpy array."""
    return np.asarray(getattr(linalg, name)(sigma, **options))


@pytest.fixture(params=["numpy", "torch"])
def to(request):
    """Make a float64 spectrum of the library under test."""
    if request.param == "numpy":
        return lambda values: np.asarray(values, np.float64)
    return lambda values: torch.as_tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", MEASURES)
def test_values_of_two_and_one(name, to):
    np.testing.assert_allclose(measure(name, to([2.0, 1.0])), TWO_ONE[name], rtol=1e-6)


@pytest.mark.parametrize("name", RANKS)
@pytest.mark.parametrize("k", [1, 2, 7, 100])
def test_k_equal_values_among_zeros_have_rank_k(name, k, to):
    sigma = to([0.3] * k + [0.0] * 5)
    np.testing.assert_allclose(measure(name, sigma), k, rtol=1e-12)


def test_entropies_of_an_uneven_spectrum(to):
    sigma = [5.0, 3.0, 3.0, 0.5, 1e-7, 0.0]
    of_sigma = oracles.entropy(sigma)
    of_squares = oracles.entropy([s**2 for s in sigma])
    spectrum = to(sigma)
    for name, expected in {
        "effective_rank": math.exp(of_sigma),
        "variance_effective_rank": math.exp(of_squares),
        "spectral_entropy": of_squares / math.log(6),
    }.items():
        np.testing.assert_allclose(measure(name, spectrum), expected, rtol=1e-13)
    nats = measure("spectral_entropy", spectrum, normalised=False)
    np.testing.assert_allclose(nats, of_squares, rtol=1e-13)
    padded = measure("spectral_entropy", spectrum, size=10)
    np.testing.assert_allclose(padded, of_squares / math.log(10), rtol=1e-13)


def test_no_epsilon_is_hidden_in_the_entropy():
    # RankMe with eps = 1e-5 reads 0.99865 of 256 for such a matrix, not 0.98707
    sigma = np.linalg.svd(
        np.random.default_rng(0).standard_normal((2560, 256)), compute_uv=False
    )
    exact = float(linalg.effective_rank(sigma)) / 256
    assert exact == pytest.approx(0.98707, abs=5e-4)
    shares = sigma / sigma.sum() + 1e-5
    with_epsilon = math.exp(-(shares * np.log(shares)).sum()) / 256
    assert with_epsilon == pytest.approx(0.99865, abs=5e-4)


def test_gaussian_matrices_reach_their_limits():
    # N x K, g = K/N = 0.1; sampling leaves about a tenth of these tolerances
    sigma = linalg.singular_values(torch.randn(2560, 256))
    g = 0.1
    assert float(ranks.effective_rank(sigma)) / 256 == pytest.approx(0.9871, abs=1e-3)
    assert float(ranks.variance_effective_rank(sigma)) / 256 == pytest.approx(
        math.exp(-g / 2), abs=2e-3
    )
    assert float(ranks.participation_ratio(sigma)) / 256 == pytest.approx(
        1 / (1 + g), abs=2e-3
    )
    assert float(ranks.stable_rank(sigma)) == pytest.approx(
        256 / (1 + g**0.5) ** 2, rel=0.03
    )


def test_entropy_of_sigma_is_not_entropy_of_its_squares():
    sigma = np.logspace(0, -3, 20)
    assert ranks.effective_rank(sigma) > 1.5 * ranks.variance_effective_rank(sigma)
    assert ranks.effective_rank(sigma**2) == pytest.approx(
        ranks.variance_effective_rank(sigma)
    )


@pytest.mark.parametrize("name", [*RANKS, "spectral_entropy"])
@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [], [0.0]], ids=str)
def test_nothing_has_rank_zero(name, values, to):
    assert measure(name, to(values)) == 0.0


@pytest.mark.parametrize("name", ["spectral_norm", "frobenius_norm", "noise_floor"])
@pytest.mark.parametrize("values", [[0.0, 0.0], []], ids=str)
def test_nothing_has_norm_zero(name, values, to):
    assert measure(name, to(values)) == 0.0


def test_condition_number_of_singular_and_of_no_matrix(to):
    assert measure("condition_number", to([3.0, 0.0])) == math.inf
    assert np.isnan(measure("condition_number", to([0.0, 0.0])))
    assert np.isnan(measure("condition_number", to([])))


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_anywhere_reads_nan(name, place, to):
    values = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    values[1, place] = math.nan
    found = measure(name, to(values))
    assert np.isnan(found).tolist() == [False, True]


@pytest.mark.parametrize("name", [*RANKS, "spectral_entropy", "condition_number"])
def test_infinity_reads_nan(name, to):
    assert np.isnan(measure(name, to([math.inf, 1.0])))


@pytest.mark.parametrize("name", [*RANKS, "spectral_entropy", "condition_number"])
@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_ranks_do_not_change_with_extreme_scales(name, scale, to):
    sigma = np.array([4.0, 2.0, 2.0, 0.1])
    np.testing.assert_allclose(
        measure(name, to(sigma * scale)), measure(name, to(sigma)), rtol=1e-12
    )


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_norms_follow_extreme_scales(scale, to):
    found = measure("frobenius_norm", to(np.array([4.0, 3.0]) * scale))
    np.testing.assert_allclose(found, 5 * scale, rtol=1e-14)


@pytest.mark.parametrize("name", MEASURES)
def test_batches_are_measured_row_by_row(name, to):
    sigma = np.sort(np.random.default_rng(1).random((2, 3, 5)))[..., ::-1].copy()
    found = measure(name, to(sigma))
    assert found.shape == (2, 3)
    assert found.dtype == np.float64
    rows = [[measure(name, to(row)) for row in block] for block in sigma]
    np.testing.assert_allclose(found, rows, rtol=1e-13)


@pytest.mark.parametrize("name", MEASURES)
def test_numpy_and_torch_agree(name):
    sigma = np.sort(np.random.default_rng(2).random((3, 6)).astype(np.float32))
    sigma = sigma[:, ::-1].copy()
    found = getattr(linalg, name)(torch.from_numpy(sigma))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, measure(name, sigma), rtol=1e-13)


@pytest.mark.parametrize("name", MEASURES)
def test_plain_numbers_and_integers_are_spectra_too(name):
    expected = measure(name, np.array([2.0, 1.0]))
    assert measure(name, [2.0, 1.0]) == expected
    assert measure(name, np.array([2, 1])) == expected
    assert measure(name, torch.tensor([2, 1])) == expected
    assert isinstance(getattr(linalg, name)([2.0, 1.0]), float)  # np.float64 is one


@pytest.mark.parametrize("name", MEASURES)
def test_no_value_decides_the_control_flow(name):
    # meta tensors have no values: what looks at one, and so waits for a device, raises
    found = getattr(linalg, name)(torch.empty(4, 7, device="meta"))
    assert found.shape == (4,)
    assert found.is_meta


def test_meta_tensors_reveal_control_flow_by_values():
    # the companion
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(torch.empty(4, device="meta").max() > 0)


@pytest.mark.parametrize("name", MEASURES)
def test_a_single_number_or_a_complex_spectrum_is_refused(name, as_a_user_calls):
    with pytest.raises(ValueError, match=r"shape \(1,\)"):
        getattr(linalg, name)(np.float64(3.0))
    for matrix in (np.ones(2, np.complex128), torch.ones(2, dtype=torch.complex64)):
        with pytest.raises(TypeError, match="expected real numbers"):
            getattr(linalg, name)(matrix)


def test_stable_rank_stays_differentiable():
    sigma = torch.tensor([2.0, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ranks.stable_rank, sigma)
    assert torch.autograd.gradcheck(ranks.effective_rank, sigma)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(256, 256), (30, 80), (80, 30)])
def test_numerical_rank_is_that_of_numpy(shape, dtype):
    A = (oracles.planted(*shape, 5)).numpy().astype(dtype)
    sigma = np.linalg.svd(A, compute_uv=False)
    found = ranks.numerical_rank(sigma, shape=shape)
    assert found == np.linalg.matrix_rank(A) == 5


@pytest.mark.parametrize("shape", [(256, 256), (40, 300)])
def test_float32_matrix_of_rank_five_reads_five(shape):
    A = oracles.planted(*shape, 5).float()
    sigma = linalg.singular_values(A)
    assert ranks.numerical_rank(sigma, shape=shape) == 5
    # the companion: taken for exact, its rounding errors count
    assert ranks.numerical_rank(sigma, dtype="float64") > 5


def test_thresholds_of_the_numerical_rank(to):
    sigma = to([10.0, 1.0, 0.1, 0.01])
    assert measure("numerical_rank", sigma, tol=1.0) == 1  # strictly above
    assert measure("numerical_rank", sigma, rtol=0.05) == 2
    assert measure("numerical_rank", sigma, tol=0.05, rtol=0.05) == 2
    assert measure("numerical_rank", sigma, tol=0.05, rtol=1e-9) == 3
    assert measure("numerical_rank", sigma, tol=0.0) == 4
    assert measure("numerical_rank", to([0.0, 0.0]), tol=0.0) == 0


def test_one_threshold_per_spectrum(to):
    sigma = to([[3.0, 2.0, 1.0]] * 2)
    found = measure("numerical_rank", sigma, tol=to([0.5, 2.5]))
    assert found.tolist() == [3.0, 1.0]


def test_measuring_arrays_does_not_load_torch():
    code = (
        "import sys; from svdhooks import linalg; import svdhooks.linalg.ranks;"
        "linalg.measures(__import__('numpy').ones(3)); linalg.noise_floor([1.0]);"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    # numpy is the companion: the test would see torch
    assert done.stdout.split() == ["False", "True"]


def test_every_public_name_resolves():
    for name in linalg.__all__:
        assert getattr(linalg, name) is not None
    assert set(dir(linalg)) == set(linalg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'ranc'"):
        linalg.ranc  # noqa: B018


@pytest.mark.gpu
@pytest.mark.parametrize("name", MEASURES)
def test_a_device_is_not_waited_for(name):
    sigma = torch.rand(3, 9, device="cuda").sort(descending=True).values
    expected = measure(name, sigma.cpu())
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = getattr(linalg, name)(sigma)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    np.testing.assert_allclose(found.cpu(), expected, rtol=1e-12)


def test_infinity_has_no_numerical_rank_and_no_warning():
    assert np.isnan(linalg.numerical_rank(np.array([np.inf, 1.0]), tol=0.5))
