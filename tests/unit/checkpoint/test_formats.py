"""What may stand in a checkpoint, and what is refused."""

import argparse
import json
import pathlib
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from svdhooks import linalg, scan_checkpoint
from svdhooks.checkpoint import safetensor_files
from tests.models import mlp


def names(path: Path, **options: Any) -> list[str]:
    return [record.layer for record in scan_checkpoint(path, **options).layers]


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return mlp(6, 5, 4).state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": []}},
        lambda s: {"state_dict": s, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        lambda s: {"model_state_dict": s, "path": pathlib.PurePosixPath("a")},
        lambda s: {"checkpoint": {"model": s}},
        lambda s: {"module": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
        lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
        lambda s: {f"_fsdp_wrapped_module.{k}": v for k, v in s.items()},
        lambda s: {
            **{f"module.{k}": v for k, v in s.items()},
            "n_averaged": torch.tensor(3),
        },
    ],
)
def test_nested_and_wrapped_state_dicts_have_the_live_names(wrap, state, tmp_path):
    torch.save(wrap(state), tmp_path / "a.pt")
    assert names(tmp_path / "a.pt") == ["0", "2"]


def test_an_average_is_named_and_the_optimiser_left_out(state, tmp_path):
    model = mlp(6, 5, 4)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 6)).sum().backward()
    optimizer.step()
    content = {"model": state, "ema": state, "optimizer": optimizer.state_dict()}
    torch.save(content, tmp_path / "a.pt")
    scan = scan_checkpoint(tmp_path / "a.pt")
    assert [r.layer for r in scan.layers] == ["0", "2"]  # the same memory: tied
    assert scan.rows["ema.0"]["tied_to"] == "0"
    assert "optimizer" in dict(scan.skipped)
    content["ema"] = {name: x.clone() for name, x in state.items()}
    torch.save(content, tmp_path / "a.pt")
    assert names(tmp_path / "a.pt") == ["0", "2", "ema.0", "ema.2"]


def test_two_models_are_told_apart(state, tmp_path):
    torch.save({"G": state, "D": mlp(3, 3).state_dict()}, tmp_path / "a.pt")
    assert names(tmp_path / "a.pt") == ["G.0", "G.2", "D.0"]


def test_a_lightning_checkpoint(state, tmp_path):
    content = {
        "state_dict": {f"net.{k}": v for k, v in state.items()},
        "hyper_parameters": {"lr": 0.1, "nested": {"a": 1}},
        "global_step": 40,
        "epoch": 2,
        "pytorch-lightning_version": "2.6.0",
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "callbacks": {"ema": {"weights": torch.zeros(3, 3)}},
    }
    torch.save(content, tmp_path / "a.ckpt")
    scan = scan_checkpoint(tmp_path / "a.ckpt")
    assert [r.layer for r in scan.layers] == ["net.0", "net.2"]
    assert scan.format == "Lightning checkpoint"
    assert scan.facts["global_step"] == 40
    assert scan.facts["hparams"] == {"lr": 0.1}
    assert "callbacks" in dict(scan.skipped)


def test_the_old_format_of_torch_is_read_as_a_whole(state, tmp_path):
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    scan = scan_checkpoint(tmp_path / "a.pt")
    assert [r.layer for r in scan.layers] == ["0", "2"]
    assert "old format" in scan.facts["note"]


def sharded(directory: Path, state: dict[str, torch.Tensor], kind: str) -> Path:
    first, second = dict(list(state.items())[:2]), dict(list(state.items())[2:])
    places = {}
    stem = "model" if kind == "safetensors" else "pytorch_model"
    for number, part in enumerate((first, second), 1):
        name = f"{stem}-{number:05}-of-00002.{kind}"
        (save_file if kind == "safetensors" else torch.save)(part, directory / name)
        places |= dict.fromkeys(part, name)
    index = directory / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_sharded_checkpoints(kind, state, tmp_path):
    index = sharded(tmp_path, state, kind)
    (tmp_path / "optimizer.pt").write_bytes(b"not looked at")
    assert names(tmp_path) == names(index) == ["0", "2"]
    assert "2 shards" in scan_checkpoint(tmp_path).format


def test_what_is_missing_from_a_shard_is_listed_or_told(state, tmp_path):
    index = sharded(tmp_path, state, "safetensors")
    content = json.loads(index.read_text())
    content["weight_map"]["9.weight"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(content))
    assert "not in its file" in dict(scan_checkpoint(index).skipped)["9.weight"]
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="copy all files"):
        scan_checkpoint(index)


@pytest.mark.parametrize(
    "dtype",
    ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"],
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_floating_numbers_are_measured_by_their_values(dtype, suffix, tmp_path):
    weight = torch.randn(9, 7).to(getattr(torch, dtype))
    path = tmp_path / f"a.{suffix}"
    (torch.save if suffix == "pt" else save_file)({"a.weight": weight}, path)
    (record,) = scan_checkpoint(path).layers
    expected = torch.linalg.svdvals(weight.double()).numpy()
    np.testing.assert_allclose(record.spectrum, expected, rtol=1e-5)
    floor = linalg.measures(record.spectrum, shape=(9, 7), dtype=dtype)["noise_floor"]
    assert record.measures["noise_floor"] == pytest.approx(floor)


def test_what_is_no_number_of_a_matrix_is_listed_with_the_reason(tmp_path):
    content = {
        "a.weight": torch.ones(3, 3),
        "b.weight": torch.ones(3, 3, dtype=torch.int8),
        "b.qweight": torch.ones(3, 3, dtype=torch.int32),
        "c.weight": torch.ones(3, 3).to(torch.float8_e4m3fn),
        "c.weight_scale_inv": torch.ones(1, 1),
        "mask": torch.ones(4, 4, dtype=torch.bool),
        "queue": torch.ones(4, 4),
        "a.bias": torch.ones(3),
        "norm.weight": torch.ones(3),
    }
    save_file(content, tmp_path / "a.safetensors")
    scan = scan_checkpoint(tmp_path / "a.safetensors")
    assert [r.layer for r in scan.layers] == ["a"]
    reasons = dict(scan.skipped)
    used = {"a.weight", "a.bias"}
    assert reasons.keys() == content.keys() - used  # nothing in silence
    assert "quantised" in reasons["b.weight"]
    assert "quantised" in reasons["b.qweight"]
    assert "c.weight_scale_inv" in reasons["c.weight"]
    assert "no known kind" in reasons["queue"]


def test_nan_is_a_status(tmp_path):
    state = {"a.weight": torch.full((3, 2), torch.nan), "b.weight": torch.eye(3)}
    save_file(state, tmp_path / "a.safetensors")
    first, second = scan_checkpoint(tmp_path / "a.safetensors").layers
    assert "non-finite" in first.status
    assert np.isnan(first.spectrum).all()
    assert second.ok
    row = scan_checkpoint(tmp_path / "a.safetensors").rows_table()[0]
    assert row["stable_rank"] is None
    assert "non-finite" in row["status"]


def test_a_row_per_layer_and_a_column_per_measure(state, tmp_path):
    torch.save(state, tmp_path / "a.pt")
    told: list[tuple[int, int, str]] = []
    scan = scan_checkpoint(
        tmp_path / "a.pt",
        measures=("power_law_alpha",),
        progress=lambda *args: told.append(args),
    )
    rows = scan.rows_table()
    sigma = torch.linalg.svdvals(state["0.weight"]).numpy()
    assert rows[0]["layer"] == "0"
    assert rows[0]["tensor"] == "0.weight"
    assert rows[0]["shape"] == "5x6"
    assert rows[0]["stable_rank"] == pytest.approx(
        float((sigma**2).sum() / sigma[0] ** 2), rel=1e-5
    )
    alpha = linalg.power_law_alpha(scan.layers[0].spectrum).alpha
    assert rows[0]["power_law_alpha"] == pytest.approx(alpha)
    assert list(scan.frame().columns) == list(rows[0])
    assert told == [(0, 2, "0"), (1, 2, "2"), (2, 2, "")]


def test_wrong_globs_and_measures_are_told(state, tmp_path):
    torch.save(state, tmp_path / "a.pt")
    assert names(tmp_path / "a.pt", layers="2") == ["2"]
    assert ("0", "not selected by layers=") in scan_checkpoint(
        tmp_path / "a.pt", layers="2"
    ).skipped
    with pytest.raises(ValueError, match="matches no layer"):
        scan_checkpoint(tmp_path / "a.pt", layers="nothing")
    with pytest.raises(ValueError, match="measures= names"):
        scan_checkpoint(tmp_path / "a.pt", measures=("nothing",))
    with pytest.raises(FileNotFoundError, match="There is no"):
        scan_checkpoint(tmp_path / "b.pt")


def test_one_tensor_is_in_memory_at_a_time(tmp_path, monkeypatch):
    """Weights die before the next one is read."""
    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(5)))
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    alive: list[weakref.ref] = []
    most = 0
    real = safetensor_files._reader

    def reader(*args):
        read = real(*args)

        def watched():
            nonlocal most
            most = max(most, sum(ref() is not None for ref in alive))
            alive.append(weakref.ref(tensor := read()))
            return tensor

        return watched

    monkeypatch.setattr(safetensor_files, "_reader", reader)
    scan_checkpoint(tmp_path / "a.safetensors")
    assert len(alive) == 5
    assert most == 0
