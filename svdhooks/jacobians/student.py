"""Finding out, once, what has to be known of a model before its Jacobians are taken."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from svdhooks.jacobians.apart import Apart
from svdhooks.jacobians.first import output_point
from svdhooks.jacobians.function import PointAxis
from svdhooks.jacobians.locate import find_point, noise_at
from svdhooks.jacobians.model import InputPoint
from svdhooks.jacobians.samples import Found, Layout, find_layouts
from svdhooks.jacobians.setting import Setting
from svdhooks.jacobians.study import Study
from svdhooks.layers import PointValue
from svdhooks.reports import status_of

UNCALLED = "the forward does not call its module"
UNSEEN = "its module does not show its output; name it in taps="


class Student:
    """Finds out where the input point and the samples are.

    Args:
        setting: The model, the batch and the layers.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._passes = setting.passes

    def study(self) -> Study:
        """Find it out.

        Returns:
            All but the methods.

        Raises:
            ValueError: If there is no input point, or no such axis.
        """
        setting, passes = self._setting, self._passes
        restless = self._restless()
        point = find_point(setting)
        value = passes.make(lambda: setting.model.value(setting.reference, point))
        base, failed = passes.make(lambda: setting.outputs(point))
        axis, found = self._axis(point, value, base)
        shape = [length for a, length in enumerate(value.shape) if a != axis]
        study = Study(PointAxis(point, axis, shape, value), value.shape[axis])
        study.writes = restless
        study.reasons = self._unseen(base, failed, study)
        Apart(setting).note(study, base, found)
        study.reasons = self._united(study.reasons)
        study.leave_out(study.reasons)
        self._note_first(study, base)
        return study

    def _restless(self) -> bool:
        """Whether the forward changes parameters; if anything, all passes begin alike."""
        if self._passes.lockstep:  # each pass is put back by itself
            return False
        with self._passes.apart():
            parameters = self._setting.model.find_writes(self._setting.reference)
        self._setting.model.begin()
        return parameters

    def _note_first(self, study: Study, base: Mapping[str, PointValue]) -> None:
        """The layer that is called first may take all of the input point."""
        first = next((name for name in base if name in study.layouts), None)
        layer = next((x for x in self._setting.watched if x.name == first), None)
        if first is None or layer is None or first in study.alone:
            return
        layout = study.layouts[first]
        study.first = first
        value = self._setting.thinned.whole(first, base[first])
        study.inner = output_point(layer, value, layout, study.n)

    # --- which axis holds the samples ---------------------------------------------------

    def _axis(
        self, point: InputPoint, value: Tensor, base: dict[str, PointValue]
    ) -> tuple[int, dict[str, Found]]:
        """The axis of the point along which most layers keep samples apart."""
        best: tuple[int, int, dict[str, Found]] | None = None
        for axis in self._candidates(value):
            found = self._layouts(point, value, base, axis)
            apart = [isinstance(x, Layout) for x in found.values()]
            count = sum(self._passes.told(sum(apart)))
            if best is None or count > best[0]:
                best = count, axis, found
            if self._passes.all_true(all(apart)):
                break
        if best is None:
            raise ValueError("the input point has no axis that could hold samples")
        return best[1:]

    def _candidates(self, value: Tensor) -> list[int]:
        wanted = self._setting.options.batch_axis
        if wanted is None:
            return list(range(min(2, value.ndim)))
        if not -value.ndim <= wanted < value.ndim:
            raise ValueError(
                f"batch_axis={wanted}: the input point has the shape "
                f"{tuple(value.shape)}."
            )
        return [wanted % value.ndim]

    def _layouts(
        self,
        point: InputPoint,
        value: Tensor,
        base: dict[str, PointValue],
        axis: int,
    ) -> dict[str, Found]:
        noise, n = noise_at(value), value.shape[axis]
        shape = [-1 if a == axis else 1 for a in range(value.ndim)]

        def outputs(delta: Tensor | None) -> dict[str, Tensor]:
            found = self._passes.make(lambda: self._setting.outputs(point, delta)[0])
            return {name: each.tensor.detach() for name, each in found.items()}

        def perturbed(samples: Bool[Tensor, " n"]) -> dict[str, Tensor]:
            chosen = samples.to(noise.device).reshape(shape)
            return outputs(torch.where(chosen, noise, torch.zeros_like(noise)))

        bits = self._passes.most((n - 1).bit_length())
        plain = {name: each.tensor.detach() for name, each in base.items()}
        found = find_layouts(plain, outputs(None), perturbed, n, bits)
        thinned = self._setting.thinned
        still = {name for name in thinned.names if found.get(name) == "unmoved"}
        if self._passes.most(len(still)):  # what was left out may depend on the point
            thinned.spare(still)
            whole = self._passes.make(lambda: self._setting.outputs(point)[0])
            base.update((name, whole[name]) for name in still)
            plain = {name: whole[name].tensor.detach() for name in still}
            found |= find_layouts(plain, outputs(None), perturbed, n, bits)
        return found

    # --- where they are in the layers ---------------------------------------------------

    def _unseen(
        self,
        base: Mapping[str, PointValue],
        failed: Mapping[str, Exception],
        study: Study,
    ) -> dict[str, str]:
        """Why some layers show no output."""
        reasons = {}
        for layer in self._setting.watched:
            if layer.name in failed:
                reasons[layer.name] = status_of(failed[layer.name])
            elif layer.module is study.at.point.module:
                reasons[layer.name] = "its output is the input point"
            elif layer.name not in base:
                shown = "output" in layer.points
                reasons[layer.name] = UNCALLED if shown else UNSEEN
            elif not base[layer.name].tensor.isfinite().all():
                reasons[layer.name] = "its output is not finite"
                study.fleeting = True
        return self._united(reasons)

    def _united(self, reasons: Mapping[str, str]) -> dict[str, str]:
        """What is impossible for one process is so for all that make its passes."""
        united: dict[str, str] = {}
        for each in self._passes.told(dict(reasons)):
            united = each | united
        return united
