"""Takes the Jacobians of a task, part by part, so that what is held fits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from svdhooks.distributed.team import TeamError
from svdhooks.jacobians.basis import (
    Basis,
    Portion,
    choose_basis,
    exact_by_rows,
    portions,
)
from svdhooks.jacobians.confirm import confirming
from svdhooks.jacobians.first import bypassed, first_weight
from svdhooks.jacobians.options import LayerJacobian
from svdhooks.jacobians.passes import (
    BypassedError,
    StaleError,
    kind_of,
    lacks_memory,
)
from svdhooks.jacobians.spectra import How, Spectra, joined, of_products, of_rows
from svdhooks.jacobians.task import Task
from svdhooks.linalg.jacobian import (
    Method,
    first_layer_factor,
    orthonormal_directions,
)
from svdhooks.reports import status_of

Parts = list[Mapping[str, Spectra]]


class Measurement:
    """Takes the Jacobians of all layers.

    Args:
        task: The model and what is known of it.
        exhausted: Whether the rest of the samples is to be left out.
        confirm: Check what is known once more, by what is measured.
    """

    def __init__(
        self, task: Task, exhausted: Callable[[], bool], confirm: bool = False
    ) -> None:
        self._confirm = confirm
        self._task = task
        self._study = task.study
        self._options = task.options
        self._passes = task.passes
        self._exhausted = exhausted
        self._begin()

    def _begin(self) -> None:
        self._found: dict[str, LayerJacobian] = {}
        self._late: list[str] = []
        self._weight: Tensor | None = None
        self._factor: Tensor | None = None
        self._basis, self._by_rows = self._choose()

    def results(self) -> dict[str, LayerJacobian]:
        """Take them.

        Returns:
            Layer -> its spectra, or why there are none; without those for which there
            was no time.
        """
        try:
            self._all()
        except Exception as error:
            if kind_of(error) != "bypassed":
                raise
            self._study.first = self._study.inner = None
            self._begin()
            self._all()
        for name, reason in self._study.reasons.items():
            self._found.setdefault(name, self._without(name, reason))
        before = [name for name in self._study.late if name in self._late]
        self._study.late = list(dict.fromkeys((*before, *self._late)))
        return self._found

    def _all(self) -> None:
        layouts = self._study.layouts
        waiting = [name for name in self._study.late if name in layouts]
        left = list(dict.fromkeys((*waiting, *layouts)))
        if self._basis.kind == "first_layer" and not self._by_rows.issuperset(left):
            self._note_first()
        methods, alone = self._study.methods, self._study.alone
        reverse = self._by_rows | {n for n in left if methods[n] == "reverse"}
        rows = [n for n in left if n in reverse - alone]
        if self._confirm and rows and not self._task.ladder().rows_hold(rows):
            raise StaleError(f"samples depend on each other in some of {rows}")
        while left:
            for names, method in self._groups(left):
                self._group(names, method)
            # layers whose method has failed, with the next one
            done = {*self._found, *self._late}
            left = [n for n in layouts if n not in done]

    def _choose(self) -> tuple[Basis, set[str]]:
        """The basis; and which layers are better served by all of their rows."""
        study, most = self._study, self._passes.most
        outputs = {name: most(study.sizes[name]) for name in study.layouts}
        for name in study.alone:  # the number of rows may be another for each sample
            outputs.pop(name, None)
        whole = list(outputs.values()) if not study.alone else []
        first = None if study.first is None else study.sizes[study.first]
        inputs, options = most(study.at.size), self._options
        basis = choose_basis(inputs, whole, first, options)
        if basis.kind == "rows":
            return choose_basis(inputs, [], first, options), set(outputs)
        if basis.kind == "sketch":
            return basis, set(exact_by_rows(outputs, options))
        return basis, set()

    def _note_first(self) -> None:
        study = self._study
        name = study.first or ""
        self._weight = first_weight(
            self._task.few, study.at, name, study.sizes[name], self._passes
        )
        self._factor = first_layer_factor(self._weight)

    def _groups(self, names: Sequence[str]) -> list[tuple[list[str], Method]]:
        """Layers that can be differentiated in the same passes."""
        study = self._study
        groups: dict[tuple[Method, bool, str], list[str]] = {}
        for name in names:
            method = "reverse" if name in self._by_rows else study.methods[name]
            # reverse mode takes one layer after the other
            single = name if method == "reverse" else ""
            groups.setdefault((method, name in study.alone, single), []).append(name)
        return [(group, key[0]) for key, group in groups.items()]

    def _group(self, names: Sequence[str], method: Method) -> None:
        study, most = self._study, self._passes.most
        sizes = {name: most(study.sizes[name]) for name in names}
        columns = most(study.at.size) if method == "reverse" else self._basis.directions
        if method == "reverse":
            sizes = {name: most(self._rows(name)) for name in names}
        itemsize = study.at.dtype.itemsize
        several, reasons = portions(sizes, columns, itemsize, self._options.max_bytes)
        for name, reason in reasons.items():
            if not self._tried_by_rows(name):
                self._found[name] = self._without(name, reason)
        place = {name: number for number, name in enumerate(names)}
        for portion in sorted(several, key=lambda x: min(place[n] for n in x.names)):
            # one portion at least, or none would ever have its turn
            if self._found and not self._passes.lockstep and self._exhausted():
                self._late.extend(portion.names)
                continue
            if names[0] in study.alone:
                portion = replace(portion, samples=1)
            self._portion(portion, method)

    def _tried_by_rows(self, name: str) -> bool:
        """Whether a layer was to be served by its rows, and now is by its own method."""
        tried = name in self._by_rows and self._study.methods[name] != "reverse"
        self._by_rows.discard(name)
        return tried

    def _rows(self, name: str) -> int:
        """How many rows of a layer reverse mode takes."""
        outputs = self._study.sizes[name]
        most = max(self._options.max_directions, self._options.directions)
        return outputs if outputs <= most else min(self._options.directions, outputs)

    def _portion(self, portion: Portion, method: Method) -> None:
        try:
            parts = self._parts(portion, method)
        except TeamError:
            raise
        except Exception as error:
            if kind_of(error) in {"bypassed", "stale"}:
                raise
            self._failed(portion, method, error)
            return
        for name in portion.names:
            self._found[name] = self._result(name, method, joined(parts, name))

    def _parts(self, portion: Portion, method: Method) -> Parts:
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
                # the first part of the samples confirms what is known
                confirm = self._confirm and not found
                part = self._passes.make(
                    partial(self._part, portion, method, now, confirm),
                    f"{method} {portion.names} {confirm} {self._factor is None}",
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

    def _part(
        self, portion: Portion, method: Method, samples: Sequence[int], confirm: bool
    ) -> Mapping[str, Spectra]:
        """What one pass does."""
        study, names, basis = self._study, portion.names, self._basis
        how = How(method, self._options, portion.chunk)
        if method == "reverse" and names[0] not in study.alone:
            function, at = self._task.function(names, study.at, samples)
            shape = self._rows(names[0]), study.sizes[names[0]]
            return of_rows(function, at, names[0], shape, how)
        if self._factor is not None and method != "reverse":
            return self._through_first(names, samples, how, confirm)
        point, (function, at) = study.at, self._task.function(names, study.at, samples)
        k = point.size if basis.complete else min(basis.directions, point.size)
        directions = orthonormal_directions(
            k, point.shape, dtype=point.dtype, device=point.device
        )
        if confirm:
            check = confirming(self._task, names, point, samples, directions)
            how = replace(how, check=check)
        return of_products(function, at, directions, how)

    def _through_first(
        self, names: Sequence[str], samples: Sequence[int], how: How, confirm: bool
    ) -> Mapping[str, Spectra]:
        """By directions at the output of the first layer, if nothing bypasses it now."""
        inner, weight, factor = self._study.inner, self._weight, self._factor
        if inner is None or weight is None or factor is None:
            raise BypassedError("there is no first layer")
        through, at = self._task.function(names, inner, samples)
        outer = self._task.function(names, self._study.at, samples)
        # in samples that have not been checked, or since weights have changed
        if apart := bypassed(outer, (through, at), weight, how.method):
            raise BypassedError(f"the first layer is not all that reaches {apart}")
        if inner.dtype.itemsize < 4:  # the factor is not to be rounded to 16 bits
            how = replace(how, factor=factor)
            directions = torch.eye(inner.size, dtype=inner.dtype, device=inner.device)
        else:  # as directions it spares a product for each sample and layer
            directions = factor.mT
        directions = directions.reshape(len(directions), *inner.shape).to(at)
        if confirm:
            check = confirming(self._task, names, inner, samples, directions)
            how = replace(how, check=check)
        return of_products(through, at, directions, how)

    def _failed(self, portion: Portion, method: Method, error: Exception) -> None:
        """Note why, or find another method."""
        names = [name for name in portion.names if not self._tried_by_rows(name)]
        if not names:
            return
        if lacks_memory(error):
            self._found |= {n: self._without(n, "out of memory") for n in names}
            return
        self._study.fleeting = True  # it was right before, and may be again
        if method == "reverse":
            reason = f"reverse mode: {status_of(error)}"
            self._study.leave_out(dict.fromkeys(names, reason))
        else:
            self._task.choose_methods(names)

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
        size = self._study.sizes.get(name, 0)
        return LayerJacobian.failed(reason, self._study.at.size, size)
