"""Where a sample's entries are in the output of a layer: nothing about it is assumed.

Binary codes find it out: sample i has number i, and for each bit of it the samples with
that bit are perturbed in one pass, the others in another. An entry that changes in exactly
one of the two, for every bit, thereby says which sample it belongs to; one that changes in
both depends on several samples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from svdhooks.jacobians.options import Positions
from svdhooks.layers import PointValue

NO_SAMPLE = -1
"""Of an entry that no perturbation has changed."""

MIXED = -2
"""Of an entry that depends on several samples."""


@dataclass(frozen=True)
class Layout:
    """Which entries of an output belong to which sample.

    Attributes:
        axis: The axis that holds the samples; None: all entries belong to the only one.
        blocks: Whether the entries of a sample follow each other on it (windows of an
            image); otherwise every n-th is of the same sample (positions first).
    """

    axis: int | None
    blocks: bool = True

    def arranged(
        self, value: PointValue, n: int, positions: Positions
    ) -> Float[Tensor, "n m"]:
        """The output of a layer sample by sample.

        Args:
            value: The output.
            n: Number of samples.
            positions: Which positions count.

        Returns:
            One row per sample.

        Raises:
            IndexError: If there is no such position.
            ValueError: If the entries do not divide by the samples.
        """
        z = value.tensor
        features = value.feature_axis % z.ndim if z.ndim else 0
        if self.axis is None:
            rows = z.reshape(1, -1) if z.ndim < 2 else z.movedim(features, -1)[None]
        elif self.axis == features:
            rows = _split(z.movedim(self.axis, 0), n, self.blocks)
        else:
            moved = z.movedim((self.axis, features), (0, -1))
            rows = _split(moved, n, self.blocks)
        width = rows.shape[-1] if rows.ndim > 2 else rows[0].numel()
        return _real(_at_positions(rows.reshape(n, -1, width), positions))


def _split(z: Tensor, n: int, blocks: bool) -> Tensor:
    """The first axis as samples × positions."""
    if z.shape[0] % n:
        raise ValueError(f"{z.shape[0]} entries do not divide by {n} samples")
    if blocks:
        return z.reshape(n, -1, *z.shape[1:])
    return z.reshape(-1, n, *z.shape[1:]).transpose(0, 1)


def _at_positions(rows: Tensor, positions: Positions) -> Tensor:
    if positions == "all":
        return rows.flatten(1)
    if positions == "mean":
        return rows.mean(1)
    if rows.shape[1] == 1:  # one vector per sample: after pooling
        return rows[:, 0]
    if not -rows.shape[1] <= positions < rows.shape[1]:
        raise IndexError(
            f"positions={positions}: a sample has {rows.shape[1]} positions here"
        )
    return rows[:, positions]


def _real(rows: Tensor) -> Tensor:
    return torch.view_as_real(rows).flatten(1) if rows.is_complex() else rows


# --- finding it out ----------------------------------------------------------------------

Outputs = Mapping[str, Tensor]
Perturbed = Callable[[Bool[Tensor, " n"]], Outputs]
"""Which samples to perturb -> the outputs of the layers."""

Found = Layout | Literal["together", "unlike", "unmoved"]
"""A layout; or samples are not to be told apart, by what the entries depend on or because
the shape depends on the data; or nothing changes at all."""


def find_layouts(
    base: Outputs, again: Outputs, perturbed: Perturbed, n: int, bits: int
) -> dict[str, Found]:
    """Find where the samples are in the output of each layer.

    Args:
        base: The outputs.
        again: The same of another pass: what differs is noise.
        perturbed: Perturbs the samples of a mask.
        n: Number of samples.
        bits: Of the numbers of samples; 2·bits passes are made.

    Returns:
        Layer -> layout, or why there is none.
    """
    noise = {name: _distance(base[name], again.get(name)) for name in base}
    kind = torch.int16 if bits < 15 else torch.int64
    codes = {name: torch.zeros(z.shape, dtype=kind) for name, z in base.items()}
    unlike: set[str] = set()
    numbers = torch.arange(n)
    for bit in range(bits):
        chosen = (numbers >> bit) % 2 == 1
        those, others = perturbed(chosen), perturbed(~chosen)
        for name, code in codes.items():
            sides = [
                _changed(base[name], side.get(name), noise[name])
                for side in (those, others)
            ]
            if sides[0] is None or sides[1] is None:
                unlike.add(name)
            else:
                _note(code, sides[0], sides[1], bit)
    if bits == 0:
        return dict.fromkeys(base, Layout(None))
    return {
        name: "unlike" if name in unlike else layout_of(code, n)
        for name, code in codes.items()
    }


def layout_of(codes: Int[Tensor, "*shape"], n: int) -> Found:
    """The layout that explains which entry belongs to which sample.

    Args:
        codes: Number of the sample, or `NO_SAMPLE` or `MIXED`.
        n: Number of samples.

    Returns:
        The first axis that fits, or why none does.
    """
    if (codes == MIXED).any():
        return "together"
    known = codes >= 0
    if not known.any():
        return "unmoved"
    for axis, length in enumerate(codes.shape):
        if length % n:
            continue
        each = torch.arange(length)
        for blocks in (True, False):
            expected = each // (length // n) if blocks else each % n
            shape = [-1 if a == axis else 1 for a in range(codes.ndim)]
            fits = (codes == expected.reshape(shape)) | ~known
            if fits.all():
                return Layout(axis, blocks)
    return "together"


def _note(
    code: Int[Tensor, "*shape"],
    those: Bool[Tensor, "*shape"],
    others: Bool[Tensor, "*shape"],
    bit: int,
) -> None:
    """Add one bit to the numbers; in place."""
    mixed, neither = those & others, ~(those | others)
    code += torch.where((code >= 0) & those, 1 << bit, 0)
    code[neither & (code != MIXED)] = NO_SAMPLE
    code[mixed] = MIXED


def _changed(
    base: Tensor, other: Tensor | None, noise: float
) -> Bool[Tensor, "*shape"] | None:
    """Which entries differ; None if the shape does."""
    if other is None or other.shape != base.shape:
        return None
    apart = base != other
    if noise > 0.0:
        apart &= ~((base - other).abs() <= 8 * noise)
    # what is no number in both has not changed
    return (apart & ~(base.isnan() & other.isnan())).cpu()


def _distance(base: Tensor, again: Tensor | None) -> float:
    if again is None or again.shape != base.shape or base.numel() == 0:
        return 0.0
    apart = (base - again).abs()
    return float(torch.nan_to_num(apart, 0.0, 0.0).max().item())


def evenly(n: int, most: int | None) -> list[int]:
    """Which samples of a larger batch.

    Args:
        n: How many there are.
        most: How many at most; None: all.

    Returns:
        Their numbers, evenly spread.
    """
    if most is None or n <= most:
        return list(range(n))
    return [i * n // most for i in range(most)]


def sliceable_axes(
    tensors: Sequence[Tensor], n: int, axis: int, point: int | None
) -> list[dict[int, int]]:
    """Ways to take some samples of a batch, the likeliest first.

    Args:
        tensors: What enters the model.
        n: Number of samples.
        axis: Which axis of the input point holds them.
        point: Which of the tensors is the input point; None: none of them.

    Returns:
        Ways; each says which axis of which tensor holds the samples.
    """

    def where(tensor: Tensor, preferred: Sequence[int]) -> int | None:
        fits = [a for a in preferred if a < tensor.ndim and tensor.shape[a] == n]
        return fits[0] if fits else None

    every = [0, 1, *range(2, 8)]
    ways: list[dict[int, int]] = []
    for preferred in ([axis, *every], every, [axis], [0]):
        way = {i: where(t, preferred) for i, t in enumerate(tensors)}
        if point is not None:
            way[point] = axis
        known = {i: a for i, a in way.items() if a is not None}
        if known and known not in ways:
            ways.append(known)
    only = {} if point is None else {point: axis}
    if only and only not in ways:
        ways.append(only)
    return ways
