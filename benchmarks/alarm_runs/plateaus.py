"""Healthy runs that look ill: losses that stall or jump while ranks fall."""

from collections.abc import Iterator

import torch

from alarm_runs.classifiers import Data, accuracy, course, digits, mlp, seeded
from alarm_runs.kit import Course, Run
from alarm_runs.others import EXPLAINED, fitted
from alarm_runs.sequences import Language, language

KEPT = "accuracy on images kept apart"


def noisy_answers() -> Course:
    """Regression whose answers are half noise: the loss stalls at their variance."""
    generator = torch.Generator().manual_seed(70)
    x = torch.randn(6000, 16, generator=generator)
    y = (x[:, :2] @ torch.tensor([[1.0, 0.5], [-0.5, 1.0]])).tanh()
    noise = 0.6 * torch.randn(y.shape, generator=generator)
    data = Data(x[:5500], (y + noise)[:5500], x[5500:], y[5500:])
    model = seeded(0, lambda: mlp(16, 64, 64, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    return fitted(model, data, optimizer, 3000)


def noisy_labels() -> Course:
    """A third of the labels are wrong, anew at each step: the loss stalls high."""
    model = seeded(1, lambda: mlp(64, 128, 128, 10))
    data = digits()
    generator = torch.Generator().manual_seed(71)

    def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        wrong = torch.rand(len(labels), generator=generator) < 1 / 3
        drawn = torch.randint(0, 10, labels.shape, generator=generator)
        return torch.nn.functional.cross_entropy(
            logits, torch.where(wrong, drawn, labels)
        )

    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3
    )
    return course(model, data, optimizer, 2500, loss_of=loss_of)


def overtrained() -> Course:
    """Ten times as long as it needs, with decay; the loss stalls near zero."""
    model = seeded(2, lambda: mlp(64, 128, 128, 64, 10))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, weight_decay=2e-3
    )
    return course(model, digits(), optimizer, 12000, records=80)


def restarts() -> Course:
    """Cosine with warm restarts: the loss jumps at each."""
    model = seeded(3, lambda: mlp(64, 128, 128, 10, norm=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 400)
    return course(model, digits(), optimizer, 2400, schedule=schedule)


def new_classes() -> Course:
    """Classes come two by two, and the old ones stay: the loss jumps four times."""
    model = seeded(4, lambda: mlp(64, 128, 128, 10))
    whole = digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def losses() -> Iterator[float]:
        generator = torch.Generator().manual_seed(72)
        for step in range(2500):
            known = whole.y < 2 + 2 * min(4, step // 500)
            places = known.nonzero()[:, 0]
            chosen = places[torch.randint(0, len(places), (64,), generator=generator)]
            logits = model(whole.x[chosen])
            loss = torch.nn.functional.cross_entropy(logits, whole.y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()

    return Course(
        model,
        losses(),
        lambda: accuracy(model, whole),
        every=50,
        options={"probe": whole.x[:512]},
    )


def gpt_long() -> Course:
    """A GPT that has reached its floor for most of the run, with decay 0.5."""
    model = seeded(6, lambda: Language(blocks=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.5)
    return language(model, optimizer, 1600)


def gpt_small_batches() -> Course:
    """A GPT with batches of four sequences: the loss is rough."""
    model = seeded(7, lambda: Language(blocks=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    return language(model, optimizer, 2000, batch=4)


RUNS = (
    Run("noisy_answers", "regression, half of the answers is noise", "supervised", True,
        EXPLAINED, 0.8, noisy_answers),
    Run("noisy_labels", "MLP, a third of the labels drawn anew", "supervised", True, KEPT,
        0.9, noisy_labels, held_out=True),
    Run("overtrained", "MLP, ten times longer than it needs, with decay", "supervised",
        True, KEPT, 0.9, overtrained),
    Run("restarts", "MLP, cosine with warm restarts", "supervised", True, KEPT, 0.9,
        restarts, held_out=True),
    Run("new_classes", "MLP, classes come two by two", "supervised", True, KEPT, 0.9,
        new_classes, held_out=True),
    Run("gpt_long", "GPT long at its floor, decay 0.5", "lm", True,
        "loss on text kept apart", 2.4, gpt_long, below=True, held_out=True),
    Run("gpt_small_batches", "GPT with batches of four", "lm", True,
        "loss on text kept apart", 2.4, gpt_small_batches, below=True),
)  # fmt: skip
