"""What passes the points during one probe becomes one record per point."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import svdhooks
from svdhooks import linalg
from svdhooks.layers import Layer, PointValue, find_layers
from svdhooks.linalg import problems
from svdhooks.quantities import COVARIANCE_MEASURES, Covariance
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.record import Record
from tests.oracles import as_double, covariance_eigenvalues, planted
from tests.plain import ranks_of

LINEAR = find_layers(nn.Sequential(nn.Linear(6, 4))).layers[0]


def _records(
    *calls: Mapping[str, Tensor],
    layer: Layer = LINEAR,
    quantity: Covariance | None = None,
    expected: int | None = None,
    **context: Any,
) -> dict[str, Record]:
    """Point -> record, of calls that show these tensors."""
    told = ProbeContext(
        step=5,
        mask=context.get("mask"),
        samples=context.get("samples", "tokens"),
        expected_calls={id(layer.module): len(calls) if expected is None else expected},
    )
    observer = (quantity or Covariance()).observer([layer], told)
    for call in calls:
        values = {point: PointValue(tensor) for point, tensor in call.items()}
        try:
            observer.receive(layer, values)
        except Exception as error:  # noqa: BLE001  # as the hook does
            observer.fail(layer, error)
    records = observer.records()
    assert {r.layer for r in records} == {layer.name}
    return {record.point: record for record in records}


def _call(n: int = 30, **options: Any) -> dict[str, Tensor]:
    return {
        "input": torch.randn(n, 6, **options),
        "output": torch.randn(n, 4, **options),
    }


def _close(record: Record, samples: Tensor, rtol: float = 1e-6) -> None:
    expected = covariance_eigenvalues(samples)
    k = len(record.spectrum)
    np.testing.assert_allclose(record.spectrum, expected[:k], atol=rtol * expected[0])
    assert (np.abs(expected[k:]) < 1e-9 * expected[0]).all()


def test_the_record_says_what_was_measured_where():
    call = _call()
    for point, record in _records(call).items():
        assert (record.step, record.quantity) == (5, "covariance")
        assert record.ok
        _close(record, call[point])
        assert record.spectrum.dtype == np.float32
        assert tuple(record.measures) == COVARIANCE_MEASURES
        assert record.seconds > 0


def test_measures_are_those_of_the_definitions():
    x = torch.randn(500, 6) @ torch.diag(torch.tensor([5.0, 3, 2, 1, 0.5, 0.2])) + 4
    measures = _records({**_call(500), "input": x})["input"].measures
    eigenvalues = covariance_eigenvalues(x)
    expected = ranks_of(np.sqrt(eigenvalues)) | {
        "total_variance": as_double(x).var(0).sum(),
        "largest_eigenvalue": eigenvalues[0],
        "mean_norm": np.linalg.norm(as_double(x).mean(0)),
        "count": 500,
        "rank_limit": 6,
        "numerical_rank": 6,
    }
    for name, value in expected.items():
        assert measures[name] == pytest.approx(value, rel=1e-6), name
    shares = eigenvalues / eigenvalues.sum()
    entropy = -(shares * np.log(shares)).sum() / np.log(6)
    assert measures["spectral_entropy"] == pytest.approx(entropy, rel=1e-6)


def test_the_covariance_is_one_over_n_and_centred():
    x = torch.tensor([[1.0, 0, 0, 0, 0, 0], [3.0, 0, 0, 0, 0, 0]])
    (spectrum,) = [_records({**_call(2), "input": x})["input"].spectrum]
    assert spectrum[0] == pytest.approx(1.0)  # 2 with 1/(N - 1), 5 without centring


def test_calls_are_pooled():
    calls = [_call(7), _call(1), _call(20)]
    records = _records(*calls)
    for point, record in records.items():
        _close(record, torch.cat([call[point] for call in calls]))
        assert record.measures["count"] == 28


def test_fewer_calls_than_expected_are_solved_at_the_end():
    call = _call()
    records = _records(call, expected=3)
    for point, record in records.items():
        assert record.ok
        _close(record, call[point])


def test_more_calls_than_expected_are_a_status_that_says_so():
    calls = [_call(), _call(), _call()]
    for point, record in _records(*calls, expected=2).items():
        assert "called 3 times" in record.status
        _close(record, torch.cat([call[point] for call in calls[:2]]))


def test_a_layer_that_nothing_passed_says_so():
    for record in _records().values():
        assert record.status == "not called in the probe"
        assert np.isnan(record.spectrum).all()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 11, 12, 13])
def test_few_samples_are_marked_and_have_their_limit(n):
    record = _records(_call(n))["input"]
    assert record.ok
    assert record.measures["rank_limit"] == min(n - 1, 6)
    assert record.measures["numerical_rank"] == min(n - 1, 6)
    assert len(record.spectrum) == min(n, 6)
    assert ("sample_limited" in record.marks) == (n < 12)
    assert "below_noise" not in record.marks


def test_no_sample_at_all_is_a_status():
    mask = torch.zeros(2, 3, dtype=torch.bool)
    call = {"input": torch.randn(2, 3, 6), "output": torch.randn(2, 3, 4)}
    for record in _records(call, mask=mask).values():
        assert record.status == "no samples"
        assert record.measures["count"] == 0


def test_the_mask_and_the_kind_of_sample_are_obeyed():
    x = torch.randn(3, 5, 6)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]).bool()
    call = {"input": x, "output": torch.randn(3, 5, 4)}
    record = _records(call, mask=mask)["input"]
    _close(record, x[mask])
    assert record.measures["count"] == 9
    last = _records(call, mask=mask, samples="last")["input"]
    _close(last, torch.stack([x[0, 2], x[1, 4], x[2, 0]]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_none_are_a_status_of_that_point_alone(value, capfd):
    call = _call()
    call["output"][3, 1] = value
    records = _records(call)
    assert records["input"].ok
    assert "non-finite" in records["output"].status
    assert np.isnan(records["output"].spectrum).all()
    assert capfd.readouterr() == ("", "")


def test_a_tensor_of_another_width_is_a_status():
    call = {"input": torch.randn(8, 6), "output": torch.randn(8, 5)}
    records = _records(call)
    assert (
        records["output"].status == "ValueError: the output has 5 features, expected 4"
    )


def test_an_error_on_the_way_in_is_the_status_and_leaves_the_rest(monkeypatch):
    real = linalg.CovarianceAccumulator.update

    def update(self: Any, samples: Tensor) -> Any:
        if samples.shape[1] == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, samples)

    monkeypatch.setattr(linalg.CovarianceAccumulator, "update", update)
    records = _records(_call())
    assert records["input"].ok
    assert records["output"].status == "out of memory"


@pytest.mark.parametrize("expected", [1, 2])
def test_an_error_in_the_solver_is_the_status(monkeypatch, expected):
    def diverge(self: Any) -> Any:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(problems.Eigenvalues, "now", diverge)
    for record in _records(_call(), expected=expected).values():
        assert "did not converge" in record.status
        assert np.isnan(record.spectrum).all()


def test_a_large_mean_leaves_the_covariance_exact():
    x = torch.randn(400, 6) + 1000
    record = _records({**_call(400), "input": x})["input"]
    _close(record, x)
    assert record.measures["mean_norm"] == pytest.approx(1000 * 6**0.5, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_noise_is_that_of_the_dtype_of_the_samples(dtype):
    wide = find_layers(nn.Sequential(nn.Linear(40, 4))).layers[0]
    x = planted(300, 40, 3).to(dtype)
    call = {"input": x, "output": torch.randn(300, 4)}
    record = _records(call, layer=wide)["input"]
    assert record.measures["numerical_rank"] == 3
    assert "below_noise" in record.marks
    assert np.count_nonzero(record.spectrum > 0) > 3
    floor = record.measures["noise_floor"]
    assert record.spectrum[2] > floor > record.spectrum[3]


# --- the same tensor twice -------------------------------------------------------------


def _attention_like(tensors: list[Tensor]) -> list[Record]:
    """Three layers of their own whose inputs are given, one call each."""
    layers = find_layers(nn.Sequential(*(nn.Linear(6, 6) for _ in tensors))).layers
    context = ProbeContext(0, None, "tokens", {id(x.module): 1 for x in layers})
    observer = Covariance(points=("input",)).observer(layers, context)
    for layer, tensor in zip(layers, tensors, strict=True):
        observer.receive(layer, {"input": PointValue(tensor)})
    return observer.records()


def test_layers_that_share_an_input_have_the_same_numbers_under_their_own_names():
    x = torch.randn(20, 6)
    records = _attention_like([x, x, x])
    assert [r.layer for r in records] == ["0", "1", "2"]
    for record in records:
        _close(record, x)


def test_a_tensor_changed_in_place_between_two_layers_is_measured_anew():
    layers = find_layers(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))).layers
    context = ProbeContext(0, None, "tokens", {id(x.module): 1 for x in layers})
    observer = Covariance(points=("input",)).observer(layers, context)
    x = torch.randn(20, 6)
    before = x.clone()
    observer.receive(layers[0], {"input": PointValue(x)})
    x.clamp_(min=0)
    observer.receive(layers[1], {"input": PointValue(x)})
    first, second = observer.records()
    _close(first, before)
    _close(second, x)
    assert first.spectrum[0] != second.spectrum[0]


def test_another_tensor_in_the_same_memory_is_measured_anew():
    x = torch.randn(20, 6)
    other = x.clone()
    records = _attention_like([x, other[:10], x.flip(1) * 2])
    for record, tensor in zip(records, [x, other[:10], x.flip(1) * 2], strict=True):
        _close(record, tensor)


# --- options ------------------------------------------------------------------------------


def test_points_that_are_too_wide_are_left_out_with_the_reason():
    quantity = Covariance(max_features=5)
    assert quantity.skipped_points(LINEAR) == {
        "input": "6 features exceed max_features=5"
    }
    assert quantity.measured_points(LINEAR) == ["output"]
    assert set(_records(_call(), quantity=quantity)) == {"output"}
    assert Covariance(max_features=6).skipped_points(LINEAR) == {}


def test_one_point_may_be_chosen():
    quantity = Covariance(points=("input",))
    assert set(_records(_call(), quantity=quantity)) == {"input"}
    embedding = find_layers(nn.Sequential(nn.Embedding(5, 3))).layers[0]
    assert quantity.measured_points(embedding) == []


@pytest.mark.parametrize("points", [(), ("inputs",), ("input", "weight")])
def test_unknown_points_are_refused(points):
    with pytest.raises(ValueError, match=r"\('input', 'output'\)"):
        Covariance(points=points)


def test_a_limit_of_no_features_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Covariance(max_features=0)


@pytest.mark.parametrize(
    ("dtype", "stored"), [(torch.float64, np.float64), (torch.float32, np.float32)]
)
def test_eigenvalues_are_kept_in_the_precision_of_the_samples(dtype, stored):
    model = nn.Sequential(nn.Linear(6, 4).to(dtype))
    (layer,) = find_layers(model).layers
    context = ProbeContext(0, None, "tokens", {id(layer.module): 1})
    observer = Covariance().observer([layer], context)
    samples = torch.randn(50, 6, dtype=dtype)
    observer.receive(layer, {"input": PointValue(samples)})
    record = next(r for r in observer.records() if r.point == "input")
    assert record.spectrum.dtype == stored


def test_variances_beyond_float32_are_infinite_and_ranks_are_right():
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3), torch.randn(64, 4)
    rank = {}
    for size in (1.0, 1e21):  # whose squares float32 does not hold; warnings are errors
        sink = svdhooks.MemorySink()
        svdhooks.watch(model, None, sinks=[sink], probe=size * x).close()
        record = next(r for r in sink.of("covariance") if r.point == "input")
        rank[size] = record.measures["effective_rank"]
        assert np.isinf(record.spectrum).all() == (size > 1)
    assert rank[1e21] == pytest.approx(rank[1.0], rel=1e-5)


def test_dead_always_on_and_dormant_units_are_counted_at_each_point():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].bias[:2] = -100.0  # dead behind the ReLU
        model[0].bias[2:5] = 100.0  # the ReLU does nothing
    x = torch.randn(50, 3)
    sink = svdhooks.MemorySink()
    with svdhooks.watch(model, None, sinks=[sink], probe=x):
        pass
    before, after = (
        next(r for r in sink.of("covariance", layer) if r.point == point).measures
        for layer, point in (("0", "output"), ("2", "input"))
    )
    for measures in (before, after):
        assert measures["dead_fraction"] == 2 / 8
        assert measures["always_on_fraction"] == 3 / 8
    size = torch.relu(model[0](x)).abs().mean(0)
    assert before["dormant_fraction"] == 3 / 8  # small beside 100, in either sign
    assert after["dormant_fraction"] == float((size <= 0.025 * size.mean()).sum()) / 8
