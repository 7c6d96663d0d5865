"""Whether a training went on that nobody told the recorder of."""

import weakref

from torch import nn
from torch.nn.parameter import is_lazy

from svdhooks.models import Models
from svdhooks.reports import Reporter


class Unnoticed:
    """Remembers the weights as they were, by how often they were written to.

    Args:
        models: What is watched.
        start: Updates that the weights contain.
    """

    def __init__(self, models: Models, start: int) -> None:
        self._start = start
        self._before = [
            (weakref.ref(parameter), _writes(parameter))
            for model in models
            for parameter in model.measurer.model.parameters()
            if not is_lazy(parameter)
        ]

    def say(self, reporter: Reporter, step: int, counted: str) -> None:
        """Say so if the weights have changed without an update; computes nothing.

        Args:
            reporter: Says it.
            step: Updates that were noticed in all.
            counted: What is counted as an update, and what to do if that is wrong.
        """
        changed = step == self._start and any(
            parameter is not None and _writes(parameter) != writes
            for parameter, writes in ((ref(), writes) for ref, writes in self._before)
        )
        if changed:
            reporter.note(
                "unnoticed",
                "svdhooks: the weights have changed, but no update was noticed, so that "
                f"nothing is recorded after step {step}. Updates are {counted}.",
            )


def _writes(parameter: nn.Parameter) -> int:
    # an inference tensor does not count them
    return 0 if parameter.is_inference() else parameter._version


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
