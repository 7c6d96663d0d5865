"""Weights in checkpoint files: tensor by tensor, without building the model."""

from svdhooks.checkpoint.scanning import CheckpointScan, scan_checkpoint
from svdhooks.checkpoint.series import SeriesScan, log_checkpoint, scan_series

__all__ = [
    "CheckpointScan",
    "SeriesScan",
    "log_checkpoint",
    "scan_checkpoint",
    "scan_series",
]
