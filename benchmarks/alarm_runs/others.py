"""Runs that are no classification: codes, regression, fine-tuning, arithmetic."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from alarm_runs.classifiers import (
    ACCURACY,
    Data,
    accuracy,
    course,
    digits,
    mlp,
    seeded,
    steps_of,
)
from alarm_runs.kit import Course, Run

EXPLAINED = "share of the variance of images kept apart that is reconstructed"


class Coder(nn.Module):
    """An autoencoder 64-128-code-128-64, or a variational one."""

    def __init__(self, code: int, variational: bool = False) -> None:
        super().__init__()
        self.variational = variational
        self.encoder = mlp(64, 128, code * (1 + variational))
        self.decoder = mlp(code, 128, 64)
        self.last: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Float[Tensor, "n 64"]) -> Float[Tensor, "n 64"]:
        code = self.encoder(x)
        if self.variational:
            mean, log_variance = code.chunk(2, 1)
            self.last = (mean, log_variance)
            noise = torch.randn_like(mean) if self.training else 0.0
            code = mean + noise * (0.5 * log_variance).exp()
        else:
            self.last = (code, code)
        return self.decoder(code)


def explained(model: nn.Module, data: Data) -> float:
    """Share of the variance that a model's answers explain on what is kept apart."""
    was = model.training
    model.eval()
    with torch.no_grad():
        rest = (model(data.apart) - data.answers).square().mean()
    model.train(was)
    spread = (data.answers - data.answers.mean(0)).square().mean()
    return float(1 - rest / spread)


def fitted(
    model: nn.Module,
    data: Data,
    optimizer: torch.optim.Optimizer,
    steps: int,
    loss_of: Callable[[Tensor, Tensor], Tensor] = functional.mse_loss,
    **training: Any,
) -> Course:
    """A course of regression; the truth is the explained share of variance."""
    return Course(
        model,
        steps_of(model, data, optimizer, steps, loss_of=loss_of, **training),
        lambda: explained(model, data),
        every=steps // 50,
        options={"probe": data.x[:512]},
    )


def images_as_answers() -> Data:
    data = digits()
    return Data(data.x, data.x, data.apart, data.apart)


def autoencoder() -> Course:
    model = seeded(0, lambda: Coder(8))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fitted(model, images_as_answers(), optimizer, 1500)


def silenced_code() -> Course:
    """The penalty on the code grows until the code says nothing."""
    model = seeded(1, lambda: Coder(16))
    weight = [0.0]

    def disturb(step: int) -> None:
        weight[0] = 0.0 if step < 500 else 0.2 * (step - 500)

    def loss_of(answers: Tensor, images: Tensor) -> Tensor:
        code, _ = model.last
        return functional.mse_loss(answers, images) + weight[0] * code.abs().mean()

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    return fitted(model, images_as_answers(), optimizer, 1500, loss_of, disturb=disturb)


def variational(beta: float, seed: int, growth: float = 1.0) -> Course:
    """A variational autoencoder; with a large beta the posterior collapses."""
    model = seeded(seed, lambda: Coder(8, variational=True))
    weight = [beta]

    def disturb(step: int) -> None:
        weight[0] = beta * growth ** max(0, step - 700)

    def loss_of(answers: Tensor, images: Tensor) -> Tensor:
        mean, log_variance = model.last
        divergence = mean.square() + log_variance.exp() - 1 - log_variance
        rest = (answers - images).square().sum(1).mean() / 2
        return rest + weight[0] * divergence.sum(1).mean() / 2

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return fitted(model, images_as_answers(), optimizer, 1500, loss_of, disturb=disturb)


def bottleneck(rate: float, seed: int, momentum: float | None = None) -> Course:
    """Regression through a layer of three units; the answers depend on three numbers."""
    generator = torch.Generator().manual_seed(50 + seed)
    hidden = torch.randn(2500, 3, generator=generator)
    x = hidden @ torch.randn(3, 20, generator=generator)
    x = x + 0.1 * torch.randn(x.shape, generator=generator)
    y = torch.stack((hidden[:, 0].sin(), hidden[:, 1] * hidden[:, 2], hidden.sum(1)), 1)
    data = Data(x[:2000], y[:2000], x[2000:], y[2000:])
    model = seeded(seed, lambda: mlp(20, 64, 64, 3, 64, 3))
    model = nn.Sequential(*(m for i, m in enumerate(model) if i != 5))  # linear there
    if momentum is None:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    return fitted(model, data, optimizer, 1800)


class Adapted(nn.Module):
    """A frozen linear map and an adapter B·A with B = 0 at the start."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Linear(base.in_features, rank, bias=False)
        self.lora_b = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        return self.base(x) + self.lora_b(self.lora_a(x))


def pretrained(seed: int) -> nn.Sequential:
    """An MLP that knows digits whose pixels are permuted otherwise."""
    model = seeded(seed, lambda: mlp(64, 128, 128, 10))
    data = digits(seed)
    moved = torch.randperm(64, generator=torch.Generator().manual_seed(seed))
    data = Data(data.x[:, moved], data.y, data.apart, data.answers)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in steps_of(model, data, optimizer, 600):
        """Only the weights matter."""
    return model


def adapters() -> Course:
    model = pretrained(0)
    for place in (0, 2, 4):
        model[place] = seeded(place, lambda at=place: Adapted(model[at], 8))
    trained = [p for p in model.parameters() if p.requires_grad]
    return course(model, digits(), torch.optim.AdamW(trained, lr=3e-3), 1500)


def frozen_trunk() -> Course:
    model = pretrained(1)
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    model[4] = seeded(9, lambda: nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model[4].parameters(), lr=3e-3)
    return course(model, digits(), optimizer, 1500)


class Sum(nn.Module):
    """Embeddings of two numbers, one hidden layer, their sum modulo p."""

    def __init__(self, p: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(p, 64)
        self.hidden = nn.Linear(128, 256)
        self.head = nn.Linear(256, p)

    def forward(self, pairs: Tensor) -> Tensor:
        x = self.embed(pairs).flatten(1)
        return self.head(self.hidden(x).relu())


def arithmetic(p: int = 31, share: float = 0.6, seed: int = 0) -> Course:
    """Grokking: sums modulo p, AdamW with decay 1; test accuracy comes late."""
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    order = torch.randperm(
        len(pairs), generator=torch.Generator().manual_seed(60 + seed)
    )
    pairs, count = pairs[order], int(share * len(pairs))
    answers = pairs.sum(1) % p
    data = Data(pairs[:count], answers[:count], pairs[count:], answers[count:])
    model = seeded(seed, lambda: Sum(p))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98)
    )
    return Course(
        model,
        steps_of(model, data, optimizer, 9000, batch=count, seed=seed),
        lambda: accuracy(model, data),
        every=150,
        options={"probe": data.x},
    )


class Rows(nn.Module):
    """An LSTM that reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 64, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        out, _ = self.lstm(images.unflatten(1, (8, 8)))
        return self.head(out[:, -1])


def recurrent() -> Course:
    model = seeded(0, Rows)
    return course(model, digits(), torch.optim.Adam(model.parameters(), lr=3e-3), 900)


def _run(
    name: str, what: str, healthy: bool, truth: str, level: float, make: Any,
    held_out: bool = False, preset: str = "supervised",
) -> Run:  # fmt: skip
    return Run(name, what, preset, healthy, truth, level, make, held_out=held_out)


RUNS = (
    _run("autoencoder", "autoencoder with 8 codes, Adam", True, EXPLAINED, 0.7,
         autoencoder),
    _run("arithmetic", "sums modulo 31, decay 1: late generalisation", True, ACCURACY,
         0.8, arithmetic),
    _run("adapters", "adapters B·A beside a frozen MLP, B = 0 at first", True,
         ACCURACY, 0.85, adapters),
    _run("silenced_code", "autoencoder, a growing penalty on its code", False,
         EXPLAINED, 0.5, silenced_code),
    _run("variational", "variational autoencoder", True, EXPLAINED, 0.4,
         lambda: variational(1.0, 0), True),
    _run("posterior", "variational autoencoder, beta grows from step 700 on", False, EXPLAINED,
         0.2, lambda: variational(0.5, 1, growth=1.01), True),
    _run("bottleneck", "regression through three units, Adam", True, EXPLAINED, 0.8,
         lambda: bottleneck(2e-3, 0), True),
    _run("frozen_trunk", "a new head on a frozen trunk", True, ACCURACY, 0.8,
         frozen_trunk, True),
    _run("recurrent", "LSTM that reads rows, Adam", True, ACCURACY, 0.9, recurrent,
         True),
    _run("bottleneck_diverges", "regression, SGD at a rate of 0.5", False, EXPLAINED,
         0.3, lambda: bottleneck(0.5, 1, momentum=0.9), True),
)  # fmt: skip
