"""Who solves what: the same answer on every process, from sizes alone."""

from collections.abc import Sequence


def balanced(costs: Sequence[float | int], size: int) -> list[int]:
    """Share work out, the largest piece first, each to whoever has least so far.

    Args:
        costs: Of the pieces, in an order that is the same everywhere.
        size: Number of processes.

    Returns:
        Rank of the process for each piece.
    """
    load, owners = [0.0] * size, [0] * len(costs)
    for piece in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        owner = min(range(size), key=lambda rank: (load[rank], rank))
        owners[piece] = owner
        load[owner] += costs[piece]
    return owners
