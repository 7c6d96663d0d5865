"""How much of a probe several processes hold in memory until they put it together."""

from collections.abc import Sequence

from svdhooks.conductor.observing import OfPoints
from svdhooks.layers.tap import Watched
from svdhooks.quantities import Covariance, Ledger, PointQuantity
from svdhooks.quantities.moments import PointMoments, features_of

TOGETHER_BYTES = 2**30
"""What the covariances of one pass may take."""


def within_bounds(of_points: OfPoints) -> list[OfPoints]:
    """Split what is measured, so that the covariances of one part fit into memory.

    Args:
        of_points: Quantities with layers and taps.

    Returns:
        Parts, in the order of the layers; the same on every process.
    """
    parts: list[list[tuple[PointQuantity, list[Watched]]]] = [[]]
    held = 0
    order = list(dict.fromkeys(x for _, several in of_points for x in several))
    for watched in order:
        concerned = [quantity for quantity, several in of_points if watched in several]
        size = sum(_bytes(quantity, watched) for quantity in concerned)
        if held and held + size > TOGETHER_BYTES:
            parts.append([])
            held = 0
        held += size
        for quantity in concerned:
            _add_to(parts[-1], quantity, watched)
    return [part for part in parts if part]


def _bytes(quantity: PointQuantity, watched: Watched) -> int:
    """What the covariances of a layer take until they are put together."""
    if isinstance(quantity, Covariance):
        points: Sequence[str] = quantity.measured_points(watched)
    elif isinstance(quantity, PointMoments):
        sizes = [features_of(watched, p) for p in quantity.measured_points(watched)]
        return sum(8 * d**2 for d in sizes)
    elif isinstance(quantity, Ledger):  # which leaves out what is larger
        points = ("output",) if "output" in watched.points else ()
    else:
        return 0
    sizes = [watched.points[point] for point in points]
    return sum(8 * d**2 for d in sizes if d <= quantity.max_features)


def _add_to(
    part: list[tuple[PointQuantity, list[Watched]]],
    quantity: PointQuantity,
    watched: Watched,
) -> None:
    for known, several in part:
        if known is quantity:
            several.append(watched)
            return
    part.append((quantity, [watched]))
