"""Whether a training went on that nobody told the recorder of."""

import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from svdhooks.conductor.models import Models
from svdhooks.reports import Reporter

_SAMPLED = 8


class Unnoticed:
    """Remembers a few values of each weight, and how often it was written to.

    Args:
        models: What is watched.
        start: Updates that the weights contain.
    """

    def __init__(self, models: Models, start: int) -> None:
        self._start = start
        self._before = [
            (weakref.ref(parameter), _seen(parameter))
            for model in models
            for parameter in model.measurer.model.parameters()
            if parameter.requires_grad and not is_lazy(parameter)
        ]

    def say(self, reporter: Reporter, step: int, counted: str) -> None:
        """Say so if the weights have changed without an update.

        Args:
            reporter: Says it.
            step: Updates that were noticed in all.
            counted: What is counted as an update, and what to do if that is wrong.
        """
        if step == self._start and any(_changed(*each) for each in self._before):
            reporter.note(
                "unnoticed",
                "svdhooks: the weights have changed, but no update was noticed, so that "
                f"nothing is recorded after step {step}. Updates are {counted}.",
            )


def _seen(parameter: nn.Parameter) -> tuple[int, Tensor | None]:
    """What differs after an update: the number of writes, or else the values."""
    writes = 0 if parameter.is_inference() else parameter._version
    values = parameter.detach()
    plain = type(values) is Tensor and values.layout is torch.strided
    if not plain or values.is_meta or values.numel() == 0:
        return writes, None
    # fused optimisers and what writes to .data do not count their writes
    places = torch.arange(_SAMPLED, device=values.device) * values.numel() // _SAMPLED
    try:
        return writes, values.take(places).nan_to_num()
    except Exception:  # noqa: BLE001  # of a dtype that computes nothing; a GPU that failed
        return writes, None


def _changed(
    parameter: Callable[[], nn.Parameter | None], before: tuple[int, Tensor | None]
) -> bool:
    now = parameter()
    if now is None:
        return False
    (writes, values), (written, known) = before, _seen(now)
    if writes != written or values is None or known is None:
        return writes != written
    try:
        return not torch.equal(values.to(known), known)
    except Exception:  # noqa: BLE001  # after an error of a GPU everything raises
        return False


def calls_of(optimizer: object | None) -> str:
    """What `svdhooks.watch` counts as an update.

    Args:
        optimizer: As given by the user.

    Returns:
        For `Unnoticed.say`.
    """
    if optimizer is None:
        return (
            "calls of recorder.step(), which told of none: call it after each "
            "optimizer.step(), or pass optimizer= to watch()"
        )
    return (
        f"calls of {type(optimizer).__name__}.step(), and there was none: pass the "
        "optimiser whose step() is called as optimizer= (of a wrapper such as SAM the "
        "inner one); or leave it out and call recorder.step()"
    )
