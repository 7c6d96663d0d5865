"""What a spectral graph takes from a log: the pairs of layers, and their vectors."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from svdhooks.analysis._source import Source, vectors_of_weight
from svdhooks.analysis.snapshots import LayerSnapshot, layer_snapshot
from svdhooks.linalg import _solvers

_CONVOLUTION = re.compile(r"conv\d+d")


@dataclass(frozen=True)
class PairRow:
    """A pair of layers, as a log describes it.

    Attributes:
        source: The earlier layer.
        target: The later one.
        kind: ``"fc-fc"`` and so on.
        stream: Whether they meet in a residual stream.
        features: Outputs of the earlier layer.
        positions: Entries of a row of the later weight for each of them.
        norm: Whether there is a batch norm between them.
    """

    source: str
    target: str
    kind: str
    stream: bool
    features: int
    positions: int
    norm: bool = False


@dataclass(frozen=True, eq=False)
class Neurons:
    """Singular triplets of a layer.

    Attributes:
        U: ``(out, k)``.
        sigma: ``(k,)``, float64.
        Vh: ``(k, in)``.
    """

    U: NDArray[Any]
    sigma: NDArray[np.float64]
    Vh: NDArray[Any]


def pair_rows(
    source: Source, pairs: Sequence[Mapping[str, Any] | tuple[str, str]] | None
) -> list[PairRow]:
    """The pairs that are asked for.

    Args:
        source: The log.
        pairs: Rows, or names of two layers; None: those of the log.

    Returns:
        One for each.

    Raises:
        ValueError: If there are none, or one is not known or does not fit.
    """
    # rows as LayerPair.describe gives them; not every log has some
    known: list[Mapping[str, Any]] = list(getattr(source, "pairs", ()))
    chosen = known if pairs is None else list(pairs)
    if not chosen:
        raise ValueError(
            "Found no pairs of layers"
            + (" in the log" if pairs is None else "")
            + ". Record some with quantities=[svdhooks.SpectralEdges(), ...], or name "
            "them: pairs=[('fc1', 'fc2')]."
        )
    return [_row(source, known, pair) for pair in chosen]


class Recorded:
    """The vectors of one step.

    Args:
        source: The log.
        rows: The pairs of which vectors are needed.
        step: Which; None: the last of which all these layers have some.

    Raises:
        KeyError: If no vectors of a layer were recorded.
        ValueError: If they have none of this step, or no step in common.
    """

    def __init__(
        self, source: Source, rows: Sequence[PairRow], step: int | None
    ) -> None:
        self._source = source
        names = dict.fromkeys(x for row in rows for x in (row.source, row.target))
        self._recorded = {name: vectors_of_weight(source, name) for name in names}
        if step is None:
            step = self._last()
        self.step = step
        self._snapshots: dict[str, LayerSnapshot] = {}

    def neurons(self, layer: str) -> Neurons:
        """The recorded triplets.

        Args:
            layer: Its name.

        Returns:
            As many as were recorded.

        Raises:
            ValueError: If there are none of this step.
        """
        found = self._snapshot(layer)
        return Neurons(found.U, found.sigma.astype(np.float64), found.Vh)

    def folded(self, row: PairRow) -> Neurons:
        """The triplets of the earlier weight, scaled by the batch norm behind it.

        Args:
            row: The pair.

        Returns:
            All of them.

        Raises:
            ValueError: If not all triplets were recorded, or not the scale.
        """
        scale = self._scale(f"{row.source}->{row.target}")
        weight = scale[:, None] * self._snapshot(row.source).weight()
        U, sigma, Vh = _solvers.svd(torch.from_numpy(weight))
        return Neurons(U.numpy(), sigma.numpy(), Vh.numpy())

    def _scale(self, pair: str) -> NDArray[Any]:
        """What the batch norm of a pair multiplies with."""
        try:
            steps, fields = self._source.vectors(pair, "edges")
        except KeyError:
            steps, fields = np.empty(0, np.int64), {}
        found = dict(zip(steps.tolist(), fields.get("norm_scale", ()), strict=False))
        scale: NDArray[Any] | None = found.get(self.step)
        if scale is None:
            there = ", ".join(str(step) for step, x in found.items() if x is not None)
            raise ValueError(
                f"Found no scale of the batch norm of {pair} at step {self.step}; there "
                f"are some at steps {there or 'none'}. Record svdhooks.SpectralEdges() "
                "at the steps of the vectors."
            )
        return scale

    def cosvr(self, layer: str, positions: int | None = None) -> Neurons:
        """The triplets of the weight flattened to (out · positions, in).

        Args:
            layer: Its name.
            positions: Columns for each input, of a layer that reads a flattened map;
                None: kernel positions.

        Returns:
            All of them.

        Raises:
            ValueError: If not all of its triplets were recorded, or none of this step.
        """
        snapshot = self._snapshot(layer)
        z = snapshot.positions if positions is None else positions
        kernel = snapshot.weight().reshape(snapshot.shape[0], -1, z)
        flat = kernel.swapaxes(1, 2).reshape(-1, kernel.shape[1])
        U, sigma, Vh = _solvers.svd(torch.from_numpy(flat))
        return Neurons(U.numpy(), sigma.numpy(), Vh.numpy())

    def _snapshot(self, layer: str) -> LayerSnapshot:
        if layer not in self._snapshots:
            self._snapshots[layer] = layer_snapshot(self._source, layer, self.step)
        return self._snapshots[layer]

    def _last(self) -> int:
        """The last step of which all layers have vectors."""
        common: set[int] | None = None
        for found in self._recorded.values():
            there = {
                int(step)
                for step, U in zip(
                    found.steps, found.columns.get("U", ()), strict=False
                )
                if U is not None
            }
            common = there if common is None else common & there
        if not common:
            raise ValueError(
                "Found no step at which all layers of the pairs have singular vectors; "
                "give pairs of layers that svdhooks.WeightVectors recorded."
            )
        return max(common)


def _row(
    source: Source,
    known: Sequence[Mapping[str, Any]],
    pair: Mapping[str, Any] | tuple[str, str],
) -> PairRow:
    if isinstance(pair, Mapping):
        fields = ("source", "target", "kind", "stream", "features", "positions")
        missing = [name for name in fields if name not in pair]
        if missing:
            raise ValueError(
                f"Found a pair without {', '.join(missing)}; expected a row as "
                "LayerPair.describe gives it, or the names of two layers."
            )
        norm = bool(pair.get("norm"))  # which logs of earlier versions do not say
        return PairRow(**{name: pair[name] for name in fields}, norm=norm)
    if isinstance(pair, str) or len(pair) != 2:
        raise ValueError(
            f"Found {pair!r}, expected the names of two layers: (earlier, later)."
        )
    for row in known:
        if (row["source"], row["target"]) == tuple(pair):
            return _row(source, known, row)
    return _named(source, *pair)


def _named(source: Source, earlier: str, later: str) -> PairRow:
    """A pair that the log does not know, from what it says of the layers."""
    for name in (earlier, later):
        if "shape" not in source.described.get(name, {}):
            raise ValueError(
                f"Found no layer {name!r} in the log; its layers are "
                f"{', '.join(source.layers)}."
            )
    first, second = source.described[earlier], source.described[later]
    families = [
        "conv" if _CONVOLUTION.fullmatch(str(row.get("kind"))) else "fc"
        for row in (first, second)
    ]
    features, columns = int(first["shape"][0]), int(second["shape"][1])
    inputs = dict(second.get("points", {})).get("input", columns)
    flattened = families == ["conv", "fc"] and inputs % features == 0
    if inputs != features and not flattened:
        raise ValueError(
            f"Found {earlier!r} with {features} outputs and {later!r} with {inputs} "
            "inputs; expected two layers of which the second reads the first."
        )
    kind = "-".join(families)
    return PairRow(earlier, later, kind, False, features, columns // features)
