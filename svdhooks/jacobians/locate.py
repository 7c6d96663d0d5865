"""Which tensor is the input point: of the batch, or the output of a module."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from svdhooks.jacobians.model import InputPoint, Perturbable
from svdhooks.jacobians.passes import Passes
from svdhooks.layers import PointValue, named_modules
from svdhooks.layers.tap import Tap, Watched
from svdhooks.nested import tensors_in
from svdhooks.probe import ReferenceBatch


def find_point(
    model: Perturbable,
    reference: ReferenceBatch,
    watched: Sequence[Watched],
    wanted: str | None,
    passes: Passes,
) -> InputPoint:
    """Find the input point.

    Args:
        model: The model.
        reference: The batch.
        watched: The layers; one of them at least has to depend on the point.
        wanted: Name of the module whose output it is; None: the first floating-point
            tensor of the batch that matters, else the first embedding that is called.
        passes: Makes the passes.

    Returns:
        The input point.

    Raises:
        ValueError: If there is none, or no such module.
    """
    if wanted is not None:
        return _named(model, reference, wanted, passes)
    tensors = model.entering(reference)
    masks = _masks(reference)
    for index, tensor in enumerate(tensors):
        if not tensor.is_floating_point() or id(tensor) in masks:
            continue
        point = InputPoint(f"tensor {index} of the batch", index)
        if _matters(model, reference, watched, point, passes):
            return point
    return _first_embedding(model, reference, passes)


def _named(
    model: Perturbable, reference: ReferenceBatch, name: str, passes: Passes
) -> InputPoint:
    modules = dict(named_modules(model.model))
    if name not in modules:
        close = difflib.get_close_matches(name, modules, 3, 0.4)
        raise ValueError(
            f"point={name!r}: the model has no such module; "
            f"{'did you mean' if close else 'it has'} "
            f"{', '.join(close or list(modules)[:8])}?"
        )
    point = InputPoint(name, module=modules[name])
    called = passes.make(lambda: _outputs(model, reference, {name: modules[name]}))
    if not passes.all_true(name in called):
        raise ValueError(
            f"point={name!r}: the forward does not call that module, or it returns no "
            "floating-point tensor; expected a module whose output the layers depend on."
        )
    return point


def _first_embedding(
    model: Perturbable, reference: ReferenceBatch, passes: Passes
) -> InputPoint:
    embeddings = {
        name: module
        for name, module in named_modules(model.model)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    }
    called = passes.make(lambda: _outputs(model, reference, embeddings))
    if not passes.all_true(bool(called)):
        raise ValueError(
            "Found no input to differentiate by: no floating-point tensor of the batch "
            "changes what the layers return, and the forward calls no embedding. Name "
            "the module whose output is the input: point='backbone.stem'."
        )
    first = next(iter(called))
    return InputPoint(first, module=embeddings[first])


def _outputs(
    model: Perturbable, reference: ReferenceBatch, modules: Mapping[str, nn.Module]
) -> dict[str, PointValue]:
    """What modules return, in the order of their calls."""
    taps = [Tap(name, name, module) for name, module in modules.items()]
    return model.outputs(reference, taps, InputPoint("", module=nn.Identity()))[0]


def _matters(
    model: Perturbable,
    reference: ReferenceBatch,
    watched: Sequence[Watched],
    point: InputPoint,
    passes: Passes,
) -> bool:
    """Whether some layer returns something else when the point is perturbed."""

    def outputs(delta: Tensor | None) -> dict[str, Tensor]:
        found, _ = model.outputs(reference, watched, point, delta)
        return {name: value.tensor for name, value in found.items()}

    base = passes.make(lambda: outputs(None))
    noise = noise_at(model.value(reference, point))
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
