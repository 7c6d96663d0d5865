"""Taking a batch apart: some samples of it, and layers that need one at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from svdhooks.distributed.team import TeamError
from svdhooks.jacobians.function import taken
from svdhooks.jacobians.samples import Found, Layout, sliceable_axes
from svdhooks.jacobians.setting import Setting
from svdhooks.jacobians.study import Study
from svdhooks.jacobians.thinned import Thinned
from svdhooks.layers import PointValue
from svdhooks.reports import status_of

MIXES = (
    "its output mixes the samples of the batch: there is no Jacobian of one sample; "
    "give a batch of a single sample"
)
APART = (
    "the samples of the batch cannot be told apart in its output, and the batch cannot "
    "be taken apart; give a batch of a single sample"
)
NOT_ALONE = "samples cannot be told apart in its output, and a forward of one fails"
UNMOVED = "its output does not depend on the input point"

_ALIKE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""How far outputs of the same samples may be apart, batched and not, relative to all; 16
bits: 0.1."""


class Apart:
    """Notes in a study where the samples are in each layer, and how to take some.

    Args:
        setting: The model, the batch and the layers.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._passes = setting.passes

    def note(
        self, study: Study, base: Mapping[str, PointValue], found: Mapping[str, Found]
    ) -> None:
        """Note layouts, the way to take samples, and layers that need one at a time.

        Args:
            study: Where to.
            base: The outputs of the whole batch.
            found: Where the samples were found to be.
        """
        left = [x.name for x in self._setting.watched if x.name not in study.reasons]
        for name in left:
            layout = found[name]
            value = self._setting.thinned.whole(name, base[name])
            length = value.tensor.shape[:1].numel()
            if layout == "unmoved" and length % study.n == 0:
                layout = Layout(0)  # whose is what does not matter where all is zero
            elif layout == "unmoved":
                study.reasons[name] = UNMOVED
                study.unmoved.add(name)
            if isinstance(layout, Layout):
                self._arrange(study, name, layout, value, study.n)
        study.way = self._way(study, base)
        here = [n for n in left if n not in study.layouts and n not in study.reasons]
        told = self._passes.told(here)
        apart = [name for name in left if any(name in each for each in told)]
        if apart:
            self._alone(study, apart)

    def _arrange(
        self, study: Study, name: str, layout: Layout, value: PointValue, n: int
    ) -> None:
        try:
            value = replace(value, tensor=value.tensor.to("meta"))  # for its shape
            rows = layout.arranged(value, n, self._setting.options.positions)
        except (IndexError, ValueError, RuntimeError) as error:
            study.reasons[name] = status_of(error)
            return
        study.layouts[name], study.sizes[name] = layout, rows.shape[1]

    def _way(
        self, study: Study, base: Mapping[str, PointValue]
    ) -> Mapping[int, int] | None:
        """A way of taking some samples in which their outputs stay what they were."""
        samples = sorted({0, study.n - 1})
        entering = self._setting.model.entering(self._setting.reference)
        ways = sliceable_axes(entering, study.n, study.at.axis, study.at.point.index)
        for number in range(self._passes.most(len(ways))):
            way = ways[min(number, len(ways) - 1)] if ways else {}
            try:
                now = self._outputs(study, way, samples, self._setting.thinned)
            except TeamError:
                raise
            except Exception:  # noqa: BLE001  # a wrong way does not fit the model
                continue
            same = bool(way) and self._same(study, base, now, samples)
            if self._passes.all_true(same):
                return way
        return None

    def _outputs(
        self,
        study: Study,
        way: Mapping[int, int],
        samples: Sequence[int],
        keep: Thinned | None = None,
    ) -> dict[str, PointValue]:
        def run() -> dict[str, PointValue]:
            model, watched = self._setting.model, self._setting.watched
            some = taken(model, self._setting.reference, way, samples)
            return model.outputs(some, watched, study.at.point, keep=keep)[0]

        return self._passes.make(run)

    def _same(
        self,
        study: Study,
        base: Mapping[str, PointValue],
        now: Mapping[str, PointValue],
        samples: list[int],
    ) -> bool:
        for name, layout in study.layouts.items():
            try:
                some = layout.arranged(now[name], len(samples), "all")
            except (KeyError, IndexError, ValueError, RuntimeError):
                return False
            whole = layout.arranged(base[name], study.n, "all")[samples]
            if some.shape != whole.shape or not _close(some, whole):
                return False
        return True

    def _alone(self, study: Study, names: Sequence[str]) -> None:
        """Layers that are right with one sample at a time, and those that never are."""
        if study.way is None:
            study.reasons |= dict.fromkeys(names, APART)
            return
        ends = sorted({0, study.n - 1})
        try:
            both, *parts = [
                self._outputs(study, study.way, chosen)
                for chosen in (ends, *([end] for end in ends))
            ]
        except TeamError:
            raise
        except Exception as error:  # noqa: BLE001  # the other layers can be measured
            reason = f"{NOT_ALONE}: {status_of(error)}"
            study.reasons |= dict.fromkeys(names, reason)
            return
        for name in names:
            study.layouts.pop(name, None)
            if not all(name in run for run in (both, *parts)):
                study.reasons[name] = "a forward of one sample does not call its module"
            elif not _independent(both[name].tensor, [x[name].tensor for x in parts]):
                study.reasons[name] = MIXES
            else:
                self._arrange(study, name, Layout(None), parts[0][name], 1)
                study.alone.add(name)


def _close(some: Tensor, whole: Tensor) -> bool:
    size = float(whole.abs().max().item()) if whole.numel() else 0.0
    apart = float((some - whole).abs().max().item()) if whole.numel() else 0.0
    return apart <= _ALIKE.get(whole.dtype, 0.1) * size


def _independent(both: Tensor, parts: Sequence[Tensor]) -> bool:
    """Whether a batch's entries are those of its samples, in whatever order."""
    whole = torch.sort(both.detach().double().flatten()).values
    several = [part.detach().double().flatten() for part in parts]
    size = whole.abs().max() if whole.numel() else 0.0
    limit = _ALIKE.get(both.dtype, 0.1) * size
    # a layer that is called sample by sample shows its last call: that of one of them
    return any(
        len(each) == len(whole)
        and bool(((each.sort().values - whole).abs() <= limit).all())
        for each in (torch.cat(several), *several)
    )
