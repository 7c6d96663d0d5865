"""Parts of the supervised runs: digit classifiers and their training."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from alarm_runs.kit import Course
from svdhooks.experiments.digits import load_digits_images

ACCURACY = "accuracy on images kept apart"
TRAINED = 1297
"""Images of training; the other 500 are kept apart."""

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Data:
    """Digits to train on and digits kept apart."""

    x: Float[Tensor, "n ..."]
    y: Int[Tensor, " n"]
    apart: Float[Tensor, "m ..."]
    answers: Int[Tensor, " m"]


def digits(seed: int = 0, flat: bool = True) -> Data:
    """Split the digits, standardised by one mean and deviation."""
    images, labels = load_digits_images()
    order = torch.randperm(
        len(images), generator=torch.Generator().manual_seed(100 + seed)
    )
    x = (images[order] - images.mean()) / images.std()
    x = x.flatten(1) if flat else x[:, None]
    y = labels[order]
    return Data(x[:TRAINED], y[:TRAINED], x[TRAINED:], y[TRAINED:])


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a module whose weights are decided by a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def mlp(*widths: int, norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with ReLUs between."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers.append(nn.Linear(inputs, outputs))
        layers += [nn.LayerNorm(outputs)] * norm
        layers.append(nn.ReLU())
        layers += [nn.Dropout(dropout)] * bool(dropout)
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def cnn(norm: bool = True, width: int = 24) -> nn.Sequential:
    """Three convolutions on 8 x 8 images, with or without batch normalisation."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=not norm)
        return [conv, *([nn.BatchNorm2d(outputs)] * norm), nn.ReLU()]

    return nn.Sequential(
        *block(1, width, 1),
        *block(width, 2 * width, 2),
        *block(2 * width, 2 * width, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 10),
    )


def warm_cosine(optimizer: torch.optim.Optimizer, steps: int, warm: int) -> Any:
    """A linear warm-up and then half a cosine, down to zero."""

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def steps_of(
    model: nn.Module,
    data: Data,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    seed: int = 0,
    batch: int = 64,
    loss_of: Loss = functional.cross_entropy,
    schedule: Any = None,
    disturb: Callable[[int], None] | None = None,
) -> Iterator[float]:
    """Train in a plain loop; ``disturb`` does something to the model before a step."""
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for step in range(steps):
        if disturb is not None:
            disturb(step)
        chosen = torch.randint(0, len(data.x), (batch,), generator=generator)
        loss = loss_of(model(data.x[chosen]), data.y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        yield loss.item()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """Share of the images kept apart that are classified correctly."""
    was = model.training
    model.eval()
    answers = model(data.apart)
    model.train(was)
    right = (answers.argmax(1) == data.answers) & answers.isfinite().all(1)
    return float(right.double().mean())


def course(
    model: nn.Module,
    data: Data,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    records: int = 60,
    options: dict[str, Any] | None = None,
    **training: Any,
) -> Course:
    """A supervised course on digits; the probe is of training images."""
    return Course(
        model,
        steps_of(model, data, optimizer, steps, **training),
        lambda: accuracy(model, data),
        every=max(1, steps // records),
        options={"probe": data.x[:512], **(options or {})},
    )
