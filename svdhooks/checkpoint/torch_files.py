"""Reading what ``torch.save`` wrote: weights only, mapped into memory, never executed."""

import argparse
import pathlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from svdhooks.checkpoint.stored import Stored
from svdhooks.layers import Skipped

_INERT: list[Any] = [argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath]
"""Found beside weights, and made of nothing but their fields."""

_MAIN = (
    "state_dict",
    "model_state_dict",
    "model",
    "model_state",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "checkpoint",
)
"""Under one of these, in this order of preference, is the model itself."""

_NO_WEIGHTS = re.compile(
    r"(?i)(.*_)?(optim\w*|opt|opts?_state\w*|(lr_?)?schedul\w*|(grad_?)?scaler\w*|rng\w*|"
    r"callbacks|loops|random\w*|amp)"
)
_FACTS = ("step", "global_step", "iteration", "iter", "epoch")


def read_torch(
    path: Path,
) -> tuple[dict[str, Stored], list[Skipped], dict[str, Any]]:
    """The weights in a file of ``torch.save``.

    Args:
        path: The file.

    Returns:
        Name -> tensor; what is left out, and why; what else the file says.

    Raises:
        ValueError: If it holds no tensors, or objects that are not weights.
        OSError: If it cannot be read.
    """
    content, mapped = _loaded(path)
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise ValueError(  # noqa: TRY004  # of a file, not of an argument
            f"{path} holds a {kind}, expected a dictionary of tensors. Save "
            "model.state_dict()."
        )
    if {"state", "param_groups"} <= content.keys():
        raise ValueError(
            f"{path} holds the state of an optimiser, no weights. Name the file of the "
            "model."
        )
    left_out: list[Skipped] = []
    found = dict(_weights(content, "", left_out))
    if not found:
        keys = ", ".join(map(str, list(content)[:8])) or "nothing"
        raise ValueError(
            f"{path} holds no tensors of a model; found {keys}. Expected a state dict, "
            "or one under 'state_dict' or 'model'."
        )
    facts = _facts(content)
    if not mapped:
        facts["note"] = "of the old format of torch.save: read into memory as a whole"
    return {name: _stored(name, x) for name, x in found.items()}, left_out, facts


def _loaded(path: Path) -> tuple[Any, bool]:
    """The content, and whether it is mapped rather than read."""
    with path.open("rb") as file:  # fails in words of its own where it cannot be opened
        _refuse_compressed(path, file)
    try:
        return _load(path, mmap=True), True
    except Exception as error:  # whatever a damaged file leads to
        if "mmap can only be used" not in str(error):
            raise _refusal(path, error) from error
    try:
        return _load(path, mmap=False), False
    except Exception as error:
        raise _refusal(path, error) from error


def _refuse_compressed(path: Path, file: BinaryIO) -> None:
    """What is compressed, torch would map as if it were the values."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # of the old format, or damaged: torch says which
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError(
            f"{path} is a compressed archive, whose weights cannot be mapped. Write it "
            "again as it was: torch.save(torch.load(path, weights_only=True, "
            "mmap=False), path)."
        )


def _load(path: Path, mmap: bool) -> Any:
    with torch.serialization.safe_globals(_INERT), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of storages, for those who wrote the file
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


_MORE = re.compile(r"(?i:unsupported (?:global:? global|global|class)) (\S+)")


def _refusal(path: Path, error: Exception) -> ValueError:
    text = str(error)
    found = _MORE.search(text)
    if found:
        return ValueError(
            f"{path} holds more than weights ({found[1]}), which would have to be "
            "executed to be read; nothing was. Save the weights alone, where the model "
            "is: torch.save(model.state_dict(), path)."
        )
    first = re.split(r"\n|\. ", text.strip())[0] or "the file ends too early"
    return ValueError(
        f"{path} could not be read as a file of torch.save "
        f"({type(error).__name__}: {first}). Expected a whole .pt, .pth, .ckpt or .bin "
        "file with a state dict; copy or download it again."
    )


def _weights(
    content: Mapping[Any, Any], prefix: str, left_out: list[Skipped]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the model, by their names."""
    own = any(isinstance(x, Tensor) and x.ndim for x in content.values())
    parts = {k: v for k, v in content.items() if _has_tensors(v)}
    for key in [key for key in parts if _is_state_of_training(str(key), parts[key])]:
        left_out.append(Skipped(f"{prefix}{key}", "state of the training, no weights"))
        del parts[key]
    if own:
        yield from _flat({k: content[k] for k in parts}, prefix)
        return
    main = next((key for key in _MAIN if key in parts), None)
    if main is None and len(parts) == 1:
        main = next(iter(parts))
    for key, part in parts.items():
        if key == main:
            yield from _unprefixed(_weights(part, prefix, left_out))
        else:  # say "ema", or the several models of a GAN
            inside = _unprefixed(_weights(part, "", left_out))
            yield from ((f"{prefix}{key}.{name}", x) for name, x in inside)


def _flat(content: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")


def _unprefixed(
    named: Iterator[tuple[str, Tensor]],
) -> Iterator[tuple[str, Tensor]]:
    """Without the prefix of DistributedDataParallel, where all names have it."""
    several = list(named)
    names = [name for name, _ in several if name != "n_averaged"]  # of an average
    cut = "module." if all(name.startswith("module.") for name in names) else ""
    return ((name.removeprefix(cut), x) for name, x in several)


def _has_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_tensors, value.values()))
    return isinstance(value, Tensor)


def _is_state_of_training(key: str, value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return bool(_NO_WEIGHTS.fullmatch(key)) or {"state", "param_groups"} <= set(value)


def _facts(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Step, epoch and hyper-parameters, where they are told."""
    facts: dict[str, Any] = {}
    for name in _FACTS:
        value = content.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            facts[name] = value
    for name in ("hyper_parameters", "hparams", "args"):
        given = content.get(name)
        given = vars(given) if isinstance(given, argparse.Namespace) else given
        if isinstance(given, Mapping):
            plain = {
                str(k): v
                for k, v in given.items()
                if isinstance(v, (bool, int, float, str))
            }
            facts.setdefault("hparams", plain)
    return facts


def _stored(name: str, tensor: Tensor) -> Stored:
    shape = tuple(tensor.shape)
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_meta:
        return Stored(name, shape, f"{dtype} without values (meta)", lambda: tensor)
    if tensor.layout != torch.strided or tensor.is_quantized:
        dtype = f"{dtype} ({'quantised' if tensor.is_quantized else tensor.layout})"
        return Stored(name, shape, dtype, lambda: tensor)
    place = tensor.untyped_storage().data_ptr(), tensor.storage_offset()
    memory = (*place, *sorted(zip(tensor.shape, tensor.stride(), strict=True)))
    known = memory if tensor.numel() and place[0] else None
    return Stored(name, shape, dtype, tensor.detach, known)
