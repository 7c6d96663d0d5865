"""Moments of points, against numpy on what the live model computes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import svdhooks
from svdhooks.analysis.snapshots import PointMoment, point_moment
from svdhooks.layers import PointValue, find_layers
from svdhooks.quantities.accumulating import Accumulation
from svdhooks.quantities.moments import MomentsObserver, PointMoments
from svdhooks.quantities.protocols import ProbeContext
from tests.models import mlp


def record(model: nn.Module, batch: Any, **options: Any) -> svdhooks.MemorySink:
    """One record of a model as it is."""
    sink = svdhooks.MemorySink()
    options = {"quantities": [PointMoments()], **options}
    with svdhooks.watch(
        model, None, probe=batch, sinks=[sink], max_overhead=None, **options
    ):
        pass
    return sink


def outputs(model: nn.Module, batch: Tensor, name: str) -> Tensor:
    """What leaves a module, and what enters it."""
    seen = []
    module = model.get_submodule(name)
    hook = module.register_forward_hook(
        lambda _m, given, out: seen.append((given[0], out))
    )
    with torch.no_grad():
        model.eval()(batch)
    hook.remove()
    ((entering, leaving),) = seen
    return entering, leaving


def check(found: PointMoment | None, samples: Tensor, rel: float = 1e-12) -> None:
    """Against two passes over all samples in numpy."""
    assert found is not None
    X = samples.double().numpy()
    size = float(np.square(X).sum(1).mean())
    assert found.count == len(X)
    np.testing.assert_allclose(found.mean, X.mean(0), atol=rel * size**0.5)
    expected = np.cov(X.T, bias=True)
    np.testing.assert_allclose(found.covariance, expected, atol=rel * size)
    raw = X.T @ X / len(X)
    np.testing.assert_allclose(found.second_moment(), raw, atol=rel * size)


def moment(sink: svdhooks.MemorySink, layer: str, point: str) -> PointMoment | None:
    return point_moment(sink, layer, point, int(sink.steps[-1]))


def observer(model: nn.Module, **known: Any) -> tuple[MomentsObserver, Any]:
    (layer,) = find_layers(model).layers
    context = ProbeContext(0, None, "tokens", {}, **known)
    return PointMoments().observer([layer], context), layer


# --- linear layers --------------------------------------------------------------------


@pytest.mark.parametrize("count", [200, 4], ids=["many", "fewer than features"])
def test_a_linear_layer_has_the_moments_of_its_samples(count: int) -> None:
    model, batch = mlp(6, 9), 3.0 + torch.randn(count, 6)
    sink = record(model, batch)
    for name in [x.name for x in find_layers(model).layers]:
        entering, leaving = outputs(model, batch, name)
        check(moment(sink, name, "input"), entering)
        check(moment(sink, name, "output"), leaving)
    first = sink.of("moments", "0")
    assert [r.point for r in first] == ["input_moments", "output_moments"]
    assert [r.measures for r in first] == 2 * [{"count": float(count)}]
    assert all(("sample_limited" in r.marks) == (count == 4) for r in first)


def test_the_triangle_is_that_of_the_rows() -> None:
    batch = torch.randn(50, 6)
    values = record(mlp(6, 9), batch).of("moments", "0")[0].values
    expected = np.cov(batch.double().numpy().T, bias=True)
    rows = [expected[i, i:] for i in range(6)]
    np.testing.assert_allclose(values["covariance"], np.concatenate(rows), atol=1e-12)
    assert values["covariance"].dtype == values["mean"].dtype == np.float64
    assert values["samples"].tolist() == [50]


def test_the_bias_comes_off_before_the_second_moment() -> None:
    model, batch = nn.Sequential(nn.Linear(6, 5)), torch.randn(80, 6)
    with torch.no_grad():
        model[0].bias.fill_(40.0)
    found = moment(record(model, batch), "0", "output")
    assert found is not None
    bias = model[0].bias.detach().numpy()
    X, W = batch.double(), model[0].weight.detach().double()
    plain = (X @ W.T).T @ (X @ W.T) / len(X)
    # the output was rounded to float32 with the bias in it
    np.testing.assert_allclose(found.second_moment(bias), plain, atol=40 * 1e-6)
    centred = found.second_moment(bias, center=True)
    np.testing.assert_array_equal(centred, found.covariance)
    with pytest.raises(ValueError, match=r"bias of shape \(2,\), expected \(5,\)"):
        found.second_moment(np.ones(2))


def test_several_calls_are_one_stream_of_samples() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    model, batch = Twice(), torch.randn(30, 5)
    with torch.no_grad():
        between = model.layer(batch)
    found = moment(record(model, batch), "layer", "input")
    check(found, torch.cat([batch, between]))


# --- tokens ---------------------------------------------------------------------------


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.up = nn.Linear(6, 8)
        self.conv = nn.Conv1d(8, 4, 3, padding=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.conv(torch.relu(self.up(self.embedding(input_ids))).mT)


def padded() -> dict[str, Tensor]:
    mask = torch.arange(7) < torch.tensor([7, 3, 5, 1])[:, None]
    return {"input_ids": torch.randint(0, 20, (4, 7)), "attention_mask": mask.long()}


@pytest.mark.parametrize("samples", ["tokens", "last", "mean"])
def test_padding_is_no_sample_and_a_sample_is_what_was_asked_for(samples: Any) -> None:
    model, batch = Tokens(), padded()
    options = svdhooks.ProbeOptions(mask="attention_mask", samples=samples)
    sink = record(model, batch, probe_options=options)
    with torch.no_grad():
        embedded = model.embedding(batch["input_ids"])
    mask, lengths = batch["attention_mask"].bool(), batch["attention_mask"].sum(1)
    rows = [one[: int(n)] for one, n in zip(embedded, lengths, strict=True)]
    chosen = {
        "tokens": torch.cat(rows),
        "last": torch.stack([each[-1] for each in rows]),
        "mean": torch.stack([each.mean(0) for each in rows]),
    }
    rel = 1e-7 if samples == "mean" else 1e-12  # the mean is taken in float32
    check(moment(sink, "up", "input"), chosen[samples], rel)
    # of a convolution over tokens: the patches around those that count
    with torch.no_grad():
        maps = torch.relu(model.up(embedded)).mT
    cut = functional.unfold(maps.unsqueeze(2), (1, 3), padding=(0, 1)).mT[mask]
    check(moment(sink, "conv", "input"), cut)
    with torch.no_grad():
        check(moment(sink, "conv", "output"), model.conv(maps).mT[mask])


# --- what is left out, and what fails -------------------------------------------------


def test_points_without_moments_are_listed_with_the_reason() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Linear(70, 5)
            self.patched = nn.Conv2d(3, 5, 5)
            self.grouped = nn.Conv2d(4, 6, 3, groups=2)
            self.turned = nn.ConvTranspose2d(3, 4, 2)
            self.pair = nn.Bilinear(3, 4, 5)

    layers = {x.name: x for x in find_layers(Several()).layers}
    quantity = PointMoments(max_features=64)
    reasons = {name: quantity.skipped_points(x) for name, x in layers.items()}
    assert reasons["wide"] == {"input": "70 features exceed max_features=64"}
    assert reasons["patched"] == {"input": "75 features exceed max_features=64"}
    assert "each group" in reasons["grouped"]["input"]
    for name in ("turned", "pair"):
        assert "does not multiply its input alone" in reasons[name]["input"]
    assert all(quantity.measured_points(x) == ["output"] for x in layers.values())
    only = PointMoments(points=("input",), max_features=80)
    assert only.measured_points(layers["patched"]) == ["input"]


@pytest.mark.usefixtures("as_a_user_calls")
def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="expected some of"):
        PointMoments(points=("weight",))
    with pytest.raises(ValueError, match="expected some of"):
        PointMoments(points=())
    with pytest.raises(ValueError, match="at least 1"):
        PointMoments(max_features=0)
    with pytest.raises(TypeError, match="whole number"):
        PointMoments(max_features=2.5)


def test_samples_that_are_not_finite_are_a_status_and_leave_no_arrays() -> None:
    batch = torch.randn(20, 6)
    batch[3, 2] = torch.nan
    with pytest.warns(svdhooks.reports.RecordingWarning, match="non-finite"):
        sink = record(nn.Sequential(nn.Linear(6, 4)), batch)
    found = sink.of("moments", "0")
    assert {r.ok for r in found} == {False}
    assert {field for r in found for field in r.values} == {"count"}
    assert moment(sink, "0", "input") is None


def test_what_was_not_seen_has_a_status() -> None:
    seen, _ = observer(nn.Linear(3, 2))
    records = seen.records()
    assert [r.status for r in records] == 2 * ["not called in the probe"]
    assert [r.point for r in records] == ["input_moments", "output_moments"]


def test_complex_samples_are_refused() -> None:
    seen, layer = observer(nn.Linear(3, 2))
    with pytest.raises(TypeError, match="moments are of real samples"):
        seen.receive(layer, {"input": PointValue(torch.randn(5, 3) + 0j)})


def test_the_same_tensor_is_added_up_once_but_for_patches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(5, 4), nn.Linear(5, 4)
            self.first, self.second = nn.Conv1d(3, 2, 2), nn.Conv1d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            _ = self.first(x), self.second(x)
            return self.q(x) + self.k(x)

    added: list[tuple[str, str]] = []
    add = Accumulation._add
    monkeypatch.setattr(
        Accumulation,
        "_add",
        lambda self, key, *rest: added.append(key) or add(self, key, *rest),
    )
    model, batch = Branches(), torch.randn(6, 3, 5)
    sink = record(model, batch)
    inputs = [name for name, point in added if point == "input"]
    assert sorted(inputs) == ["first", "q", "second"]
    check(moment(sink, "k", "input"), batch.flatten(0, 1))
    for name in ("first", "second"):
        kernel = model.get_submodule(name).kernel_size
        cut = functional.unfold(batch.unsqueeze(2), (1, *kernel)).mT.flatten(0, 1)
        check(moment(sink, name, "input"), cut)


def test_the_training_forward_can_be_observed() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    quantity = PointMoments(schedule=svdhooks.every(2))
    sink, batches = svdhooks.MemorySink(), [torch.randn(8, 2, 6) for _ in range(4)]
    with svdhooks.watch(
        model,
        None,
        sinks=[sink],
        quantities=[quantity],
        observe="training",
        max_overhead=None,
    ) as recorder:
        for batch in batches:
            model(batch)
            recorder.step()
    steps = [
        r.step for r in sink.of("moments", "0") if r.ok and r.point == "input_moments"
    ]
    assert steps == [2, 4]
    seen = torch.cat(batches[2:])
    found = point_moment(sink, "0", "input", 4)
    check(found, functional.unfold(seen.unsqueeze(2), (1, 3)).mT.flatten(0, 1))
