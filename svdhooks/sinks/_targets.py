"""What each kind of logger needs. Their packages are used only where they are loaded."""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.sinks.summary import Key

_SILENT = frozenset({"TensorBoardLogger", "DummyLogger"})
_MLFLOW_METRICS = 1000
_MLFLOW_NAME = 250
_DIGEST = 4


@dataclass(frozen=True)
class Sending:
    """What one step gives every logger.

    Attributes:
        metrics: Name -> value.
        step: The logger's x coordinate.
        ahead: Names that later steps are likely to have.
        images: Name -> picture ``(height, width, 3)`` and caption.
        histograms: Name -> counts ``(bins,)`` and edges ``(bins + 1,)``.
    """

    metrics: Mapping[Key, float]
    step: int
    ahead: Sequence[Key] = ()
    images: Mapping[Key, tuple[NDArray[np.uint8], str]] = field(default_factory=dict)
    histograms: Mapping[Key, tuple[NDArray[np.int64], NDArray[np.float64]]] = field(
        default_factory=dict
    )


class Target:
    """Any object with ``log_metrics``; what the other kinds refine.

    Args:
        logger: The object.

    Attributes:
        draws: Whether it takes pictures.
    """

    draws = False

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def send(self, sending: Sending) -> None:
        """Hand over what one step measured."""
        metrics = self._named(finite(sending.metrics))
        self._logger.log_metrics(metrics, step=sending.step)

    def alert(self, title: str, text: str) -> None:
        """Tell people at once, where the logger can."""

    def close(self) -> None:
        """Hand over what is held back."""

    def _named(self, values: Mapping[Key, Any]) -> dict[str, Any]:
        separator = getattr(self._logger, "group_separator", "/")
        return {separator.join(key): value for key, value in values.items()}


def target_of(logger: Any) -> Target | None:
    """How to talk to a logger.

    Args:
        logger: Any object.

    Returns:
        None for loggers to which nothing is sent: TensorBoard's, because the event
        file beside theirs has the values, and Lightning's dummy.

    Raises:
        TypeError: If it is no logger.
    """
    kinds = {kind.__name__ for kind in type(logger).__mro__}
    if kinds & _SILENT:
        return None
    if "WandbLogger" in kinds:
        return _WandbLogger(logger)
    if "MLFlowLogger" in kinds:
        return _Mlflow(logger)
    if "CSVLogger" in kinds:
        return _Csv(logger)
    if callable(getattr(logger, "log_metrics", None)) and not isinstance(logger, type):
        return Target(logger)
    if type(logger).__module__.partition(".")[0] == "wandb" and hasattr(logger, "log"):
        return _WandbRun(logger)
    raise TypeError(
        f"Found {logger!r} as a logger; expected an object with log_metrics(metrics, "
        "step=), such as a Lightning logger, or a run of Weights & Biases."
    )


class _Csv(Target):
    """Lightning's CSV file, which is rewritten whenever a new name turns up."""

    def __init__(self, logger: Any) -> None:
        super().__init__(logger)
        self._begun = False

    def send(self, sending: Sending) -> None:
        ahead = {} if self._begun else dict.fromkeys(sending.ahead, math.nan)
        self._logger.log_metrics(
            self._named(ahead | finite(sending.metrics)), step=sending.step
        )
        self._begun = True
        # by itself it writes only at steps 99, 199, ..., which records may never meet
        self._logger.save()


class _Mlflow(Target):
    """MLflow's server takes 1,000 numbers at once, under restricted names."""

    def send(self, sending: Sending) -> None:
        prefix = getattr(self._logger, "_prefix", "") or ""
        longest = _MLFLOW_NAME - len(prefix) - 1
        named = {
            mlflow_name(name, longest): value
            for name, value in self._named(finite(sending.metrics)).items()
        }
        for part in _parts(named, _MLFLOW_METRICS):
            self._logger.log_metrics(part, step=sending.step)


class _WandbLogger(Target):
    """Lightning's logger for Weights & Biases."""

    draws = True

    def send(self, sending: Sending) -> None:
        # one call: each makes one step of W&B's own
        values = finite(sending.metrics) | _for_wandb(sending)
        self._logger.log_metrics(self._named(values), step=sending.step)

    def alert(self, title: str, text: str) -> None:
        self._logger.experiment.alert(title=title, text=text)


class _WandbRun(Target):
    """A run of Weights & Biases in a plain loop.

    W&B counts one step of its own per committed call, and drops what comes for an
    earlier one. So that the user's own steps stay as they are, ours are added to the
    row that is being filled, which the user's next call commits, and are drawn over
    ``svdhooks/step``.
    """

    draws = True

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self._defined = False
        self._pending: int | None = None

    def send(self, sending: Sending) -> None:
        if not self._defined:
            self._logger.define_metric("svdhooks/step")
            for names in ("svdhooks/*", "svdhooks_layers/*", "svdhooks_spectra/*"):
                self._logger.define_metric(names, step_metric="svdhooks/step")
            self._defined = True
        values = (
            finite(sending.metrics)
            | _for_wandb(sending)
            | {("svdhooks", "step"): sending.step}
        )
        self._commit()
        position = self._position()
        commit = None if position is None else False
        self._logger.log(self._named(values), commit=commit)
        self._pending = position

    def alert(self, title: str, text: str) -> None:
        self._logger.alert(title=title, text=text)

    def close(self) -> None:
        self._commit()

    def _commit(self) -> None:
        """Commit the row that has our last record, if the user did not."""
        if self._pending is not None and self._position() == self._pending:
            self._logger.log({}, commit=True)
        self._pending = None

    def _position(self) -> int | None:
        """W&B's own step; None where it has none, or the run is over."""
        try:
            return int(self._logger.step)
        except Exception:  # noqa: BLE001  # of several kinds, none of them public
            return None


def finite(values: Mapping[Key, float]) -> dict[Key, Any]:
    """Those that every logger can draw."""
    return {key: value for key, value in values.items() if math.isfinite(value)}


def mlflow_name(name: str, longest: int = _MLFLOW_NAME) -> str:
    """A name that MLflow accepts.

    Args:
        name: Any.
        longest: Number of characters that may be used.

    Returns:
        The name itself, if it is fine; else with underscores in place of what is not,
        and a digest of the name, by which different names stay different.
    """
    allowed = re.sub(r"[^A-Za-z0-9_/. -]", "_", name)
    if allowed == name and len(name) <= longest:
        return name
    digest = hashlib.blake2s(name.encode(), digest_size=_DIGEST).hexdigest()
    return f"{allowed[: longest - len(digest) - 1]}-{digest}"


def _parts(values: Mapping[str, float], size: int) -> Iterator[dict[str, float]]:
    items = list(values.items())
    for start in range(0, len(items), size):
        yield dict(items[start : start + size])


def _for_wandb(sending: Sending) -> dict[Key, Any]:
    """Pictures and histograms as objects of W&B."""
    if not (sending.images or sending.histograms):
        return {}
    import wandb  # type: ignore[import-not-found,unused-ignore]

    pictures = {
        key: wandb.Image(picture, caption=caption)
        for key, (picture, caption) in sending.images.items()
    }
    counted = {
        key: wandb.Histogram(np_histogram=pair)
        for key, pair in sending.histograms.items()
    }
    return pictures | counted
