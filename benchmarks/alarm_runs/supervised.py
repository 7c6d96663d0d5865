"""Healthy and collapsing classifiers of digits: MLPs and convolutional networks."""

from typing import Any

import torch
from torch import nn

from alarm_runs.classifiers import (
    ACCURACY,
    cnn,
    course,
    digits,
    mlp,
    seeded,
    warm_cosine,
)
from alarm_runs.kit import Course, Run


def plain(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, **other: Any
) -> Course:
    """A course on flat digits."""
    return course(model, digits(), optimizer, steps, **other)


def mlp_sgd() -> Course:
    model = seeded(0, lambda: mlp(64, 128, 128, 64, 10))
    rate = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return plain(model, rate, 1800)


def mlp_adam() -> Course:
    model = seeded(1, lambda: mlp(64, 256, 128, 10))
    return plain(model, torch.optim.Adam(model.parameters(), lr=1e-3), 1800)


def mlp_decay() -> Course:
    model = seeded(2, lambda: mlp(64, 128, 128, 64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    return plain(model, optimizer, 3000)


def mlp_dropout() -> Course:
    model = seeded(3, lambda: mlp(64, 256, 256, 10, dropout=0.4))
    return plain(model, torch.optim.Adam(model.parameters(), lr=1e-3), 2000)


def mlp_deep() -> Course:
    model = seeded(4, lambda: mlp(64, *(96,) * 8, 10, norm=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return plain(model, optimizer, 1800, schedule=warm_cosine(optimizer, 1800, 100))


def two_classes() -> Course:
    """Even or odd: the head has two outputs."""
    model = seeded(5, lambda: mlp(64, 128, 64, 2))
    data = digits()
    data.y.remainder_(2)
    data.answers.remainder_(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return course(model, data, optimizer, 1800)


def cnn_sgd() -> Course:
    model = seeded(0, cnn)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = warm_cosine(optimizer, 900, 60)
    return course(model, digits(flat=False), optimizer, 900, schedule=schedule)


def cnn_adam() -> Course:
    model = seeded(1, lambda: cnn(norm=False, width=16))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return course(model, digits(flat=False), optimizer, 900)


def dead_bias() -> Course:
    """Hidden biases of -3: many ReLUs are dead from the start, and the rest die."""
    model = seeded(0, lambda: mlp(64, 128, 128, 64, 10))
    with torch.no_grad():
        for layer in list(model)[2:-1:2]:
            layer.bias.fill_(-3.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return plain(model, optimizer, 1200)


def dying(rate: float = 0.02, seed: int = 1) -> Course:
    """A rate that grows until the ReLUs die, as when a schedule is wrong."""
    model = seeded(seed, lambda: mlp(64, 128, 128, 64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1.003)
    return plain(model, optimizer, 1800, schedule=schedule)


def rate_too_high() -> Course:
    model = seeded(2, lambda: mlp(64, 128, 128, 64, 10))
    return plain(model, torch.optim.Adam(model.parameters(), lr=0.3), 900)


def absurd_decay() -> Course:
    """It learns, then somebody sets a weight decay that takes 8 % at each step."""
    model = seeded(3, lambda: mlp(64, 128, 128, 64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)

    def disturb(step: int) -> None:
        if step == 600:
            optimizer.param_groups[0]["weight_decay"] = 40.0

    return plain(model, optimizer, 1800, disturb=disturb)


def decay_from_start() -> Course:
    model = seeded(4, lambda: cnn(norm=True))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.3
    )
    return course(model, digits(flat=False), optimizer, 900)


def not_a_number() -> Course:
    """One layer is set to NaN midway, as by an overflow."""
    model = seeded(5, lambda: mlp(64, 128, 128, 64, 10))

    def disturb(step: int) -> None:
        if step == 700:
            with torch.no_grad():
                model[2].weight[3, 5] = torch.nan

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return plain(model, optimizer, 1200, disturb=disturb)


def exploding() -> Course:
    """Seven layers without normalisation whose weights begin to grow."""
    model = seeded(6, lambda: mlp(64, *(64,) * 6, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)

    def disturb(step: int) -> None:
        if step >= 600:  # decay with the wrong sign
            optimizer.param_groups[0]["weight_decay"] = -0.05

    return plain(model, optimizer, 1500, disturb=disturb)


def zeroed() -> Course:
    """A layer is set to zero midway, as by a faulty pruning mask."""
    model = seeded(7, lambda: cnn(norm=False, width=16))

    def disturb(step: int) -> None:
        if step >= 500:
            with torch.no_grad():
                model[2].weight.zero_()

    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return course(model, digits(flat=False), optimizer, 900, disturb=disturb)


def _run(
    name: str,
    what: str,
    healthy: bool,
    make: Any,
    held_out: bool = False,
    level: float = 0.9,
) -> Run:
    return Run(
        name, what, "supervised", healthy, ACCURACY, level, make, held_out=held_out
    )


RUNS = (
    _run("mlp_sgd", "MLP, SGD with momentum", True, mlp_sgd),
    _run("dead_bias", "MLP, hidden biases of -3", False, dead_bias),
    _run("mlp_adam", "MLP, Adam", True, mlp_adam),
    _run("cnn_sgd", "CNN with batch norm, SGD, warm-up and cosine", True, cnn_sgd),
    _run("rate_too_high", "MLP, Adam at a rate of 0.3", False, rate_too_high),
    _run("absurd_decay", "MLP, decay of 40 from step 600 on", False, absurd_decay),
    _run("not_a_number", "MLP, a weight is NaN from step 700 on", False, not_a_number),
    _run("exploding", "MLP without norms, decay of the wrong sign", False, exploding),
    _run("mlp_decay", "MLP, AdamW with decay 0.05", True, mlp_decay, True),
    _run("mlp_dropout", "MLP with dropout 0.4, Adam", True, mlp_dropout, True),
    _run("mlp_deep", "MLP of 9 layers, LayerNorm, cosine", True, mlp_deep, True),
    _run("two_classes", "even or odd, SGD", True, two_classes, True),
    _run("cnn_adam", "CNN without norm, Adam", True, cnn_adam, True),
    _run("dying", "MLP, SGD at a rate that grows", False, dying, True),
    _run("decay_from_start", "CNN, decay 0.3", False, decay_from_start, True),
    _run(
        "zeroed",
        "CNN, a layer is zeroed before each step from 500 on",
        False,
        zeroed,
        True,
    ),
)
