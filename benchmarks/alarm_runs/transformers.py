"""Healthy and collapsing transformers."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from alarm_runs.classifiers import ACCURACY, seeded, warm_cosine
from alarm_runs.kit import Course, Run
from alarm_runs.sequences import (
    WIDTH,
    Language,
    Viewer,
    digits_seen,
    language,
    text,
)


def adamw(model: nn.Module, rate: float, decay: float = 0.1) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        model.parameters(), lr=rate, weight_decay=decay, betas=(0.9, 0.95)
    )


def gpt() -> Course:
    model = seeded(0, Language)
    optimizer = adamw(model, 2e-3)
    schedule = warm_cosine(optimizer, 1000, 50)
    return language(model, optimizer, 1000, schedule=schedule)


def gpt_rms() -> Course:
    model = seeded(1, lambda: Language(blocks=4, norm=lambda: nn.RMSNorm(WIDTH)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return language(model, optimizer, 600)


def gpt_no_skips() -> Course:
    model = seeded(2, lambda: Language(blocks=6, skip=False))
    return language(model, adamw(model, 1e-3), 400, records=40)


def gpt_rate_too_high() -> Course:
    model = seeded(3, Language)
    return language(model, adamw(model, 0.1), 600)


def gpt_rate_jumps() -> Course:
    """It learns, then the rate is multiplied by 50, as by a restart gone wrong."""
    model = seeded(4, Language)
    optimizer = adamw(model, 2e-3)

    def disturb(step: int) -> None:
        if step == 400:
            optimizer.param_groups[0]["lr"] = 0.1

    return language(model, optimizer, 900, disturb=disturb)


@torch.no_grad()
def attention_entropy(model: Language, tokens: Int[Tensor, "n t"]) -> float:
    """Entropy of where heads look, in nats: median over heads, mean over tokens."""
    x = model.embed(tokens) + model.place.weight
    found = []
    later = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
    for block in model.blocks:
        attn = block.attn
        query, key = (
            layer(block.norm1(x)).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
            for layer in (attn.q_proj, attn.k_proj)
        )
        logits = query @ key.mT / query.shape[-1] ** 0.5
        share = logits.masked_fill(later, -torch.inf).softmax(-1)
        entropy = torch.special.entr(share).sum(-1)[..., 1:]
        found.append(entropy.mean((0, 2)))
        x = block(x)
    return torch.cat(found).median().item()


def gpt_logits(seed: int, rate: float, growth: float) -> Course:
    """Queries and keys grow at each step from 300 on: attention becomes one-hot."""
    model = seeded(seed, Language)

    def disturb(step: int) -> None:
        if step >= 300:
            with torch.no_grad():
                for block in model.blocks:
                    block.attn.q_proj.weight.mul_(growth)
                    block.attn.k_proj.weight.mul_(growth)

    made = language(model, adamw(model, rate), 800, disturb=disturb)
    tokens = text(64, torch.Generator().manual_seed(12))[:, :-1]
    return replace(made, truth=lambda: attention_entropy(model, tokens))


def viewer() -> Course:
    model = seeded(0, Viewer)
    optimizer = adamw(model, 1e-3, 0.05)
    schedule = warm_cosine(optimizer, 700, 50)
    return digits_seen(model, optimizer, 700, schedule=schedule)


def viewer_sgd() -> Course:
    model = seeded(1, lambda: Viewer(blocks=2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return digits_seen(model, optimizer, 900)


def viewer_no_skips() -> Course:
    model = seeded(2, lambda: Viewer(blocks=8, skip=False))
    return digits_seen(model, adamw(model, 1e-3), 280, records=40)


def viewer_hot() -> Course:
    model = seeded(3, Viewer)
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0, momentum=0.9)
    return digits_seen(model, optimizer, 500)


ENTROPY = "entropy of attention in nats, median over heads"
LOSS = "loss on text kept apart"
# what the frequencies of single symbols give is 3.2, the source alone 1.4 to 1.5


def _text(
    name: str, what: str, healthy: bool, make: Any, held_out: bool = False
) -> Run:
    return Run(
        name, what, "lm", healthy, LOSS, 2.4, make, below=True, held_out=held_out
    )


def _seen(
    name: str, what: str, healthy: bool, make: Any, held_out: bool = False
) -> Run:
    return Run(
        name, what, "supervised", healthy, ACCURACY, 0.9, make, held_out=held_out
    )


RUNS = (
    _text("gpt", "GPT, AdamW, warm-up and cosine", True, gpt),
    _seen("viewer", "vision transformer, AdamW, cosine", True, viewer),
    _text("gpt_rate_too_high", "GPT, AdamW at a rate of 0.1", False, gpt_rate_too_high),
    Run(
        "gpt_logits",
        "GPT, queries and keys grow from step 300 on",
        "lm",
        False,
        ENTROPY,
        0.2,
        lambda: gpt_logits(5, 2e-3, 1.02),
    ),
    _text("gpt_rms", "GPT with RMSNorm, Adam", True, gpt_rms, True),
    _seen("viewer_sgd", "vision transformer, SGD", True, viewer_sgd, True),
    _text(
        "gpt_rate_jumps", "GPT, rate 0.1 from step 400 on", False, gpt_rate_jumps, True
    ),
    _text("gpt_no_skips", "GPT without skips", False, gpt_no_skips, True),
    _seen(
        "viewer_no_skips",
        "vision transformer without skips",
        False,
        viewer_no_skips,
        True,
    ),
    _seen(
        "viewer_hot", "vision transformer, SGD at a rate of 2", False, viewer_hot, True
    ),
)
