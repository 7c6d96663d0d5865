"""Self-supervised runs beside SimSiam's own: other optimisers, other losses."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from alarm_runs.classifiers import seeded
from alarm_runs.kit import Course, Run
from alarm_runs.published import NEIGHBOURS
from svdhooks.experiments import collapse
from svdhooks.experiments.digits import load_digits_images

TRAINED = 1297
PROBED = "accuracy of a ridge classifier on the embedding"
RIDGE = 1e-2

ViewLoss = Callable[[Tensor, Tensor, int], Tensor]


class Encoder(nn.Module):
    """Encoder 64-256-64 and expander 64-128-128."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU()
        )
        self.expander = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128)
        )

    def forward(self, images: Float[Tensor, "n h w"]) -> Float[Tensor, "n 128"]:
        return self.expander(self.encoder(images.flatten(1)))


def vicreg(first: Tensor, second: Tensor, variance: float, covariance: float) -> Tensor:
    """Invariance, variance and covariance terms (Bardes et al. 2022)."""
    loss = 25 * functional.mse_loss(first, second)
    for z in (first, second):
        z = z - z.mean(0)
        spread = (z.var(0) + 1e-4).sqrt()
        loss = loss + variance * functional.relu(1 - spread).mean() / 2
        matrix = z.T @ z / (len(z) - 1)
        off = matrix - matrix.diagonal().diag()
        loss = loss + covariance * off.square().sum() / z.shape[1]
    return loss


def contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """InfoNCE, each view against the other views of the batch (Chen et al. 2020)."""
    a, b = functional.normalize(first, dim=1), functional.normalize(second, dim=1)
    logits = a @ b.T / temperature
    own = torch.arange(len(a))
    forth = functional.cross_entropy(logits, own)
    return (forth + functional.cross_entropy(logits.T, own)) / 2


def _views_of(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: ViewLoss,
    steps: int,
    seed: int,
) -> Iterator[float]:
    images, _ = load_digits_images()
    generator = torch.Generator().manual_seed(seed)
    pairs = islice(collapse.batches(images, generator), steps)
    for step, (first, second) in enumerate(pairs):
        loss = loss_of(model(first), model(second), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


@torch.no_grad()
def probed(model: nn.Module) -> float:
    """Accuracy of a ridge classifier, with a fixed ridge: what is tiny does not count."""
    images, labels = load_digits_images()
    z = model.encoder(images.flatten(1)).double()
    if not bool(z.isfinite().all()):
        return 0.0
    z = torch.cat((z - z[:TRAINED].mean(0), torch.ones(len(z), 1)), 1)
    x, y = z[:TRAINED], functional.one_hot(labels[:TRAINED]).double()
    gram = x.T @ x / TRAINED + RIDGE * torch.eye(x.shape[1])
    weight = torch.linalg.solve(gram, x.T @ y / TRAINED)
    answers = (z[TRAINED:] @ weight).argmax(1)
    return float((answers == labels[TRAINED:]).double().mean())


def views(
    loss_of: ViewLoss, *, seed: int, rate: float = 1e-3, steps: int = 1200
) -> Course:
    """A course on two views with Adam; the truth is a ridge classifier."""
    model = seeded(seed, Encoder)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    images, _ = load_digits_images()
    return Course(
        model,
        _views_of(model, optimizer, loss_of, steps, seed),
        lambda: probed(model),
        every=steps // 50,
        options={"probe": images[:512], "taps": {"embedding": "encoder"}},
    )


def simsiam_adam(stop_gradient: bool, seed: int, **options: Any) -> Course:
    """SimSiam with Adam instead of SGD."""
    images, labels = load_digits_images()
    model = collapse.SimSiam(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, **options)

    def losses() -> Iterator[float]:
        generator = torch.Generator().manual_seed(seed)
        for first, second in islice(collapse.batches(images, generator), 1400):
            (p1, z1), (p2, z2) = model(first), model(second)
            loss = collapse.simsiam_loss((p1, p2), (z1, z2), stop_gradient)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()

    return Course(
        model,
        losses(),
        lambda: collapse.nearest_neighbour_accuracy(model.embed(images), labels),
        every=25,
        options={"probe": images[:512], "taps": {"embedding": "encoder"}},
    )


def variance_lost(first: Tensor, second: Tensor, step: int) -> Tensor:
    """VICReg whose variance term vanishes from step 600 on."""
    return vicreg(first, second, 25.0 if step < 600 else 0.0, 1.0)


def _run(name: str, what: str, healthy: bool, make: Any, held_out: bool = False) -> Run:
    return Run(name, what, "ssl", healthy, PROBED, 0.85, make, held_out=held_out)


RUNS = (
    _run("vicreg", "VICReg, Adam", True,
         lambda: views(lambda a, b, _: vicreg(a, b, 25.0, 1.0), seed=0)),
    # a fresh encoder has 0.76
    Run("invariance_only", "VICReg without variance and covariance terms", "ssl",
        False, PROBED, 0.6,
        lambda: views(lambda a, b, _: vicreg(a, b, 0.0, 0.0), seed=1)),
    _run("contrast", "InfoNCE, Adam", True,
         lambda: views(lambda a, b, _: contrast(a, b, 0.2), seed=2), True),
    _run("variance_lost", "VICReg, variance term off from step 600 on", False,
         lambda: views(variance_lost, seed=3), True),
    Run("simsiam_adamw", "SimSiam, AdamW", "ssl", True, NEIGHBOURS, 0.96,
        lambda: simsiam_adam(True, 1, weight_decay=0.01), held_out=True),
    Run("simsiam_no_stop_adamw", "SimSiam without stop-gradient, AdamW", "ssl", False,
        NEIGHBOURS, 0.96, lambda: simsiam_adam(False, 1, weight_decay=0.01),
        held_out=True),
)  # fmt: skip
