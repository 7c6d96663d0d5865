"""Promise 3: every number in the log is that of the model at that step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import svdhooks
from svdhooks.probe import ProbeOptions
from svdhooks.sinks.memory import MemorySink
from tests.models import Everything, InPlace, Reused, Tied, mlp
from tests.oracles import (
    as_double,
    covariance_eigenvalues,
    planted,
    singular_values,
    with_singular_values,
)
from tests.plain import points_by_hand, ranks_of, train


def _at_once(model: nn.Module, probe: Any = None, **options: Any) -> MemorySink:
    """The records of step 0."""
    memory = MemorySink()
    options = {"on_error": "raise", **options}
    svdhooks.watch(model, None, probe=probe, sinks=[memory], **options).close()
    return memory


def _spectrum(memory: MemorySink, layer: str, point: str) -> np.ndarray:
    (found,) = [r for r in memory.records if (r.layer, r.point) == (layer, point)]
    assert found.ok, found.status
    return found.spectrum


def _close(found: np.ndarray, expected: np.ndarray, rtol: float = 2e-6) -> None:
    """Equal relative to the largest value; zeros behind what few samples allow."""
    whole = np.zeros(len(expected))
    whole[: len(found)] = found
    np.testing.assert_allclose(whole, expected, rtol=0, atol=rtol * expected[0])


# --- over a training ------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run read back, and copies of the model kept at every step."""
    torch.manual_seed(2)
    log_dir: Path = tmp_path_factory.mktemp("numbers")
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, groups=3),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, (3, 1)),
        nn.Flatten(),
        nn.Linear(8 * 4 * 6, 20),
        nn.Tanh(),
        nn.Linear(20, 5, bias=False),
    )
    probe = torch.randn(10, 3, 6, 6) + 3
    kept = [[p.detach().clone() for p in model.parameters()]]
    recorder = svdhooks.watch(
        model, log_dir, every=2, probe=probe, max_overhead=None, on_error="raise"
    )
    with recorder:
        for _ in range(6):
            train(model, [torch.randn(8, 3, 6, 6)], recorder)
            kept.append([p.detach().clone() for p in model.parameters()])
    return svdhooks.RunLog(log_dir), model, probe, kept


def _as_at(model: nn.Module, weights: list[Tensor]) -> nn.Module:
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), weights, strict=True):
            parameter.copy_(value)
    return model


WATCHED = ("0", "2", "4", "6")


@pytest.mark.parametrize("layer", WATCHED)
def test_weight_spectra_and_ranks_are_those_of_the_weights_at_that_step(trained, layer):
    log, model, _, kept = trained
    steps, sigma = log.spectra(layer)
    assert steps.tolist() == [0, 2, 4, 6]
    for step, found in zip(steps, sigma, strict=True):
        weight = _as_at(model, kept[step])[int(layer)].weight.detach()
        if layer == "0":  # three groups: the map is block diagonal
            expected = singular_values(torch.block_diag(*weight.reshape(3, 2, 9)))
        else:
            expected = singular_values(weight.flatten(1))
        _close(found, expected[: len(found)])
        measured = ranks_of(expected[expected > 1e-9])
        measured |= {
            "spectral_norm": expected[0],
            "frobenius_norm": float(
                as_double(weight).ravel() @ as_double(weight).ravel()
            )
            ** 0.5,
            "numerical_rank": np.linalg.matrix_rank(weight.flatten(1).numpy())
            if layer != "0"
            else 6,
        }
        for name, value in measured.items():
            steps_of, series = log.series(layer, f"weight_{name}")
            assert steps_of.tolist() == steps.tolist()
            at_step = series[steps_of == step][0]
            assert at_step == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("layer", WATCHED)
@pytest.mark.parametrize("point", ["input", "output"])
def test_covariances_are_those_of_the_points_at_that_step(trained, layer, point):
    log, model, probe, kept = trained
    steps, eigenvalues = log.covariance_spectra(layer, point)
    assert steps.tolist() == [0, 2, 4, 6]
    for step, found in zip(steps, eigenvalues, strict=True):
        samples = points_by_hand(_as_at(model, kept[step]), probe)[layer, point]
        expected = covariance_eigenvalues(samples).clip(min=0)
        assert len(found) == samples.shape[1]
        _close(found, expected, 5e-6)
        measured = ranks_of(
            np.sqrt(expected[: min(len(samples) - 1, samples.shape[1])])
        )
        measured |= {
            "total_variance": as_double(samples).var(0).sum(),
            "largest_eigenvalue": expected[0],
            "mean_norm": np.linalg.norm(as_double(samples).mean(0)),
            "count": len(samples),
            "rank_limit": min(len(samples) - 1, samples.shape[1]),
        }
        for name, value in measured.items():
            steps_of, series = log.series(layer, f"{point}_{name}")
            at_step = series[steps_of == step][0]
            assert at_step == pytest.approx(value, rel=1e-4), name


def test_a_neighbouring_step_would_not_pass(trained):
    """The companion: the weights of the step before are told apart."""
    log, _, _, kept = trained
    _, sigma = log.spectra("6")
    with pytest.raises(AssertionError):
        _close(sigma[1], singular_values(kept[1][-1]))
    _close(sigma[1], singular_values(kept[2][-1]))


# --- awkward models --------------------------------------------------------------------


def test_an_activation_in_place_changes_no_number():
    torch.manual_seed(1)
    plain = InPlace(inplace=False)
    overwriting = InPlace(inplace=True)
    overwriting.load_state_dict(plain.state_dict())
    x = torch.randn(30, 7)
    a, b = _at_once(plain, x), _at_once(overwriting, x)
    for first, second in zip(a.records, b.records, strict=True):
        if first.layer:
            np.testing.assert_array_equal(first.spectrum, second.spectrum)
    assert plain.first(x).min() < 0  # what the activation overwrites
    negative = points_by_hand(plain, x)["first", "output"]
    _close(_spectrum(b, "first", "output"), covariance_eigenvalues(negative))


def test_a_module_called_three_times_pools_its_calls():
    model, x = Reused(), torch.randn(11, 5)
    memory = _at_once(model, x)
    points = points_by_hand(model, x)
    assert len(points["cell", "input"]) == 33
    for point in ("input", "output"):
        expected = covariance_eigenvalues(points["cell", point])
        _close(_spectrum(memory, "cell", point), expected)
    counts = {r.layer: r.values["count"] for r in memory.of("covariance")}
    assert counts == {"cell": 33, "out": 11}


def test_a_tied_weight_is_measured_once_and_both_layers_are_seen():
    model = Tied()
    tokens = torch.randint(0, 13, (6, 7))
    memory = _at_once(model, tokens)
    assert [r.layer for r in memory.of("weight_spectrum")] == ["embedding", "body"]
    _close(
        _spectrum(memory, "embedding", "weight"),
        singular_values(model.head.weight.detach()),
    )
    points = points_by_hand(model, tokens)
    for layer, point in (
        ("embedding", "output"),
        ("head", "input"),
        ("head", "output"),
    ):
        expected = covariance_eigenvalues(points[layer, point])
        _close(_spectrum(memory, layer, point), expected)


def test_a_tied_weight_whose_first_holder_is_not_watched_is_measured_all_the_same():
    model = Tied()
    memory = _at_once(model, layers="head")
    assert [r.layer for r in memory.of("weight_spectrum")] == ["head"]


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_a_grouped_convolution_has_the_singular_values_of_a_block_diagonal_map(groups):
    conv = nn.Conv1d(8, 16, 5, groups=groups, stride=2)
    memory = _at_once(nn.Sequential(conv), torch.randn(4, 8, 21))
    blocks = conv.weight.detach().reshape(groups, 16 // groups, -1)
    expected = singular_values(torch.block_diag(*blocks))
    _close(_spectrum(memory, "0", "weight"), expected)
    positions = conv(torch.zeros(4, 8, 21)).shape[-1] * 4
    (out,) = [r for r in memory.of("covariance") if r.point == "output"]
    assert out.values["count"] == positions


class _Attends(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **options)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attention(q, k, v, need_weights=False)[0]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("widths", [{}, {"kdim": 6, "vdim": 10}])
def test_attention_projections_are_measured_one_by_one(batch_first, widths):
    model = _Attends(batch_first=batch_first, **widths)
    attention = model.attention
    nn.init.normal_(attention.in_proj_bias)
    inputs = {
        "q": torch.randn(5, 9, 8),
        "k": torch.randn(5, 9, widths.get("kdim", 8)),
        "v": torch.randn(5, 9, widths.get("vdim", 8)),
    }
    memory = _at_once(model, tuple(inputs.values()))
    fused = attention.in_proj_weight
    for i, (letter, x) in enumerate(inputs.items()):
        rows = slice(8 * i, 8 * i + 8)
        weight = (
            getattr(attention, f"{letter}_proj_weight")
            if fused is None
            else fused[rows]
        ).detach()
        layer = f"attention.{letter}_proj"
        _close(_spectrum(memory, layer, "weight"), singular_values(weight))
        flat = x.flatten(0, 1)
        _close(_spectrum(memory, layer, "input"), covariance_eigenvalues(flat))
        z = flat @ weight.T + attention.in_proj_bias[rows].detach()
        _close(_spectrum(memory, layer, "output"), covariance_eigenvalues(z))
    out = attention.out_proj.weight.detach()
    _close(_spectrum(memory, "attention.out_proj", "weight"), singular_values(out))
    z = model.eval()(*inputs.values()).detach().flatten(0, 1)
    _close(_spectrum(memory, "attention.out_proj", "output"), covariance_eigenvalues(z))


def test_reading_a_spectrally_normalised_weight_moves_nothing():
    model = Everything()
    power = model.spectral.parametrizations.weight[0]
    before = power._u.clone(), power._v.clone()
    memory = _at_once(model, torch.randint(0, 11, (6, 5)))
    assert torch.equal(before[0], power._u)
    assert torch.equal(before[1], power._v)
    model.eval()
    _close(
        _spectrum(memory, "spectral", "weight"),
        singular_values(model.spectral.weight.detach()),
    )


def _nothing(weight: Tensor) -> None:
    pass


CHANGES = {
    "an update": lambda w: w.mul_(1.5),
    "through .data": lambda w: w.data.mul_(1.5),
    "through numpy": lambda w: np.multiply(w.numpy(), 1.5, out=w.numpy()),
    "through a view": lambda w: w.view(-1)[3:5].mul_(3.0),
    "one element, not first": lambda w: w.data[-1, -1].add_(0.5),
    "another memory": lambda w: setattr(w, "data", w.data * 1.5),
    "signs alone": lambda w: w.data[0].neg_(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("quiet", [0, 1, 2, 3])
def test_a_weight_that_rests_and_then_changes_is_read_anew(change, quiet):
    """Whatever is remembered of a weight must notice every way to write to it."""
    model, memory = nn.Sequential(nn.Linear(6, 5)), MemorySink()
    model.requires_grad_(False)
    recorder = svdhooks.watch(model, None, every=1, sinks=[memory], on_error="raise")
    weight, expected = model[0].weight.detach(), []
    for act in (
        [_nothing] * quiet + [CHANGES[change]] * 2 + [_nothing] + [CHANGES[change]]
    ):
        expected.append(singular_values(model[0].weight.clone()))
        if change == "another memory":
            act(model[0].weight)
        else:
            act(weight)
        recorder.step()
    expected.append(singular_values(model[0].weight.clone()))
    records = memory.of("weight_spectrum")
    assert [r.step for r in records] == list(range(len(expected)))
    for record, sigma in zip(records, expected, strict=True):
        _close(record.spectrum, sigma)


def test_frozen_layers_are_recorded_at_every_step_all_the_same(tmp_path):
    model = mlp(4, 6, 6, 3)
    model[2].requires_grad_(False)
    with svdhooks.watch(model, tmp_path, every=1, max_overhead=None) as recorder:
        train(model, [torch.randn(8, 4)] * 4, recorder)
    log = svdhooks.RunLog(tmp_path)
    for layer in ("0", "2"):
        steps, sigma = log.spectra(layer)
        assert steps.tolist() == [0, 1, 2, 3, 4]
        moved = np.abs(np.diff(sigma, axis=0)).max()
        assert (moved == 0) == (layer == "2")


# --- few samples, many features, large means -----------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5, 39, 40, 41])
def test_few_samples_have_the_spectrum_of_the_covariance(count, tmp_path):
    model, x = mlp(40, 60, 3), torch.randn(count, 40)
    memory = MemorySink()
    with svdhooks.watch(model, tmp_path, probe=x, sinks=[memory], on_error="raise"):
        pass
    log = svdhooks.RunLog(tmp_path)
    for (layer, point), samples in points_by_hand(model, x).items():
        if layer not in log.layers:
            continue
        expected = covariance_eigenvalues(samples).clip(min=0)
        _close(log.covariance_spectra(layer, point)[1][0], expected, 1e-5)
    (record,) = [r for r in memory.of("covariance", "0") if r.point == "output"]
    assert len(record.spectrum) == min(count, 60)
    assert record.method == "sample_gram"
    assert record.values["rank_limit"] == count - 1
    assert "sample_limited" in record.marks


@pytest.mark.parametrize("mean", [0.0, 10.0, 1000.0])
def test_a_large_mean_does_not_drown_the_covariance(mean):
    x = torch.randn(500, 16) + mean
    memory = _at_once(nn.Sequential(nn.Linear(16, 4)), x)
    _close(_spectrum(memory, "0", "input"), covariance_eigenvalues(x))


def test_a_wide_layer_keeps_its_whole_spectrum(tmp_path):
    """More values than the display form has."""
    sigma = np.geomspace(10, 1e-3, 300)
    model = nn.Sequential(nn.Linear(300, 320))
    with torch.no_grad():
        model[0].weight.copy_(with_singular_values(320, 300, sigma.tolist()))
    with svdhooks.watch(model, tmp_path, probe=torch.randn(50, 300)):
        pass
    _, found = svdhooks.RunLog(tmp_path).spectra("0")
    assert found.shape == (1, 300)
    np.testing.assert_allclose(found[0], sigma, rtol=1e-3)
    _close(found[0], sigma, 1e-6)


def test_a_model_in_float64_is_measured_in_float64(tmp_path):
    model = mlp(6, 8, 3).double()
    with svdhooks.watch(model, tmp_path, probe=torch.randn(40, 6)):
        pass
    _, sigma = svdhooks.RunLog(tmp_path).spectra("0")
    assert sigma.dtype == np.float64
    expected = singular_values(model[0].weight.detach())
    np.testing.assert_allclose(sigma[0], expected, rtol=1e-12)


# --- planted ranks ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", [1, 7, 20])
def test_planted_inputs_read_their_rank_at_both_points(dtype, rank):
    model = nn.Sequential(nn.Linear(96, 80)).to(dtype)
    x = planted(400, 96, rank) / rank**0.5
    memory = _at_once(model, x.to(dtype))
    found = {r.point: r.values["numerical_rank"] for r in memory.of("covariance")}
    assert found == {"input": rank, "output": rank}
    by_threshold = (_spectrum(memory, "0", "input") > 0).sum()
    assert by_threshold > rank  # rounding fills the spectrum: this is what could fail
    marks = {mark for r in memory.of("covariance") for mark in r.marks}
    assert marks == {"below_noise"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", [1, 7, 20])
def test_planted_weights_read_their_rank(dtype, rank):
    model = nn.Sequential(nn.Linear(96, 80)).to(dtype)
    with torch.no_grad():
        model[0].weight.copy_(planted(80, 96, rank) / 10)
    (record,) = _at_once(model).of("weight_spectrum")
    assert record.values["numerical_rank"] == rank
    assert (record.spectrum > 0).sum() > rank
    assert record.marks == ("below_noise",)


def test_planted_inputs_of_few_samples_read_their_rank():
    x = planted(30, 200, 5)
    memory = _at_once(nn.Sequential(nn.Linear(200, 64)), x.float())
    assert [r.values["numerical_rank"] for r in memory.of("covariance")] == [5, 5]


def test_a_collapsed_representation_reads_rank_0():
    x = torch.randn(1, 8).expand(50, 8)
    (entering,) = _at_once(
        nn.Sequential(nn.Linear(8, 4)), x, quantities=svdhooks.Covariance(("input",))
    ).of("covariance")
    assert entering.ok
    assert entering.values["numerical_rank"] == 0
    assert entering.values["total_variance"] < 1e-10


# --- masks, scan ---------------------------------------------------------------------------


def test_the_mask_reaches_every_layer_of_a_transformer():
    """Padding changes nothing: as if the sentences had been given one by one."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor, keep: Tensor) -> Tensor:
            return self.layer(x, src_key_padding_mask=keep == 0)

    model = Model()
    lengths = [3, 7, 5, 7]
    keep = torch.tensor([[i < n for i in range(7)] for n in lengths])
    x = torch.randn(4, 7, 8)
    memory = _at_once(
        model, {"x": x, "keep": keep.long()}, probe_options=ProbeOptions(mask="keep")
    )
    alone = [
        points_by_hand(layer, x[i : i + 1, :n])["linear2", "output"]
        for i, n in enumerate(lengths)
    ]
    expected = covariance_eigenvalues(torch.cat(alone))
    _close(_spectrum(memory, "layer.linear2", "output"), expected, 1e-5)
    counts = {float(r.values["count"]) for r in memory.of("covariance")}
    assert counts == {float(sum(lengths))}


def test_a_scan_equals_the_first_record():
    model = nn.ModuleList([mlp(4, 6, 3), nn.Conv2d(3, 8, 3, groups=1)])
    found = svdhooks.scan(model)
    recorded = _at_once(model).of("weight_spectrum")
    assert [r.layer for r in found] == [r.layer for r in recorded]
    for a, b in zip(found, recorded, strict=True):
        np.testing.assert_array_equal(a.spectrum, b.spectrum)
        assert a.measures == b.measures
