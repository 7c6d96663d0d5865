"""A run as a tidy table; the one door to pandas of the read side."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

_NONE: Mapping[str, bool | int | float | str] = MappingProxyType({})


@runtime_checkable
class Measured(Protocol):
    """Values of layers at steps: a `RunTable`, or what a `MemorySink` keeps."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names."""
        ...

    @property
    def steps(self) -> NDArray[np.int64]:
        """Increasing."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the measures."""
        ...

    def measure(self, metric: str) -> NDArray[Any]:
        """Values ``(steps, layers)``."""
        ...

    def measured(self, metric: str) -> NDArray[np.bool_]:
        """Which of them there are ``(steps, layers)``."""
        ...


def to_frame(
    table: Measured, name: str, more: Mapping[str, bool | int | float | str] = _NONE
) -> "pd.DataFrame":
    """All measures of a run.

    Args:
        table: The run's records.
        name: What the run is called.
        more: Further columns, the same in every row, behind the others.

    Returns:
        Columns run, step, layer, metric, value, ordered by step, layer, metric.

    Raises:
        ImportError: If pandas is not installed.
    """
    pd = _pandas()

    def labels(names: Iterable[str], index: NDArray[np.intp]) -> Any:
        return pd.Series(list(names), dtype=str).take(index).array

    shape = len(table.metrics), len(table.steps), len(table.layers)
    values = np.array([table.measure(m) for m in table.metrics]).reshape(shape)
    measured = np.array([table.measured(m) for m in table.metrics], dtype=bool)
    # (metric, step, layer) -> rows ordered by step, layer, metric
    there = measured.reshape(shape).transpose(1, 2, 0)
    step, layer, metric = np.nonzero(there)
    return pd.DataFrame({
        "run": labels([name], np.zeros(len(step), dtype=np.intp)),
        "step": table.steps[step],
        "layer": labels(table.layers, layer),
        "metric": labels(table.metrics, metric),
        "value": values.transpose(1, 2, 0)[there],
        **more,
    })


def rows_frame(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> "pd.DataFrame":
    """Rows as a table.

    Args:
        rows: Column -> value.
        columns: In their order, also where there are no rows.

    Returns:
        One row for each.

    Raises:
        ImportError: If pandas is not installed.
    """
    return _pandas().DataFrame(list(rows), columns=list(columns))


def _pandas() -> Any:
    """The package, or what to do to have it."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "frame() needs pandas: pip install 'svdhooks[analysis]'"
        ) from error
    return pd
