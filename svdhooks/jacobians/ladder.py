"""Which method differentiates which layer rightly: tried from the cheapest on, and checked."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor

from svdhooks.distributed.team import TeamError
from svdhooks.jacobians.passes import Passes
from svdhooks.linalg.jacobian import (
    ADJOINT_TOLERANCE,
    Function,
    Method,
    adjoint_errors,
)
from svdhooks.reports import status_of

RUNGS: tuple[Method, ...] = get_args(Method)

SAID: dict[Method, str] = {
    "forward": "forward mode",
    "double_backward": "double backward",
    "reverse": "reverse mode",
}
"""What the methods are called in reasons."""

DETACHED = "no gradient leads from its output back to the input point"


class Ladder:
    """Finds for each layer the first method that is right.

    Args:
        passes: Makes the passes.
        make: Names of layers -> the function of their outputs, and where to differentiate.
        writes: Whether the model changes its parameters: within forward mode that ends
            the process.
    """

    def __init__(
        self,
        passes: Passes,
        make: Callable[[Sequence[str]], tuple[Function, Tensor]],
        writes: bool = False,
    ) -> None:
        self._writes = writes
        self._passes = passes
        self._make = make

    def climb(
        self, names: Sequence[str], above: Method | None = None
    ) -> tuple[dict[str, Method], dict[str, str]]:
        """Try the methods one after the other.

        Args:
            names: The layers.
            above: Begin after this method.

        Returns:
            Layer -> method; and why no method serves the others.
        """
        rungs = RUNGS if above is None else RUNGS[RUNGS.index(above) + 1 :]
        methods: dict[str, Method] = {}
        told: dict[str, list[str]] = {name: [] for name in names}
        detached = self._detached(names)
        left = [name for name in names if name not in detached]
        for method in rungs:
            for name, wrong in self._wrong(method, left).items():
                if wrong is None:
                    methods[name] = method
                else:
                    told[name].append(f"{SAID[method]}: {wrong}")
            left = [name for name in left if name not in methods]
        reasons = {name: "; ".join(told[name]) for name in left}
        return methods, reasons | dict.fromkeys(detached, DETACHED)

    def _detached(self, names: Sequence[str]) -> set[str]:
        """Layers whose output is no differentiable function of the input point."""
        if not names:
            return set()
        try:
            own = self._passes.make(lambda: unreached(*self._make(names)), "graph")
        except TeamError:
            raise
        except Exception:  # noqa: BLE001  # the methods will say why
            own = set()
        return set().union(*self._passes.told(own))

    def _wrong(self, method: Method, names: Sequence[str]) -> dict[str, str | None]:
        """Why a method is wrong for each layer; None if it is right."""
        if not names:
            return {}
        if self._writes and method == "forward":
            return dict.fromkeys(names, "the forward changes parameters")
        try:
            own = self._checked(method, names)
        except TeamError:
            raise
        except Exception as error:  # noqa: BLE001  # the next method may do
            # forward mode fails with the whole model, the others with one layer
            if len(names) == 1 or method == "forward":
                return dict.fromkeys(names, _short(status_of(error)))
            return {name: self._wrong(method, [name])[name] for name in names}
        several = self._passes.told(own)
        return {
            name: next((x[name] for x in several if x[name] is not None), None)
            for name in names
        }

    def rows_hold(self, names: Sequence[str]) -> bool:
        """Whether samples still do not depend on each other, by reverse mode.

        Args:
            names: The layers.

        Returns:
            The same on all processes that make the same passes.

        Raises:
            TeamError: If the others cannot be reached.
        """
        try:
            own = self._checked("reverse", names, seeds=1)
        except TeamError:
            raise
        except Exception:  # noqa: BLE001  # finding it out anew will say why
            return False
        return self._passes.all_true(all(wrong is None for wrong in own.values()))

    def _checked(
        self, method: Method, names: Sequence[str], seeds: int = 3
    ) -> dict[str, str | None]:
        dtypes: dict[str, torch.dtype] = {}

        def check() -> dict[str, float]:
            function, at = self._make(names)
            dtypes[""] = at.dtype

            def noted(delta: Tensor) -> dict[str, Tensor]:
                found = dict(function(delta))
                dtypes.update({name: z.dtype for name, z in found.items()})
                return found

            return adjoint_errors(noted, at, method, seeds)

        errors = self._passes.make(check, f"{method} of {seeds}")
        return judged(errors, dtypes)


def judged(
    errors: Mapping[str, float], dtypes: Mapping[str, torch.dtype]
) -> dict[str, str | None]:
    """Which errors are more than rounding.

    Args:
        errors: Of the layers, by the adjoint check.
        dtypes: Of the layers in the order of their calls; under ``""`` of the point.

    Returns:
        Layer -> what is wrong; None if nothing is.
    """
    wrong: dict[str, str | None] = {}
    coarsest = _tolerance(dtypes[""])
    for name, dtype in dtypes.items():
        # a layer of 32 bits behind one of 16 is rounded as that one is
        coarsest = max(coarsest, _tolerance(dtype))
        if name in errors:
            wrong[name] = _said(errors[name], coarsest)
    return wrong


def _short(reason: str, most: int = 160) -> str:
    """PyTorch's own messages end in advice that is of no use here."""
    return reason if len(reason) <= most else f"{reason[: most - 1]}…"


def _tolerance(dtype: torch.dtype) -> float:
    return ADJOINT_TOLERANCE.get(dtype, max(ADJOINT_TOLERANCE.values()))


def _said(error: float, tolerance: float) -> str | None:
    if error <= tolerance:
        return None
    if math.isinf(error):
        return "cannot be checked, since reverse mode does not apply"
    return f"wrong by {error:.2g} of its size (adjoint check)"


def unreached(function: Function, at: Tensor) -> set[str]:
    """Outputs whose graph does not lead back to the point.

    Args:
        function: What is differentiated.
        at: Where.

    Returns:
        Their names: they do not depend on the point, or through a cut graph only.
    """
    with torch.enable_grad():
        point = at.detach().clone().requires_grad_()
        # a node of our own: that of a leaf is not there before it is used
        start = point.view_as(point)
        outputs = function(start)
    known: dict[object, bool] = {start.grad_fn: True, None: False}
    return {name for name, z in outputs.items() if not _leads(z.grad_fn, known)}


def _leads(node: object, known: dict[object, bool]) -> bool:
    """Whether a node of a graph comes after one that is known to; notes what it finds."""
    stack = [node]
    while stack:
        last = stack[-1]
        if last in known:
            stack.pop()
            continue
        following = [each for each, _ in getattr(last, "next_functions", ())]
        unknown = [each for each in following if each not in known]
        if unknown and not any(known.get(each) for each in following):
            stack.append(unknown[0])
        else:
            known[last] = any(known[each] for each in following if each in known)
            stack.pop()
    return known[node]
