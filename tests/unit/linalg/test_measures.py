"""All measures at once equal the single functions."""

import math
import time

import numpy as np
import pytest
import torch

from svdhooks import linalg
from svdhooks.linalg import MEASURES, measures

SPECTRA = {
    "random": np.sort(np.random.default_rng(0).random(50))[::-1].copy(),
    "float32": np.logspace(0, -5, 30).astype(np.float32),
    "with zeros": np.array([3.0, 1.0, 0.0, 0.0]),
    "rank one": np.array([2.0, 0.0, 0.0]),
    "one value": np.array([0.7]),
    "zero": np.zeros(4),
    "empty": np.zeros(0),
    "huge": np.array([3e300, 2e300, 1e290]),
    "tiny": np.array([3e-300, 2e-300, 1e-300]),
    "nan": np.array([2.0, math.nan]),
    "infinite": np.array([math.inf, 1.0]),
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("case", SPECTRA)
def test_measures_equal_the_functions(case, name):
    sigma = SPECTRA[case]
    found = measures(sigma)[name]
    assert type(found) is float
    exact = float(getattr(linalg, name)(sigma))
    # an entropy of 0 may come out as 1e-16
    np.testing.assert_allclose(
        found, exact, rtol=1e-12, atol=1e-300 + 1e-15 * (name == "spectral_entropy")
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", torch.float16, np.float64])
@pytest.mark.parametrize("norm", [None, 30.0])
def test_the_noise_floor_is_the_same_in_both(dtype, norm):
    sigma = np.logspace(1, -5, 40)
    options = {"shape": (40, 300), "dtype": dtype, "uncentred_norm": norm}
    found = measures(sigma, **options)
    floor = linalg.noise_floor(sigma, **options)
    assert found["noise_floor"] == pytest.approx(float(floor), rel=1e-13)
    assert found["numerical_rank"] == linalg.numerical_rank(sigma, tol=floor)


def test_measuring_a_layer_takes_microseconds():
    sigma = np.sort(np.random.default_rng(0).random(512, dtype=np.float32))[::-1].copy()
    options = {"shape": (512, 512), "dtype": "float32"}
    unchecked = measures.__wrapped__ if hasattr(measures, "__wrapped__") else measures

    def best(call):
        spent = []
        for _ in range(30):
            begun = time.perf_counter()
            call()
            spent.append(time.perf_counter() - begun)
        return min(spent)

    together = best(lambda: unchecked(sigma, **options))
    single = best(lambda: [getattr(linalg, name)(sigma) for name in MEASURES])
    assert together < 300e-6  # 11 µs; the rest is for slow and busy machines
    assert together < single
