"""How much of a probe several processes hold in memory until they put it together."""

from svdhooks.layers.tap import Watched
from svdhooks.observing import OfPoints
from svdhooks.quantities import Covariance, PointQuantity

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
        size = sum(
            8 * watched.points[point] ** 2
            for quantity in concerned
            if isinstance(quantity, Covariance)
            for point in quantity.measured_points(watched)
        )
        if held and held + size > TOGETHER_BYTES:
            parts.append([])
            held = 0
        held += size
        for quantity in concerned:
            _add_to(parts[-1], quantity, watched)
    return [part for part in parts if part]


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
