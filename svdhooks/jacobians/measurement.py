"""Takes the Jacobians of a task, part by part, so that what is held fits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from svdhooks.distributed.team import TeamError
from svdhooks.jacobians.basis import Basis, Portion, choose_basis, portions
from svdhooks.jacobians.first import first_weight
from svdhooks.jacobians.options import LayerJacobian
from svdhooks.jacobians.passes import Passes, lacks_memory
from svdhooks.jacobians.spectra import How, Spectra, joined, of_products, of_rows
from svdhooks.jacobians.task import Task
from svdhooks.linalg.jacobian import Method, first_layer_factor, orthonormal_directions
from svdhooks.reports import status_of

Parts = list[Mapping[str, Spectra]]


class Measurement:
    """Takes the Jacobians of all layers.

    Args:
        task: The model and what is known of it.
        passes: Makes the passes.
        exhausted: Whether the rest of the samples is to be left out.
    """

    def __init__(
        self, task: Task, passes: Passes, exhausted: Callable[[], bool]
    ) -> None:
        self._task = task
        self._study = task.study
        self._options = task.options
        self._passes = passes
        self._exhausted = exhausted
        self._found: dict[str, LayerJacobian] = {}
        self._factor: Tensor | None = None

    def results(self) -> dict[str, LayerJacobian]:
        """Take them.

        Returns:
            Layer -> its spectra, or why there are none.
        """
        basis = self._basis()
        if basis.kind == "first_layer":
            self._factor = self._first_factor()
        left = list(self._study.layouts)
        while left:
            for names, method in self._groups(left):
                self._group(names, method, basis)
            # layers whose method has failed, with the next one
            left = [n for n in self._study.layouts if n not in self._found]
        for name, reason in self._study.reasons.items():
            self._found.setdefault(name, self._without(name, reason))
        return self._found

    def _basis(self) -> Basis:
        study, most = self._study, self._passes.most
        outputs = [most(study.sizes[name]) for name in study.layouts]
        if study.alone:  # the number of rows may be another for each sample
            outputs = []
        first = None if study.first is None else study.sizes[study.first]
        return choose_basis(most(study.at.size), outputs, first, self._options)

    def _first_factor(self) -> Tensor:
        study = self._study
        name = study.first or ""
        weight = first_weight(
            self._task.few, study.at, name, study.sizes[name], self._passes
        )
        return first_layer_factor(weight)

    def _groups(self, names: Sequence[str]) -> list[tuple[list[str], Method]]:
        """Layers that can be differentiated in the same passes."""
        study = self._study
        groups: dict[tuple[Method, bool, str], list[str]] = {}
        basis = self._basis()
        for name in names:
            method = study.methods[name]
            if basis.kind == "rows":
                method = "reverse"
            # reverse mode takes one layer after the other
            single = name if method == "reverse" else ""
            groups.setdefault((method, name in study.alone, single), []).append(name)
        return [(group, key[0]) for key, group in groups.items()]

    def _group(self, names: Sequence[str], method: Method, basis: Basis) -> None:
        study, most = self._study, self._passes.most
        sizes = {name: most(study.sizes[name]) for name in names}
        columns = most(study.at.size) if method == "reverse" else basis.directions
        if method == "reverse":
            sizes = {name: most(self._rows(name)) for name in names}
        itemsize = study.at.dtype.itemsize
        several, reasons = portions(sizes, columns, itemsize, self._options.max_bytes)
        for name, reason in reasons.items():
            self._found[name] = self._without(name, reason)
        for portion in several:
            if names[0] in study.alone:
                portion = replace(portion, samples=1)
            self._portion(portion, method, basis)

    def _rows(self, name: str) -> int:
        """How many rows of a layer reverse mode takes."""
        outputs = self._study.sizes[name]
        most = max(self._options.max_directions, self._options.directions)
        return outputs if outputs <= most else min(self._options.directions, outputs)

    def _portion(self, portion: Portion, method: Method, basis: Basis) -> None:
        try:
            parts = self._parts(portion, method, basis)
        except TeamError:
            raise
        except Exception as error:  # noqa: BLE001  # the next method may do
            self._failed(portion, method, error)
            return
        for name in portion.names:
            self._found[name] = self._result(name, method, joined(parts, name))

    def _parts(self, portion: Portion, method: Method, basis: Basis) -> Parts:
        """The spectra of all samples, some at a time."""
        samples, done = self._task.samples(), 0
        # not more than there are, or halving would not help at once
        size = min(portion.samples, self._passes.most(len(samples)))
        if self._study.way is None:
            size = len(samples)
        found: Parts = []
        while self._passes.most(len(samples) - done) > 0:
            some = samples[done : done + size]
            # the others have more samples: a pass with them, whose result nobody reads
            now = some or samples[-1:]
            try:
                part = self._passes.make(
                    self._job(portion, method, basis, now), f"{method} {portion.names}"
                )
            except Exception as error:
                smaller = size > 1 and self._study.way is not None
                if not (smaller and lacks_memory(error)):
                    raise
                size //= 2
                continue
            if some:
                found.append(part)
                done += len(now) if self._study.way is not None else len(samples)
            if not self._passes.lockstep and self._exhausted():
                break
        return found

    def _job(
        self, portion: Portion, method: Method, basis: Basis, samples: Sequence[int]
    ) -> Callable[[], Mapping[str, Spectra]]:
        """What one pass does."""
        study, names = self._study, portion.names
        how = How(method, self._options, portion.chunk)
        if method == "reverse" and names[0] not in study.alone:
            function, at = self._task.function(names, study.at, samples)
            shape = self._rows(names[0]), study.sizes[names[0]]
            return lambda: of_rows(function, at, names[0], shape, how)
        inner = study.inner if basis.kind == "first_layer" else None
        point = study.at if inner is None or method == "reverse" else inner
        function, at = self._task.function(names, point, samples)
        k = point.size if basis.complete else min(basis.directions, point.size)
        directions = orthonormal_directions(
            k, point.shape, dtype=point.dtype, device=point.device
        )
        if point is inner and self._factor is not None:
            if point.dtype.itemsize < 4:  # the factor is not to be rounded to 16 bits
                how = replace(how, factor=self._factor)
            else:  # as directions it spares a product for each sample and layer
                directions = self._factor.mT.reshape(directions.shape).to(directions)
        return lambda: of_products(function, at, directions, how)

    def _failed(self, portion: Portion, method: Method, error: Exception) -> None:
        """Note why, or find another method."""
        if lacks_memory(error):
            for name in portion.names:
                self._found[name] = self._without(name, "out of memory")
            return
        self._study.fleeting = True  # it was right before, and may be again
        if method == "reverse":
            reason = f"reverse mode: {status_of(error)}"
            self._study.leave_out(dict.fromkeys(portion.names, reason))
        else:
            self._task.choose_methods(self._passes, portion.names)

    def _result(self, name: str, method: Method, spectra: Spectra) -> LayerJacobian:
        finite = spectra.sigma.isfinite().all(-1)
        if not finite.all():
            wrong, n = int((~finite).sum().item()), len(finite)
            return self._without(name, f"the Jacobian is not finite ({wrong} of {n})")
        first = (
            "first_layer " if method != "reverse" and self._factor is not None else ""
        )
        return LayerJacobian(
            "ok",
            f"{first}{method}",
            spectra.sigma,
            spectra.complete,
            spectra.directions,
            self._study.at.size,
            self._study.sizes[name],
            spectra.frobenius,
            spectra.error,
        )

    def _without(self, name: str, reason: str) -> LayerJacobian:
        sizes = self._study.sizes
        return LayerJacobian.failed(reason, self._study.at.size, sizes.get(name, 0))
