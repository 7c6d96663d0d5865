"""A plain training loop, and the slow road to what a recorder measures in it."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from svdhooks.capture import Capture
from tests.oracles import entropy

Array = NDArray[np.float64]


def train(
    model: nn.Module,
    batches: Iterable[Tensor],
    recorder: Any = None,
    optimizer: torch.optim.Optimizer | None = None,
    after: Callable[[], None] = lambda: None,
) -> torch.optim.Optimizer:
    """The loop of the README; the loss is the mean square of the output."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    for x in batches:
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if recorder is not None:
            recorder.step()
        after()
    return optimizer


def hooks_on(model: nn.Module) -> int:
    """Number of hooks of every kind on all modules, and of what stands before a call."""
    tables = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
    )
    hooks = sum(len(getattr(m, table)) for m in model.modules() for table in tables)
    slots = [m.__dict__.get("_compiled_call_impl") for m in model.modules()]
    return hooks + sum(isinstance(slot, Capture) for slot in slots)


def points_by_hand(model: nn.Module, *args: Any) -> dict[tuple[str, str], Tensor]:
    """What enters and leaves every leaf module, all calls of it, feature axis last."""
    seen: dict[tuple[str, str], list[Tensor]] = {}
    training = model.training

    def hook(name: str, axis: int) -> Callable[..., None]:
        def keep(
            _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
        ) -> None:
            for point, value in (("input", inputs[0]), ("output", output)):
                rows = value.detach().clone().movedim(axis, -1).flatten(0, -2)
                seen.setdefault((name, point), []).append(rows)

        return keep

    handles = [
        module.register_forward_hook(
            hook(name, 1 if "Conv" in str(type(module)) else -1)
        )
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    model.eval()
    with torch.no_grad():
        model(*[a.clone() for a in args])
    model.train(training)
    for handle in handles:
        handle.remove()
    return {key: torch.cat(rows) for key, rows in seen.items()}


def ranks_of(sigma: Array) -> dict[str, float]:
    """Measures that need no noise floor, from their definitions."""
    sigma = np.asarray(sigma, np.float64)
    variances = sigma**2
    return {
        "stable_rank": variances.sum() / variances[0],
        "effective_rank": math.exp(entropy(sigma)),
        "variance_effective_rank": math.exp(entropy(variances)),
        "participation_ratio": variances.sum() ** 2 / (variances**2).sum(),
    }
