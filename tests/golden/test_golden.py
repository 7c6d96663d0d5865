"""Well-known models: their layers under golden names, and proofs that they are those."""

import functools
import json

import pytest
import torch
from torch import Tensor

from svdhooks.layers import LayerTable, find_layers
from tests.golden.listing import FOLDER, listing
from tests.golden.models import MODELS, build
from tests.golden.truth import observable, probabilities, residual, run, uncounted

pytestmark = [
    # transformers' own: of its modules, and of tiny vocabularies
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*nested_tensor.*:UserWarning"),
]


@functools.cache
def _case(name: str):
    model, batch = build(name)
    return model, batch, find_layers(model)


def _layers(table: LayerTable):
    return {layer.name: layer for layer in table.layers}


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_those_of_the_golden_list(name):
    """Hazard 38: if the change is meant: ``python -m tests.golden`` writes the lists anew."""
    expected = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert listing(_case(name)[2]) == expected


@pytest.mark.parametrize("name", MODELS)
def test_every_matrix_is_watched_or_skipped_exactly_once(name):
    """Hazard 38: tied, fused, expert and adapter weights."""
    model, _, table = _case(name)
    assert uncounted(model, table) == []


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_what_its_row_says(name):
    for layer in _case(name)[2].layers:
        row = json.loads(json.dumps(layer.describe()))
        blocks = [row.get("experts") or row["groups"]]
        several = blocks if layer.weight().ndim == 3 else []
        assert [*several, *row["shape"]] == list(layer.weight().shape)
        values = torch.linalg.svdvals(layer.weight())
        inside = values if row.get("experts") else values.flatten()
        assert row["rank_limit"] <= inside.shape[-1]
        assert layer.factors is not None or row["rank_limit"] == inside.shape[-1]


@pytest.mark.parametrize("name", ["gpt2", "mixtral", "lora"])
def test_a_forgotten_or_doubled_layer_would_be_noticed(name):
    model, _, table = _case(name)
    for layers in (
        table.layers[:-2] + table.layers[-1:],
        (*table.layers, table.layers[3]),
    ):
        assert uncounted(model, LayerTable(layers, table.skipped))


UNSEEN = {
    # a table looked up, weights used as functions, weights inside fused kernels
    "embedding": "embedding",
    "experts": "experts",
    "lstm": "lstm",
    "lora adapter": "adapter",
}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_the_inputs_times_the_weight(name):
    """Hazard 13 and 38: what is not seen is known by its kind."""
    model, batch, table = _case(name)
    seen = run(model, table, batch)
    proved = observable(table.layers, seen)
    for layer in proved:
        entering, leaving = (
            seen.points[layer.name, point][0] for point in ("input", "output")
        )
        assert leaving.shape[-1] == layer.points["output"]
        spread = float(leaving.std())  # tiny behind many fresh batch norms
        assert residual(layer, entering, leaving) < 1e-9 * spread, layer.name
    unproved = {x.name for x in table.layers} - {x.name for x in proved}
    for layer in table.layers:
        if layer.name in unproved:
            # not observable by its kind, or used as a function and known for it
            known = any(layer.kind.startswith(kind) for kind in UNSEEN)
            functional = name == "mamba" and layer.name.endswith(("conv1d", "dt_proj"))
            assert known or functional or layer.name.endswith("out_proj"), layer.name
    assert len(proved) >= len(table.layers) // 3 or name == "lstm"


def test_a_wrong_slice_would_be_noticed():
    model, batch, table = _case("gpt2")
    seen = run(model, table, batch)
    first, second = table.layers[2:4]
    entering = seen.points[first.name, "input"][0]
    assert residual(first, entering, seen.points[second.name, "output"][0]) > 1e-3


# --- fused projections, split by hand ---------------------------------------------------


def _raw(model, path: str) -> Tensor:
    return model.get_parameter(path).detach()


def _by_hand(name: str, model) -> dict[str, list[Tensor]]:
    """q, k, v of the first block as each model's forward takes them apart."""
    if name == "gpt2":  # split(embed_dim, dim=2) of x @ w
        path = "transformer.h.0.attn.c_attn"
        return {path: list(_raw(model, f"{path}.weight").T.split(16))}
    if name == "phi3":  # [..., :16], [..., 16:24], [..., 24:]
        path = "model.layers.0.self_attn.qkv_proj"
        return {path: list(_raw(model, f"{path}.weight").split([16, 8, 8]))}
    if name == "falcon_grouped":  # view(…, -1, heads // keys + 2, head_dim)
        path = "transformer.h.0.self_attention.query_key_value"
        rows = list(_raw(model, f"{path}.weight").split(4))
        return {
            path: [
                torch.cat([*rows[0:2], *rows[4:6]]),
                torch.cat([rows[2], rows[6]]),
                torch.cat([rows[3], rows[7]]),
            ]
        }
    if name == "falcon_multi_query":  # view(…, heads + 2, head_dim)
        path = "transformer.h.0.self_attention.query_key_value"
        rows = list(_raw(model, f"{path}.weight").split(4))
        return {path: [torch.cat(rows[:4]), rows[4], rows[5]]}
    if name == "codegen":  # reshape(…, 4, -1), split(4): query, value, key
        path = "transformer.h.0.attn.qkv_proj"
        rows = list(_raw(model, f"{path}.weight").split(4))
        return {path: [torch.cat(rows[i::3]) for i in (0, 2, 1)]}
    # view(…, heads, 3, head_dim)
    path = {
        "gpt_neox": "gpt_neox.layers.0.attention.query_key_value",
        "bloom": "transformer.h.0.self_attention.query_key_value",
        "falcon": "transformer.h.0.self_attention.query_key_value",
    }[name]
    rows = list(_raw(model, f"{path}.weight").split(4))
    return {path: [torch.cat(rows[i::3]) for i in range(3)]}


@pytest.mark.parametrize(
    "name",
    [
        "gpt2",
        "phi3",
        "gpt_neox",
        "bloom",
        "falcon",
        "falcon_multi_query",
        "falcon_grouped",
        "codegen",
    ],
)
def test_queries_keys_and_values_are_those_of_the_models_forward(name):
    model, _, table = _case(name)
    layers = _layers(table)
    for path, expected in _by_hand(name, model).items():
        for letter, by_hand in zip("qkv", expected, strict=True):
            found = layers[f"{path}.{letter}"].weight()
            assert torch.equal(found, by_hand)
            torch.testing.assert_close(
                torch.linalg.svdvals(found), torch.linalg.svdvals(by_hand)
            )


def test_gate_and_up_of_experts_are_those_of_the_models_forward():
    for name, letters in (("mixtral", "halves"), ("gpt_oss", "alternating")):
        model, _, table = _case(name)
        path = "model.layers.0.mlp.experts.gate_up_proj"
        raw = _raw(model, path)
        gate, up = (
            _layers(table)[f"{path}.{part}"].weight() for part in ("gate", "up")
        )
        if letters == "halves":  # F.linear(x, w).chunk(2)
            assert torch.equal(torch.cat([gate, up], 1), raw)
        else:  # (x @ w)[..., ::2] and [..., 1::2]
            assert torch.equal(torch.stack([gate, up], 2).flatten(1, 2).mT, raw)


# --- pairs of queries and keys ------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["gpt2", "bert", "vit", "lora", "gpt_bigcode", "gpt_bigcode_multi_head"]
)
def test_attention_of_the_model_follows_from_its_pairs(name):
    """Without rotary embeddings: proves heads, their order and the scale."""
    model, batch, table = _case(name)
    seen = run(model, table, {**batch, "output_attentions": True})
    assert len(table.attention) == len(seen.output.attentions) == 2
    for pair, expected in zip(table.attention, seen.output.attentions, strict=True):
        q, k = (seen.points[x.name, "output"][0] for x in (pair.query, pair.key))
        found = probabilities(q, k, pair, causal=name not in {"bert", "vit"})
        torch.testing.assert_close(found, expected)


def test_torchs_own_attention_follows_from_its_pair():
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    model = torch.nn.ModuleDict({"a": attention})
    x, y = torch.randn(3, 5, 8).double(), torch.randn(3, 4, 8).double()
    outputs = []
    model.forward = lambda x, y: outputs.append(
        attention(x, y, y, average_attn_weights=False)
    )
    table = find_layers(model)
    seen = run(model, table, {"x": x, "y": y})
    (pair,) = table.attention
    q, k = (seen.points[x.name, "output"][0] for x in (pair.query, pair.key))
    torch.testing.assert_close(probabilities(q, k, pair, False), outputs[0][1])


@pytest.mark.parametrize("name", MODELS)
def test_pairs_and_heads_fit_their_weights(name):
    _, _, table = _case(name)
    for pair in table.attention:
        assert pair.query.shape[0] == pair.heads * pair.head_dim
        assert pair.key.shape[0] == pair.key_heads * pair.head_dim
        assert pair.query.heads == pair.heads
        assert pair.key.heads == pair.key_heads
        assert pair.query in table.layers
    for layer in table.layers:
        if layer.heads:
            blocks = layer.head_weights()
            whole = torch.cat(list(blocks), layer.head_axis)
            assert torch.equal(whole, layer.weight())
