"""Taking a batch apart: some samples of it, and layers that need one at a time."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from svdhooks.distributed.team import TeamError
from svdhooks.jacobians.function import taken
from svdhooks.jacobians.model import Perturbable
from svdhooks.jacobians.options import Positions
from svdhooks.jacobians.passes import Passes
from svdhooks.jacobians.samples import Found, Layout, sliceable_axes
from svdhooks.layers import PointValue
from svdhooks.layers.tap import Watched
from svdhooks.probe import ReferenceBatch
from svdhooks.reports import status_of

if TYPE_CHECKING:
    from svdhooks.jacobians.study import Study

MIXES = (
    "its output mixes the samples of the batch: there is no Jacobian of one sample; "
    "give a batch of a single sample"
)
APART = (
    "the samples of the batch cannot be told apart in its output, and the batch cannot "
    "be taken apart; give a batch of a single sample"
)
UNMOVED = "its output does not depend on the input point"

_ALIKE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""How far outputs of the same samples may be apart, batched and not, relative to all; 16
bits: 0.1."""


class Apart:
    """Notes in a study where the samples are in each layer, and how to take some.

    Args:
        model: The model.
        reference: The batch.
        watched: The layers.
        positions: Which positions of an output count.
        passes: Makes the passes.
    """

    def __init__(
        self,
        model: Perturbable,
        reference: ReferenceBatch,
        watched: Sequence[Watched],
        positions: Positions,
        passes: Passes,
    ) -> None:
        self._model = model
        self._reference = reference
        self._watched = watched
        self._positions = positions
        self._passes = passes

    def note(
        self, study: "Study", base: Mapping[str, PointValue], found: Mapping[str, Found]
    ) -> None:
        """Note layouts, the way to take samples, and layers that need one at a time.

        Args:
            study: Where to.
            base: The outputs of the whole batch.
            found: Where the samples were found to be.
        """
        left = [x.name for x in self._watched if x.name not in study.reasons]
        for name in left:
            layout = found[name]
            length = base[name].tensor.shape[:1].numel()
            if layout == "unmoved" and length % study.n == 0:
                layout = Layout(0)  # whose is what does not matter where all is zero
            elif layout == "unmoved":
                study.reasons[name] = UNMOVED
            if isinstance(layout, Layout):
                self._arrange(study, name, layout, base[name], study.n)
        study.way = self._way(study, base)
        here = [n for n in left if n not in study.layouts and n not in study.reasons]
        told = self._passes.told(here)
        apart = [name for name in left if any(name in each for each in told)]
        if apart:
            self._alone(study, apart)

    def _arrange(
        self, study: "Study", name: str, layout: Layout, value: PointValue, n: int
    ) -> None:
        try:
            rows = layout.arranged(value, n, self._positions)
        except (IndexError, ValueError, RuntimeError) as error:
            study.reasons[name] = status_of(error)
            return
        study.layouts[name], study.sizes[name] = layout, rows.shape[1]

    def _way(
        self, study: "Study", base: Mapping[str, PointValue]
    ) -> Mapping[int, int] | None:
        """A way of taking some samples in which their outputs stay what they were."""
        samples = sorted({0, study.n - 1})
        entering = self._model.entering(self._reference)
        ways = sliceable_axes(entering, study.n, study.at.axis, study.at.point.index)
        for number in range(self._passes.most(len(ways))):
            way = ways[min(number, len(ways) - 1)] if ways else {}
            try:
                now = self._outputs(study, way, samples)
            except TeamError:
                raise
            except Exception:  # noqa: BLE001  # a wrong way does not fit the model
                continue
            same = bool(way) and self._same(study, base, now, samples)
            if self._passes.all_true(same):
                return way
        return None

    def _outputs(
        self, study: "Study", way: Mapping[int, int], samples: Sequence[int]
    ) -> dict[str, PointValue]:
        def run() -> dict[str, PointValue]:
            some = taken(self._model, self._reference, way, samples)
            return self._model.outputs(some, self._watched, study.at.point)[0]

        return self._passes.make(run)

    def _same(
        self,
        study: "Study",
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

    def _alone(self, study: "Study", names: Sequence[str]) -> None:
        """Layers that are right with one sample at a time, and those that never are."""
        if study.way is None:
            study.reasons |= dict.fromkeys(names, APART)
            return
        ends = sorted({0, study.n - 1})
        both = self._outputs(study, study.way, ends)
        one = self._outputs(study, study.way, ends[:1])
        other = self._outputs(study, study.way, ends[-1:])
        parts = [one, other][: len(ends)]
        for name in names:
            study.layouts.pop(name, None)
            if not all(name in run for run in (both, one, other)):
                study.reasons[name] = "a forward of one sample does not call its module"
            elif not _sums_agree(both[name].tensor, [x[name].tensor for x in parts]):
                study.reasons[name] = MIXES
            else:
                self._arrange(study, name, Layout(None), one[name], 1)
                study.alone.add(name)


def _close(some: Tensor, whole: Tensor) -> bool:
    size = float(whole.abs().max().item()) if whole.numel() else 0.0
    apart = float((some - whole).abs().max().item()) if whole.numel() else 0.0
    return apart <= _ALIKE.get(whole.dtype, 0.1) * size


def _sums_agree(both: Tensor, parts: Sequence[Tensor]) -> bool:
    """Whether a batch's entries are those of its samples, in whatever order."""
    if both.numel() != sum(part.numel() for part in parts):
        return False
    whole = torch.sort(both.detach().double().flatten()).values
    each = torch.cat([part.detach().double().flatten() for part in parts])
    size = whole.abs().max() if whole.numel() else 0.0
    apart = (torch.sort(each).values - whole).abs()
    return bool((apart <= _ALIKE.get(both.dtype, 0.1) * size).all())
