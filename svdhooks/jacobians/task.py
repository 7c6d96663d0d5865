"""One model, what is known of it, and a batch: functions to be differentiated."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from svdhooks.jacobians.first import first_weight, nothing_bypasses
from svdhooks.jacobians.function import PointAxis, SampleFunction, taken
from svdhooks.jacobians.ladder import Ladder
from svdhooks.jacobians.model import Perturbable
from svdhooks.jacobians.options import JacobianOptions
from svdhooks.jacobians.passes import Passes
from svdhooks.jacobians.samples import evenly
from svdhooks.jacobians.study import Study
from svdhooks.layers.tap import Watched
from svdhooks.linalg.jacobian import Method
from svdhooks.probe import ReferenceBatch

CHECKED = 2
"""Samples with which methods are checked."""


class Task:
    """One model, what is known of it, and a batch.

    Args:
        model: The model.
        study: What is known of it.
        watched: The layers.
        reference: The batch.
        options: How the Jacobians are taken.
    """

    def __init__(
        self,
        model: Perturbable,
        study: Study,
        watched: Sequence[Watched],
        reference: ReferenceBatch,
        options: JacobianOptions,
    ) -> None:
        self.study = study
        self.options = options
        self.layers = {layer.name: layer for layer in watched}
        self._model = model
        self._reference = reference

    def samples(self) -> list[int]:
        """Those that are measured."""
        if self.study.way is None:
            return list(range(self.study.n))
        return evenly(self.study.n, self.options.max_samples)

    def function(
        self, names: Sequence[str], point: PointAxis, samples: Sequence[int]
    ) -> tuple[SampleFunction, Tensor]:
        """The outputs of some layers for some samples.

        Args:
            names: The layers.
            point: The input point.
            samples: Which ones; all where a batch cannot be taken apart.

        Returns:
            The function, and no perturbation.
        """
        study, some, n = self.study, self._reference, len(samples)
        if study.way is None:
            n = study.n
        elif n < study.n or list(samples) != list(range(n)):
            some = taken(self._model, some, study.way, samples)
        function = SampleFunction(
            self._model,
            some,
            point,
            study.layouts,
            [self.layers[name] for name in names],
            self.options.positions,
        )
        return function, point.zeros(n)

    def few(
        self, names: Sequence[str], point: PointAxis | None = None
    ) -> tuple[SampleFunction, Tensor]:
        """The same for the few samples with which something is checked.

        Args:
            names: The layers.
            point: The input point, if another.

        Returns:
            The function, and no perturbation.
        """
        alone = any(name in self.study.alone for name in names)
        samples = evenly(self.study.n, 1 if alone else CHECKED)
        return self.function(names, point or self.study.at, samples)

    def choose_methods(
        self, passes: Passes, names: Sequence[str] | None = None
    ) -> None:
        """Find how layers are differentiated rightly.

        Args:
            passes: Makes the passes.
            names: Of layers whose method has failed; None: all.
        """
        study = self.study
        chosen = list(study.layouts) if names is None else list(names)
        groups: dict[tuple[bool, Method | None], list[str]] = {}
        for name in chosen:
            known = study.methods.pop(name, None)
            groups.setdefault((name in study.alone, known), []).append(name)
        for (_, above), group in groups.items():
            methods, reasons = Ladder(passes, self.few, study.writes).climb(
                group, above
            )
            study.methods |= methods
            study.leave_out(reasons)
        if names is None:
            self._choose_first(passes)

    def _choose_first(self, passes: Passes) -> None:
        """Whether the basis is taken at the output of the first layer."""
        study = self.study
        pushed: Mapping[str, Method] = {
            name: method
            for name, method in study.methods.items()
            if method != "reverse"
        }
        first, inner = study.first, study.inner
        study.first = study.inner = None
        possible = inner is not None and first in pushed and not study.alone
        narrower = possible and study.sizes[first or ""] < study.at.size
        if not passes.all_true(narrower) or first is None or inner is None:
            return
        weight = first_weight(self.few, study.at, first, study.sizes[first], passes)
        if nothing_bypasses(self.few, study.at, inner, weight, pushed, passes):
            study.first, study.inner = first, inner
