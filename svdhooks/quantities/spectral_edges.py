"""How the singular vectors of a layer meet those of the layer it feeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from svdhooks import linalg
from svdhooks.flow import Flow
from svdhooks.flow.pairs import check_names, find_pairs, user_pairs
from svdhooks.layers import Layer, LayerTable
from svdhooks.layers.pairs import LayerPair, scale_of
from svdhooks.linalg.spectral_graph import tail_probability
from svdhooks.linalg.subspace import Leading
from svdhooks.quantities.values import NON_FINITE, check_positive
from svdhooks.record import OK, Record
from svdhooks.schedule import Schedule, log_spaced

EDGE_MEASURES = (
    "significant",
    "significant_share",
    "expected_false",
    "top",
    "internal_out",
    "internal_in",
    "threshold",
    "features",
    "rows",
    "columns",
)

_SCALE = "norm_scale"


@dataclass(frozen=True)
class SpectralEdges:
    """The spectral graph between layers that feed each other, in numbers.

    The left singular vectors u of a layer are compared with the right singular vectors v
    of the next: ``a = <v, u>²``, summed over the positions of a kernel (Meller & Berkouk,
    AISTATS 2023). Biases and nonlinearities are ignored, batch norm as well unless it is
    folded in. One record per pair, filed under ``"<layer>-><next layer>"`` with point
    ``"edges"``:

    - ``significant``: edges above ``threshold``, which random vectors exceed with the
      probability of ``sigma`` standard deviations, one-sided; ``significant_share`` of all
      ``rows · columns``; ``expected_false``: how many random vectors would give.
    - ``top``: the strongest edge, 0 … 1.
    - ``internal_out``, ``internal_in``: the internal dimensions, counted from 1: the block
      of leading spectral neurons of the later (out) and of the earlier layer (in) that
      exceeds chance most.
    - ``features``: n of the null distribution.

    The scale of a batch norm in between is stored as the vector ``norm_scale``.

    Which layer feeds which is traced in a forward of the probe, or given by ``pairs``.
    Residual streams are an extension of the paper: what is added into the stream against
    what reads it, with the same null.

    Attributes:
        k: Leading spectral neurons of each layer; None: all.
        pairs: Names ``(layer, next layer)`` instead of those that are traced.
        streams: Of a residual stream: the last writers before each reader (``"next"``),
            ``"all"`` writers before it, or ``"none"``.
        sigma: Significance in standard deviations.
        null: ``"beta"``, exact for independent random vectors, or the paper's ``"chi2"``.
        fold_batch_norm: Whether the batch norm between two layers scales the rows of the
            earlier weight (an extension). Which one is between them has to be traced.
        schedule: Its own schedule; None: the recorder's. By default ten records per factor
            of ten in steps: every weight is decomposed.
    """

    k: int | None = 64
    pairs: Sequence[tuple[str, str]] | None = None
    streams: Literal["next", "all", "none"] = "next"
    sigma: float | int = 3.0
    null: Literal["beta", "chi2"] = "beta"
    fold_batch_norm: bool = False
    schedule: Schedule | None = field(default_factory=log_spaced)
    # each layer is part of two pairs
    _known: dict[str, tuple[int, Leading]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            TypeError: If one is of a wrong kind.
            ValueError: If one is out of its range.
        """
        if self.k is not None:
            check_positive(self, "k")
        if self.streams not in {"next", "all", "none"}:
            raise ValueError(
                f"SpectralEdges(streams={self.streams!r}): expected 'next', 'all' or "
                "'none'."
            )
        if self.null not in {"beta", "chi2"}:
            raise ValueError(
                f"SpectralEdges(null={self.null!r}): expected 'beta' or 'chi2'."
            )
        number = not isinstance(self.sigma, bool) and isinstance(
            self.sigma, (int, float)
        )
        if not number or not math.isfinite(self.sigma):
            raise ValueError(
                f"SpectralEdges(sigma={self.sigma!r}): expected a number of standard "
                "deviations, such as 3."
            )
        if self.pairs is not None:
            check_names(self.pairs)
            if self.fold_batch_norm:
                raise ValueError(
                    "Found SpectralEdges(pairs=..., fold_batch_norm=True): names do not "
                    "say which batch norm is between two layers. Leave pairs= out to "
                    "have them traced, or fold_batch_norm."
                )

    @property
    def name(self) -> str:
        """Under which its records are filed."""
        return "spectral_edges"

    @property
    def needs_flow(self) -> bool:
        """Whether the pairs have to be traced."""
        return self.pairs is None

    def fresh(self) -> "SpectralEdges":
        """The same for another run: remembers nothing."""
        return replace(self, _known={})

    def edges(
        self, table: LayerTable, flow: Flow, model: nn.Module | None = None
    ) -> Sequence[LayerPair]:
        """The pairs of layers that are compared.

        Args:
            table: What is watched.
            flow: Which layer feeds which.
            model: The plain module, which has the batch norms in between.

        Returns:
            The pairs; of given ones those of which this model has both layers, and
            which fit.
        """
        if self.pairs is None:
            found = find_pairs(flow, table.layers, streams=self.streams, model=model)
            return found.pairs
        return self._given(table)[0]

    def refused(self, table: LayerTable, flow: Flow) -> dict[str, str]:
        """What feeds each other and is not compared.

        Args:
            table: What is watched.
            flow: Which layer feeds which.

        Returns:
            ``"<layer>-><next layer>"`` -> reason.
        """
        if self.pairs is not None:
            return self._given(table)[1]
        if not flow:
            return {}
        found = find_pairs(flow, table.layers, streams=self.streams)
        return {f"{source}->{target}": why for source, target, why in found.refused}

    def _given(self, table: LayerTable) -> tuple[list[LayerPair], dict[str, str]]:
        """Pairs that the user named, and those that do not fit, with the reason."""
        here = {layer.name for layer in table.layers}
        pairs: list[LayerPair] = []
        refused: dict[str, str] = {}
        for earlier, later in self.pairs or ():
            if not here.issuperset({earlier, later}):
                continue  # of another model, or told at setup
            try:
                pairs += user_pairs([(earlier, later)], table.layers)
            except ValueError as error:  # the layers were replaced by others
                refused[f"{earlier}->{later}"] = str(error)
        return pairs, refused

    def measure_edge(self, edge: LayerPair, step: int) -> Record:
        """Compare the singular vectors of two layers.

        Args:
            edge: The pair.
            step: Optimiser updates contained in the weights.

        Returns:
            The record.
        """
        scale = self._scale(edge)
        folded = scale if self.fold_batch_norm else None
        earlier = self._leading(edge.earlier, step, folded)
        later = self._leading(edge.later, step)
        if earlier is None or later is None:
            return self.failed_edge(edge, step, NON_FINITE)
        shape = len(later.sigma), len(earlier.sigma)
        adjacency = (
            linalg.vector_adjacency(earlier.U, later.Vh)
            if all(shape)  # a weight of zeros has no spectral neurons
            else torch.zeros(shape, dtype=torch.float64)
        )
        plane = earlier.U.is_complex() or later.Vh.is_complex()
        measures = self._measures(adjacency, edge, 2 if plane else 1)
        record = self._record(edge, step, measures, OK)
        if scale is None:
            return record
        stored = {_SCALE: scale.cpu().numpy()}
        return replace(record, values={**record.values, **stored})

    def _scale(self, pair: LayerPair) -> Tensor | None:
        """That of the batch norm in between; None without, or where it is not known."""
        if pair.norm is None:
            return None
        try:
            return scale_of(pair.norm, pair.features)
        except ValueError:
            if self.fold_batch_norm:
                raise
            return None

    def _measures(
        self, adjacency: Tensor, pair: LayerPair, dimensions: int
    ) -> dict[str, float]:
        # |⟨v, u⟩|² of complex vectors is of a plane, that of real ones of a line
        n, kernel = pair.features, pair.positions * dimensions
        threshold = linalg.significance_threshold(n, kernel, self.sigma, self.null)
        rows, columns = adjacency.shape
        entries = rows * columns
        above = float((adjacency > threshold).sum())
        out, in_ = linalg.internal_dimensions(adjacency, n) if entries else (0, 0)
        chance = tail_probability(self.sigma)
        return {
            "significant": above,
            "significant_share": above / entries if entries else math.nan,
            "expected_false": chance * entries,
            "top": float(adjacency.max()) if entries else math.nan,
            "internal_out": float(out),
            "internal_in": float(in_),
            "threshold": threshold,
            "features": float(n),
            "rows": float(rows),
            "columns": float(columns),
        }

    def _leading(
        self, layer: Layer, step: int, scale: Tensor | None = None
    ) -> Leading | None:
        """The leading triplets; None of a weight with NaN or infinity."""
        key = layer.name if scale is None else f"{layer.name} (folded)"
        known_at, known = self._known.get(key, (None, None))
        if known is not None and known_at == step:
            return known
        weight = layer.weight()
        if scale is not None:
            weight = scale[:, None] * weight
        if not bool(weight.isfinite().all()):
            return None
        found: Leading = linalg.leading_triplets(weight, self.k or min(layer.shape))
        self._known[key] = step, found
        return found

    def release(self) -> None:
        """Free the vectors at the end of a record: they lie where the weights do."""
        self._known.clear()

    def failed_edge(self, edge: LayerPair, step: int, status: str) -> Record:
        """The record of a measurement that failed: NaN values of the right shape."""
        measures = dict.fromkeys(EDGE_MEASURES, math.nan)
        return self._record(edge, step, measures, status)

    def _record(
        self, edge: LayerPair, step: int, measures: dict[str, float], status: str
    ) -> Record:
        values = {name: np.asarray(x, np.float64) for name, x in measures.items()}
        return Record(
            step,
            edge.name,
            self.name,
            values,
            status=status,
            method="gram",
            point="edges",
        )
