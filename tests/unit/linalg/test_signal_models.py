"""Fits of signal models against known parameters, and signs of vectors."""

import numpy as np
import pytest
import torch

from svdhooks.linalg import fit_signal_model, oriented
from svdhooks.linalg.signal_models import biexponential

TIMES = np.linspace(0, 800, 64)


def wave(t, amplitude, rate, phase):
    return amplitude * np.sin(rate * t + phase)


# --- signs -----------------------------------------------------------------------------------


def test_the_largest_entry_of_every_column_becomes_positive():
    vectors = torch.randn(7, 5).double()
    turned = oriented(vectors)
    assert torch.equal(turned.abs(), vectors.abs())
    assert bool((turned.gather(0, turned.abs().argmax(0, keepdim=True)) > 0).all())
    signs = torch.tensor([1, -1, -1, 1, -1]).double()
    assert torch.equal(oriented(vectors * signs), turned)
    np.testing.assert_array_equal(oriented(vectors.numpy()), turned.numpy())


def test_rounding_does_not_decide_between_equal_entries():
    column = torch.tensor([0.5, -0.5, 0.5, -0.5]).double()
    nudged = column * (1 + 1e-12 * torch.tensor([0, 1, 0, 2]).double())
    assert not torch.equal(nudged.abs(), column.abs())
    assert torch.equal(oriented(column[:, None])[:, 0], column)
    assert torch.equal(oriented(nudged[:, None])[:, 0], nudged)
    assert torch.equal(oriented(-nudged[:, None])[:, 0], nudged)


def test_a_complex_column_is_turned_until_its_largest_entry_is_real():
    vectors = torch.randn(6, 3, dtype=torch.complex128)
    turned = oriented(vectors)
    largest = turned.gather(0, turned.abs().argmax(0, keepdim=True))[0]
    torch.testing.assert_close(largest.imag, torch.zeros(3).double())
    assert bool((largest.real > 0).all())
    phases = torch.polar(
        torch.ones(3).double(), torch.tensor([1.0, -2.0, 3.0]).double()
    )
    torch.testing.assert_close(oriented(vectors * phases), turned)


def test_columns_of_zeros_and_no_columns_stay():
    assert torch.equal(oriented(torch.zeros(3, 2)), torch.zeros(3, 2))
    assert oriented(torch.zeros(3, 0)).shape == (3, 0)


# --- biexponentials --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_known_decays_are_found_without_starts(seed):
    rng = np.random.default_rng(seed)
    slow = rng.uniform(120, 500)
    truth = np.array([*rng.normal(size=1), slow, *rng.normal(size=1), slow / 2.5, 0.3])
    found = fit_signal_model(TIMES, biexponential(TIMES, *truth))
    assert found.names == ("C1", "T1", "C2", "T2", "D")
    assert found.status == "ok"
    assert found.r_squared > 1 - 1e-10
    np.testing.assert_allclose(found.parameters, truth, rtol=1e-3)
    np.testing.assert_allclose(biexponential(TIMES, *found.parameters), found.fitted)


def test_close_decay_times_are_told_apart():
    truth = (0.0095, 178.5, 0.183, 115.9, 0.037)  # the two nearly cancel a maximum
    found = fit_signal_model(TIMES, biexponential(TIMES, *truth))
    np.testing.assert_allclose(found.parameters, truth, rtol=1e-2)


def test_no_start_of_scipys_own_fits_better_in_noise():
    from scipy.optimize import least_squares

    rng = np.random.default_rng(1)
    clean = biexponential(TIMES, 0.6, 300.0, -0.4, 80.0, 0.0)
    values = clean + 0.05 * rng.standard_normal(64)
    found = fit_signal_model(TIMES, values)
    best = min(
        least_squares(
            lambda p: biexponential(TIMES, *p) - values,
            [rng.normal(), rng.uniform(50, 500), rng.normal(), rng.uniform(50, 500), 0],
            bounds=([-np.inf, 1, -np.inf, 1, -np.inf], np.inf),  # decays, not growth
            x_scale="jac",
        ).cost
        for _ in range(6)
    )
    left = np.square(found.fitted - values).sum()
    assert left / 2 <= best * (1 + 1e-6)
    assert found.r_squared == pytest.approx(
        1 - left / np.square(values - values.mean()).sum()
    )


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_units_of_values_and_times_do_not_matter(factor):
    truth = (0.6, 300.0, -0.4, 80.0, 0.1)
    values = biexponential(TIMES, *truth)
    scaled = fit_signal_model(TIMES * factor, values / factor)
    expected = np.array(truth) * [1 / factor, factor, 1 / factor, factor, 1 / factor]
    np.testing.assert_allclose(scaled.parameters, expected, rtol=1e-4)


def test_late_and_unsorted_times_are_fitted():
    truth = (0.6, 300.0, -0.4, 80.0, 0.1)
    turned = torch.from_numpy(TIMES[::-1].copy())
    late = fit_signal_model(turned + 100, biexponential(turned + 100, *truth))
    np.testing.assert_allclose(late.parameters, truth, rtol=1e-3)
    # so late that C1 itself cannot be written down
    values = torch.from_numpy(biexponential(turned, *truth))
    late = fit_signal_model(turned + 1e6, values)
    assert late.r_squared > 1 - 1e-10
    assert late.parameters[[1, 3]] == pytest.approx([300.0, 80.0], rel=1e-3)
    assert np.isinf(late.parameters[0])


def test_bounds_and_starts_hold_for_the_biexponential_too():
    values = biexponential(TIMES, 0.6, 300.0, -0.4, 80.0, 0.1)
    low, high = [-1, 1, -1, 1, -1], [1, 200, 1, 200, 1]
    bounded = fit_signal_model(TIMES, values, bounds=(low, high))
    assert np.all((bounded.parameters >= low) & (bounded.parameters <= high))
    assert bounded.r_squared < fit_signal_model(TIMES, values).r_squared
    begun = fit_signal_model(TIMES, values, biexponential, starts=(1, 100, 1, 50, 0))
    assert begun.r_squared > 1 - 1e-10


# --- families of the user --------------------------------------------------------------------


def test_a_family_of_the_user_takes_the_best_of_its_starts():
    values = wave(TIMES, 3.0, 0.02, 0.3)
    poor = fit_signal_model(TIMES, values, wave, starts=[(1, 0.2, 0)])
    both = fit_signal_model(TIMES, values, wave, starts=[(1, 0.2, 0), (1, 0.019, 0.1)])
    assert poor.r_squared < 0.5
    assert both.r_squared == pytest.approx(1.0)
    assert both.names == ("amplitude", "rate", "phase")
    np.testing.assert_allclose(both.parameters, [3.0, 0.02, 0.3], rtol=1e-6)


def test_a_straight_line_is_the_least_squares_line():
    values = np.random.default_rng(0).standard_normal(64)
    line = fit_signal_model(TIMES, values, lambda t, a, b: a + b * t, starts=(0, 0))
    b, a = np.polyfit(TIMES, values, 1)
    np.testing.assert_allclose(line.parameters, [a, b], rtol=1e-6)


# --- what fails, and how ---------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_values_whose_squares_are_no_numbers_are_fitted(scale):
    found = fit_signal_model(TIMES, scale * np.exp(-TIMES / TIMES.mean()))
    assert found.r_squared == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("values", [np.zeros(64), np.full(64, 0.1)])
def test_constant_values_have_no_r_squared(values):
    found = fit_signal_model(TIMES, values)
    assert np.isnan(found.r_squared)
    np.testing.assert_allclose(found.fitted, values, atol=1e-12)


@pytest.mark.parametrize(
    ("times", "values", "model", "said"),
    [
        (TIMES, np.where(TIMES > 400, np.nan, 1.0), "biexponential", "not finite"),
        (TIMES[:4], TIMES[:4], "biexponential", "5 parameters of 4 times"),
        (np.ones(64), TIMES, "biexponential", "5 parameters of 1 times"),
        (TIMES, TIMES, lambda t, a: a / (t - t), "at the starts"),
        (
            TIMES,
            TIMES,
            lambda t, a: np.sqrt(a - 1) + t if a <= 1 else t / 0,
            "at the starts",
        ),
    ],
)
def test_a_fit_that_fails_says_so_and_is_nan(times, values, model, said):
    starts = None if model == "biexponential" else [(1.0,)]
    found = fit_signal_model(times, values, model, starts=starts)
    assert said in found.status
    assert np.isnan(found.r_squared)
    assert np.isnan(found.parameters).all()
    assert found.fitted.shape == values.shape


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"model": "exponential"}, ValueError, "'exponential', expected 'biexp"),
        ({"values": np.ones(3)}, ValueError, "64 times and 3 values"),
        (
            {"values": np.ones((64, 1))},
            ValueError,
            r"shape \(64, 1\), expected one axis",
        ),
        ({"values": np.ones(64) * 1j}, TypeError, "complex128"),
        ({"model": wave}, ValueError, "no starts .* amplitude, rate, phase"),
        ({"model": wave, "starts": [(1, 2)]}, ValueError, "expected 3 finite numbers"),
        (
            {"model": lambda t, a: a * t[:3], "starts": [(1,)]},
            ValueError,
            r"\(3,\) values",
        ),
        ({"bounds": ([0], [1])}, ValueError, "with 5 numbers each"),
        ({"bounds": ([1] * 5, [0] * 5)}, ValueError, "below its upper"),
    ],
)
def test_what_cannot_be_meant_is_refused(changed, error, said):
    with pytest.raises(error, match=said):
        fit_signal_model(**{"times": TIMES, "values": TIMES, **changed})


def test_an_error_in_the_users_own_model_is_not_hidden():
    def broken(t, a):
        raise RuntimeError("of the user")

    with pytest.raises(RuntimeError, match="of the user"):
        fit_signal_model(TIMES, TIMES, broken, starts=[(1.0,)])
