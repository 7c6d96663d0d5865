"""Where the layers of a spectral graph stand: columns by depth, neurons from the top."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svdhooks.analysis.graph import PairAdjacency


@dataclass(frozen=True)
class Placed:
    """One layer of the drawing.

    Attributes:
        name: The layer's.
        column: 0 for what nothing feeds.
        top: Of its first neuron, in rows from the top.
        sigma: Singular values of the neurons that are drawn, relative to the largest.
        neurons: How many it has.
    """

    name: str
    column: int
    top: float
    sigma: NDArray[np.float64]
    neurons: int


def place(pairs: Sequence[PairAdjacency], max_nodes: int | None) -> dict[str, Placed]:
    """Place every layer of some pairs.

    Args:
        pairs: Whose sources and targets are placed.
        max_nodes: The most neurons of a layer that are drawn, the leading ones; None:
            as many as let the fullest column have some 60 rows, from 8 to 40.

    Returns:
        By name. Layers of one depth stand below one another.
    """
    sigmas = _singular_values(pairs)
    columns = depths([(pair.source, pair.target) for pair in pairs])
    if max_nodes is None:
        fullest = max(Counter(columns.values()).values())
        max_nodes = max(8, min(40, 60 // fullest))
    placed: dict[str, Placed] = {}
    bottoms: dict[int, float] = {}
    for name, sigma in sigmas.items():
        column, top = columns[name], bottoms.get(columns[name], 0.0)
        drawn = sigma[:max_nodes]
        relative = drawn / drawn[0] if drawn.size and drawn[0] > 0 else drawn * 0.0
        placed[name] = Placed(name, column, top, relative, len(sigma))
        # room for how many are left out, and for the name of the next one
        bottoms[column] = top + max(len(drawn), 1) + 5.0
    return placed


def depths(edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The longest way to each layer; the order of appearance where there is a cycle.

    Args:
        edges: Source and target.

    Returns:
        Layer -> column, in the order of appearance.
    """
    names = list(dict.fromkeys(name for edge in edges for name in edge))
    depth = dict.fromkeys(names, 0)
    # one round for each layer settles every way that has no cycle
    for _ in names:
        changed = False
        for source, target in edges:
            if depth[target] <= depth[source]:
                depth[target] = depth[source] + 1
                changed = True
        if not changed:
            return depth
    return {name: index for index, name in enumerate(names)}


def _singular_values(
    pairs: Sequence[PairAdjacency],
) -> dict[str, NDArray[np.float64]]:
    """Of each layer those that some pair holds most of."""
    found: dict[str, NDArray[np.float64]] = {}
    for pair in pairs:
        for name, sigma in (
            (pair.source, pair.source_sigma),
            (pair.target, pair.target_sigma),
        ):
            if name not in found or len(sigma) > len(found[name]):
                found[name] = np.asarray(sigma, dtype=np.float64)
    return found
