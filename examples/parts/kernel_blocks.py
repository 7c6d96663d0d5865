"""Whether what one convolution writes and what the next one reads fall into blocks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from svdhooks import linalg

NEGLIGIBLE = 0.01
"""A singular value below this share of the largest one makes a near-kernel."""


@dataclass(frozen=True)
class Joint:
    """Two successive convolutions, of which the second reads c channels of the first.

    Attributes:
        kernel: ``|coVᵀ U|``, ``(c, c)``.
        written: Singular values of the first, ``(c,)``.
        read: Those of the second, flattened to ``(out · positions) × in``, ``(c,)``.
        U: Left vectors of the first, ``(c, c)``.
    """

    kernel: NDArray[Any]
    written: NDArray[Any]
    read: NDArray[Any]
    U: NDArray[Any]

    @classmethod
    def of(cls, earlier: Tensor, later: Tensor, seed: int = 0) -> "Joint":
        """Both with the channels between them rotated at random before the SVDs.

        The rotation leaves the products as they are; what the SVD does with equal
        singular values, with zeros above all, then cannot follow the channels.

        Args:
            earlier: The first kernel, ``(c, in, 3, 3)``.
            later: The second, ``(out, c, 3, 3)``.
            seed: Of the rotation.

        Returns:
            What is measured of the two.
        """
        c = len(earlier)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(c, c, dtype=torch.float64, generator=generator)
        Q = torch.linalg.qr(noise).Q
        first = torch.einsum("ab,bikl->aikl", Q, earlier.detach().double())
        second = torch.einsum("ab,obkl->oakl", Q, later.detach().double())
        U, written, _ = torch.linalg.svd(first.flatten(1))
        read = torch.linalg.svdvals(second.transpose(0, 1).flatten(1))
        return cls(
            linalg.kernel_matrix(first, second).numpy(),
            functional.pad(written, (0, c - len(written))).numpy(),
            read.numpy(),
            (Q.T @ U).numpy(),
        )

    @property
    def cut(self) -> tuple[int, int]:
        """Directions read and written with more than a negligible singular value."""
        return tuple(
            int((s >= NEGLIGIBLE * s[0]).sum()) for s in (self.read, self.written)
        )

    @property
    def leak(self) -> float:
        """Share of the kernel matrix outside two blocks; 0: none, 1: as by chance.

        The blocks are cut where the singular values become negligible, so that nothing
        is fitted to the matrix. NaN where nothing is negligible.
        """
        (rows, columns), c = self.cut, len(self.kernel)
        if c in {rows, columns}:
            return float("nan")
        smaller = min(rows, columns)
        inside = float(np.square(self.kernel[:rows, :columns]).sum())
        return (smaller - inside) / (smaller - rows * columns / c)

    @property
    def purity(self) -> float:
        """How much of its larger block a channel has, row by row of U; 1: all of it."""
        columns, c = self.cut[1], len(self.kernel)
        if columns == c:
            return float("nan")
        share = np.square(self.U[:, :columns]).sum(1)
        return float(np.maximum(share, 1 - share).mean())

    def silent_share(self, silent: NDArray[Any]) -> float:
        """How much of the near-kernel lies along silent channels; NaN without one."""
        beyond = self.U[:, self.cut[1] :]
        return float(np.square(beyond[silent]).sum() / (beyond.shape[1] or np.nan))


def shuffled(later: Tensor, seed: int = 0) -> Tensor:
    """The control: a kernel whose input channels are in another order."""
    generator = torch.Generator().manual_seed(seed)
    return later[:, torch.randperm(later.shape[1], generator=generator)]
