"""Measures of logged spectra: by their definitions, at the points that have them."""

import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import svdhooks
from svdhooks import derived, linalg
from svdhooks.linalg.units import UnitFractions
from svdhooks.quantities.drift import DRIFT_MEASURES
from svdhooks.quantities.lidar import LIDAR_MEASURES
from svdhooks.quantities.moments import MOMENT_MEASURES
from svdhooks.quantities.spectral_edges import EDGE_MEASURES
from svdhooks.quantities.spread import COVARIANCE_MEASURES
from svdhooks.record import Record
from tests import oracles
from tests.plain import train

RANDOM = np.random.default_rng(0)
POINTS = ("weight", "update", "drift", "input", "output")


def covariances(
    n: int, d: int, steps: int = 3
) -> tuple[np.ndarray, list[torch.Tensor]]:
    """Eigenvalues as the log has them, ``(steps, d)``, and the samples they are of."""
    several = [
        torch.from_numpy(RANDOM.standard_normal((n, d)) + 2) for _ in range(steps)
    ]
    rows = np.array([oracles.covariance_eigenvalues(x) for x in several])
    return np.maximum(rows, 0.0), several


def weights(shape: tuple[int, int], steps: int = 3) -> np.ndarray:
    several = RANDOM.standard_normal((steps, *shape))
    return np.linalg.svd(several, compute_uv=False)


# --- closed forms ------------------------------------------------------------------------


@pytest.mark.parametrize("point", POINTS)
def test_values_of_two_and_one(point):
    spectrum = np.array([[2.0, 1.0]])
    squared = point in {"input", "output"}
    expected = {
        "stable_rank": 1.25,
        "effective_rank": 1.889882,
        "variance_effective_rank": 1.649385,
        "participation_ratio": 1.470588,
        "spectral_entropy": 0.721928,
        "nuclear_ratio": 1.5,
        "condition_number": 2.0,
    }
    if squared:
        spectrum = spectrum**2
        expected |= {
            "nesum": 1.25,
            "saturation": 1.0,
            "total_variance": 5.0,
            "largest_eigenvalue": 4.0,
        }
    else:
        expected |= {"spectral_norm": 2.0, "frobenius_norm": math.sqrt(5)}
    for field, value in expected.items():
        found = derived.derive(field, spectrum, point=point)
        assert found.shape == (1,)
        assert found[0] == pytest.approx(value, abs=5e-7), field


def test_saturation_counts_all_features_of_the_definition():
    rows = np.array([[0.01] * 100, [0.5, 0.3, 0.1, 0.08, 0.02] + [0.0] * 95])
    found = derived.derive("saturation", rows, point="output")
    np.testing.assert_allclose(found, [0.99, 0.05])


def test_alpha_req_of_a_power_of_the_index():
    eigenvalues = np.arange(1, 201.0)[None] ** -1.3
    found = derived.derive("alpha_req", eigenvalues, point="output")
    assert found[0] == pytest.approx(1.3, abs=1e-12)


@pytest.mark.parametrize(("alpha", "mle"), [(2, 2.0004), (3, 3.0008), (4, 4.0013)])
def test_power_law_of_pareto_quantiles(alpha, mle):
    shares = (np.arange(2000) + 0.5) / 2000
    eigenvalues = (1 - shares) ** (-1 / (alpha - 1))
    sigma = np.sort(np.sqrt(eigenvalues))[::-1]
    found = derived.derive_all(
        [f for f in derived.FIELDS if f.startswith("power_law")],
        np.array([sigma, 7 * sigma]),
        point="weight",
    )
    assert found["power_law_alpha"][0] == pytest.approx(mle, abs=1e-4)
    np.testing.assert_allclose(found["power_law_tail_size"], 2000)
    np.testing.assert_allclose(
        found["power_law_error"], (found["power_law_alpha"] - 1) / math.sqrt(2000)
    )
    for values in found.values():
        assert values[0] == pytest.approx(values[1], rel=1e-9)  # no scale


def test_a_covariance_is_that_of_samples_times_their_number():
    n, d = 60, 25
    signal = torch.zeros(n, d, dtype=torch.float64)
    signal[:, :2] = 8 * torch.randn(n, 2, dtype=torch.float64)
    x = signal + torch.randn(n, d, dtype=torch.float64) + 5
    centred = x - x.mean(0)
    sigma = np.linalg.svd(centred.numpy(), compute_uv=False)
    eigenvalues = oracles.covariance_eigenvalues(x)[None]
    found = derived.derive_all(
        ("outlier_count", "gavish_donoho_rank", "mp_soft_rank"),
        eigenvalues,
        point="output",
        count=np.array([n]),
    )
    assert found["outlier_count"][0] == found["gavish_donoho_rank"][0] == 2
    for field, value in found.items():
        direct = float(getattr(linalg, field)(sigma, (n, d)))
        assert value[0] == pytest.approx(direct, rel=1e-9), field
    edge = derived.derive(
        "marchenko_pastur_edge", eigenvalues, point="output", count=np.array([n])
    )
    # in units of the eigenvalues that are logged
    assert edge[0] / eigenvalues[0, 0] == pytest.approx(found["mp_soft_rank"][0])


def test_few_samples_have_as_many_values_as_samples():
    n, d = 20, 60
    rows, several = covariances(n, d)
    found = derived.derive("outlier_count", rows, point="input", count=np.full(3, n))
    for value, x in zip(found, several, strict=True):
        sigma = np.linalg.svd((x - x.mean(0)).numpy(), compute_uv=False)
        assert value == linalg.outlier_count(sigma, (n, d))
    entropy = derived.derive(
        "spectral_entropy", rows, point="input", count=np.full(3, n)
    )
    shares = rows[0, : n - 1] / rows[0].sum()
    exact = -(shares * np.log(shares)).sum() / math.log(n)
    assert entropy[0] == pytest.approx(exact, rel=1e-9)


def test_rows_may_have_different_numbers_of_samples():
    rows, _ = covariances(50, 8, steps=4)
    count = np.array([50.0, 200, 50, 5])
    together = derived.derive("mp_soft_rank", rows, point="output", count=count)
    limit = derived.derive("rank_limit", rows, point="output", count=count)
    assert limit.tolist() == [8, 8, 8, 4]
    for i in range(4):
        alone = derived.derive(
            "mp_soft_rank", rows[[i]], point="output", count=count[[i]]
        )
        assert together[i] == alone[0]


def test_the_edge_of_a_weight_is_that_of_its_noise():
    shape = (300, 200)
    found = derived.derive_all(
        ("marchenko_pastur_edge", "outlier_count", "gavish_donoho_rank"),
        0.5 * weights(shape),
        point="weight",
        shape=shape,
    )
    exact = 0.5 * (math.sqrt(300) + math.sqrt(200))
    np.testing.assert_allclose(found["marchenko_pastur_edge"], exact, rtol=0.02)
    assert found["gavish_donoho_rank"].tolist() == [0, 0, 0]


def test_blocks_have_the_noise_of_one_block():
    blocks = RANDOM.standard_normal((4, 60, 30))
    union = np.sort(np.linalg.svd(blocks, compute_uv=False), axis=None)[::-1]
    edge = derived.derive(
        "marchenko_pastur_edge", union[None], point="weight", shape=(60, 30)
    )
    assert edge[0] == pytest.approx(math.sqrt(60) + math.sqrt(30), rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_errors_of_the_solver_are_neither_noise_nor_tail(dtype):
    weight = oracles.with_singular_values(256, 256, [5.0, 4, 3, 2, 1]).to(dtype)
    spectrum = linalg.singular_values(weight).numpy()
    assert (spectrum[5:] > 0).any()  # which are errors
    found = derived.derive_all(
        (
            "outlier_count",
            "gavish_donoho_rank",
            "power_law_alpha",
            "power_law_tail_size",
        ),
        spectrum[None],
        point="weight",
        shape=(256, 256),
    )
    exact = linalg.power_law_alpha([5.0, 4, 3, 2, 1])
    assert found["outlier_count"][0] == found["gavish_donoho_rank"][0] == 5
    assert found["power_law_tail_size"][0] == exact.tail_size
    assert found["power_law_alpha"][0] == pytest.approx(exact.alpha, rel=1e-5)


# --- what applies where ---------------------------------------------------------------------


def test_every_field_follows_at_some_point_and_equals_linalg():
    for field in derived.FIELDS:
        assert any(derived.applicable(field, point) for point in POINTS)
    sigma = weights((30, 20))
    for field in linalg.MEASURES:
        if field in {"numerical_rank", "noise_floor"}:  # need the precision
            assert "precision" in derived.why_not(field, "weight")
            continue
        found = derived.derive(field, sigma, point="weight")
        direct = [linalg.measures(row)[field] for row in sigma]
        np.testing.assert_allclose(found, direct, rtol=1e-12)


def test_every_measure_is_explained():
    text = (Path(__file__).parents[2] / "docs" / "measures.md").read_text()
    tables = [line for line in text.splitlines() if line.startswith("| `")]
    named = {
        name for line in tables for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    units = {field.name for field in dataclasses.fields(UnitFractions)}
    recorded = {*linalg.MEASURES, *COVARIANCE_MEASURES, *LIDAR_MEASURES, *units}
    recorded |= {*DRIFT_MEASURES, *EDGE_MEASURES, *MOMENT_MEASURES}
    assert recorded | set(derived.FIELDS) <= named


@pytest.mark.parametrize(
    ("field", "point", "reason"),
    [
        ("rankme", "output", "uncentred"),
        ("rankme", "weight", "uncentred"),
        ("saturation", "weight", "centred features"),
        ("alpha_req", "update", "centred features"),
        ("nesum", "weight", "stable_rank"),
        ("power_law_alpha", "output", "alpha_req"),
        ("spectral_norm", "input", "largest_eigenvalue"),
        ("total_variance", "weight", "frobenius_norm"),
        ("numerical_rank", "weight", "precision"),
        ("dead_fraction", "output", "samples"),
        ("stable_rank", "attention_logits", "not known"),
        ("outlier_count", "heads", "shape of one head"),
        ("nonsense", "weight", "no measure 'nonsense'"),
    ],
)
def test_what_does_not_follow_has_a_reason(field, point, reason):
    assert not derived.applicable(field, point)
    assert reason in derived.why_not(field, point)
    with pytest.raises(ValueError, match=reason):
        derived.derive(field, np.ones((1, 3)), point=point)


def test_what_is_needed_is_asked_for():
    with pytest.raises(ValueError, match="pass shape="):
        derived.derive("outlier_count", np.ones((1, 3)), point="weight")
    with pytest.raises(ValueError, match="count="):
        derived.derive("outlier_count", np.ones((1, 3)), point="output")
    with pytest.raises(ValueError, match="pass count="):
        derived.derive("rank_limit", np.ones((1, 3)), point="output")


def test_an_adapter_has_ranks_but_no_median():
    # r = 3 values of a 512 × 512 product: the others are zeros, and are not logged
    options = {"point": "weight", "shape": (512, 512)}
    values = np.array([[3.0, 2.0, 1.0]] * 2)
    found = derived.derive_all(derived.FIELDS[5:7], values, **options)
    assert len(found) == 2
    for field, ours in found.items():
        np.testing.assert_allclose(ours, getattr(linalg, field)(values))
    for field in ("outlier_count", "marchenko_pastur_edge", "mp_soft_rank"):
        assert np.isnan(derived.derive(field, values, **options)).all()


def test_reading_needs_no_torch():
    program = (
        "import sys, numpy as np, svdhooks.derived as d\n"
        "d.derive_all(d.FIELDS[5:10], np.ones((2, 3)), point='weight', shape=(3, 4))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- rows without an answer -----------------------------------------------------------------


@pytest.mark.parametrize("field", derived.FIELDS)
def test_nan_rows_stay_nan_and_others_are_as_without_them(field):
    point = next(p for p in POINTS if derived.applicable(field, p))
    rows = weights((150, 120), steps=4)
    if point == "input":
        rows = rows**2 / 150
    bad = rows.copy()
    bad[1] = math.nan
    bad[2, 60:] = math.nan  # only a display form was kept
    options = {"point": point, "shape": (150, 120), "count": np.full(4, 150.0)}
    found = derived.derive(field, bad, **options)
    assert np.isnan(found[1:3]).all()
    assert np.isfinite(found[[0, 3]]).all()
    np.testing.assert_array_equal(
        found[[0, 3]], derived.derive(field, rows, **options)[[0, 3]]
    )


@pytest.mark.parametrize("field", derived.FIELDS)
def test_zero_reads_zero_or_nothing_and_no_row_reads_none(field):
    point = next(p for p in POINTS if derived.applicable(field, p))
    options = {"point": point, "shape": (6, 4)}
    zero = derived.derive(field, np.zeros((2, 4)), **options, count=np.full(2, 6))
    known = {"rank_limit": 4.0, "power_law_tail_size": 0.0}
    undefined = ("power_law", "alpha_req", "condition")
    if field in known or not field.startswith(undefined):
        assert zero.tolist() == [known.get(field, 0.0)] * 2
    else:
        assert np.isnan(zero).all()
    none = derived.derive(field, np.zeros((0, 4)), **options, count=np.zeros(0))
    assert none.shape == (0,)


def test_a_covariance_of_no_samples_has_no_measures():
    found = derived.derive(
        "effective_rank", np.zeros((1, 4)), point="output", count=np.array([0.0])
    )
    assert np.isnan(found).all()


# --- live -------------------------------------------------------------------------------------


SHAPES = {"0": (40, 12), "2": (8, 40)}
COUNT = 30  # of the probe: more than 12 and 8 features, fewer than 40


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A real run: its log, and the very records that it was written from."""
    directory, memory = tmp_path_factory.mktemp("run"), svdhooks.MemorySink()
    model = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 8))
    probe = torch.randn(COUNT, 12)
    with svdhooks.watch(
        model, directory, every=2, probe=probe, sinks=[memory]
    ) as recorder:
        train(model, [torch.randn(16, 12) for _ in range(4)], recorder)
    return svdhooks.RunLog(directory), memory.records


def logged(
    log: svdhooks.RunLog, layer: str, point: str
) -> tuple[list[int], np.ndarray]:
    """Steps and spectra as the log has them, of covariances with all their zeros."""
    if point == "weight":
        steps, spectra = log.spectra(layer)
        return steps.tolist(), spectra
    steps, spectra = log.covariance_spectra(layer, point)
    features = SHAPES[layer][0 if point == "output" else 1]
    missing = features - spectra.shape[1]
    return steps.tolist(), np.pad(spectra, ((0, 0), (0, missing)))


def test_live_and_post_hoc_agree(recording):
    log, records = recording
    add = derived.live(derived.FIELDS, POINTS)
    compared = set()
    for layer, shape in SHAPES.items():
        for point in ("weight", "input", "output"):
            steps, spectra = logged(log, layer, point)
            assert steps == [0, 2, 4]
            fields = [f for f in derived.FIELDS if derived.applicable(f, point)]
            count = np.full(len(steps), COUNT)
            options = {"point": point, "shape": shape, "count": count}
            post_hoc = derived.derive_all(fields, spectra, **options)
            features = shape[0 if point == "output" else 1]
            matrix = shape if point == "weight" else (COUNT, features)
            for record in records:
                if (record.layer, record.point) != (layer, point):
                    continue
                now = add(record, matrix)
                assert list(now) == fields
                place = steps.index(record.step)
                for field in fields:
                    np.testing.assert_equal(now[field], post_hoc[field][place])
                    compared.add((field, point, record.step))
    assert len(compared) == 3 * sum(
        derived.applicable(f, p)
        for f in derived.FIELDS
        for p in ("weight", "input", "output")
    )


def test_what_is_derived_is_what_was_recorded(recording):
    log, _ = recording
    checked = 0
    for layer, shape in SHAPES.items():
        for point in ("weight", "input", "output"):
            _, spectra = logged(log, layer, point)
            for field in derived.FIELDS:
                if f"{point}_{field}" not in log.metrics:
                    continue
                recorded = log.series(layer, f"{point}_{field}")[1]
                found = derived.derive(
                    field, spectra, point=point, shape=shape, count=np.full(3, COUNT)
                )
                np.testing.assert_allclose(found, recorded, rtol=2e-6, err_msg=field)
                checked += 1
    assert checked > 30


def test_a_record_that_failed_has_no_measures():
    record = Record(0, "a", "weight_spectrum", status="lost", point="weight")
    add = derived.live(("stable_rank", "power_law_alpha"), ("weight",))
    assert np.isnan(list(add(record, (3, 2)).values())).all()


def test_a_live_choice_is_checked_at_once():
    with pytest.raises(
        ValueError, match=r"'saturation' for weight: .* There are .*alpha"
    ):
        derived.live(("power_law_alpha", "saturation"), ("weight",))
    with pytest.raises(ValueError, match="no measure 'rank'"):
        derived.live(("rank",), ("input", "output"))
    with pytest.raises(ValueError, match="uncentred"):
        derived.live(("rankme",), ("input", "output"))
