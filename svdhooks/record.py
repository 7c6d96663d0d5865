"""One measurement of one layer at one training step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUMBERS = "biuf"

OK = "ok"
"""Status of a record whose values can be used."""


@dataclass(frozen=True, slots=True)
class Record:
    """What was measured on one matrix of one layer.

    A record with an empty ``layer`` speaks of the whole run: quantity ``"run"``
    (time spent, position on the logger's axis), ``"meta"`` (layer table,
    configuration) or ``"alarm"`` (what was raised, as JSON and Markdown).

    Attributes:
        step: Optimiser updates contained in the weights.
        layer: Canonical name of the layer, or of the tap.
        quantity: Name of the quantity, for example ``"weight_spectrum"``.
        values: Field name -> array. ``"spectrum"`` holds the singular values
            (weights) or the eigenvalues (covariances), descending. Of the other
            fields 0-d arrays are scalar measures, and arrays of one axis or more are
            vectors, such as ``U`` and ``Vh``.
        status: ``"ok"``, or in words why the values are NaN.
        method: How the spectrum was computed, for example ``"gram"``.
        seconds: Time it took on the training thread.
        point: Which matrix, in any word: ``"weight"``, ``"input"``, ``"output"``,
            ``"update"`` … `svdhooks.schema.RESERVED` has those that are taken.
        marks: Reservations about the values: ``"below_noise"``,
            ``"sample_limited"``, ``"lower_bound"``.
    """

    step: int
    layer: str
    quantity: str
    values: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    status: str = OK
    method: str = ""
    seconds: float = 0.0
    point: str = ""
    marks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the values can be used."""
        return self.status == OK

    @property
    def spectrum(self) -> NDArray[Any]:
        """The spectrum, descending; empty if this record has none."""
        return self.values.get("spectrum", np.empty(0))

    @property
    def measures(self) -> dict[str, float]:
        """The scalar fields that are numbers, as floats."""
        scalars = {k: np.asarray(v) for k, v in self.values.items() if np.ndim(v) == 0}
        return {k: float(v) for k, v in scalars.items() if v.dtype.kind in _NUMBERS}
