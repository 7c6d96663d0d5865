"""Updates, drift, vectors and logit bounds, through a recorder."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import svdhooks
from svdhooks import linalg
from svdhooks.layers import find_layers
from svdhooks.reports import RecordingWarning
from tests.models import mlp
from tests.oracles import planted, singular_values


def _record(
    model: nn.Module, changes: list[Any], quantity: Any = None
) -> svdhooks.MemorySink:
    """Record before and after each change of the model."""
    sink = svdhooks.MemorySink()
    with svdhooks.watch(
        model,
        None,
        every=1,
        sinks=[sink],
        quantities=quantity or svdhooks.UpdateSpectrum(directions=2),
        max_overhead=None,
    ) as recorder:
        for change in changes:
            with torch.no_grad():
                change(model)
            recorder.step()
    return sink


def _add(matrix: torch.Tensor) -> Any:
    return lambda model: model[0].weight.add_(matrix)


def test_the_update_is_since_the_last_record_and_the_drift_since_the_first():
    model, first, second = mlp(6, 9), planted(9, 6, 1), planted(9, 6, 2, seed=1)
    before = copy.deepcopy(model[0].weight.detach())
    sink = _record(model, [_add(first.float()), _add(second.float())])
    found = {(r.step, r.point): r for r in sink.of("update_spectrum", "0")}
    assert set(found) == {(s, p) for s in (1, 2) for p in ("update", "drift")}
    for key, change in (((1, "update"), first), ((2, "update"), second)):
        expected = singular_values(change)
        np.testing.assert_allclose(found[key].spectrum, expected, atol=1e-5)
    expected = singular_values(first + second)
    np.testing.assert_allclose(found[2, "drift"].spectrum, expected, atol=1e-5)
    assert [found[k].measures["since_step"] for k in found] == [0, 0, 1, 0]
    size = float(torch.linalg.matrix_norm(first) / torch.linalg.matrix_norm(before))
    assert np.isclose(found[1, "update"].measures["relative_norm"], size, rtol=1e-5)


def test_an_update_of_rank_two_reads_two_in_the_precision_of_the_weight():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        model = mlp(60, 80).to(dtype)
        change = planted(80, 60, 2).to(dtype)
        (record,) = [
            r
            for r in _record(model, [_add(change)]).of("update_spectrum")
            if r.point == "update"
        ]
        assert record.measures["numerical_rank"] == 2, dtype
        assert "below_noise" in record.marks


def test_no_change_is_of_rank_zero():
    (record, _) = _record(mlp(6, 9), [lambda model: None]).of("update_spectrum")
    assert record.ok
    assert record.measures["numerical_rank"] == record.measures["relative_norm"] == 0


def test_alignment_is_with_the_weight_before():
    model = mlp(6, 9)
    U, _, Vh = torch.linalg.svd(model[0].weight.detach(), full_matrices=False)
    sink = _record(model, [_add(U[:, :1] @ Vh[:1]), _add(U[:, 1:2] @ Vh[5:])])
    first, second = [
        r.measures for r in sink.of("update_spectrum") if r.point == "update"
    ]
    for name in (
        "left_alignment",
        "right_alignment",
        "alignment",
        "diagonal_alignment",
    ):
        assert np.isclose(first[name], 1, atol=1e-5)
    assert np.isclose(second["left_alignment"], 1, atol=1e-5)
    assert np.isclose(second["right_alignment"], 0, atol=1e-5)


def test_groups_and_experts_are_solved_as_their_weights_are():
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2))
    change = torch.randn(6, 2, 3, 3)
    sink = _record(model, [_add(change)])
    record = sink.of("update_spectrum")[0]
    parts = [singular_values(c.flatten(1)) for c in change.chunk(2)]
    expected = np.sort(np.concatenate(parts))[::-1]
    np.testing.assert_allclose(record.spectrum, expected, rtol=1e-4)
    assert np.isnan(record.measures["left_alignment"])


def test_one_object_serves_several_runs():
    quantity = svdhooks.UpdateSpectrum()
    for _ in range(2):
        sink = _record(mlp(6, 9), [_add(torch.ones(9, 6))], quantity)
        assert [r.step for r in sink.of("update_spectrum")] == [1, 1]


def test_what_is_not_finite_is_a_status():
    with pytest.warns(RecordingWarning, match="update_spectrum of layer '0'"):
        sink = _record(mlp(6, 9), [_add(torch.full((9, 6), torch.nan))])
    assert {r.ok for r in sink.of("update_spectrum")} == {False}
    assert all(np.isnan(r.spectrum).all() for r in sink.of("update_spectrum"))


def test_vectors_rebuild_the_weight_that_they_are_of():
    model = nn.Sequential(nn.Linear(5, 8), nn.Conv2d(4, 6, 3, groups=2))
    quantity = svdhooks.WeightVectors(k=20, schedule=svdhooks.at(0, 2))
    sink = _record(model, 3 * [lambda model: None], quantity)
    records = sink.of("weight_vectors")
    assert [(r.step, r.layer) for r in records] == [(0, "0"), (2, "0")]
    values = records[0].values
    assert (values["U"].shape, values["Vh"].shape) == ((8, 5), (5, 5))
    rebuilt = (values["U"] * values["sigma"]) @ values["Vh"]
    np.testing.assert_allclose(rebuilt, model[0].weight.detach(), atol=1e-6)


def test_logit_bounds_are_filed_under_the_attention_module():
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    sink = _record(model, [], svdhooks.AttentionLogits())
    (record,) = sink.of("attention_logits")
    (pair,) = find_layers(model).attention
    assert (record.layer, record.point) == (pair.name, "attention_logits")
    expected = linalg.attention_logit_bound(pair.query.weight(), pair.key.weight(), 4)
    np.testing.assert_allclose(
        record.spectrum, np.sort(expected.numpy())[::-1], rtol=1e-6
    )
    scaled = record.measures["scaled_max"]
    assert np.isclose(scaled, float(expected.max()) / 2)  # 1/√4
    model.self_attn.in_proj_weight.data[0, 0] = torch.inf
    with pytest.warns(RecordingWarning, match="non-finite"):
        (record,) = _record(model, [], "attention_logits").of("attention_logits")
    assert not record.ok


def test_a_model_without_attention_has_no_logits():
    assert not _record(mlp(4, 3), [], "attention_logits").of("attention_logits")


@pytest.mark.parametrize(
    "make",
    [
        lambda: svdhooks.UpdateSpectrum(directions=0),
        lambda: svdhooks.WeightVectors(k=0),
    ],
)
def test_impossible_numbers_are_refused(make):
    with pytest.raises(ValueError, match="at least 1"):
        make()


def _resumed(tmp_path, start: int, model: nn.Module, **options: Any) -> list[Any]:
    """One more update after a restart; what the log holds at its steps."""
    with svdhooks.watch(
        model,
        tmp_path,
        every=1,
        start_step=start,
        quantities="update_spectrum",
        max_overhead=None,
        **options,
    ) as recorder:
        with torch.no_grad():
            model[0].weight.add_(1.0)
        recorder.step()
        return [
            recorder.last["0", point].measures["since_step"]
            for point in ("update", "drift")
        ]


def test_the_drift_of_a_resumed_run_begins_where_the_run_began(tmp_path):
    model = mlp(6, 9)
    first = model[0].weight.detach().clone()
    with svdhooks.watch(
        model, tmp_path, every=1, quantities="update_spectrum", max_overhead=None
    ) as recorder:
        for _ in range(2):
            with torch.no_grad():
                model[0].weight.mul_(1.1)
            recorder.step()
    assert _resumed(tmp_path, 2, model) == [2, 0]
    assert _resumed(tmp_path, 3, model) == [3, 0]  # and three times over
    steps, drift = svdhooks.RunLog(tmp_path).spectra("0", point="drift")
    assert steps.tolist() == [1, 2, 3, 4]
    expected = singular_values(model[0].weight.detach() - first)
    np.testing.assert_allclose(drift[-1], expected, rtol=1e-4, atol=1e-6)


def test_a_run_that_begins_anew_in_its_directory_forgets_the_old_weights(tmp_path):
    assert _resumed(tmp_path, 0, mlp(6, 9)) == [0, 0]
    assert _resumed(tmp_path, 0, mlp(6, 9)) == [0, 0]
    log = svdhooks.RunLog(tmp_path)
    update, drift = (log.spectra("0", point=p)[1] for p in ("update", "drift"))
    np.testing.assert_array_equal(update, drift)


def test_bases_that_are_damaged_or_too_large_are_told(tmp_path, monkeypatch):
    _resumed(tmp_path, 0, mlp(6, 9))
    path = tmp_path / "svdhooks" / "base.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.warns(RecordingWarning, match="could not read what the run began with"):
        assert _resumed(tmp_path, 1, mlp(6, 9)) == [1, 1]
    monkeypatch.setattr("svdhooks.conductor.bases.MOST_BYTES", 10)
    with pytest.warns(RecordingWarning, match="is not stored"):
        _resumed(tmp_path / "other", 0, mlp(6, 9))
    assert not (tmp_path / "other" / "svdhooks" / "base.safetensors").exists()


def test_the_subspaces_of_the_first_weight_are_found_once(monkeypatch):
    found = []
    triplets = linalg.leading_triplets
    monkeypatch.setattr(
        linalg, "leading_triplets", lambda *args: found.append(1) or triplets(*args)
    )
    _record(mlp(6, 9), 4 * [_add(torch.ones(9, 6))])
    assert len(found) == 5  # of the base once, of the weight before each time
