"""Digits, and what is left of a network when some of its directions are taken away."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

import svdhooks
from svdhooks.analysis import SpectralGraph, layer_snapshot

TRAIN_IMAGES = 1437
"""Of 1,797; the others are the test images."""
DRAWS = 20
"""Random choices, of which the mean accuracy is told."""
ARMS = ("block", "outside", "random_neurons", "random_directions")
"""What pruning leaves of every layer."""


@dataclass(frozen=True)
class Images:
    """One image per row, with pixels in [0, 1], and what it shows."""

    x: Tensor
    y: Tensor


def split_digits(seed: int) -> tuple[Images, Images]:
    """Training and test images."""
    digits = load_digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(digits.data), generator=generator)
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    train, test = order.split([TRAIN_IMAGES, len(order) - TRAIN_IMAGES])
    return Images(x[train], y[train]), Images(x[test], y[test])


def chain(log: svdhooks.RunLog) -> list[str]:
    """The layers of a network without branches, in the order of the data."""
    return [*(pair["source"] for pair in log.pairs), log.pairs[-1]["target"]]


@dataclass(frozen=True)
class Factors:
    """The layers of a recorded network, each as ``U diag(sigma) Vh``; no model needed."""

    layers: tuple[tuple[NDArray[Any], NDArray[Any], NDArray[Any]], ...]

    @classmethod
    def of(cls, log: svdhooks.RunLog, step: int | None = None) -> "Factors":
        """As they were at a recorded step; None: the last one."""
        found = [layer_snapshot(log, layer, step) for layer in chain(log)]
        return cls(tuple((each.U, each.sigma, each.Vh) for each in found))

    def eyes(self) -> list[NDArray[np.float64]]:
        """An identity for each layer, as large as its rank."""
        return [np.eye(len(sigma)) for _, sigma, _ in self.layers]

    def accuracy(
        self, images: Images, keep: Sequence[NDArray[np.float64]] | None = None
    ) -> float:
        """Accuracy of the network with only some directions of each layer's input left.

        Args:
            images: Of which.
            keep: For each layer ``(rank, k)``, an orthonormal basis of what is left, in
                the basis of its right singular vectors; None: everything.

        Returns:
            Between 0 and 1.
        """
        x = images.x.numpy().astype(np.float64)
        for (U, sigma, Vh), basis in zip(
            self.layers, self.eyes() if keep is None else keep, strict=True
        ):
            # the ReLU before this layer; pixels are not negative
            seen = np.maximum(x, 0) @ Vh.T
            x = (seen @ basis @ basis.T * sigma) @ U.T
        return float((x.argmax(1) == images.y.numpy()).mean())


def block_sizes(graph: SpectralGraph, ranks: Sequence[int]) -> list[int]:
    """How many leading neurons of each layer are in the blocks of all its pairs."""
    sizes = list(ranks)
    for number, pair in enumerate(graph.pairs):
        d_out, d_in = pair.internal_dimensions
        sizes[number] = min(sizes[number], d_in)
        sizes[number + 1] = min(sizes[number + 1], d_out)
    return sizes


def prune(
    factors: Factors, sizes: Sequence[int], images: Images, seed: int
) -> dict[str, float]:
    """Test accuracies of the block alone, of what is outside, of random choices."""
    rng = np.random.default_rng(seed)
    each = list(zip(factors.eyes(), sizes, strict=True))
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for _ in range(DRAWS):
        noise = [rng.standard_normal((len(eye), size)) for eye, size in each]
        arms = (
            [eye[:, :size] for eye, size in each],
            [eye[:, size:] for eye, size in each],
            [rng.permutation(eye)[:, :size] for eye, size in each],
            [np.linalg.qr(gaussian)[0] for gaussian in noise],
        )
        for arm, keep in zip(ARMS, arms, strict=True):
            found[arm].append(factors.accuracy(images, keep))
    return {arm: float(np.mean(right)) for arm, right in found.items()}


def leading_only(factors: Factors, images: Images) -> list[float]:
    """Test accuracy with the leading k neurons of every layer, k = 1, 2, ..."""
    eyes = factors.eyes()
    return [
        factors.accuracy(images, [eye[:, :k] for eye in eyes])
        for k in range(1, max(map(len, eyes)) + 1)
    ]
