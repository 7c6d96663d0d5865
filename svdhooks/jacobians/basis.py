"""In which directions to differentiate, and how much of it is held at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from svdhooks.jacobians.options import JacobianOptions

Kind = Literal["full", "first_layer", "rows", "sketch"]

HELD = 3
"""What batched products take at their peak, in units of the results."""


@dataclass(frozen=True)
class Basis:
    """In which directions to differentiate.

    Attributes:
        kind: All of the input point, all of the first layer's output, all rows of all
            layers by reverse mode, or a random few of the input point.
        directions: How many; 0 for rows.
    """

    kind: Kind
    directions: int

    @property
    def complete(self) -> bool:
        """Whether products with it have the spectra of the whole Jacobian."""
        return self.kind != "sketch"


def choose_basis(
    inputs: int, outputs: Sequence[int], first: int | None, options: JacobianOptions
) -> Basis:
    """Choose the cheapest basis that is complete, if one fits.

    Args:
        inputs: Dimension of the input point.
        outputs: Dimensions of the layers.
        first: That of the first layer, if all others depend on the input by it alone.
        options: Say what fits.

    Returns:
        The basis.
    """
    most = max(options.max_directions, options.directions)
    pushed = Basis("full", inputs)
    if first is not None and first < inputs:
        pushed = Basis("first_layer", first)
    # a row costs about what a direction costs
    if 0 < sum(outputs) < pushed.directions and sum(outputs) <= most:
        return Basis("rows", 0)
    if pushed.directions <= most:
        return pushed
    return Basis("sketch", min(options.directions, inputs))


def exact_by_rows(
    outputs: Mapping[str, int], options: JacobianOptions
) -> frozenset[str]:
    """Beside a sketch, layers with so few outputs that all their rows can be taken.

    Args:
        outputs: Layer -> dimension of its output.
        options: Say what fits: no more rows of a layer than a sketch has directions, and
            no more of all of them together than a full basis may have.

    Returns:
        Their names, the smallest first as far as the rows suffice.
    """
    found: list[str] = []
    left = max(options.max_directions, options.directions)
    for name, rows in sorted(outputs.items(), key=lambda item: item[1]):
        if rows > min(options.directions, left):
            break
        found.append(name)
        left -= rows
    return frozenset(found)


@dataclass(frozen=True)
class Portion:
    """Layers that are differentiated in the same passes.

    Attributes:
        names: The layers.
        samples: How many samples at once.
        chunk: How many directions at once; None: all.
    """

    names: tuple[str, ...]
    samples: int
    chunk: int | None = None


def portions(
    sizes: Mapping[str, int], columns: int, itemsize: int, max_bytes: int
) -> tuple[list[Portion], dict[str, str]]:
    """Divide the layers so that what is held of them fits.

    Args:
        sizes: Layer -> dimension of its output, of one sample.
        columns: Columns of the products.
        itemsize: Bytes of an entry.
        max_bytes: The bound.

    Returns:
        The portions; and for layers of which one sample alone is too large, a reason.
    """
    found: list[Portion] = []
    reasons: dict[str, str] = {}
    group: list[str] = []
    size = 0
    for name, m in sizes.items():
        own = m * columns * itemsize
        if own > max_bytes:
            reasons[name] = (
                f"the Jacobian of one sample, {m} x {columns}, takes "
                f"{own / 2**20:.0f} MiB, more than max_bytes={max_bytes}: raise it, or "
                "take fewer directions or positions='mean'"
            )
        elif HELD * own > max_bytes:  # all of the results, but few directions at once
            free = max(1, (max_bytes - own) // (m * itemsize * (HELD - 1)))
            found.append(Portion((name,), 1, min(free, columns)))
        else:
            if group and HELD * (size + own) > max_bytes:
                found.append(Portion(tuple(group), 1))
                group, size = [], 0
            group.append(name)
            size += own
    if group:
        found.append(Portion(tuple(group), max(1, max_bytes // (HELD * max(size, 1)))))
    return found, reasons
