"""Small Lightning fits for tests: 12 batches of 4 samples, 6 features."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from svdhooks.lightning import SpectrumMonitor
from svdhooks.sinks.memory import MemorySink

X = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))

MakeOptimizer = Callable[..., torch.optim.Optimizer]


def network() -> nn.Sequential:
    """With an activation in place, and dropout so that random streams matter."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(8, 3)
    )


class Fitted(pl.LightningModule):
    """Any network; the loss is the mean square of its output.

    Attributes:
        losses: Of every training step.
    """

    def __init__(
        self,
        net: nn.Module | None = None,
        make: MakeOptimizer = torch.optim.SGD,
        **options: Any,
    ) -> None:
        super().__init__()
        self.net = network() if net is None else net
        self.make = lambda: make(self.parameters(), **{"lr": 0.1, **options})
        self.losses: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x)
        return result

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss = self(batch[0]).square().mean()
        self.losses.append(loss.detach().clone())
        return loss

    def configure_optimizers(self) -> Any:
        return self.make()


def loader(shuffle: bool = False, x: Tensor = X) -> DataLoader[Any]:
    """Batches of 4."""
    return DataLoader(TensorDataset(x), batch_size=4, shuffle=shuffle)


def trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """A quiet one on the CPU."""
    defaults = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
        "logger": False,
    }
    return pl.Trainer(callbacks=list(callbacks), **(defaults | options))


def monitor(log_dir: Any, **options: Any) -> tuple[SpectrumMonitor, MemorySink]:
    """One that records every update and keeps what it recorded."""
    memory = MemorySink()
    defaults = {"every_n_steps": 1, "max_overhead": None, "on_error": "raise"}
    made = SpectrumMonitor(log_dir=log_dir, sinks=[memory], **(defaults | options))
    return made, memory


class ByHand(Fitted):
    """Two optimisers by hand; the second makes an update at every second batch."""

    raw = False

    def __init__(self, raw: bool | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        if raw is not None:  # past Lightning's wrappers, which then count nothing
            self.raw = raw

    def training_step(self, batch: list[Tensor], index: int) -> None:
        for i, wrapped in enumerate(self.optimizers()):
            optimizer = wrapped.optimizer if self.raw else wrapped
            self.manual_backward(self(batch[0]).square().mean())
            if i == 0 or index % 2:
                optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        layers = self.net[0], self.net[3]
        return [torch.optim.SGD(x.parameters(), lr=0.05) for x in layers]
