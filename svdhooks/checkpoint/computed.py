"""Weights that a state dict holds in pieces: norms and directions, spectral norms."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from svdhooks.checkpoint.stored import Stored
from svdhooks.layers import Skipped

_PIECES = ".parametrizations."

Pieces = Mapping[str, Stored]


def with_computed(
    tensors: Mapping[str, Stored],
) -> tuple[dict[str, Stored], list[Skipped]]:
    """Put weights in the place of the pieces that they are computed from.

    Args:
        tensors: Name -> tensor.

    Returns:
        The same with computed weights; what cannot be computed, and why.
    """
    found: dict[str, Stored] = {}
    pieces: dict[str, dict[str, Stored]] = {}
    for name, tensor in tensors.items():
        place = _weight_of(name, tensors)
        if place is None:
            found[name] = tensor
            continue
        weight, piece = place
        if weight not in pieces:  # in the place of the first of its pieces
            found[weight] = tensor
            pieces[weight] = {}
        pieces[weight][piece] = tensor
    skipped = []
    for weight, parts in pieces.items():
        computed = _computed(weight, parts)
        if isinstance(computed, Stored):
            found[weight] = computed
        else:
            del found[weight]
            skipped.append(Skipped(weight, computed))
    return found, skipped


def _weight_of(name: str, tensors: Mapping[str, Stored]) -> tuple[str, str] | None:
    """The weight that a tensor is a piece of, and which; None if it is whole."""
    if _PIECES in name:
        owner, _, rest = name.partition(_PIECES)
        leaf, _, piece = rest.partition(".")
        return f"{owner}.{leaf}", piece
    for suffix, partner in (("_g", "_v"), ("_v", "_g")):  # old-style weight_norm
        stem = name.removesuffix(suffix)
        if stem != name and stem.endswith("weight") and stem + partner in tensors:
            return stem, f"original{'01'[suffix == '_v']}"
    for suffix in ("_orig", "_u", "_v"):  # old-style spectral_norm
        stem = name.removesuffix(suffix)
        both = {f"{stem}_orig", f"{stem}_u"} <= tensors.keys()
        if stem != name and stem.endswith("weight") and both:
            return stem, {"_orig": "original"}.get(suffix, f"0.{suffix}")
    return None


def _computed(name: str, parts: Pieces) -> Stored | str:
    """The weight, or why it is not known."""
    names = set(parts)
    if names == {"original0", "original1"}:
        size, direction = parts["original0"], parts["original1"]
        return replace(
            direction, name=name, read=_of_norm(size, direction), memory=None
        )
    if names == {"original", "0._u", "0._v"}:
        original = parts["original"]
        read = _of_spectral_norm(original, parts["0._u"], parts["0._v"])
        return replace(original, name=name, read=read, memory=None)
    return (
        f"parametrised ({', '.join(sorted(names))}): the file does not say by what, so "
        "the weight cannot be computed; scan the model with svdhooks.scan"
    )


def _of_norm(size: Stored, direction: Stored) -> Callable[[], Tensor]:
    """Of weight_norm: each slice has the norm that is stored."""

    def read() -> Tensor:
        norm, v = size.read(), direction.read()
        axes = [axis for axis, length in enumerate(norm.shape) if length == 1]
        if norm.ndim != v.ndim:
            axes = list(range(v.ndim))
        weight: Tensor = v * (
            norm / torch.linalg.vector_norm(v, dim=axes, keepdim=True)
        )
        return weight

    return read


def _of_spectral_norm(original: Stored, u: Stored, v: Stored) -> Callable[[], Tensor]:
    """Over the spectral norm as the stored vectors have it."""

    def read() -> Tensor:
        weight, left, right = original.read(), u.read(), v.read()
        axis = 0 if weight.shape[0] == len(left) else 1  # 1 of a transposed convolution
        matrix = weight.movedim(axis, 0).flatten(1)
        sigma = torch.dot(left, matrix.mv(right))
        return weight / sigma

    return read
