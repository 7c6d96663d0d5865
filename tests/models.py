"""Awkward models: what a hook or a probe could get wrong or break."""

import itertools
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint


class Everything(nn.Module):
    """Everything whose state a careless forward changes; promise 1 is about it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8, max_norm=0.5)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.3)
        self.gru = nn.GRU(8, 8, num_layers=2, dropout=0.2, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.spectral = spectral_norm(nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("rebound", torch.zeros(2))
        self.plain_calls = 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        self.rebound = self.rebound + 1
        self.plain_calls += 1
        x = self.embedding(tokens).transpose(1, 2)
        x = self.relu(self.norm(self.conv(x))).transpose(1, 2)
        x = self.dropout(x) * (1 + 0.1 * random.random())
        noise = np.random.standard_normal(8)  # noqa: NPY002  # the global stream
        x = x + 0.1 * torch.from_numpy(noise).to(x.dtype)
        x, _ = self.gru(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.spectral(x).mean(1))


class Checkpointed(nn.Module):
    """A segment that is computed again in backward."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.body = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Any:
        return checkpoint(self.body, self.first(x), use_reentrant=self.reentrant)


class Tied(nn.Module):
    """A language model whose head shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 6)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 13, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(tokens)))


class Reused(nn.Module):
    """One module called three times in a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(5, 5)
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.cell(x))
        return self.out(x)


class InPlace(nn.Module):
    """An activation that overwrites the pre-activation, or does not."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.first = nn.Linear(7, 9)
        self.relu = nn.ReLU(inplace=inplace)
        self.second = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.relu(self.first(x)))


class Uncalled(nn.Module):
    """A layer used as a function: its module is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Linear(4, 4)
        self.unseen = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.seen(x), self.unseen.weight)


class TwoInputs(nn.Module):
    """Takes two tensors and returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 3)
        self.right = nn.Linear(5, 3)

    def forward(self, a: Tensor, b: Tensor, *, scale: float = 1.0) -> dict[str, Tensor]:
        return {"sum": self.left(a) + scale * self.right(b)}


def mlp(*widths: int) -> nn.Sequential:
    """A ReLU network; names are 0, 2, 4, and so on."""
    parts: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        parts += [nn.Linear(a, b)] + ([nn.ReLU()] if i < len(widths) - 2 else [])
    return nn.Sequential(*parts)
