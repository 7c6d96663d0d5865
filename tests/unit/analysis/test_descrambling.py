"""Descrambled layers of a log against the live model, and against the definitions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import svdhooks
from svdhooks import linalg
from svdhooks.analysis import DescrambledLayer, descrambled

QUANTITIES: list[Any] = [
    svdhooks.WeightVectors(k=None, schedule=svdhooks.at(0, 1)),
    svdhooks.PointMoments(schedule=svdhooks.at(0, 1)),
]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 16, 8)
        self.head = nn.Linear(8, 5, bias=False)
        with torch.no_grad():
            self.fc.bias += 2.0

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.relu(self.conv(x)).flatten(1)
        return self.head(torch.tanh(self.fc(maps)))


def record(
    log_dir: Path, quantities: Any = QUANTITIES
) -> tuple[Net, Tensor, svdhooks.MemorySink]:
    """The model at step 1, its reference batch, and what was recorded."""
    model, batch, sink = Net(), torch.randn(200, 2, 4, 4), svdhooks.MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with svdhooks.watch(
        model,
        log_dir,
        every=1,
        sinks=[sink],
        probe=batch,
        quantities=quantities,
        max_overhead=None,
    ) as recorder:
        model(torch.randn(16, 2, 4, 4)).square().mean().backward()
        optimizer.step()
        recorder.step()
    return model, batch, sink


def live(model: Net, batch: Tensor) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Weight, what enters and what leaves it, by the model; float64."""
    with torch.no_grad():
        maps = model.conv(batch)
        cut = functional.unfold(batch, 3, padding=1).mT.flatten(0, 1)
        flat = torch.relu(maps).flatten(1)
        hidden = torch.tanh(model.fc(flat))
    weights = {
        name: module.weight.detach().flatten(1).double()
        for name, module in model.named_children()
    }
    entering = {"conv": cut.double(), "fc": flat.double(), "head": hidden.double()}
    return {
        name: (W, entering[name], entering[name] @ W.T) for name, W in weights.items()
    }


def second(samples: Tensor, center: bool = False) -> Tensor:
    centred = samples - samples.mean(0) if center else samples
    return centred.T @ centred / len(samples)


def close(found: DescrambledLayer, expected: Tensor) -> None:
    """To float32 rounding, which a small gap between eigenvalues magnifies."""
    scale = float(expected.abs().max())
    np.testing.assert_allclose(found.descrambled, expected.numpy(), atol=1e-4 * scale)


@pytest.mark.parametrize("center", [False, True])
def test_the_log_alone_descrambles_as_the_model_does(
    tmp_path: Path, center: bool
) -> None:
    model, batch, sink = record(tmp_path)
    for name, (W, entering, leaving) in live(model, batch).items():
        expected = linalg.descramble(second(leaving, center))
        backward = linalg.descramble(second(entering, center))
        for source in (svdhooks.RunLog(tmp_path), sink):
            found = descrambled(source, name, center=center)
            close(found, expected.weight(W))
            assert found.descrambling.cost == pytest.approx(expected.cost, rel=1e-4)
            assert (found.layer, found.step, found.side) == (name, 1, "out")
            assert (found.data, found.operator) == ("measured", "fourier2")
            assert found.centred is center
            assert found.weight.shape == found.descrambled.shape == tuple(W.shape)
            found = descrambled(source, name, side="in", center=center)
            cost = backward.cost
            assert found.descrambling.cost == pytest.approx(cost, rel=1e-3)
            # W Pᵀ reads P x as W reads x
            P = found.descrambling.P
            read = torch.from_numpy(found.descrambled) @ P
            torch.testing.assert_close(read.float(), W.float(), rtol=1e-4, atol=1e-5)


def test_forms_of_the_data_that_are_the_same_make_no_angle(tmp_path: Path) -> None:
    model, batch, sink = record(tmp_path)
    W = model.fc.weight.detach().double()
    for name, features in (("conv", 6), ("fc", 8), ("head", 5)):
        found = descrambled(sink, name)
        assert set(found.angles) == {"large", "white"}
        assert all(a.shape == (features,) for a in found.angles.values())
        # the moment of the same samples, by the weight and the moment of its input
        assert float(found.angles["large"].max()) < 0.1
        assert float(found.angles["white"][0]) > 1.0  # their input is not white
    large, white = (descrambled(sink, "fc", data=data) for data in ("large", "white"))
    assert set(large.angles) == {"measured", "white"}
    close(large, linalg.descramble(second(live(model, batch)["fc"][2])).weight(W))
    # P* W = T Σ Vᵀ
    T = linalg.smooth_basis(8)[1]
    sigma, Vh = torch.linalg.svd(W, full_matrices=False)[1:]
    rows = T.T @ torch.from_numpy(white.descrambled)
    signs = (rows * Vh).sum(1).sign()
    torch.testing.assert_close(
        rows, (signs * sigma)[:, None] * Vh, rtol=1e-4, atol=1e-5
    )
    first = torch.linalg.svd(W)[0][:, 0]
    predicted = torch.linalg.eigh(second(live(model, batch)["fc"][2]))[1][:, -1]
    angle = np.degrees(np.arccos(abs(float(first @ predicted))))
    assert white.angles["measured"][0] == pytest.approx(angle, rel=1e-3)


def test_without_the_bias_the_leading_component_is_not_the_bias(tmp_path: Path) -> None:
    model, _, sink = record(tmp_path)
    bias = model.fc.bias.detach().double()
    u = descrambled(sink, "fc").descrambling.U[:, 0]
    with_bias = sink.vectors("fc", "output_moments")[1]["mean"][-1]
    left_in = torch.from_numpy(with_bias) / np.linalg.norm(with_bias)
    assert abs(float(left_in @ bias / bias.norm())) > 0.95
    assert abs(float(u @ bias / bias.norm())) < 0.9


class Handmade:
    """A source of one layer, of which everything is known."""

    layers = ("fc",)
    pairs: tuple[Any, ...] = ()

    def __init__(self, W: Tensor, samples: Tensor | None = None, k: int | None = None):
        U, sigma, Vh = (part.numpy() for part in torch.linalg.svd(W, False))
        self.described = {"fc": {"kind": "linear", "points": {"input": W.shape[1]}}}
        self.stored = {
            "weight": {"U": [U[:, :k]], "sigma": [sigma[:k]], "Vh": [Vh[:k]]}
        }
        if samples is not None:
            C = torch.cov(samples.T, correction=0).numpy()
            self.stored["input_moments"] = {
                "covariance": [C[np.triu_indices(len(C))]],
                "mean": [samples.mean(0).numpy()],
                "samples": [np.array([float(len(samples))])],
            }

    def vectors(self, layer: str, point: str = "weight") -> Any:
        if point not in self.stored:
            raise KeyError(point)
        return np.array([5]), self.stored[point]


def test_small_gaps_make_spans_and_more_samples_smaller_ones() -> None:
    Q = torch.linalg.qr(torch.randn(6, 6).double())[0]
    W = Q * torch.tensor([3.0, 2.99, 2, 1, 0.999, 0.5]).double()
    white = descrambled(Handmade(W), "fc", data="white")
    assert white.spans == []
    assert white.angles == {}
    assert white.step == 5
    x = torch.linalg.qr(torch.randn(100, 6).double())[0] * 10  # white, not centred
    large = descrambled(Handmade(W, x), "fc", data="large")
    assert large.gap == pytest.approx(0.1)
    assert large.spans == [range(2), range(3, 6)]
    torch.testing.assert_close(
        large.descrambling.eigenvalues, white.descrambling.eigenvalues
    )
    more = descrambled(Handmade(W, x.repeat(100, 1)), "fc", data="large")
    assert more.spans == [range(2), range(3, 5)]


def test_an_operator_of_the_user_is_taken() -> None:
    W, D = torch.randn(4, 6).double(), torch.randn(4, 4)
    found = descrambled(Handmade(W), "fc", data="white", operator=D)
    assert found.operator == "custom"
    expected = linalg.descramble(W @ W.T, D)
    assert found.descrambling.cost == pytest.approx(expected.cost)


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "no moments of its output at step 5.*at steps none.*data='white'"),
        ({"side": "in"}, "no moments of its input at step 5.*PointMoments"),
        ({"data": "large"}, "no moments of its input"),
        ({"side": "left"}, "'left', expected one of out, in"),
        ({"data": "guessed"}, "'guessed', expected one of measured, large, white"),
        ({"side": "in", "data": "white"}, "of white input every P is as good"),
        ({"step": 3}, "at step 3; there are some at steps 5"),
        ({"data": "white", "operator": torch.eye(3)}, r"\(3, 3\), expected \(4, 4\)"),
    ],
)
def test_what_cannot_be_done_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        descrambled(Handmade(torch.randn(4, 6).double()), "fc", **changed)


def test_a_weight_that_is_not_whole_is_refused() -> None:
    source = Handmade(torch.randn(4, 6).double(), k=2)
    with pytest.raises(ValueError, match=r"WeightVectors\(k=None\)"):
        descrambled(source, "fc", data="white")


def test_a_complex_weight_is_refused() -> None:
    source = Handmade(torch.randn(4, 6, dtype=torch.complex128))
    with pytest.raises(TypeError, match="complex128"):
        descrambled(source, "fc", data="white")


def test_steps_with_moments_are_named_where_this_one_has_none(tmp_path: Path) -> None:
    early = svdhooks.PointMoments(schedule=svdhooks.at(0))
    _, _, sink = record(tmp_path, [QUANTITIES[0], early])
    with pytest.raises(ValueError, match="at step 1; there are some at steps 0"):
        descrambled(sink, "fc")
    assert descrambled(sink, "fc", step=0).step == 0


def test_a_tied_layer_is_descrambled_but_for_its_unrecorded_bias():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 5), nn.Tanh(), nn.Linear(5, 9))
    model[2].weight = model[0].weight
    batch = torch.randint(9, (60,))
    sink = svdhooks.snapshot(model, batch)
    with pytest.raises(ValueError, match="shares the weight of '0', and a bias"):
        descrambled(sink, "2")
    with torch.no_grad():
        entering = model[1](model[0](batch)).double()
    W = model[2].weight.detach().double()
    large = descrambled(sink, "2", data="large").descrambling
    expected = linalg.descramble(second(entering @ W.T))
    assert large.identity_cost == pytest.approx(expected.identity_cost, rel=1e-5)
    centred = descrambled(sink, "2", center=True).descrambling
    expected = linalg.descramble(second(entering @ W.T, center=True))
    assert centred.identity_cost == pytest.approx(expected.identity_cost, rel=1e-5)
    inside = descrambled(sink, "2", side="in").descrambling
    expected = linalg.descramble(second(entering))
    assert inside.identity_cost == pytest.approx(expected.identity_cost, rel=1e-5)
