"""From a model, its layers and a reference batch to the spectra of its Jacobians."""

from collections.abc import Callable, Sequence

from torch import nn
from torch.autograd import forward_ad

from svdhooks.distributed.team import Team
from svdhooks.jacobians.measurement import Measurement
from svdhooks.jacobians.model import Perturbable
from svdhooks.jacobians.options import JacobianOptions, LayerJacobian
from svdhooks.jacobians.passes import Passes
from svdhooks.jacobians.study import Student, Study
from svdhooks.jacobians.task import Task
from svdhooks.layers.tap import Watched
from svdhooks.probe import Forward, ReferenceBatch


class Differentiator:
    """Takes the Jacobians of one model; keeps what it found out about it.

    What is found out once, and anew when the layers or the shapes of the batch change:
    the input point, where each layer has its samples, the basis, and by which method
    each layer is differentiated rightly.

    Args:
        model: The plain module.
        forward: How to call it; None: ``model(*args, **kwargs)``.
        options: How the Jacobians are taken.
        team: The processes; None: this one is alone.
        lockstep: Whether a forward communicates (FSDP2): all processes then call
            `measure` together, and make the same passes in the same order.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward | None,
        options: JacobianOptions,
        team: Team | None = None,
        lockstep: bool = False,
    ) -> None:
        self._model = model
        self._perturbable = Perturbable(model, forward)
        self._options = options
        self._passes = Passes(model, team or Team(), lockstep)
        self._key: object = None
        self._study: Study | None = None

    def measure(
        self,
        watched: Sequence[Watched],
        reference: ReferenceBatch,
        *,
        exhausted: Callable[[], bool] = lambda: False,
    ) -> dict[str, LayerJacobian]:
        """Take the Jacobians from the input point to layers, now.

        The model, its gradients, its training mode and all random streams are afterwards
        as before.

        Args:
            watched: The layers and taps.
            reference: The batch.
            exhausted: Asked after each part of the samples; the rest is then left out.

        Returns:
            Layer -> spectra, or why there are none, in the order of ``watched``.

        Raises:
            ValueError: If there is no input point.
            RuntimeError: If a dual level of forward mode is open.
            Exception: Whatever the model raises for this batch.
        """
        if forward_ad._current_level >= 0:
            raise RuntimeError(
                "found an open dual level (torch.autograd.forward_ad.dual_level or "
                "torch.func.jvp); forward mode cannot be nested: measure outside of it"
            )
        if not watched:
            return {}
        with self._passes.open():
            self._perturbable.begin()
            study = self._known(watched, reference)
            task = Task(self._perturbable, study, watched, reference, self._options)
            found = Measurement(task, self._passes, exhausted).results()
        return {layer.name: found[layer.name] for layer in watched}

    def _known(self, watched: Sequence[Watched], reference: ReferenceBatch) -> Study:
        """What is known of the model; found out if anything of it changed."""
        entering = self._perturbable.entering(reference)
        key = (
            tuple((layer.name, id(layer.module)) for layer in watched),
            tuple((tuple(t.shape), t.dtype) for t in entering),
            tuple(sorted({str(p.dtype) for p in self._model.parameters()})),
        )
        fleeting = self._study is not None and self._study.fleeting
        same = self._passes.all_true(key == self._key and not fleeting)
        if self._study is None or not same:
            self._key = None
            student = Student(
                self._perturbable, reference, watched, self._options, self._passes
            )
            self._study = student.study()
            task = Task(
                self._perturbable, self._study, watched, reference, self._options
            )
            task.choose_methods(self._passes)
            self._key = key
        return self._study
