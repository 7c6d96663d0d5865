"""Deep linear dynamics: the log of a live training follows Saxe's exact solution.

Gradient descent on ``y = W2 W1 x`` with white inputs and ``Σ_yx = U S Vᵀ``, from the
aligned balanced start ``W1 = R √u₀ Vᵀ``, ``W2 = U √u₀ Rᵀ``, keeps both aligned; both
have the singular values ``a = √u``. Saxe, McClelland & Ganguli, arXiv 1312.6120.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import svdhooks

pytestmark = pytest.mark.slow  # both recorded runs take seconds

Array = NDArray[np.float64]

MODES = np.array([5.0, 3.0, 2.0, 1.0])
START = 1e-3
RATE = 2e-3
LAST = 1500
INTERVAL = 10


def _orthonormal(rows: int, columns: int) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64)).Q


def _white_inputs(count: int, width: int) -> Tensor:
    """Samples with mean exactly 0 and covariance exactly 1."""
    x = torch.randn(count, width, dtype=torch.float64)
    x -= x.mean(0)
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    return left @ right * count**0.5


def _train(
    log_dir: Path, dtype: torch.dtype = torch.float64, every: int = INTERVAL
) -> svdhooks.RunLog:
    width, hidden, out = 6, len(MODES), 5
    U, V, R = (_orthonormal(n, hidden) for n in (out, width, hidden))
    x = _white_inputs(24, width)
    y = x @ V @ torch.diag(torch.from_numpy(MODES)) @ U.T
    model = nn.Sequential(
        nn.Linear(width, hidden, bias=False), nn.Linear(hidden, out, bias=False)
    ).to(dtype)
    with torch.no_grad():
        model[0].weight.copy_(R @ V.T * START**0.5)
        model[1].weight.copy_(U @ R.T * START**0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    x, y = x.to(dtype), y.to(dtype)
    with svdhooks.watch(
        model, log_dir, every=every, probe=x, max_overhead=None, on_error="raise"
    ) as recorder:
        for _ in range(LAST):
            loss = 0.5 * (model(x) - y).square().sum() / len(x)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.step()
    return svdhooks.RunLog(log_dir)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> svdhooks.RunLog:
    torch.manual_seed(1)
    return _train(tmp_path_factory.mktemp("saxe"))


def _recursion(steps: NDArray[np.int64]) -> Array:
    """Gradient descent on the modes alone: ``a ← a + η a (s - a²)``, exactly."""
    a = np.full(len(MODES), START**0.5)
    table = [a]
    for _ in range(int(steps[-1])):
        a = a + RATE * a * (MODES - a**2)
        table.append(a)
    return np.stack(table)[steps]


def _flow(steps: Array) -> Array:
    """Saxe's formula: ``u = s e^{2st} / (e^{2st} - 1 + s/u₀)`` at ``t = η · step``."""
    growth = np.exp(2 * MODES * RATE * np.asarray(steps, float)[:, None])
    return np.sqrt(MODES * growth / (growth - 1 + MODES / START))


def _corrected_flow(steps: Array) -> Array:
    """The flow and the first-order error of gradient descent, ``-η/2 f ln(f/f₀)``.

    Euler's method on ``a' = f(a)`` is off by ``η e`` with ``e' = f' e - f f'/2``, whose
    solution is this one, since ``e = f g`` gives ``g' = -f'/2``.
    """
    a = _flow(steps)
    f = a * (MODES - a**2)
    f0 = START**0.5 * (MODES - START)
    return a - RATE / 2 * f * np.log(f / f0)


def _error(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max())


@pytest.mark.parametrize("layer", ["0", "1"])
def test_the_log_follows_the_exact_recursion_of_gradient_descent(log, layer):
    steps, sigma = log.spectra(layer)
    assert steps.tolist() == list(range(0, LAST + 1, INTERVAL))
    assert sigma.dtype == np.float64
    assert _error(sigma, _recursion(steps)) < 1e-12


def test_the_log_follows_the_formula_with_an_error_of_the_order_of_the_rate(log):
    steps, sigma = log.spectra("0")
    assert _error(sigma, _flow(steps)) < 10 * RATE
    # the first-order part of that error is known; what remains is of second order
    assert _error(sigma, _corrected_flow(steps)) < 50 * RATE**2


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_step_label_off_by_one_would_be_seen_by_both(log, shift):
    """The companion: the tolerances above tell neighbouring steps apart."""
    steps, sigma = log.spectra("0")
    steps, sigma = steps[1:], sigma[1:]
    assert _error(sigma, _recursion(steps + shift)) > 1e9 * 1e-12
    assert _error(sigma, _corrected_flow(steps + shift)) > 20 * 50 * RATE**2


def test_modes_are_learned_in_the_order_of_their_strength(log):
    """Half times ``ln(s/u₀ - 1) / 2s``; 0.8517, 1.3343, 1.9001 and 3.4534."""
    steps, sigma = log.spectra("1")
    expected = np.log(MODES / START - 1) / (2 * MODES)
    half = [
        np.interp(s / 2, sigma[:, i] ** 2, steps * RATE) for i, s in enumerate(MODES)
    ]
    np.testing.assert_allclose(half[:3], expected[:3], atol=3 * RATE)
    assert sigma[-1, 3] ** 2 < MODES[3] / 2  # the weakest one comes later


def test_white_inputs_show_the_same_modes_in_the_covariances(log):
    steps, eigenvalues = log.covariance_spectra("0", "output")
    np.testing.assert_allclose(eigenvalues, _recursion(steps) ** 2, rtol=1e-5)
    _, entering = log.covariance_spectra("0", "input")
    np.testing.assert_allclose(entering, 1.0, rtol=1e-5)
    _, leaving = log.covariance_spectra("1", "output")
    np.testing.assert_allclose(leaving[:, :4], _recursion(steps) ** 4, rtol=1e-4)


def test_the_rank_grows_one_mode_after_the_other(log):
    """Measures of the log against those of the recursion."""
    steps, rank = log.series("0", "weight_stable_rank")
    a = _recursion(steps)
    expected = (a**2).sum(1) / (a**2).max(1)
    np.testing.assert_allclose(rank, expected, rtol=1e-6)


def test_in_float32_the_log_follows_as_far_as_float32_does(tmp_path):
    torch.manual_seed(1)
    log = _train(tmp_path, torch.float32, every=50)
    steps, sigma = log.spectra("0")
    assert sigma.dtype == np.float32
    assert _error(sigma, _recursion(steps)) < 1e-5
    assert _error(sigma[1:], _recursion(steps[1:] - 1)) > 1e-3
