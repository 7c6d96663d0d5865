"""A pair of networks that play: eight points on a ring, all of them or one."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from alarm_runs.classifiers import mlp, seeded
from alarm_runs.kit import Course, Run

MODES = 8
NOISE = 0.05
STEPS = 2500
COVERED = "how many of eight points are drawn, effective number"


def ring(count: int, generator: torch.Generator) -> Tensor:
    """Points on a ring, with a little noise."""
    angle = torch.randint(0, MODES, (count,), generator=generator) * math.tau / MODES
    place = 2 * torch.stack((angle.cos(), angle.sin()), 1)
    return place + NOISE * torch.randn(count, 2, generator=generator)


class Game(nn.Module):
    """Generator and discriminator; a call of it draws and judges, for the probe."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = mlp(16, 64, 64, 2)
        self.discriminator = mlp(2, 64, 64, 1)

    def forward(self, code: Tensor) -> Tensor:
        return self.discriminator(self.generator(code))

    @torch.no_grad()
    def covered(self, codes: Tensor) -> float:
        """Exponential of the entropy of which points are drawn; far ones count none."""
        angle = torch.arange(MODES) * math.tau / MODES
        places = 2 * torch.stack((angle.cos(), angle.sin()), 1)
        distance, nearest = torch.cdist(self.generator(codes), places).min(1)
        counts = torch.bincount(nearest[distance < 0.5], minlength=MODES).double()
        if not counts.sum():
            return 0.0
        return torch.special.entr(counts / counts.sum()).sum().exp().item()


def steps_of(
    model: Game, penalty: float, rates: tuple[float, float]
) -> Iterator[float]:
    """Non-saturating losses; ``penalty`` is on the discriminator's gradient at data."""
    draw = torch.Generator().manual_seed(5)
    first = torch.optim.Adam(
        model.generator.parameters(), lr=rates[0], betas=(0.0, 0.99)
    )
    second = torch.optim.Adam(
        model.discriminator.parameters(), lr=rates[1], betas=(0.0, 0.99)
    )
    for _ in range(STEPS):
        real = ring(128, draw).requires_grad_(penalty > 0)
        drawn = model.generator(torch.randn(128, 16, generator=draw)).detach()
        judged = model.discriminator(real)
        loss = functional.softplus(-judged).mean()
        loss = loss + functional.softplus(model.discriminator(drawn)).mean()
        if penalty:
            (slope,) = torch.autograd.grad(judged.sum(), real, create_graph=True)
            loss = loss + penalty / 2 * slope.square().sum(1).mean()
        second.zero_grad()
        loss.backward()
        second.step()
        drawn = model.generator(torch.randn(128, 16, generator=draw))
        loss = functional.softplus(-model.discriminator(drawn)).mean()
        first.zero_grad()
        loss.backward()
        first.step()
        yield loss.item()


def game(penalty: float, rates: tuple[float, float], seed: int) -> Course:
    """A course; the truth is how many points the generator draws."""
    model = seeded(seed, Game)
    codes = torch.randn(512, 16, generator=torch.Generator().manual_seed(6))
    return Course(
        model,
        steps_of(model, penalty, rates),
        lambda: model.covered(codes),
        every=50,
        options={"probe": codes},
    )


RUNS = (
    Run("gan", "GAN on a ring, gradient penalty", "auto", True, COVERED, 6.0,
        lambda: game(0.1, (1e-3, 1e-3), 0), held_out=True),
    Run("gan_one_mode", "GAN on a ring, the generator too fast", "auto", False, COVERED,
        3.0, lambda: game(0.0, (5e-3, 5e-4), 1), held_out=True),
)  # fmt: skip
