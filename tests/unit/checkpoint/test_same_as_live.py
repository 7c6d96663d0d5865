"""A scan of a checkpoint gives what a scan of the model gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import svdhooks
from svdhooks import scan_checkpoint
from svdhooks.layers import find_layers
from tests import models
from tests.architectures import libraries, networks
from tests.golden import models as golden

AWKWARD = {
    "everything": models.Everything,
    "checkpointed": lambda: models.Checkpointed(True),
    "tied": models.Tied,
    "reused": models.Reused,
    "two_inputs": models.TwoInputs,
    "mlp": lambda: models.mlp(4, 5, 3),
    "one_layer": lambda: nn.Linear(4, 3),
    "bidirectional": lambda: nn.ModuleDict({"r": nn.LSTM(3, 4, 2, bidirectional=True)}),
    "projected": lambda: nn.ModuleDict({"r": nn.LSTM(3, 6, proj_size=2)}),
    "cells": lambda: nn.ModuleDict({"a": nn.GRUCell(3, 4), "b": nn.LSTMCell(3, 4)}),
    "cross": lambda: nn.ModuleDict({"a": nn.MultiheadAttention(8, 2, kdim=3, vdim=5)}),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.Linear(6, 2)),
    "norms": lambda: nn.ModuleDict({"n": nn.LayerNorm([3, 4]), "l": nn.Linear(4, 2)}),
}
TORCH = ("transformer", "lstm", "gru", "momentum_contrast", "vae")
QUICK = ("gpt2", "gpt_oss", "gpt_neox", "mobilenet")
HUGGING_FACE = (
    "llama",
    "bert",
    "vit",
    "mixtral",
    "phi3",
    "bloom",
    "falcon",
    "falcon_multi_query",
    "falcon_grouped",
    "codegen",
    "gpt_bigcode",
    "gpt_bigcode_multi_head",
    "mamba",
    "resnet",
)


def assert_same(model: nn.Module, path: Path, in_order: bool = True) -> None:
    live = {record.layer: record for record in svdhooks.scan(model)}
    rows = {layer.name: layer.describe() for layer in find_layers(model).layers}
    scan = scan_checkpoint(path)
    found = {record.layer: record for record in scan.layers}
    assert (list(found) == list(live)) if in_order else (set(found) == set(live))
    for name, record in live.items():
        np.testing.assert_array_equal(found[name].spectrum, record.spectrum)
        assert found[name].measures == pytest.approx(record.measures, nan_ok=True)
        assert found[name].method == record.method
        for key in ("kind", "shape", "groups", "rank_limit", "dtype", "points"):
            assert scan.rows[name][key] == rows[name][key], (name, key)


@pytest.mark.parametrize("name", AWKWARD)
def test_a_state_dict_gives_what_the_model_gives(name: str, tmp_path: Path) -> None:
    model = AWKWARD[name]()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    assert_same(model, tmp_path / "a.pt")


@pytest.mark.parametrize("name", TORCH)
def test_networks_of_torch(name: str, tmp_path: Path) -> None:
    model = getattr(networks, name)().model
    torch.save(model.state_dict(), tmp_path / "a.pt")
    assert_same(model, tmp_path / "a.pt")


@pytest.mark.parametrize(
    "name",
    [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in HUGGING_FACE)],
)
def test_libraries_with_their_config(name: str, tmp_path: Path) -> None:
    model = golden.build(name)[0]
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    model.config.save_pretrained(tmp_path)
    live = {record.layer: record for record in svdhooks.scan(model)}
    scan = scan_checkpoint(tmp_path)
    assert [record.layer for record in scan.layers] == list(live)
    for record in scan.layers:
        np.testing.assert_array_equal(record.spectrum, live[record.layer].spectrum)


def test_safetensors_hold_the_same(tmp_path: Path) -> None:
    model = golden.build("llama")[0]
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert_same(model, tmp_path / "model.safetensors", in_order=False)


def test_tied_weights_are_measured_once(tmp_path: Path) -> None:
    torch.save(models.Tied().state_dict(), tmp_path / "a.pt")
    scan = scan_checkpoint(tmp_path / "a.pt")
    assert [record.layer for record in scan.layers] == ["embedding", "body"]
    assert scan.rows["head"]["tied_to"] == "embedding"
    assert dict(scan.skipped)["head"].startswith("tied to embedding")


def test_a_fused_projection_stays_whole_without_its_config(tmp_path: Path) -> None:
    model = golden.build("gpt_neox")[0]
    torch.save(model.state_dict(), tmp_path / "a.pt")
    scan = scan_checkpoint(tmp_path / "a.pt", layers="*query_key_value*")
    assert all(record.layer.endswith("query_key_value") for record in scan.layers)
    assert all("config.json" in row["note"] for row in scan.rows.values())


def test_a_bilinear_map_has_the_shapes_of_a_convolution(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Bilinear(3, 4, 5)})
    torch.save(model.state_dict(), tmp_path / "a.pt")
    (live,), scan = svdhooks.scan(model), scan_checkpoint(tmp_path / "a.pt")
    np.testing.assert_array_equal(scan.layers[0].spectrum, live.spectrum)
    assert scan.rows["a"]["kind"] == "conv1d"  # which a state dict cannot tell


def test_what_groups_are_taken_for_is_said(tmp_path: Path) -> None:
    model = networks.unet().model
    torch.save(model.state_dict(), tmp_path / "a.pt")
    scan = scan_checkpoint(tmp_path / "a.pt")
    whole = model.deep[0].weight.detach().flatten(1)
    record = next(record for record in scan.layers if record.layer == "deep.0")
    expected = torch.linalg.svdvals(whole.double()).numpy()
    np.testing.assert_allclose(record.spectrum, expected, rtol=1e-5)
    assert "groups" in scan.rows["deep.0"]["note"]


def test_what_is_parametrised_by_an_unknown_rule_is_listed(tmp_path: Path) -> None:
    model = networks.parametrized().model
    torch.save(model.state_dict(), tmp_path / "a.pt")
    live = {record.layer: record for record in svdhooks.scan(model)}
    scan = scan_checkpoint(tmp_path / "a.pt")
    assert {record.layer for record in scan.layers} == live.keys() - {"3"}
    for record in scan.layers:  # weight_norm and spectral_norm are computed
        np.testing.assert_allclose(
            record.spectrum, live[record.layer].spectrum, rtol=1e-5
        )
    assert "parametrised" in dict(scan.skipped)["3.weight"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "lora_alpha": 5},
        {"alpha_pattern": {"up_proj": 7}, "rank_pattern": {"q_proj": 3}},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"modules_to_save": ["lm_head"]},
        {"use_dora": True},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
@pytest.mark.filterwarnings("ignore")  # peft's own, on saving
def test_adapters_of_peft(options: dict, tmp_path: Path) -> None:
    model = libraries.lora(**options).model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:  # B begins as zero
                parameter.normal_()
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    live = {r.layer: r for r in svdhooks.scan(model)}
    own = {n for n in live if ".lora." in n or "modules_to_save" in n}
    scan = scan_checkpoint(tmp_path)
    assert {record.layer for record in scan.layers} == own
    for record in scan.layers:
        assert record.measures == pytest.approx(
            live[record.layer].measures, nan_ok=True
        )
    assert all("magnitude" in name for name, _ in scan.skipped)


@pytest.mark.filterwarnings("ignore")  # peft's own
def test_a_state_dict_with_adapters_says_that_the_scaling_is_not_in_it(
    tmp_path: Path,
) -> None:
    model = libraries.lora(lora_alpha=6).model  # over r = 2
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    live = {r.layer: r for r in svdhooks.scan(model)}
    assert {r.layer for r in scan_checkpoint(tmp_path / "a.pt").layers} == live.keys()
    scan = scan_checkpoint(tmp_path / "a.pt", layers="*.lora.*")
    for record in scan.layers:
        assert record.measures["spectral_norm"] == pytest.approx(
            live[record.layer].measures["spectral_norm"] / 3
        )
        assert "scaling" in scan.rows[record.layer]["note"]


def test_nothing_is_drawn_from_the_random_stream(tmp_path: Path) -> None:
    torch.save(models.Everything().state_dict(), tmp_path / "a.pt")
    before = torch.random.get_rng_state()
    scan_checkpoint(tmp_path / "a.pt")
    assert torch.equal(before, torch.random.get_rng_state())
