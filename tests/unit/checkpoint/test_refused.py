"""What is refused, in one line that says what to do."""

import json
import os
import pathlib
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from svdhooks import scan_checkpoint
from tests.models import mlp


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return mlp(6, 5, 4).state_dict()


class Harmful:
    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path("executed"),))


def test_what_would_have_to_be_executed_is_refused(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": state, "callback": Harmful()}, "a.ckpt")
    with pytest.raises(ValueError, match=r"more than weights.*state_dict\(\)") as told:
        scan_checkpoint(tmp_path / "a.ckpt")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "executed").exists()


class Command:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def test_a_blocked_function_is_named(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": state, "callback": Command()}, "a.ckpt")
    with pytest.raises(ValueError, match=r"more than weights \((posix|nt)\.system\)"):
        scan_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "executed").exists()


def test_a_compressed_archive_is_refused_rather_than_misread(state, tmp_path):
    torch.save(state, tmp_path / "whole.pt")
    whole = zipfile.ZipFile(tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    mapped = torch.load(tmp_path / "a.pt", weights_only=True, mmap=True)
    assert not torch.equal(mapped["0.weight"], state["0.weight"])  # torch misreads it
    with pytest.raises(ValueError, match=r"compressed archive.*mmap=False"):
        scan_checkpoint(tmp_path / "a.pt")


def test_weights_without_values_are_listed(tmp_path):
    content = {"a.weight": torch.ones(3, 3), "b.weight": torch.ones(3, 3).to("meta")}
    torch.save(content, tmp_path / "a.pt")
    scan = scan_checkpoint(tmp_path / "a.pt")
    assert [record.layer for record in scan.layers] == ["a"]
    assert "without values" in dict(scan.skipped)["b.weight"]


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/passwd", "", ".."])
def test_an_index_names_files_beside_it_only(name, tmp_path):
    save_file(mlp(2, 2).state_dict(), tmp_path.parent / "evil.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"0.weight": name}}))
    with pytest.raises(ValueError, match="beside the index"):
        scan_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda d: (d / ".metadata").touch(), "dcp_to_torch"),
        (lambda d: (d / "zero_to_fp32.py").touch(), "zero_to_fp32.py"),
        (lambda d: None, "holds no file of weights"),
        (lambda d: [(d / n).touch() for n in ("a.pt", "b.pt")], "Name the file itself"),
        (
            lambda d: (d / "a.safetensors").write_bytes(b"x" * 20),
            "no whole safetensors",
        ),
        (lambda d: (d / "a.pt").write_bytes(b"x" * 20), "could not be read"),
        (lambda d: torch.save([1, 2], d / "a.pt"), "dictionary of tensors"),
        (lambda d: torch.save({"epoch": 1}, d / "a.pt"), "no tensors of a model"),
        (lambda d: (d / "a.pt").touch(), "ends too early"),
        (
            lambda d: torch.save({"state": {}, "param_groups": []}, d / "a.pt"),
            "state of an optimiser",
        ),
        (
            lambda d: (d / "a.safetensors.index.json").write_text("[" * 100_000),
            "is no JSON",
        ),
        (
            lambda d: torch.save({"a.bias": torch.ones(3)}, d / "a.pt"),
            "no weight matrix",
        ),
        (
            lambda d: (d / "adapter_config.json").write_text("{}"),
            "neither adapter_model",
        ),
        (
            lambda d: (d / "adapter_config.json").write_text('{"peft_type": "IA3"}'),
            "merge_and_unload",
        ),
    ],
)
def test_what_cannot_be_scanned_is_told_in_one_line(make, told, tmp_path):
    make(tmp_path)
    with pytest.raises((ValueError, OSError), match=told) as error:
        scan_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_told(state, tmp_path):
    save_file(state, tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data[:-8])
    with pytest.raises(ValueError, match="no whole safetensors"):
        scan_checkpoint(tmp_path / "a.safetensors")
