"""Transformers: small language models on generated text, and one that sees digits."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from alarm_runs.classifiers import (
    TRAINED,
    Data,
    accuracy,
    steps_of,
)
from alarm_runs.kit import Course
from svdhooks.experiments.digits import load_digits_images

LENGTH = 32
SYMBOLS = 24
WIDTH = 64
HEADS = 4
QUANTITIES = ("weight_spectrum", "covariance", "token_rank", "attention_logits")


class Attention(nn.Module):
    """Self-attention with separate projections.

    Args:
        causal: Whether tokens see earlier ones only.
        scale: Queries are multiplied by this at the start: logits are large then.
    """

    def __init__(self, causal: bool, scale: float = 1.0) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.causal = causal
        self.q_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.k_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.v_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        with torch.no_grad():
            self.q_proj.weight.mul_(scale)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        query, key, value = (
            layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(
            query, key, value, is_causal=self.causal
        )
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP behind norms, with skips unless they are left out."""

    def __init__(
        self, causal: bool, norm: Callable[[], nn.Module], skip: bool, scale: float
    ) -> None:
        super().__init__()
        self.skip = float(skip)
        self.norm1, self.norm2 = norm(), norm()
        self.attn = Attention(causal, scale)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        x = self.skip * x + self.attn(self.norm1(x))
        hidden = functional.gelu(self.up(self.norm2(x)))
        return self.skip * x + self.down(hidden)


class Language(nn.Module):
    """A decoder: embedding, places, blocks, head."""

    def __init__(
        self,
        blocks: int = 3,
        norm: Callable[[], nn.Module] = lambda: nn.LayerNorm(WIDTH),
        skip: bool = True,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, WIDTH)
        self.place = nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(
            *(Block(True, norm, skip, scale) for _ in range(blocks))
        )
        self.norm = norm()
        self.head = nn.Linear(WIDTH, SYMBOLS, bias=False)

    def forward(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n t symbols"]:
        x = self.embed(tokens) + self.place.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


class Viewer(nn.Module):
    """A small vision transformer: 16 patches of 2 x 2, their mean is classified."""

    def __init__(self, blocks: int = 3, skip: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, 2, 2)
        self.place = nn.Parameter(0.5 * torch.randn(16, WIDTH))

        def norm() -> nn.Module:
            return nn.LayerNorm(WIDTH)

        self.blocks = nn.Sequential(
            *(Block(False, norm, skip, 1.0) for _ in range(blocks))
        )
        self.norm = norm()
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images: Float[Tensor, "n 1 8 8"]) -> Float[Tensor, "n 10"]:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.blocks(x)).mean(1))


def text(count: int, generator: torch.Generator) -> Int[Tensor, "n t"]:
    """Sequences of a source of order two, with a copy of their first eight at the end.

    Each symbol is one of four that the two before it allow, so that 1.39 nats are
    left; the copy, behind a symbol that marks it, can be told exactly.
    """
    rules = torch.Generator().manual_seed(7)
    body = SYMBOLS - 1
    allowed = torch.randint(0, body, (body, body, 4), generator=rules)
    out = torch.randint(0, body, (count, LENGTH + 1), generator=generator)
    for place in range(2, LENGTH + 1 - 9):
        choice = torch.randint(0, 4, (count,), generator=generator)
        out[:, place] = allowed[out[:, place - 2], out[:, place - 1], choice]
    out[:, -9] = SYMBOLS - 1
    out[:, -8:] = out[:, :8]
    return out


def next_token(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of the next symbols."""
    return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())


def language(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    records: int = 50,
    batch: int = 32,
    **training: Any,
) -> Course:
    """A course on generated text; the truth is the loss on text kept apart."""
    generator = torch.Generator().manual_seed(11)
    sequences = text(4096, generator)
    apart = text(256, generator)
    data = Data(sequences[:, :-1], sequences[:, 1:], apart[:, :-1], apart[:, 1:])

    @torch.no_grad()
    def truth() -> float:
        return next_token(model(data.apart), data.answers).item()

    return Course(
        model,
        steps_of(
            model, data, optimizer, steps, batch=batch, loss_of=next_token, **training
        ),
        truth,
        every=steps // records,
        options={"probe": data.x[:32], "quantities": QUANTITIES},
    )


def digits_seen(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    records: int = 50,
    **training: Any,
) -> Course:
    """A course of a vision transformer on digits."""
    images, labels = load_digits_images()
    images = ((images - images.mean()) / images.std())[:, None]
    data = Data(images[:TRAINED], labels[:TRAINED], images[TRAINED:], labels[TRAINED:])
    return Course(
        model,
        steps_of(model, data, optimizer, steps, batch=64, **training),
        lambda: accuracy(model, data),
        every=steps // records,
        options={"probe": data.x[:64], "quantities": QUANTITIES},
    )
