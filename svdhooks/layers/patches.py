"""What the weight of a convolution acts on: the patches of its input, never all unfolded."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn
from torch.nn import functional

from svdhooks.layers.layer import Layer
from svdhooks.linalg import _solvers
from svdhooks.linalg.discarding import NearNull, SampleSums

_CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def convolution_of(layer: Layer) -> Any:
    """The plain convolution that a layer's weight belongs to.

    Args:
        layer: A layer.

    Returns:
        The module; None if it is none whose input is seen as patches by all rows of the
        weight: no convolution, a grouped or transposed one.
    """
    module = getattr(layer.module, "base_layer", layer.module)
    plain = isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    return module if plain and module.groups == 1 else None


def why_not_alone(layer: Layer) -> str | None:
    """Why a weight does not multiply what enters it, sample by sample or patch by patch.

    Args:
        layer: A layer with an input point.

    Returns:
        The reason; None if it does.
    """
    if layer.experts:
        return "each expert sees tokens of its own"
    if layer.groups > 1:
        return "each group of a convolution sees channels of its own"
    if convolution_of(layer) is None and layer.shape[1] != layer.points["input"]:
        return f"the weight of a {layer.kind} does not multiply its input alone"
    return None


def patches(
    module: Any,
    maps: Shaped[Tensor, "*batch channels space"],
    mask: Bool[Tensor, "batch length"] | None = None,
) -> Iterator[Shaped[Tensor, "n d"]]:
    """All patches, a bounded part of them at a time.

    Args:
        module: Of `convolution_of`.
        maps: What entered it.
        mask: True at the positions of the output that count; where it does not fit
            them, all do.

    Yields:
        Patches as rows, in the order of the flattened kernel: channel by channel, all
        kernel positions of each. In the dtype of the maps; at least one part, though
        it be empty.
    """
    maps, dimensions = maps.detach(), len(module.kernel_size)
    maps = maps if maps.ndim == dimensions + 2 else maps.unsqueeze(0)
    per_sample = 8 * max(maps[:1].numel(), 1)
    size = max(_solvers.COPY_BYTES // per_sample, 1)
    for start in range(0, max(len(maps), 1), size):
        seen = _windows(module, _padded(module, maps[start : start + size]))
        shape = (len(maps), *seen.shape[1 : dimensions + 1])
        fits = mask is not None and shape == tuple(mask.shape)
        counting = mask[start : start + size] if mask is not None and fits else None
        yield from _rows(seen, counting, dimensions + 1)


def _windows(module: Any, padded: Tensor) -> Tensor:
    """A view ``(batch, *positions, channels, *kernel)``; nothing is copied."""
    axes = zip(module.kernel_size, module.stride, module.dilation, strict=True)
    for axis, (kernel, stride, dilation) in enumerate(axes, start=2):
        reach = dilation * (kernel - 1) + 1
        padded = padded.unfold(axis, reach, stride)[..., ::dilation]
    return padded.movedim(1, len(module.kernel_size) + 1)


def _rows(
    seen: Tensor, counting: Tensor | None, axes: int
) -> Iterator[Shaped[Tensor, "n d"]]:
    """Copies of parts of a view, cut along its leading axes until they are small."""
    features = seen.shape[axes:].numel()
    most = _solvers.COPY_BYTES // 8
    size = max(most // max(seen[:1].numel(), 1), 1)
    for start in range(0, max(len(seen), 1), size):
        part = seen[start : start + size]
        mask = None if counting is None else counting[start : start + size]
        if part.numel() > most and axes > 1:  # one element of this axis is too much
            yield from _rows(part[0], None if mask is None else mask[0], axes - 1)
            continue
        rows = part.reshape(-1, features)
        yield rows if mask is None else rows[mask.flatten()]


def patch_sums(
    module: Any, maps: Shaped[Tensor, "*batch channels space"], split: NearNull
) -> SampleSums:
    """Sums over all patches: channels × kernel positions, as rows of the weight see them.

    What lies in the near-null space is found by a convolution with its basis, which costs
    what the layer's own forward costs; Σx and Σ‖x‖² from the map summed over the batch.

    Args:
        module: Of `convolution_of`.
        maps: What entered it.
        split: That of the flattened kernel.

    Returns:
        The sums, one sample for each patch.
    """
    dimensions = len(module.kernel_size)
    maps = maps if maps.ndim == dimensions + 2 else maps.unsqueeze(0)
    found: SampleSums | None = None
    for block in _blocks(maps, split):
        padded = _padded(module, block)
        whole = _whole_sums(module, padded)
        kernels = split.basis.to(padded).reshape(-1, maps.shape[1], *module.kernel_size)
        inside = whole.squares.new_zeros(())
        if len(kernels):
            inside = (
                _CONVOLVE[dimensions](
                    padded, kernels, stride=module.stride, dilation=module.dilation
                )
                .square()
                .sum(dtype=torch.float64)
            )
        part = whole.within(split, inside)
        found = part if found is None else found + part
    if found is None:
        d = split.basis.shape[1]
        nothing = torch.zeros(d, dtype=torch.float64)
        zero = nothing.new_zeros(())
        return SampleSums(0, nothing, zero, nothing, zero)
    return found


def _blocks(maps: Tensor, split: NearNull) -> Iterator[Tensor]:
    """Some samples at a time; sums over them are in double precision."""
    channels = max(maps.shape[1], len(split.basis), 1)
    per_sample = 8 * channels * max(maps[:1, :1].numel(), 1)
    size = max(_solvers.COPY_BYTES // per_sample, 1)
    # five times faster on the CPU; a GPU would round float32 to ten bits (TF32)
    single = maps.device.type == "cpu" and maps.dtype != torch.float64
    for start in range(0, len(maps), size):
        block = maps[start : start + size]
        yield block.detach().to(torch.float32) if single else _solvers.double(block)


def _padded(module: Any, maps: Tensor) -> Tensor:
    """As the module pads: also of padding="same", and circular or reflected."""
    sides = module._reversed_padding_repeated_twice
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return functional.pad(maps, tuple(sides), mode=mode) if any(sides) else maps


def _whole_sums(module: Any, padded: Tensor) -> SampleSums:
    """Σx and Σ‖x‖² over all patches."""
    over_batch = padded.sum(0, dtype=torch.float64)
    energy = padded.square().sum((0, 1), dtype=torch.float64)
    totals, squares, positions = [], energy.new_zeros(()), 0
    for place in _places(module, padded.shape[2:]):
        seen = over_batch[(slice(None), *place)].flatten(1)
        positions = seen.shape[1]
        totals.append(seen.sum(1))
        squares = squares + energy[place].sum()
    # rows of the weight: channel by channel, all kernel positions of each
    total = torch.stack(totals, 1).flatten()
    return SampleSums(len(padded) * positions, total, squares)


def _places(module: Any, size: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """For each kernel position, what it meets while the kernel moves."""
    axes = zip(module.kernel_size, module.stride, module.dilation, size, strict=True)
    along = []
    for kernel, stride, dilation, length in axes:
        moves = (length - dilation * (kernel - 1) - 1) // stride + 1
        starts = [dilation * k for k in range(kernel)]
        along.append([slice(s, s + stride * (moves - 1) + 1, stride) for s in starts])
    yield from itertools.product(*along)
