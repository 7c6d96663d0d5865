"""Small convolutional networks and their data, for ../batch_norm_kernels.py.

They are like a VGG: convolutions of 3 × 3, with or without batch norm, ReLUs, and pooling.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

TRAIN_IMAGES = 1437
"""Of 1,797 digits; the others are the test images."""
BATCH_SIZE = 64


@dataclass(frozen=True)
class Setting:
    """One training.

    Attributes:
        norm: Whether a batch norm follows every convolution (which then has no bias).
        decayed: What the weight decay acts on: "all", "kernels" (convolutions and the
            last layer) or "norms" (scales, shifts and biases).
        optimizer: "adamw" (decoupled decay), "adam" (decay as part of the gradient) or
            "sgd" (momentum 0.9, decay as part of the gradient).
        data: "digits", 8 × 8, or "gratings", noisy, 16 × 16, of 20 orientations.
    """

    norm: bool = True
    decayed: str = "all"
    optimizer: str = "adamw"
    lr: float = 3e-3
    weight_decay: float = 1.0
    steps: int = 4000
    cosine: bool = False
    widths: tuple[int, ...] = (32, 32, 64, 64)
    data: str = "digits"
    seed: int = 0

    @property
    def convolutions(self) -> list[str]:
        """Their names."""
        return [f"conv{i + 1}" for i in range(len(self.widths))]


ARMS = {
    "batch norm": Setting(),
    "batch norm, its parameters not decayed": Setting(decayed="kernels"),
    "no batch norm": Setting(norm=False),
}
"""What is compared."""

ADAM = Setting(optimizer="adam", weight_decay=5e-4, steps=3000)
SGD = Setting(optimizer="sgd", lr=0.1, weight_decay=5e-3, steps=3000)
GRATINGS = replace(SGD, data="gratings")
SEARCH = (
    *ARMS.values(),
    Setting(decayed="norms"),
    Setting(weight_decay=0.0),
    ADAM,
    replace(ADAM, norm=False),
    replace(ADAM, steps=1000),
    SGD,
    replace(SGD, norm=False),
    replace(SGD, cosine=True, steps=4000),
    replace(SGD, cosine=True, steps=4000, norm=False),
    replace(SGD, norm=False, lr=0.02),
    replace(SGD, decayed="norms"),
    replace(SGD, decayed="kernels"),
    replace(SGD, weight_decay=1e-3),
    GRATINGS,
    replace(GRATINGS, norm=False, lr=0.02),
    replace(GRATINGS, weight_decay=1e-3),
    *(replace(arm, widths=(8, 64, 16), steps=800, lr=0.02) for arm in ARMS.values()),
)
"""What was tried."""


@dataclass(frozen=True)
class Images:
    """Images ``(N, 1, size, size)`` and their classes."""

    x: Tensor
    y: Tensor


def gratings(number: int, classes: int, seed: int) -> Images:
    """Oriented gratings of random frequency and phase, half of the variance noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (number,), generator=generator)
    u, v = (torch.rand(number, 1, 1, generator=generator) for _ in range(2))
    axis = torch.arange(16) - 7.5
    angle = (y * torch.pi / classes)[:, None, None]
    along = angle.cos() * axis + angle.sin() * axis[:, None]
    wave = ((0.6 + 0.9 * u) * along + 2 * torch.pi * v).sin()
    noise = torch.randn(number, 16, 16, generator=generator)
    return Images((wave + 0.7 * noise)[:, None], y)


def load_images(setting: Setting) -> tuple[Images, Images]:
    """Training and test images."""
    if setting.data == "gratings":
        both = gratings(4000, 20, setting.seed)
        train_part, test_part = slice(3200), slice(3200, None)
        return (
            Images(both.x[train_part], both.y[train_part]),
            Images(both.x[test_part], both.y[test_part]),
        )
    digits = load_digits()
    generator = torch.Generator().manual_seed(setting.seed)
    order = torch.randperm(len(digits.images), generator=generator)
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    train, test = order.split([TRAIN_IMAGES, len(order) - TRAIN_IMAGES])
    return Images(x[train], y[train]), Images(x[test], y[test])


def make_model(setting: Setting) -> nn.Sequential:
    """Like a small VGG: convolutions 3 × 3, pooling after every second one."""
    torch.manual_seed(setting.seed)
    model, classes = nn.Sequential(), 10 if setting.data == "digits" else 20
    first_pool = 1 if setting.data == "digits" else 0
    sizes = enumerate(pairwise([1, *setting.widths]))
    for index, (inputs, outputs) in sizes:
        number = index + 1
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not setting.norm)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        model.add_module(f"conv{number}", conv)
        if setting.norm:
            model.add_module(f"norm{number}", nn.BatchNorm2d(outputs))
        else:
            nn.init.zeros_(conv.bias)
        model.add_module(f"relu{number}", nn.ReLU())
        if index in {first_pool, 1, 3} and number < len(setting.widths):
            model.add_module(f"pool{number}", nn.MaxPool2d(2))
    model.add_module("mean", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("head", nn.Linear(setting.widths[-1], classes))
    return model.to(memory_format=torch.channels_last)


def make_optimizer(model: nn.Module, setting: Setting) -> torch.optim.Optimizer:
    kernels = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {
            "params": parameters,
            "weight_decay": setting.weight_decay if setting.decayed != spared else 0.0,
        }
        for parameters, spared in ((kernels, "norms"), (norms, "kernels"))
    ]
    if setting.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=setting.lr, momentum=0.9)
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[setting.optimizer](groups, lr=setting.lr)


def train(model: nn.Module, images: Images, setting: Setting) -> Iterator[float]:
    """One optimiser step for each loss that is asked for."""
    optimizer = make_optimizer(model, setting)
    shape = {"T_max": setting.steps}
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, **shape)
    generator = torch.Generator().manual_seed(setting.seed)
    for _ in range(setting.steps):
        batch = torch.randint(0, len(images.y), (BATCH_SIZE,), generator=generator)
        loss = functional.cross_entropy(model(images.x[batch]), images.y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if setting.cosine:
            falling.step()
        yield loss.item()


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    right = model.eval()(images.x).argmax(1) == images.y
    model.train()
    return right.double().mean().item()


@torch.no_grad()
def silent_channels(model: nn.Sequential, images: Images) -> dict[str, NDArray[Any]]:
    """Of every convolution, which channels no training image gets through its ReLU."""
    x, silent = images.x, {}
    model.eval()
    for name, layer in model.named_children():
        x = layer(x)
        if name.startswith("relu"):
            silent[name.replace("relu", "conv")] = (x.amax((0, 2, 3)) <= 0).numpy()
    model.train()
    return silent
