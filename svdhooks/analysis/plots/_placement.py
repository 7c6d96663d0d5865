"""Where the layers of a spectral graph stand: columns by depth, chain by chain."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svdhooks.analysis.graph import PairAdjacency

_WIDEST = 12
"""Columns of a line of chains."""


@dataclass(frozen=True)
class Placed:
    """One layer of the drawing.

    Attributes:
        name: The layer's.
        column: From the left.
        top: Of its first neuron, in rows from the top.
        sigma: Singular values of the neurons that are drawn, relative to the largest.
        drawn: Which neurons these are, from 0, in order.
        neurons: How many it has.
    """

    name: str
    column: int
    top: float
    sigma: NDArray[np.float64]
    drawn: NDArray[np.intp]
    neurons: int

    def rows(self) -> NDArray[np.float64]:
        """Where each of its neurons is drawn; NaN: nowhere."""
        found = np.full(self.neurons, np.nan)
        found[self.drawn] = self.top + np.arange(len(self.drawn))
        return found


def place(pairs: Sequence[PairAdjacency], max_nodes: int | None) -> dict[str, Placed]:
    """Place every layer of some pairs.

    Chains that no pair joins stand beside one another, in the order of appearance, and
    where there is no more room below one another, as words do.

    Args:
        pairs: Whose sources and targets are placed.
        max_nodes: The most neurons of a layer that are drawn, half of them the leading
            ones, half those with the strongest edges; None: as many as let the drawing
            have some 60 rows, from 6 to 40.

    Returns:
        By name. Layers of one depth in a chain stand below one another.
    """
    sigmas, strongest = _singular_values(pairs), _strongest(pairs)
    lines = _lines(_chains([(pair.source, pair.target) for pair in pairs]))
    if max_nodes is None:
        fullest = sum(max(Counter(line.values()).values()) for line in lines)
        max_nodes = max(6, min(40, 60 // fullest))
    placed: dict[str, Placed] = {}
    start = 0.0
    for line in lines:
        bottoms: dict[int, float] = {}
        for name, column in line.items():
            top = bottoms.get(column, start)
            sigma = sigmas[name]
            relative = sigma / sigma[0] if sigma.size and sigma[0] > 0 else sigma * 0.0
            drawn = _chosen(strongest[name], len(sigma), max_nodes)
            placed[name] = Placed(name, column, top, relative[drawn], drawn, len(sigma))
            # room for how many are left out, and for the name of the next one
            bottoms[column] = top + max(len(drawn), 1) + 5.0
        start = max(bottoms.values())
    return placed


def _chains(edges: Sequence[tuple[str, str]]) -> list[dict[str, int]]:
    """Layers that pairs join, with the depth of each among them."""
    depth = depths(edges)
    group = {name: {name} for name in depth}
    for source, target in edges:
        if group[source] is not group[target]:
            group[source] |= group[target]
            for name in group[target]:
                group[name] = group[source]
    distinct = {id(names): names for names in group.values()}.values()
    return [{name: depth[name] for name in depth if name in some} for some in distinct]


def _lines(chains: Sequence[Mapping[str, int]]) -> list[dict[str, int]]:
    """Layer -> column, line by line."""
    lines: list[dict[str, int]] = [{}]
    end = 0
    for chain in chains:
        width = 1 + max(chain.values())
        if end and end + width > _WIDEST:
            lines.append({})
            end = 0
        lines[-1] |= {name: end + depth for name, depth in chain.items()}
        end += width
    return lines


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


def _strongest(pairs: Sequence[PairAdjacency]) -> dict[str, dict[int, float]]:
    """Layer -> neuron -> the weight of its strongest significant edge."""
    found: dict[str, dict[int, float]] = {}
    for pair in pairs:
        edges = np.where(pair.adjacency > pair.threshold, pair.adjacency, 0.0)
        for name, axis in ((pair.source, 0), (pair.target, 1)):
            own = found.setdefault(name, {})
            best = edges.max(axis=axis, initial=0.0)
            for neuron in np.flatnonzero(best).tolist():
                own[neuron] = max(own.get(neuron, 0.0), float(best[neuron]))
    return found


def _chosen(
    strongest: Mapping[int, float], neurons: int, most: int
) -> NDArray[np.intp]:
    """Which neurons of a layer are drawn."""
    leading = range(min(neurons, (most + 1) // 2))
    joined = sorted(strongest, key=lambda neuron: -strongest[neuron])
    order = dict.fromkeys([*leading, *joined, *range(neurons)])
    return np.array(sorted(list(order)[:most]), dtype=np.intp)
