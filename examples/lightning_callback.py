"""The one line in a Lightning trainer, with early stopping on a rank.

Run it with ``python examples/lightning_callback.py``; then
``tensorboard --logdir runs/lightning``.
"""

import sys

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from svdhooks.lightning import SpectrumMonitor


class Autoencoder(pl.LightningModule):
    """Eight numbers have to describe a digit."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct the images."""
        return self.decoder(self.encoder(x))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Squared error."""
        loss = nn.functional.mse_loss(self(batch[0]), batch[0])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(log_dir: str = "runs/lightning", epochs: int = 5) -> None:
    pl.seed_everything(0)
    images = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    loader = DataLoader(TensorDataset(images), batch_size=64, shuffle=True)
    code_rank = "output_effective_rank/encoder.2"
    pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(log_dir),
        log_every_n_steps=10,
        enable_checkpointing=False,
        callbacks=[
            SpectrumMonitor(every_n_steps=10, monitor=[code_rank]),
            # stop when the code uses fewer than two of its eight dimensions
            EarlyStopping(
                code_rank,
                mode="max",
                patience=10**6,
                divergence_threshold=2.0,
                check_on_train_epoch_end=True,
            ),
        ],
    ).fit(Autoencoder(), loader)


if __name__ == "__main__":
    main(*sys.argv[1:])
