"""Runs that are hard to judge, all held out: for false alarms, and for missed ones."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from alarm_runs.classifiers import ACCURACY, Data, course, digits, mlp, seeded
from alarm_runs.kit import Course, Run
from alarm_runs.others import EXPLAINED, explained, fitted, images_as_answers
from alarm_runs.published import NEIGHBOURS, simsiam


class Sparse(nn.Module):
    """A sparse autoencoder: many more units than inputs, few of them on."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(64, 512)
        self.decoder = nn.Linear(512, 64)
        self.code = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        self.code = self.encoder(x).relu()
        return self.decoder(self.code)


def sparse_code() -> Course:
    """Units die, as they do in sparse autoencoders, and it reconstructs well."""
    model = seeded(0, Sparse)

    def loss_of(answers: Tensor, images: Tensor) -> Tensor:
        rest = (answers - images).square().sum(1).mean()
        return rest + 0.3 * model.code.sum(1).mean()

    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fitted(model, images_as_answers(), optimizer, 2000, loss_of)


def pruned() -> Course:
    """Nine tenths of the weights are taken away midway, and it goes on."""
    model = seeded(1, lambda: mlp(64, 128, 128, 10))
    masks: list[Tensor] = []

    @torch.no_grad()
    def disturb(step: int) -> None:
        weights = [m.weight for m in model if isinstance(m, nn.Linear)]
        if step == 800:
            shares = ((w.abs(), w.abs().flatten().quantile(0.9)) for w in weights)
            masks.extend(size > bound for size, bound in shares)
        for weight, mask in zip(weights, masks, strict=False):
            weight.mul_(mask)

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return course(model, digits(), optimizer, 2000, disturb=disturb)


def growing_norms() -> Course:
    """Weights before normalisation that only grow: no decay and a large rate."""

    def build() -> nn.Module:
        layers = [
            [nn.Linear(a, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()]
            for a in (64, 128, 128)
        ]
        return nn.Sequential(*(m for part in layers for m in part), nn.Linear(128, 10))

    model = seeded(2, build)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    return course(model, digits(), optimizer, 2000)


def growing_targets() -> Course:
    """Answers that grow a hundredfold, as values do that are learned by bootstrap."""
    generator = torch.Generator().manual_seed(80)
    x = torch.randn(4000, 12, generator=generator)
    y = torch.stack(((x[:, 0] * x[:, 1]).tanh(), x[:, 2].sin(), x[:, 3] * x[:, 4]), 1)
    data = Data(x[:3500], y[:3500], x[3500:], y[3500:])
    model = seeded(3, lambda: mlp(12, 128, 128, 3, norm=True))
    scale = [1.0]

    def disturb(step: int) -> None:
        scale[0] = 100.0 ** min(1.0, step / 2000)

    def loss_of(answers: Tensor, wanted: Tensor) -> Tensor:
        return functional.mse_loss(answers, scale[0] * wanted)

    def truth() -> float:
        there = replace(data, answers=scale[0] * data.answers)
        return explained(model, there)

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    made = fitted(model, data, optimizer, 3000, loss_of, disturb=disturb)
    return replace(made, truth=truth)


class Residual(nn.Module):
    """Residual blocks whose last layers are zero at first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 96)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 96))
            for _ in range(6)
        )
        for block in self.blocks:
            nn.init.zeros_(block[2].weight)
            nn.init.zeros_(block[2].bias)
        self.head = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def zero_branches() -> Course:
    model = seeded(4, Residual)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return course(model, digits(), optimizer, 1200)


def captured(make: Course) -> Course:
    """The same, without a reference batch given: the first training batch serves."""
    options = {name: value for name, value in make.options.items() if name != "probe"}
    return replace(make, options=options)


def mlp_captured() -> Course:
    model = seeded(5, lambda: mlp(64, 128, 64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return captured(course(model, digits(), optimizer, 1500, batch=32))


def vanishing() -> Course:
    """Fourteen layers of sigmoids: gradients vanish, and it never learns."""
    widths = (64, *(64,) * 13, 10)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [seeded(len(layers), lambda a=inputs, b=outputs: nn.Linear(a, b))]
        layers += [nn.Sigmoid()]
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return course(model, digits(), optimizer, 1200)


def forgetful() -> Course:
    """Later batches hold one class only, as from a loader that forgot to shuffle."""
    model = seeded(6, lambda: mlp(64, 128, 128, 10))
    data = digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def losses() -> Iterator[float]:
        generator = torch.Generator().manual_seed(81)
        ones = (data.y == 1).nonzero()[:, 0]
        for step in range(1500):
            pool = ones if step >= 600 else torch.arange(len(data.x))
            chosen = pool[torch.randint(0, len(pool), (64,), generator=generator)]
            loss = functional.cross_entropy(model(data.x[chosen]), data.y[chosen])
            loss = loss + 1e-3 * sum(p.square().sum() for p in model.parameters())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()

    made = course(model, data, optimizer, 1500)
    return replace(made, losses=losses())


RUNS = (
    Run("sparse_code", "sparse autoencoder, 512 units, many die", "auto", True, EXPLAINED,
        0.7, sparse_code, held_out=True),
    Run("pruned", "MLP, nine tenths of the weights pruned at step 800", "supervised",
        True, ACCURACY, 0.9, pruned, held_out=True),
    Run("growing_norms", "MLP with batch norm, weights that only grow", "supervised",
        True, ACCURACY, 0.9, growing_norms, held_out=True),
    Run("growing_targets", "regression, answers grow a hundredfold", "supervised", True,
        EXPLAINED, 0.7, growing_targets, held_out=True),
    Run("zero_branches", "residual branches that are zero at first", "supervised", True,
        ACCURACY, 0.9, zero_branches, held_out=True),
    Run("mlp_captured", "MLP, the first batch of 32 is the probe", "supervised", True,
        ACCURACY, 0.9, mlp_captured, held_out=True),
    Run("simsiam_no_stop_captured", "SimSiam without stop-gradient, the first batch is "
        "the probe", "ssl", False, NEIGHBOURS, 0.975,
        lambda: captured(simsiam(False, 4)), held_out=True),
    Run("vanishing", "14 layers of sigmoids, SGD", "supervised", False, ACCURACY, 0.9,
        vanishing, held_out=True),
    Run("forgetful", "MLP, batches of one class from step 600 on", "supervised", False,
        ACCURACY, 0.9, forgetful, held_out=True),
)  # fmt: skip
