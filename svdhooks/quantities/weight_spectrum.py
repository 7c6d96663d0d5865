"""Singular values and ranks of each layer's weight."""

from dataclasses import dataclass

import numpy as np

from svdhooks import linalg
from svdhooks.layers import Layer
from svdhooks.quantities.values import NON_FINITE, pack, unknown
from svdhooks.record import OK, Record
from svdhooks.schedule import Schedule


@dataclass(frozen=True)
class WeightSpectrum:
    """The singular values of every weight and the ranks that follow from them.

    A convolution's spectrum is that of its flattened kernel ``out × in·positions``,
    not of the convolution operator. A grouped convolution is block diagonal: its
    spectrum is the union of the blocks' spectra.

    Attributes:
        schedule: Its own schedule; None: the recorder's.
    """

    schedule: Schedule | None = None

    @property
    def name(self) -> str:
        """Under which its records are filed."""
        return "weight_spectrum"

    def measure(self, layer: Layer, step: int) -> Record:
        """Measure one layer.

        Args:
            layer: The layer.
            step: Optimiser updates contained in the weights.

        Returns:
            The record: spectrum, ranks, noise floor.
        """
        weight = layer.weight()
        sigma = linalg.singular_values(weight).cpu().numpy()
        if sigma.ndim > 1:  # the blocks of a block-diagonal map
            sigma = np.sort(sigma, axis=None)[::-1]
        measures = linalg.measures(sigma, shape=layer.shape, dtype=layer.dtype)
        finite = bool(np.isfinite(sigma).all())
        below = finite and bool((sigma < measures["noise_floor"]).any())
        return Record(
            step,
            layer.name,
            self.name,
            pack(sigma, measures),
            status=OK if finite else NON_FINITE,
            method=linalg.method_for(weight.dtype),
            point="weight",
            marks=("below_noise",) if below else (),
        )

    def failed(self, layer: Layer, step: int, status: str) -> Record:
        """The record of a measurement that failed: NaN values of the right shape."""
        values = unknown(layer.rank_limit, linalg.MEASURES)
        return Record(
            step, layer.name, self.name, values, status=status, point="weight"
        )
