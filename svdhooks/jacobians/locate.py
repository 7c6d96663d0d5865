"""Which tensor is the input point: of the batch, or the output of a module."""

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from svdhooks.distributed.team import TeamError
from svdhooks.jacobians.model import InputPoint, mapped
from svdhooks.jacobians.setting import Setting
from svdhooks.layers import PointValue, named_modules
from svdhooks.layers.tap import Tap
from svdhooks.nested import tensors_in
from svdhooks.probe import ReferenceBatch


def find_point(setting: Setting) -> InputPoint:
    """Find the input point.

    As named; else the first floating-point tensor of the batch that matters; else the
    first embedding of what is in the batch.

    Args:
        setting: The model, the batch and the layers, one of which at least has to
            depend on the point.

    Returns:
        The input point.

    Raises:
        ValueError: If there is none, or no such module.
    """
    if setting.options.point is not None:
        return _named(setting, setting.options.point)
    masks = _masks(setting.reference)
    for index, tensor in enumerate(setting.model.entering(setting.reference)):
        # a number for all samples is none of theirs
        if not tensor.is_floating_point() or tensor.ndim == 0 or id(tensor) in masks:
            continue
        point = InputPoint(f"tensor {index} of the batch", index)
        if _matters(setting, point):
            return point
    return _first_embedding(setting)


def _named(setting: Setting, name: str) -> InputPoint:
    modules = dict(named_modules(setting.model.model))
    if name not in modules:
        close = difflib.get_close_matches(name, modules, 3, 0.4)
        raise ValueError(
            f"point={name!r}: the model has no such module; "
            f"{'did you mean' if close else 'it has'} "
            f"{', '.join(close or list(modules)[:8])}?"
        )
    point = InputPoint(name, module=modules[name])
    called = _outputs(setting, setting.reference, {name: modules[name]})
    if not setting.passes.all_true(name in called):
        raise ValueError(
            f"point={name!r}: the forward does not call that module, or it returns no "
            "floating-point tensor; expected a module whose output the layers depend on."
        )
    return point


def _first_embedding(setting: Setting) -> InputPoint:
    """The first that is called, but not with positions, which all samples share."""
    embeddings = {
        name: module
        for name, module in named_modules(setting.model.model)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    }
    called = _outputs(setting, setting.reference, embeddings)
    if not setting.passes.all_true(bool(called)):
        raise ValueError(
            "Found no input to differentiate by: no floating-point tensor of the batch "
            "changes what the layers return, and the forward calls no embedding. Name "
            "the module whose output is the input: point='backbone.stem'."
        )
    first = next(iter(called))
    if len(called) > 1:
        first = next(iter(_of_samples(setting, embeddings, called)), first)
    return InputPoint(first, module=embeddings[first])


def _of_samples(
    setting: Setting,
    embeddings: Mapping[str, nn.Module],
    called: Mapping[str, PointValue],
) -> list[str]:
    """The embeddings of what each sample has for itself, in the order of their calls."""

    def reversed_(tensor: Tensor) -> Tensor:
        index = not (tensor.is_floating_point() or tensor.is_complex())
        return tensor.flip(tuple(range(tensor.ndim))) if index else tensor

    other = mapped(setting.reference, reversed_)
    try:
        again = _outputs(setting, other, embeddings)
    except TeamError:
        raise
    except Exception:  # noqa: BLE001  # the model does not take such a batch
        again = {}
    # numbers of positions that the model makes itself stay as they are
    moved = {
        name: value.tensor.shape
        for name, value in called.items()
        if name not in again or not torch.equal(value.tensor, again[name].tensor)
    }
    deepest = max(moved.values(), key=lambda s: (len(s), s[0]), default=torch.Size())
    own = [
        name
        for name, shape in moved.items()
        if shape[:1] == deepest[:1] or (len(shape) == len(deepest) and shape[0] > 1)
    ]
    # the same on all processes that make the same passes
    return next(iter(setting.passes.told(own)), own)


def _outputs(
    setting: Setting, reference: ReferenceBatch, modules: Mapping[str, nn.Module]
) -> dict[str, PointValue]:
    """What modules return, in the order of their calls."""
    taps = [Tap(name, name, module) for name, module in modules.items()]
    nowhere = InputPoint("", module=nn.Identity())
    return setting.passes.make(
        lambda: setting.model.outputs(reference, taps, nowhere)[0]
    )


def _matters(setting: Setting, point: InputPoint) -> bool:
    """Whether some layer returns something else when the point is perturbed."""
    passes = setting.passes

    def outputs(delta: Tensor | None) -> dict[str, Tensor]:
        found, _ = setting.outputs(point, delta)
        return {name: value.tensor for name, value in found.items()}

    base = passes.make(lambda: outputs(None))
    noise = noise_at(setting.model.value(setting.reference, point))
    other = passes.make(lambda: outputs(noise))
    changed = any(
        name not in other or not torch.equal(z, other[name]) for name, z in base.items()
    )
    return passes.all_true(changed)


def noise_at(value: Tensor) -> Tensor:
    """A perturbation of the size of what is there, the same in every pass.

    Args:
        value: What is at the input point.

    Returns:
        Normal noise of its shape.
    """
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(value.shape, generator=generator)
    finite = value.detach().double().nan_to_num(0.0, 0.0, 0.0)
    size = float(finite.square().mean().sqrt().item()) if value.numel() else 0.0
    return (normal * (0.5 * size or 1.0)).to(value)


def _masks(reference: ReferenceBatch) -> set[int]:
    """The tensors that a mapping calls masks: no input, whatever their dtype."""
    named: list[Any] = [reference.batch, reference.kwargs]
    return {
        id(tensor)
        for mapping in named
        if isinstance(mapping, Mapping)
        for key, value in mapping.items()
        if "mask" in str(key).lower()
        for tensor in tensors_in(value)
    }
