"""One model, what is known of it, and a batch: functions to be differentiated."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from svdhooks.jacobians.first import first_weight, nothing_bypasses
from svdhooks.jacobians.function import PointAxis, SampleFunction, taken
from svdhooks.jacobians.ladder import Ladder
from svdhooks.jacobians.locate import noise_at
from svdhooks.jacobians.samples import evenly
from svdhooks.jacobians.setting import Setting
from svdhooks.jacobians.study import Study
from svdhooks.linalg.jacobian import Method

CHECKED = 2
"""Samples with which methods are checked."""


class Task:
    """One model, a batch, and what is known of them.

    Args:
        setting: The model, the batch and the layers.
        study: What is known of them.
    """

    def __init__(self, setting: Setting, study: Study) -> None:
        self.study = study
        self.options = setting.options
        self.passes = setting.passes
        self._layers = {layer.name: layer for layer in setting.watched}
        self._model = setting.model
        self._reference = setting.reference

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
            [self._layers[name] for name in names],
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

    def choose_methods(self, names: Sequence[str] | None = None) -> None:
        """Find how layers are differentiated rightly.

        Args:
            names: Of layers whose method has failed; None: all.
        """
        study = self.study
        chosen = list(study.layouts) if names is None else list(names)
        groups: dict[tuple[bool, Method | None], list[str]] = {}
        for name in chosen:
            known = study.methods.pop(name, None)
            groups.setdefault((name in study.alone, known), []).append(name)
        for (_, above), group in groups.items():
            methods, reasons = self.ladder().climb(group, above)
            study.methods |= methods
            study.leave_out(reasons)
        if names is None:
            self._choose_first()

    def still_unmoved(self) -> bool:
        """Whether no layer depends on the input point that did not.

        Returns:
            The same on all processes that make the same passes.
        """
        study = self.study
        if not self.passes.most(len(study.unmoved)):
            return True
        layers = [self._layers[name] for name in study.unmoved]

        def moved() -> bool:
            value = self._model.value(self._reference, study.at.point)
            base, other = (
                self._model.outputs(self._reference, layers, study.at.point, delta)[0]
                for delta in (None, noise_at(value))
            )
            return any(not torch.equal(base[x].tensor, other[x].tensor) for x in base)

        return not any(self.passes.told(self.passes.make(moved, "forward twice")))

    def ladder(self) -> Ladder:
        """What checks methods, with a few samples."""
        return Ladder(self.passes, self.few, self.study.writes)

    def _choose_first(self) -> None:
        """Whether the basis is taken at the output of the first layer."""
        study, passes = self.study, self.passes
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
