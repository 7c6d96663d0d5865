"""What analyses read: a log, and where the vectors of a layer's weight are in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, Sequence[NDArray[Any] | None]]
"""Field -> one array for each step, or None."""


@runtime_checkable
class Source(Protocol):
    """What a `svdhooks.RunLog` and a `svdhooks.MemorySink` have in common here."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers and taps, in the model's order."""
        ...

    @property
    def described(self) -> Mapping[str, Mapping[str, Any]]:
        """Layer -> its row in the layer table."""
        ...

    def vectors(
        self, layer: str, point: str = "weight"
    ) -> tuple[NDArray[np.int64], Any]:
        """Steps, and field -> one array for each of them, or None."""
        ...


@dataclass(frozen=True, eq=False)
class RecordedVectors:
    """Singular vectors of a layer's weight, of all steps.

    Attributes:
        steps: At which something was recorded.
        columns: The fields.
        tied_to: The layer under whose name the weight is filed, if it shares one.
        turned: Whether they are those of the transposed weight.
    """

    steps: NDArray[np.int64]
    columns: Columns
    tied_to: str | None = None
    turned: bool = False


def vectors_of_weight(source: Source, layer: str) -> RecordedVectors:
    """What was recorded of a layer's weight, under its own name or another.

    Args:
        source: The log.
        layer: Its name.

    Returns:
        Steps and arrays.

    Raises:
        KeyError: If there is no such layer, or no vectors of it were recorded.
    """
    row = source.described.get(layer, {})
    owner = row.get("tied_to")
    missing = ""
    for name in filter(None, (layer, owner)):
        try:
            steps, columns = source.vectors(name, "weight")
        except KeyError as error:
            if not row:
                raise  # no such layer
            missing = missing or str(error.args[0])
        else:
            # an embedding is a map from indices: the transposed of the weight
            kinds = (row.get("kind"), source.described.get(name, {}).get("kind"))
            turned = (kinds[0] == "embedding") != (kinds[1] == "embedding")
            tied_to = None if name == layer else name
            return RecordedVectors(steps, columns, tied_to, turned)
    raise KeyError(
        f"{missing} Singular vectors are recorded, of weights without NaN, with "
        "quantities=[svdhooks.WeightVectors(k=None), ...]."
    )
