"""The examples of singular vectors: what they read from their logs is what is there."""

import csv
import math

import numpy as np
import pytest
import torch

import svdhooks


@pytest.fixture(scope="module")
def relaxometry(example):
    return example("relaxometry")


@pytest.fixture(scope="module")
def band_pass(example):
    return example("band_pass")


# --- relaxometry


@pytest.fixture(scope="module")
def decays(relaxometry, tmp_path_factory):
    """A short run without much noise: the log, and the test errors."""
    log_dir = tmp_path_factory.mktemp("relaxometry")
    errors = relaxometry.record(log_dir, 10_000, draws=2, epochs=5, seed=657)
    return svdhooks.RunLog(log_dir), errors


def test_a_decay_is_two_exponentials_twice_over(relaxometry):
    generator = torch.Generator().manual_seed(0)
    x, y = relaxometry.make_data(1e14, 1, (50.0, 500.0), generator)
    assert x.shape == (2500, 128)
    assert len(torch.unique(y, dim=0)) == 2500
    for place in (0, 49, 1234):
        first, second = y[place].tolist()
        by_hand = [
            0.6 * math.exp(-t / first) + 0.4 * math.exp(-t / second)
            for t in np.linspace(0, 800, 64)
        ]
        np.testing.assert_allclose(x[place], by_hand * 2, atol=1e-6)


def test_a_code_is_the_inverse_variance_of_the_noise(relaxometry):
    generator = torch.Generator().manual_seed(0)
    clean, _ = relaxometry.make_data(1e14, 4, (50.0, 500.0), generator)
    noisy, _ = relaxometry.make_data(900, 4, (50.0, 500.0), generator)
    noise = (noisy - clean)[:, :64]
    # of 640,000 draws, whose variance is known to 1/sqrt(320,000)
    assert noise.var().item() * 900 == pytest.approx(1, abs=0.01)


def test_a_vector_of_two_equal_decays_is_read_as_such(relaxometry):
    times = relaxometry.TIMES.double().numpy()
    half = 0.3 * np.exp(-times / 300) - 0.2 * np.exp(-times / 60) + 0.01
    found = relaxometry.read(-np.concatenate([half, half]))
    assert found.r_squared == pytest.approx(1, abs=1e-9)
    assert found.halves == pytest.approx(1)
    # its largest entry is made positive
    np.testing.assert_allclose(found.half, half * np.sign(half[np.abs(half).argmax()]))
    matrix = np.vander(times / 800, 5)
    left = half - matrix @ np.linalg.lstsq(matrix, half, rcond=None)[0]
    assert found.quartic == pytest.approx(1 - left.var() / half.var(), abs=1e-9)


def test_the_first_vectors_of_the_log_are_those_of_the_random_network(
    relaxometry, decays
):
    steps, columns = decays[0].vectors("layer1")
    assert steps[0] == 0
    weight = relaxometry.make_model(657).layer1.weight.detach().double()
    found = torch.from_numpy(columns["Vh"][0]).double()
    cosines = (torch.linalg.svd(weight).Vh[:3] * found).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(3, dtype=torch.float64))


def test_training_brings_the_signal_into_the_first_vector(relaxometry, decays):
    log, errors = decays
    _, columns = log.vectors("layer1")
    start, end = (relaxometry.read(columns["Vh"][step][0]) for step in (0, -1))
    chance = relaxometry.by_chance(10, 0)
    assert end.r_squared > 2 * chance.max()
    assert end.r_squared > 2 * start.r_squared
    # the input is the decay twice over
    assert end.halves > 0.5 > abs(start.halves)
    # always to say the middle of the grid errs by 100
    assert max(errors) < 95


@pytest.mark.slow
def test_relaxometry_from_the_command_line_leaves_a_table_and_a_figure(
    relaxometry, tmp_path, capsys
):
    small = ["--draws", "1", "--epochs", "1", "--snr", "1", "900"]
    relaxometry.main([*small, "--out", str(tmp_path)])
    with (tmp_path / "relaxometry.csv").open() as file:
        rows = list(csv.DictReader(file))
    log = svdhooks.runs(tmp_path)["snr-900"]
    last = relaxometry.read(log.vectors("layer1")[1]["Vh"][-1][1])
    (row,) = (r for r in rows if (r["snr_code"], r["vector"]) == ("900.0", "2"))
    assert float(row["r2_trained"]) == last.r_squared
    assert f"{last.r_squared:.3f}" in capsys.readouterr().out
    assert (tmp_path / "relaxometry.png").stat().st_size > 10_000


# --- band pass


@pytest.fixture(scope="module")
def filters(band_pass, tmp_path_factory):
    """A short run: where it is, its band, and the error of the network."""
    out, band = tmp_path_factory.mktemp("band_pass"), band_pass.Band(32, 2, 4)
    error = band_pass.record(out, band, samples=2000, epochs=150, seed=0)
    return out, band, error


def test_the_modes_of_the_band_are_what_it_lets_through(band_pass):
    band = band_pass.Band(128, 10, 50)
    modes = band.modes
    assert modes.shape == (128, 82)
    torch.testing.assert_close(modes.T @ modes, torch.eye(82, dtype=torch.float64))
    torch.testing.assert_close(band(modes.T), modes.T)
    x = torch.randn(5, 128, dtype=torch.float64)
    torch.testing.assert_close(band(x), x @ modes @ modes.T)


def test_singular_values_of_a_solved_filter_are_its_response(band_pass):
    class Sloping(band_pass.Band):
        @property
        def response(self):
            return torch.linspace(1, 0.2, self.n // 2 + 1, dtype=torch.float64)

    band = Sloping(128, 10, 50)
    x, _ = band.draw(500, torch.Generator().manual_seed(0))
    weight = band_pass.solve(band, x).linear.weight.detach()
    # frequencies between 0 and n/2 have a cosine and a sine
    expected = torch.cat([band.response, band.response[1:-1]]).sort(descending=True)
    torch.testing.assert_close(torch.linalg.svdvals(weight), expected.values)


def test_a_solved_filter_is_its_pass_band_to_rounding(band_pass, tmp_path):
    band = band_pass.Band(128, 10, 50)
    band_pass.record(tmp_path, band, samples=500, epochs=0, seed=0)
    solved, *trained = band_pass.read_all(tmp_path, band)
    assert solved.layer == "linear"
    assert solved.rank == 2 * 41
    assert solved.first == pytest.approx(1)
    assert solved.inside == pytest.approx(1)
    assert solved.outside < 1e-6
    assert math.radians(solved.angle) < 1e-3
    # without training the span is any other
    assert [each.step for each in trained] == [0, 0]
    for each in trained:
        assert each.overlap == pytest.approx(82 / 128, abs=0.1)


def test_a_trained_filter_turns_its_vectors_into_the_pass_band(band_pass, filters):
    out, band, error = filters
    readings = band_pass.read_all(out, band)
    for layer in ("layer1", "layer2"):
        start, *_, end = [each for each in readings if each.layer == layer]
        assert start.overlap < 0.5
        assert end.overlap > 0.95
        assert end.inside > 1.2 * end.outside
    assert error < 0.1


def test_a_reading_is_that_of_the_vectors_in_the_log(band_pass, filters):
    out, band, _ = filters
    log = svdhooks.RunLog(out / "trained")
    last = int(log.steps[-1])
    found = band_pass.read(log, "layer2", band, last)
    U = log.vectors("layer2")[1]["U"][-1][:, :6].astype(np.float64)
    passed = band(torch.from_numpy(U.T)).numpy()
    # what passes is the projection onto the modes
    assert found.overlap == pytest.approx(np.square(passed).sum() / 6, abs=1e-6)
    smallest = np.linalg.svd(U.T @ band.modes.numpy(), compute_uv=False).min()
    assert math.cos(math.radians(found.angle)) == pytest.approx(smallest, abs=1e-6)


@pytest.mark.slow
def test_a_band_pass_from_the_command_line_leaves_a_table_and_figures(
    band_pass, tmp_path, capsys
):
    small = ["--n", "32", "--band", "2", "4", "--samples", "600", "--epochs", "2"]
    band_pass.main([*small, "--out", str(tmp_path)])
    with (tmp_path / "band_pass.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = band_pass.read_all(tmp_path, band_pass.Band(32, 2, 4))
    assert [float(row["overlap"]) for row in rows] == [e.overlap for e in expected]
    assert f"{expected[-1].overlap:.4f}" in capsys.readouterr().out
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {
        "band_pass.png",
        "band_pass_descrambled_layer1.png",
        "band_pass_descrambled_layer2.png",
    }
