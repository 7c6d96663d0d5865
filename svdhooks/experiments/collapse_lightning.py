"""The collapse experiment as a Lightning module, for `svdhooks demo`."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from svdhooks.experiments import collapse

LOSS_EVERY = 10
"""The loss is logged every so many steps."""


class SimSiamTraining(pl.LightningModule):
    """SimSiam on digits, with or without stop-gradient.

    Args:
        stop_gradient: False lets the model collapse.
        seed: Decides the initial weights.
    """

    def __init__(self, stop_gradient: bool, seed: int) -> None:
        super().__init__()
        self.model = collapse.SimSiam(seed)
        self.stop_gradient = stop_gradient

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict, from one view, the projection of the other."""
        predicted: tuple[Tensor, Tensor] = self.model(images)
        return predicted

    def training_step(self, batch: tuple[Tensor, Tensor], _batch_idx: int) -> Tensor:
        """The loss of one pair of views."""
        (p_first, z_first), (p_second, z_second) = self(batch[0]), self(batch[1])
        loss = collapse.simsiam_loss(
            (p_first, p_second), (z_first, z_second), self.stop_gradient
        )
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return collapse.make_optimizer(self.model)


class _Views(IterableDataset[tuple[Tensor, Tensor]]):
    """The same views in the same order for both variants."""

    def __init__(self, images: Tensor, seed: int, steps: int) -> None:
        self._images, self._seed, self._steps = images, seed, steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self._seed)
        return islice(collapse.batches(self._images, generator), self._steps)

    def __len__(self) -> int:
        return self._steps


def fit(
    module: SimSiamTraining,
    images: Tensor,
    *,
    steps: int,
    seed: int,
    logger: Any,
    callbacks: list[pl.Callback],
) -> None:
    """Train with Lightning.

    Args:
        module: Trained in place.
        images: The training images.
        steps: How many optimiser steps to take.
        seed: Decides batches and views.
        logger: Where the loss goes.
        callbacks: Such as the spectrum monitor.
    """
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=logger,
        callbacks=callbacks,
        log_every_n_steps=LOSS_EVERY,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    loader = DataLoader(_Views(images, seed, steps), batch_size=None)
    trainer.fit(module, loader)
