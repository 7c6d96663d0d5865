"""Snapshots of vectors: what is stored is the weight, and the bias is the layer's own."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import svdhooks
from svdhooks.layers import Layer, find_layers
from svdhooks.quantities.vectors import ROUNDING, WeightVectors
from tests.oracles import planted


def stored(layer: Layer, k: int | None = None) -> dict[str, Any]:
    (record,) = WeightVectors(k=k).measure(layer, 0)
    assert record.ok
    return dict(record.values)


def linear(weight: Tensor) -> Layer:
    module = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    with torch.no_grad():
        module.weight.copy_(weight)
    return find_layers(module).layers[0]


def rebuilt(values: dict[str, Any]) -> Any:
    U, Vh = values["U"], values["Vh"]
    wide = np.complex128 if np.iscomplexobj(U) else np.float64
    return (U.astype(wide) * values["sigma"]) @ Vh.astype(wide)


def error(values: dict[str, Any], weight: Tensor) -> float:
    W = weight.detach().numpy()
    return float(np.linalg.norm(rebuilt(values) - W) / np.linalg.norm(W))


# --- the triplets ---------------------------------------------------------------------

WEIGHTS = {
    "tall": torch.randn(40, 7),
    "wide": torch.randn(7, 40),
    "square": torch.randn(30, 30),
    "of rank 3": planted(40, 20, 3).float(),
    "of rank 3 in float64": planted(20, 40, 3).double(),
    "one row": torch.randn(1, 9),
    "ill conditioned": (
        torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64))[0]
        @ torch.diag(torch.logspace(0, -12, 60, dtype=torch.float64))
        @ torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64))[0]
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("limit", [2**25, 1])
def test_all_triplets_are_the_weight_to_float32_rounding(
    name: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svdhooks.linalg._solvers.COPY_BYTES", limit)
    weight = WEIGHTS[name]
    values = stored(linear(weight))
    assert {values[x].dtype for x in ("U", "sigma", "Vh")} == {np.dtype(np.float32)}
    assert values["residual"].dtype == np.float64
    assert values["residual"][0] <= ROUNDING
    found = error(values, weight)
    assert found == pytest.approx(float(values["residual"][0]), rel=1e-3, abs=1e-12)
    top = values["U"][np.abs(values["U"]).argmax(0), np.arange(len(values["sigma"]))]
    assert (top > 0).all()
    assert (np.diff(values["sigma"]) <= 0).all()


def test_many_unresolved_values_are_not_left_out_where_they_add_up() -> None:
    """Each below 3e-8·√n·σ₁, all together 2e-5 of the norm: beyond float32's rounding."""
    n = 900
    Q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]
    sigma = torch.full((n,), 6e-7, dtype=torch.float64)
    sigma[0] = 1.0
    weight = (Q * sigma) @ Q.flip(1).T
    values = stored(linear(weight))
    assert len(values["sigma"]) == n
    assert values["residual"][0] <= ROUNDING
    assert error(values, weight) < 1e-7
    # and of rank 3 the others are no triplets
    few = stored(linear(planted(60, 50, 3).float()))
    assert len(few["sigma"]) == 3


def test_some_triplets_say_what_they_leave() -> None:
    weight = planted(30, 20, 6)
    sigma = np.linalg.svd(weight.numpy(), compute_uv=False)
    for k in (2, 6, 16):
        values = stored(linear(weight.float()), k)
        assert len(values["sigma"]) == min(k, 6)
        expected = float(np.sqrt((sigma[k:] ** 2).sum() / (sigma**2).sum()))
        found = float(values["residual"][0])
        if k == 2:
            assert found == pytest.approx(expected, rel=1e-5)
        else:  # k of the rank, or more, are the weight
            assert found <= ROUNDING


def test_a_weight_of_zeros_has_no_triplets_and_leaves_nothing() -> None:
    values = stored(linear(torch.zeros(4, 3)))
    assert values["U"].shape == (4, 0)
    assert values["residual"].tolist() == [0.0]


def test_complex_weights_are_kept_as_such() -> None:
    weight = torch.randn(6, 4, dtype=torch.complex64)
    values = stored(linear(weight))
    assert values["U"].dtype == values["bias"].dtype == np.complex64
    assert values["sigma"].dtype == np.float32
    assert error(values, weight) < 1e-6
    assert values["residual"][0] <= ROUNDING


def test_what_is_not_finite_is_a_status() -> None:
    layer = linear(torch.tensor([[1.0, torch.inf], [0.0, 1.0]]))
    (record,) = WeightVectors(k=None).measure(layer, 0)
    assert not record.ok
    assert not record.values
    layer = linear(torch.eye(3))
    layer.module.bias.data[1] = torch.nan
    (record,) = WeightVectors().measure(layer, 0)
    assert not record.ok


@pytest.mark.usefixtures("as_a_user_calls")
def test_k_is_a_number_or_none() -> None:
    assert WeightVectors(k=None).k is None
    with pytest.raises(TypeError, match="whole number"):
        WeightVectors(k="all")


# --- biases ---------------------------------------------------------------------------


def biases(model: nn.Module) -> dict[str, Tensor | None]:
    return {layer.name: layer.bias() for layer in find_layers(model).layers}


def of_weights(model: nn.Module) -> dict[str, Tensor]:
    return {layer.name: layer.weight() for layer in find_layers(model).layers}


def test_plain_layers_have_the_bias_of_their_module() -> None:
    model = nn.ModuleDict({
        "linear": nn.Linear(3, 4),
        "without": nn.Linear(3, 4, bias=False),
        "conv": nn.Conv2d(3, 4, 2),
        "turned": nn.ConvTranspose1d(3, 4, 2),
        "pair": nn.Bilinear(2, 3, 4),
        "embedding": nn.Embedding(5, 4),
    })
    found = biases(model)
    for name in ("linear", "conv", "turned", "pair"):
        assert torch.equal(found[name], model[name].bias)
        assert not found[name].requires_grad
    assert found["without"] is found["embedding"] is None


@pytest.mark.parametrize("kdim", [None, 5])
def test_attention_projections_have_their_part_of_the_bias(kdim: int | None) -> None:
    """From outside: W x + b is what the module hands to its attention."""
    model = nn.MultiheadAttention(8, 2, kdim=kdim, vdim=kdim, batch_first=True)
    with torch.no_grad():
        model.in_proj_bias.copy_(torch.arange(24.0))
        model.out_proj.bias.copy_(-torch.arange(8.0))
    found = biases(model)
    parts = [found[f"multiheadattention.{letter}_proj"] for letter in "qkv"]
    assert torch.equal(torch.cat(parts), torch.arange(24.0))
    assert torch.equal(found["multiheadattention.out_proj"], -torch.arange(8.0))
    model = nn.MultiheadAttention(8, 2, bias=False)
    assert set(biases(model).values()) == {None}


def test_gates_have_their_part_of_each_bias() -> None:
    model = nn.LSTM(3, 4, bidirectional=True, proj_size=2)
    found = biases(model)
    for parameter in ("bias_ih_l0", "bias_hh_l0_reverse"):
        weight = parameter.replace("bias", "weight")
        parts = [found[f"lstm.{weight}.{gate}"] for gate in "ifgo"]
        assert torch.equal(torch.cat(parts), getattr(model, parameter))
    assert found["lstm.weight_hr_l0"] is None
    assert set(biases(nn.GRU(3, 4, bias=False)).values()) == {None}


@pytest.mark.slow
def test_fused_projections_of_transformers_have_theirs() -> None:
    from transformers import (
        BloomConfig,
        BloomModel,
        FalconConfig,
        FalconModel,
        GPT2Config,
        GPT2Model,
    )

    gpt = GPT2Model(
        GPT2Config(vocab_size=7, n_positions=4, n_embd=8, n_layer=1, n_head=2)
    )
    bloom = BloomModel(BloomConfig(vocab_size=7, hidden_size=8, n_layer=1, n_head=2))
    falcon = FalconModel(
        FalconConfig(
            vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=4,
            new_decoder_architecture=True, num_kv_heads=2, bias=True,
        )
    )  # fmt: skip
    for model, fused in (
        (gpt, "h.0.attn.c_attn"),
        (bloom, "h.0.self_attention.query_key_value"),
        (falcon, "h.0.self_attention.query_key_value"),
    ):
        module = model.get_submodule(fused)
        layers = {x.name: x for x in find_layers(model).layers}
        features = layers[f"{fused}.q"].shape[1]
        with torch.no_grad():  # the bias as one more column of the weight
            mark = torch.randn(module.bias.shape)
            module.bias.copy_(mark)
            rows = (
                module.weight if fused.endswith("query_key_value") else module.weight.T
            )
            rows[:, 0] = mark
        for part in "qkv":
            layer = layers[f"{fused}.{part}"]
            assert layer.bias().shape == (layer.shape[0],)
            assert torch.equal(layer.bias(), layer.weight()[:, 0]), (fused, part)
            assert layer.shape[1] == features


def test_a_parametrised_bias_is_read_as_it_is_computed() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    model = nn.Linear(3, 4)
    plain = model.bias.detach().clone()
    parametrize.register_parametrization(model, "bias", Doubled())
    (found,) = biases(model).values()
    assert torch.equal(found, 2 * plain)


@pytest.mark.slow
def test_an_adapted_layer_has_the_bias_of_its_base_unless_an_adapter_adds_one() -> None:
    peft = pytest.importorskip("peft")
    for adds in (False, True):
        model = nn.Sequential(nn.Linear(6, 5))
        bias = model[0].bias
        options = peft.LoraConfig(r=2, target_modules=["0"], lora_bias=adds)
        adapted = peft.inject_adapter_in_model(options, model)
        found = biases(adapted)
        assert found["0.lora.default"] is None
        assert (found["0"] is None) if adds else torch.equal(found["0"], bias)


def test_snapshots_hold_the_bias(tmp_path: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    sink = svdhooks.MemorySink()
    with svdhooks.watch(
        model,
        tmp_path,
        sinks=[sink],
        quantities=[WeightVectors(k=1)],
        max_overhead=None,
    ):
        pass
    expected = model[0].bias.detach().numpy()
    for source in (sink, svdhooks.RunLog(tmp_path)):
        np.testing.assert_array_equal(source.vectors("0")[1]["bias"][0], expected)
        assert "bias" not in source.vectors("1")[1]
