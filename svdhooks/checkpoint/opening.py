"""Which format a path is in, and what it holds."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from svdhooks.checkpoint.safetensor_files import read_safetensors
from svdhooks.checkpoint.stored import Checkpoint, Stored
from svdhooks.checkpoint.torch_files import read_torch
from svdhooks.layers import Skipped

_TORCH = (".pt", ".pth", ".ckpt", ".bin", ".tar")
_INDEX = ".index.json"
_ADAPTER = "adapter_config.json"
_IN_DIRECTORIES = (
    # of Hugging Face's libraries, the better formats first
    "model.safetensors.index.json",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
    "open_clip_model.safetensors",
    "model.ckpt",
    "model.pt",
    "model.pth",
)
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def open_checkpoint(path: Path) -> Checkpoint:
    """Look at a checkpoint; of the weights nothing is read yet.

    Args:
        path: A file, a directory of Hugging Face's libraries or of peft, or the index
            of a sharded checkpoint.

    Returns:
        What it holds, with the names that the live watcher uses.

    Raises:
        ValueError: If it is of no known format, damaged, or holds no tensors.
        FileNotFoundError: If there is nothing of that name.
        OSError: If it cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"There is no {path}. Expected a .safetensors, .pt, .pth, .ckpt or .bin "
            "file, a directory that holds one, or the index of a sharded one."
        )
    found = _of_directory(path) if path.is_dir() else _of_file(path)
    if not found.tensors:
        raise ValueError(f"{path} holds no tensors; expected the weights of a model.")
    return replace(found, tensors=_canonical(found.tensors))


def _of_file(path: Path) -> Checkpoint:
    if path.name.endswith(_INDEX):
        found = _of_index(path)
    elif path.suffix == ".safetensors":
        found = Checkpoint(path, "safetensors", _natural(read_safetensors(path)))
    elif path.suffix in _TORCH:
        found = _of_torch(path)
    else:
        raise ValueError(
            f"{path} ends in {path.suffix or 'nothing'!r}: expected .safetensors, "
            f"{', '.join(_TORCH)} or {_INDEX}. Convert or rename it."
        )
    return replace(found, config=_json(path.parent / "config.json"))


def _of_torch(path: Path) -> Checkpoint:
    tensors, left_out, facts = read_torch(path)
    lightning = path.suffix == ".ckpt" and "global_step" in facts
    name = "Lightning checkpoint" if lightning else "torch.save"
    return Checkpoint(path, name, tensors, tuple(left_out), facts)


def _of_directory(path: Path) -> Checkpoint:
    if (path / _ADAPTER).is_file():
        return _of_adapter(path)
    _refuse_distributed(path)
    for name in _IN_DIRECTORIES:
        if (path / name).is_file():
            return replace(_of_file(path / name), path=path)
    several = [
        file
        for file in sorted(path.iterdir())
        if file.is_file()
        and (file.suffix in (".safetensors", *_TORCH) or file.name.endswith(_INDEX))
        and not re.match(r"optim|sched|rng|scaler|training_args|random", file.name)
    ]
    indices = [file for file in several if file.name.endswith(_INDEX)]
    several = indices if len(indices) == 1 else several
    if len(several) == 1:
        return replace(_of_file(several[0]), path=path)
    names = ", ".join(file.name for file in several[:6])
    raise ValueError(
        f"{path} holds {len(several)} files of weights{f' ({names})' if names else ''}; "
        "expected model.safetensors, its index, or one file. Name the file itself."
        if several
        else f"{path} holds no file of weights; expected model.safetensors, its index "
        "model.safetensors.index.json, pytorch_model.bin, or one .pt or .ckpt file."
    )


def _refuse_distributed(path: Path) -> None:
    """Say how to turn what many processes wrote into one file."""
    if (path / ".metadata").is_file():
        raise ValueError(
            f"{path} is a distributed checkpoint of torch, written in parts by many "
            "processes. Make one file of it: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pt"
        )
    if (path / "zero_to_fp32.py").is_file() or any(path.glob("zero_pp_rank_*")):
        raise ValueError(
            f"{path} is a checkpoint of DeepSpeed ZeRO, in parts. Make one file of it: "
            f"python {path / 'zero_to_fp32.py'} {path} weights --safe_serialization"
        )


def _of_adapter(path: Path) -> Checkpoint:
    config = _json(path / _ADAPTER)
    kind = str(config.get("peft_type", "LORA")).upper()
    if kind != "LORA":
        raise ValueError(
            f"{path} is an adapter of type {kind}, which is not read; expected LORA. "
            "Merge it into its model (merge_and_unload) and scan that."
        )
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        file = path / name
        if file.is_file():
            found = _of_file(file)
            return replace(
                found, path=path, format=f"peft adapter, {found.format}", adapter=config
            )
    raise ValueError(
        f"{path} holds {_ADAPTER} but neither adapter_model.safetensors nor "
        "adapter_model.bin; copy the directory as a whole."
    )


def _of_index(path: Path) -> Checkpoint:
    """A checkpoint in several files."""
    content = _json(path)
    places = content.get("weight_map")
    if not isinstance(places, Mapping) or not places:
        raise ValueError(
            f"{path} has no 'weight_map'; expected the index of a sharded checkpoint, "
            "name of each tensor -> file."
        )
    tensors: dict[str, Stored] = {}
    left_out: list[Skipped] = []
    for name in dict.fromkeys(places.values()):
        file = _shard(path, name)
        if file.suffix == ".safetensors":
            tensors |= read_safetensors(file)
        else:
            more, left, _ = read_torch(file)
            tensors |= more
            left_out += left
    missing = [name for name in places if name not in tensors]
    left_out += [Skipped(name, "in the index, but not in its file") for name in missing]
    kind = "safetensors" if ".safetensors" in path.name else "torch.save"
    shards = len(set(places.values()))
    label = f"{kind}, {shards} shards"
    return Checkpoint(path, label, _natural(tensors), tuple(left_out))


def _shard(index: Path, name: object) -> Path:
    """A file that an index names: beside it, and nowhere else."""
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(
            f"{index} names the file {name!r}; expected a file beside the index."
        )
    file = index.parent / name
    if not file.is_file():
        raise FileNotFoundError(
            f"{index} names {name}, which is not there; copy all files of the sharded "
            "checkpoint into one directory."
        )
    return file


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); write it again.") from error
    return content if isinstance(content, dict) else {}


# --- names and their order -------------------------------------------------------


def _canonical(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Without the prefixes of compile, FSDP, checkpointing and DDP."""
    named = [name for name in tensors if name != "n_averaged"]  # of an averaged model
    cut = "module." if all(name.startswith("module.") for name in named) else ""
    found: dict[str, Stored] = {}
    for raw, tensor in tensors.items():
        parts = raw.removeprefix(cut).split(".")
        name = ".".join(part for part in parts if part not in _WRAPPERS)
        name = raw if name in found else name  # two that differ in a wrapper only
        found[name] = replace(tensor, name=name)
    return found


_LAST = re.compile(
    r"(lm_head|head|heads|classifier|fc|output|out|embed_out|score|logits)"
)
_FIRST = re.compile(r"(.*embed.*|wte|wpe|stem|tokens|positions|shared)")


def _natural(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """In the order of a model, as far as names tell: the format sorts by alphabet."""
    return {name: tensors[name] for name in sorted(tensors, key=_place)}


def _place(name: str) -> tuple[int, list[tuple[int, int, str]]]:
    parts = name.split(".")
    owner = parts[:-1]
    numbered = any(part.isdigit() for part in owner)
    last = owner[-1] if owner else ""
    where = 1
    if not numbered and _FIRST.fullmatch(last) and not _LAST.fullmatch(last):
        where = 0
    elif owner and (
        _LAST.fullmatch(owner[0]) or (not numbered and _LAST.fullmatch(last))
    ):
        where = 2
    return where, _numbered(parts)


def _numbered(parts: Iterable[str]) -> list[tuple[int, int, str]]:
    """Numbers by their size, within words too."""
    found: list[tuple[int, int, str]] = []
    for part in parts:
        texts = re.split(r"(\d{1,18})", part)
        found += [(0, int(x), "") if x.isdecimal() else (1, 0, x) for x in texts]
        found.append((-1, 0, ""))
    return found
