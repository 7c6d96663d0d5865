"""Tensors that a checkpoint holds: told of before they are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svdhooks.layers import Skipped


@dataclass(frozen=True, eq=False)
class Stored:
    """One tensor of a checkpoint.

    Attributes:
        name: As in the file, without the wrappers' prefixes.
        shape: Its shape.
        dtype: As torch calls it (``"bfloat16"``); of types that torch has not, as the
            file calls it.
        read: Reads it.
        memory: Equal for tensors that share their memory; None: shares none.
        note: What was taken for granted where the file does not say it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]
    memory: object = None
    note: str = ""

    @property
    def on_meta(self) -> Tensor:
        """A tensor of its shape and dtype without values."""
        return torch.empty(self.shape, dtype=getattr(torch, self.dtype), device="meta")


Tensors = Mapping[str, Stored]
"""Name -> tensor, in the order of the model as far as the file has it."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file or directory holds.

    Attributes:
        path: Which.
        format: Of the files, in words.
        tensors: The weights.
        left_out: What is not looked at, and why.
        facts: What else it says: step, epoch, hyper-parameters.
        config: Of the model, in the words of its library; empty if there is none.
        adapter: ``adapter_config.json`` of peft; None: it is no adapter.
    """

    path: Path
    format: str
    tensors: Tensors
    left_out: tuple[Skipped, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] | None = None
