"""How the networks of the refit experiment are trained, all alike."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from svdhooks.experiments.refit.layers import FixedSpectrumLinear

REBASE = 20
"""Steps after which the charts of U and V get a new base point."""


@dataclass(frozen=True)
class Data:
    """Samples to learn from and samples to judge by.

    Attributes:
        train_x: Inputs, one per row.
        train_y: Classes (integers), or targets of a squared loss (floating).
        test_x: Inputs that are not learned.
        test_y: What belongs to them.
    """

    train_x: Float[Tensor, "n ..."]
    train_y: Shaped[Tensor, "n ..."]
    test_x: Float[Tensor, "t ..."]
    test_y: Shaped[Tensor, "t ..."]

    @property
    def classes(self) -> bool:
        """Whether the targets are classes."""
        return not self.train_y.is_floating_point()


def split(
    x: Float[Tensor, "n ..."],
    y: Shaped[Tensor, "n ..."],
    generator: torch.Generator,
    test_share: float = 0.2,
) -> Data:
    """Set a share of the samples aside.

    Args:
        x: Inputs.
        y: Classes or targets.
        generator: Decides which.
        test_share: How many, between 0 and 1.

    Returns:
        Both parts; with a share of 0 the test samples are the training samples.

    Raises:
        ValueError: If there are not as many targets as inputs, or too few of both.
    """
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(
            f"Found {len(x)} inputs and {len(y)} targets, expected as many of one as of "
            "the other, at least two."
        )
    aside = round(test_share * len(x))
    order = torch.randperm(len(x), generator=generator)
    test, train = order[:aside], order[aside:]
    judged = test if aside else train
    return Data(x[train], y[train], x[judged], y[judged])


@dataclass(frozen=True)
class Training:
    """How to train: Adam, the learning rate falling to 0 along a cosine.

    Attributes:
        steps: Optimiser steps.
        learning_rate: At the start.
        weight_decay: Decoupled (AdamW); for ordinary weights only.
        batch_size: Samples for each step; all of them if there are not more.
    """

    steps: int
    learning_rate: float
    weight_decay: float
    batch_size: int


def losses(
    outputs: Float[Tensor, "*r n d"], targets: Shaped[Tensor, "n ..."]
) -> Float[Tensor, "*r"]:
    """The loss of each of several networks on the same samples.

    Args:
        outputs: Of one network, or of several along a leading dimension.
        targets: Classes: cross-entropy. Floating: squared error, a mean over all entries.

    Returns:
        A loss for each network.
    """
    if targets.is_floating_point():
        return (outputs - targets).square().mean((-2, -1))
    picked = functional.log_softmax(outputs, -1)
    at = targets.expand(outputs.shape[:-1]).unsqueeze(-1)
    return -picked.gather(-1, at)[..., 0].mean(-1)


def train(
    network: nn.Module,
    data: Data,
    training: Training,
    generator: torch.Generator,
    look: Callable[[int], None] = lambda _: None,
) -> None:
    """Train one network, or several side by side that learn nothing from each other.

    Args:
        network: Trained in place. It may have nothing to train.
        data: Its training part is used.
        training: How.
        generator: Draws the batches.
        look: Called with 0 before the first step, and with each step after it.

    Raises:
        FloatingPointError: If the loss is no longer finite.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
    )
    look(0)
    count = len(data.train_x)
    for step in range(training.steps):
        # all samples: the gradient is exact, nothing to draw
        some = training.batch_size < count
        batch = (
            torch.randint(count, (training.batch_size,), generator=generator)
            if some
            else slice(None)
        )
        share = 0.5 * (1 + math.cos(math.pi * step / training.steps))
        optimizer.param_groups[0]["lr"] = training.learning_rate * share
        # a sum: the gradient of each network is that of its own loss
        loss = losses(network(data.train_x[batch]), data.train_y[batch]).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        if (step + 1) % REBASE == 0:
            rebase(network)
        look(step + 1)
    _check_finite(network, data, training)


def rebase(network: nn.Module) -> None:
    """Move the base points of all charts of U and V to where they are now.

    Args:
        network: Its function stays as it is.
    """
    for module in network.modules():
        if isinstance(module, FixedSpectrumLinear):
            module.rebase()


@torch.no_grad()
def _check_finite(network: nn.Module, data: Data, training: Training) -> None:
    if not torch.isfinite(losses(network(data.train_x), data.train_y)).all():
        raise FloatingPointError(
            "Found a loss that is not finite after training with the learning rate "
            f"{training.learning_rate:g}, expected a finite one. Pass a smaller one."
        )
