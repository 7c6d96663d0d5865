"""The spectral graph of a recorded model: which spectral neurons feed which, from the log.

An edge joins a left singular vector of one layer to a right one of the next
(`svdhooks.linalg.spectral_adjacency`). Needs no model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from svdhooks import linalg
from svdhooks.analysis._graph_sources import PairRow, Recorded, pair_rows
from svdhooks.analysis._source import Source
from svdhooks.linalg.spectral_graph import tail_probability

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd


@dataclass(frozen=True, eq=False)
class PairAdjacency:
    """How the spectral neurons of one layer feed those of another.

    Attributes:
        source: The earlier layer.
        target: The later layer.
        kind: ``"fc-fc"``, ``"conv-conv"``, ``"conv-fc"`` or ``"fc-conv"``.
        stream: Whether they meet in a residual stream, an extension of the method.
        adjacency: ``(later, earlier)``, entries in [0, 1], float64.
        threshold: What a significant edge exceeds.
        p: Probability that one entry does so by chance.
        null: ``"beta"`` or ``"chi2"``.
        expected_false: ``p · entries``: how many do so by chance.
        significant: How many do.
        features: c, outputs of the earlier layer.
        positions: z, which the null counts: positions of the later kernel or of the
            flattened map; for ``cosvr`` those of the earlier kernel. Twice as many if
            the vectors are complex.
        internal_dimensions: Leading neurons of (later, earlier) that form the joined
            block, counted from 1; of the recorded ones.
        intensity: ``(earlier,)``, as `svdhooks.linalg.neuron_intensity`.
        source_sigma: Singular values of the earlier layer's neurons.
        target_sigma: Those of the later layer's.
    """

    source: str
    target: str
    kind: str
    stream: bool
    adjacency: NDArray[np.float64]
    threshold: float
    p: float
    null: str
    expected_false: float
    significant: int
    features: int
    positions: int
    internal_dimensions: tuple[int, int]
    intensity: NDArray[np.float64]
    source_sigma: NDArray[np.float64]
    target_sigma: NDArray[np.float64]

    def edges(self) -> list[dict[str, Any]]:
        """Its significant edges, the strongest first.

        Returns:
            Rows of the table of `SpectralGraph.edges`.
        """
        rows, columns = np.nonzero(self.adjacency > self.threshold)
        weights = self.adjacency[rows, columns]
        values = linalg.edge_p_values(weights, self.features, self.positions, self.null)
        return [
            {
                "source": f"{self.source}[{columns[i]}]",
                "target": f"{self.target}[{rows[i]}]",
                "source_layer": self.source,
                "source_neuron": int(columns[i]),
                "target_layer": self.target,
                "target_neuron": int(rows[i]),
                "weight": float(weights[i]),
                "p_value": float(values[i]),
                "stream": self.stream,
            }
            for i in np.argsort(-weights, kind="stable")
        ]


@dataclass(frozen=True, eq=False)
class SpectralGraph:
    """Spectral neurons of all layers and the edges between them.

    Attributes:
        step: Optimiser updates contained in the weights.
        pairs: The pairs of layers.
    """

    step: int
    pairs: tuple[PairAdjacency, ...]

    def edges(self) -> "pd.DataFrame":
        """The significant edges as a table, which networkx reads.

        ``networkx.from_pandas_edgelist(graph.edges(), edge_attr=True,
        create_using=networkx.DiGraph)``.

        Returns:
            Columns source and target (nodes such as ``"fc1[0]"``, neurons from 0),
            source_layer, source_neuron, target_layer, target_neuron, weight, p_value,
            stream.
        """
        import pandas as pd

        return pd.DataFrame(
            [row for pair in self.pairs for row in pair.edges()], columns=_COLUMNS
        )

    def to_networkx(self) -> "nx.DiGraph":
        """A directed graph of all neurons and the significant edges.

        Returns:
            Nodes with ``layer``, ``neuron`` and ``sigma``; edges with ``weight``,
            ``p_value`` and ``stream``.
        """
        import networkx as nx

        graph = nx.DiGraph()
        for pair in self.pairs:
            for layer, sigma in (
                (pair.source, pair.source_sigma),
                (pair.target, pair.target_sigma),
            ):
                for neuron, value in enumerate(sigma.tolist()):
                    about = {"layer": layer, "neuron": neuron, "sigma": value}
                    graph.add_node(f"{layer}[{neuron}]", **about)
            for row in pair.edges():
                kept = {name: row[name] for name in ("weight", "p_value", "stream")}
                graph.add_edge(row["source"], row["target"], **kept)
        return graph


_COLUMNS = [
    *("source", "target", "source_layer", "source_neuron"),
    *("target_layer", "target_neuron", "weight", "p_value", "stream"),
]


def spectral_graph(
    source: Source,
    step: int | None = None,
    *,
    pairs: Sequence[Mapping[str, Any] | tuple[str, str]] | None = None,
    sigma: float = 3.0,
    p: float | None = None,
    null: str = "beta",
    kind: Literal["svr", "cosvr"] = "svr",
    k: int | None = None,
    streams: bool = True,
    fold_batch_norm: bool = False,
) -> SpectralGraph:
    """The spectral graph of a run at one step.

    Args:
        source: A `svdhooks.RunLog` or `svdhooks.MemorySink` with records of
            `svdhooks.WeightVectors`. Of what it left out nothing is said: with
            ``WeightVectors(k=None)`` the graph is that of all neurons.
        step: One with vectors; None: the last of which all these layers have some.
        pairs: Which layers to join: rows of ``source.pairs``, or names of an earlier and
            a later layer; None: all that the log names.
        sigma: Significance, as that of a normal distribution on one side.
        p: The same as a probability; it replaces ``sigma``.
        null: ``"beta"``, exact, or ``"chi2"``, as the paper has it.
        kind: ``"svr"``, or ``"cosvr"``, which needs ``WeightVectors(k=None)``.
        k: Leading neurons of each layer; None: all that were recorded.
        streams: Whether pairs of residual streams are taken, too.
        fold_batch_norm: Whether the batch norm between two layers scales the rows of the
            earlier weight, as `svdhooks.SpectralEdges` recorded it; the paper drops it.

    Returns:
        The graph.

    Raises:
        KeyError: If no vectors of a layer were recorded.
        ValueError: If there are no pairs, two layers do not fit, an argument is none of
            these, the step has no vectors, or not all that ``cosvr`` or folding needs.
    """
    if kind not in {"svr", "cosvr"}:
        raise ValueError(f"Found kind={kind!r}, expected 'svr' or 'cosvr'.")
    if fold_batch_norm and kind == "cosvr":
        raise ValueError(
            "Found fold_batch_norm=True with kind='cosvr'; expected kind='svr', in which "
            "the norm scales the rows of a weight."
        )
    if k is not None and k < 1:
        raise ValueError(f"Found k={k}, expected one neuron at least, or None for all.")
    tail = tail_probability(sigma, p)
    rows = [row for row in pair_rows(source, pairs) if streams or not row.stream]
    recorded = Recorded(source, rows, step)
    form = "folded" if fold_batch_norm else kind
    found = tuple(_joined(row, recorded, tail, null, form, k) for row in rows)
    return SpectralGraph(recorded.step, found)


def _joined(
    row: PairRow, recorded: Recorded, p: float, null: str, form: str, k: int | None
) -> PairAdjacency:
    """The adjacency of two layers, and what is significant in it."""
    c, z = row.features, row.positions
    if form != "cosvr":
        plain = form == "svr" or not row.norm
        earlier = recorded.neurons(row.source) if plain else recorded.folded(row)
        later = recorded.neurons(row.target)
        U, Vh = torch.from_numpy(earlier.U[:, :k]), torch.from_numpy(later.Vh[:k])
        adjacency = linalg.vector_adjacency(U, Vh).numpy()
        # as they were then: the table of pairs is the latest
        c, z = len(U), Vh.shape[1] // max(len(U), 1)
    else:
        earlier, later = recorded.cosvr(row.source), recorded.cosvr(row.target, z)
        U, Vh = torch.from_numpy(earlier.U[:, :k]), torch.from_numpy(later.Vh[:k])
        # the same sum with the parts exchanged: now U has the positions
        adjacency = linalg.vector_adjacency(Vh.mT, U.mT).mT.numpy()
        z = len(U) // c
    if U.is_complex() or Vh.is_complex():
        z *= 2  # |⟨v, u⟩|² is of a plane, not of a line: Beta(z, (c − 1)z)
    threshold = linalg.significance_threshold(c, z, null=null, p=p)
    dimensions, intensity = _block(adjacency, c)
    return PairAdjacency(
        source=row.source,
        target=row.target,
        kind=row.kind,
        stream=row.stream,
        adjacency=adjacency,
        threshold=threshold,
        p=p,
        null=null,
        expected_false=p * adjacency.size,
        significant=int((adjacency > threshold).sum()),
        features=c,
        positions=z,
        internal_dimensions=dimensions,
        intensity=intensity,
        source_sigma=earlier.sigma[:k],
        target_sigma=later.sigma[:k],
    )


def _block(
    adjacency: NDArray[np.float64], features: int
) -> tuple[tuple[int, int], NDArray[np.float64]]:
    """The joined block and who is in it; of a weight of zeros no vectors are stored."""
    if not adjacency.size:
        return (0, 0), np.zeros(adjacency.shape[1])
    dimensions = linalg.internal_dimensions(adjacency, features)
    return dimensions, linalg.neuron_intensity(adjacency, features)
