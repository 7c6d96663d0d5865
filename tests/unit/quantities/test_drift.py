"""Drift of leading subspaces: against rotations that are known, and over restarts."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import svdhooks
from svdhooks.quantities.drift import DRIFT_MEASURES, SubspaceDrift
from svdhooks.reports import RecordingWarning
from tests.models import mlp


def weight(U: Tensor, V: Tensor, sigma: list[float]) -> Tensor:
    return (
        U[:, : len(sigma)]
        @ torch.diag(torch.tensor(sigma).double())
        @ V[:, : len(sigma)].T
    )


def orthogonal(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[
        0
    ]


def turned(Q: Tensor, first: int, second: int, degrees: float) -> Tensor:
    """Two columns turned into each other."""
    found, angle = Q.clone(), math.radians(degrees)
    found[:, first] = math.cos(angle) * Q[:, first] + math.sin(angle) * Q[:, second]
    found[:, second] = math.cos(angle) * Q[:, second] - math.sin(angle) * Q[:, first]
    return found


def record(weights: list[Tensor], k: int, **options: Any) -> list[dict[str, float]]:
    """The drift while a layer's weight takes these values, one after the other."""
    m, n = weights[0].shape
    model, sink = nn.Sequential(nn.Linear(n, m).double()), svdhooks.MemorySink()
    with torch.no_grad():
        model[0].weight.copy_(weights[0])
    with svdhooks.watch(
        model,
        None,
        every=1,
        sinks=[sink],
        quantities=[SubspaceDrift(k=k)],
        max_overhead=None,
        **options,
    ) as recorder:
        for each in weights[1:]:
            with torch.no_grad():
                model[0].weight.copy_(each)
            recorder.step()
    return [r.measures for r in sink.of("subspace_drift")]


SIGMA = [5.0, 4.0, 3.0, 1.0, 0.5, 0.25]


def test_a_turn_by_a_known_angle_reads_that_angle() -> None:
    """One of k = 3 columns leaves the span by t: overlap (2 + cos² t)/3."""
    U, V = orthogonal(9, 1), orthogonal(6, 2)
    twice = [turned(U, 2, 3, 30.0), turned(turned(U, 2, 3, 30.0), 2, 3, 45.0)]
    first, second = record(
        [weight(U, V, SIGMA), *(weight(each, V, SIGMA) for each in twice)], 3
    )
    assert tuple(first) == DRIFT_MEASURES
    for found, since, angle in (
        (first, "last", 30.0),
        (first, "start", 30.0),
        (second, "last", 45.0),
        (second, "start", 75.0),
    ):
        cosine = math.cos(math.radians(angle))
        assert found[f"left_angle_{since}"] == pytest.approx(angle, abs=1e-6)
        assert found[f"left_overlap_{since}"] == pytest.approx((2 + cosine**2) / 3)
        assert found[f"right_angle_{since}"] == pytest.approx(0, abs=1e-5)
        assert found[f"right_overlap_{since}"] == pytest.approx(1)
    assert [x["since_step"] for x in (first, second)] == [0, 1]
    assert first["gap"] == pytest.approx((3.0 - 1.0) / 5.0)
    assert (first["chance_left"], first["chance_right"]) == (3 / 9, 3 / 6)


def test_the_right_side_is_that_of_the_inputs() -> None:
    U, V = orthogonal(9, 1), orthogonal(6, 2)
    (found,) = record([weight(U, V, SIGMA), weight(U, turned(V, 0, 5, 60), SIGMA)], 1)
    assert found["right_angle_last"] == pytest.approx(60, abs=1e-6)
    assert found["left_angle_last"] == pytest.approx(0, abs=1e-5)


def test_what_turns_within_the_span_and_what_is_scaled_is_no_drift() -> None:
    U, V = orthogonal(9, 1), orthogonal(6, 2)
    other = weight(turned(U, 0, 1, 77), turned(V, 1, 2, 50), [9, 8, 7, 0.1, 0.1, 0.1])
    (found,) = record([weight(U, V, SIGMA), -3 * other], 3)
    for side in ("left", "right"):
        assert found[f"{side}_overlap_start"] == pytest.approx(1)
        assert found[f"{side}_angle_start"] == pytest.approx(0, abs=1e-5)


def test_spans_that_know_nothing_of_each_other_overlap_as_by_chance() -> None:
    weights = [
        weight(orthogonal(30, 2 * i), orthogonal(20, 2 * i + 1), [3.0, 2.0, 1.0, 0.1])
        for i in range(60)
    ]
    found = record(weights, 3)
    for side, chance in (("left", 3 / 30), ("right", 3 / 20)):
        overlaps = [x[f"{side}_overlap_last"] for x in found]
        error = np.std(overlaps) / math.sqrt(len(overlaps))
        assert abs(np.mean(overlaps) - chance) < 4 * error
        assert found[0][f"chance_{side}"] == chance


def test_of_fewer_directions_than_k_those_that_are_there_count() -> None:
    U, V = orthogonal(9, 1), orthogonal(6, 2)
    lost = weight(U, V, [5.0, 4.0])  # of rank 2 now
    fewer, none, again = record([weight(U, V, SIGMA), lost, 0 * lost, lost], 3)
    assert fewer["left_overlap_last"] == pytest.approx(1)
    assert fewer["gap"] == 0
    assert math.isnan(none["left_overlap_last"])
    assert math.isnan(none["right_angle_start"])
    assert math.isnan(none["gap"])
    assert again["left_overlap_start"] == pytest.approx(1)


def test_all_directions_are_a_whole_space() -> None:
    U, V = orthogonal(9, 1), orthogonal(6, 2)
    (found,) = record([weight(U, V, SIGMA), weight(orthogonal(9, 3), V, SIGMA)], 40)
    assert found["right_overlap_last"] == pytest.approx(1)
    assert (found["chance_left"], found["chance_right"]) == (6 / 9, 1)
    assert found["gap"] == pytest.approx(0.25 / 5)


def test_layers_of_several_blocks_are_left_out_and_nan_is_a_status() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(6, 5, 3))
    sink = svdhooks.MemorySink()
    with svdhooks.watch(
        model,
        None,
        every=1,
        sinks=[sink],
        quantities="subspace_drift",
        max_overhead=None,
    ) as recorder:
        recorder.step()
        with torch.no_grad():
            model[1].weight[0, 0, 0, 0] = torch.nan
        with pytest.warns(RecordingWarning, match="non-finite"):
            recorder.step()
    good, bad = sink.of("subspace_drift")
    assert (good.layer, good.ok, bad.ok) == ("1", True, False)
    assert set(good.values) == set(bad.values) == set(DRIFT_MEASURES)
    assert all(math.isnan(x) for x in bad.measures.values())


# --- restarts -------------------------------------------------------------------------

BOTH = ["subspace_drift", "update_spectrum"]


def go_on(path: Path, model: nn.Module, quantities: Any = BOTH, **options: Any) -> None:
    with svdhooks.watch(
        model, path, every=1, quantities=quantities, max_overhead=None, **options
    ) as recorder:
        for _ in range(2):
            with torch.no_grad():
                model[0].weight.add_(0.3 * torch.randn(9, 6))
            recorder.step()


def test_a_resumed_run_goes_on_with_the_subspaces_of_its_start(tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = mlp(6, 9)
    go_on(tmp_path / "whole", model, "subspace_drift")
    go_on(tmp_path / "whole", model, "subspace_drift", start_step=2)
    torch.manual_seed(5)
    other = mlp(6, 9)
    with svdhooks.watch(
        other,
        None,
        every=1,
        quantities="subspace_drift",
        sinks=[sink := svdhooks.MemorySink()],
        max_overhead=None,
    ) as recorder:
        for _ in range(4):
            with torch.no_grad():
                other[0].weight.add_(0.3 * torch.randn(9, 6))
            recorder.step()
    log = svdhooks.RunLog(tmp_path / "whole")
    for name in ("left_overlap_start", "right_angle_start", "gap"):
        steps, found = log.series("0", f"subspace_{name}")
        assert steps.tolist() == [1, 2, 3, 4]
        _, expected = sink.series("0", f"subspace_{name}")
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    # since the last record: not known at the restart, and then again
    _, last = log.series("0", "subspace_left_overlap_last")
    assert np.isnan(last).tolist() == [False, True, False, False]
    assert np.isnan(log.series("0", "subspace_since_step")[1]).tolist() == [
        False, True, False, False,
    ]  # fmt: skip


def test_complex_subspaces_are_stored_too(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 9, dtype=torch.complex64), nn.Linear(9, 4))
    for start in (None, 1):
        with svdhooks.watch(
            model, tmp_path, quantities=["subspace_drift"], start_step=start
        ) as recorder:
            kept = next(iter(recorder._quantities)).bases()
            if start is None:
                recorder.step()
                stored = kept
    assert kept.keys() == stored.keys()
    for key, (step, vectors) in kept.items():
        assert step == 0
        torch.testing.assert_close(vectors, stored[key][1], rtol=0, atol=0)
    assert kept["U/0"][1].is_complex()


def test_two_quantities_keep_what_they_began_with_apart(tmp_path: Path) -> None:
    model = mlp(6, 9)
    go_on(tmp_path, model)
    go_on(tmp_path, model, start_step=2)
    log = svdhooks.RunLog(tmp_path)
    assert log.series("0", "drift_since_step")[1].tolist() == [0, 0, 0, 0]
    assert log.series("0", "subspace_left_overlap_start")[0].tolist() == [1, 2, 3, 4]
    _, drift = log.series("0", "drift_frobenius_norm")
    assert (drift > 0).all()


def test_a_file_of_weights_from_before_is_still_read(tmp_path: Path) -> None:
    """Layers without the name of a quantity: those of update_spectrum."""
    model = mlp(6, 9)
    first = model[0].weight.detach().clone()
    go_on(tmp_path, model)
    path = tmp_path / "svdhooks" / "base.safetensors"
    names = [name for name, _ in model.named_parameters() if name.endswith("weight")]
    layers = [name.removesuffix(".weight") for name in names]
    tensors = {layer: model.get_submodule(layer).weight.detach() for layer in layers}
    tensors["0"] = first
    steps = json.dumps(dict.fromkeys(layers, 0))
    save_file(tensors, str(path), metadata={"steps": steps})
    go_on(tmp_path, model, start_step=2)
    log = svdhooks.RunLog(tmp_path)
    assert log.series("0", "drift_since_step")[1].tolist() == [0, 0, 0, 0]
    _, size = log.series("0", "drift_frobenius_norm")
    expected = float(torch.linalg.matrix_norm(model[0].weight.detach() - first))
    assert size[-1] == pytest.approx(expected, rel=1e-5)
    # the drift of subspaces was not in it, and begins anew
    assert log.series("0", "subspace_left_overlap_start")[0].tolist() == [1, 3, 4]


def test_what_is_too_large_of_one_quantity_is_stored_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svdhooks.conductor.bases.MOST_BYTES", 400)
    model = nn.Sequential(nn.Linear(20, 10))  # 800 bytes; its vectors 240
    quantities = [SubspaceDrift(k=1), svdhooks.UpdateSpectrum()]
    with (
        pytest.warns(RecordingWarning, match="what update_spectrum began with"),
        svdhooks.watch(model, tmp_path, quantities=quantities) as recorder,
    ):
        recorder.step()
    with svdhooks.watch(
        model, tmp_path, quantities=quantities, start_step=1
    ) as recorder:
        kept = {q.name: q.bases() for q in recorder._quantities}
    assert {step for step, _ in kept["subspace_drift"].values()} == {0}
    assert not kept["update_spectrum"]


def test_one_object_serves_several_runs() -> None:
    quantity = SubspaceDrift()
    assert quantity.fresh() == quantity
    quantity.measure(svdhooks.layers.find_layers(mlp(6, 9)).layers[0], 0)
    assert quantity.bases()
    assert not quantity.fresh().bases()


@pytest.mark.usefixtures("as_a_user_calls")
def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SubspaceDrift(k=0)
    with pytest.raises(TypeError, match="whole number"):
        SubspaceDrift(k=1.5)
