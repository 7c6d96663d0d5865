"""From a model, its layers and a reference batch to the spectra of its Jacobians."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.autograd import forward_ad

from svdhooks.distributed.team import Team
from svdhooks.jacobians.measurement import Measurement
from svdhooks.jacobians.model import Perturbable
from svdhooks.jacobians.options import JacobianOptions, LayerJacobian
from svdhooks.jacobians.passes import Passes, kind_of
from svdhooks.jacobians.setting import Setting
from svdhooks.jacobians.student import Student
from svdhooks.jacobians.study import Study
from svdhooks.jacobians.task import Task
from svdhooks.jacobians.thinned import Thinned
from svdhooks.layers.tap import Watched
from svdhooks.probe import Forward, ReferenceBatch


class Differentiator:
    """Takes the Jacobians of one model; keeps what it found out about it.

    What is found out once, and anew when modules or the shapes of the batch change:
    the input point, where each layer has its samples, the basis, and by which method
    each layer is differentiated rightly.

    Args:
        model: The plain module.
        forward: How to call it; None: ``model(*args, **kwargs)``.
        options: How the Jacobians are taken.
        team: The processes; None: this one is alone.
        lockstep: Whether a forward communicates (FSDP2): all processes then call
            `measure` together, and make the same passes in the same order.

    Attributes:
        known: What was found out, to be given to another one for the same model with
            the same input point, axis and positions.
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
        self.known = Known()

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
            exhausted: Asked after each part of the samples and of the layers; the rest
                is then left out. Layers that are left out come first the next time.

        Returns:
            Layer -> spectra, or why there are none, in the order of ``watched``.

        Raises:
            ValueError: If there is no input point.
            RuntimeError: If a dual level of forward mode is open.
            Exception: Whatever the model raises for this batch.
        """
        if not watched:
            return {}
        options = self._options
        thinned = Thinned(options.max_bytes, len(watched))
        setting = Setting(
            self._perturbable, reference, watched, options, self._passes, thinned
        )
        with self._passes.alike(), self._passes.open():
            if forward_ad._current_level >= 0:
                raise RuntimeError(
                    "found an open dual level (torch.autograd.forward_ad.dual_level or "
                    "torch.func.jvp); forward mode cannot be nested: measure outside of it"
                )
            self._perturbable.begin()
            found = self._measured(setting, exhausted)
        return {x.name: found[x.name] for x in watched if x.name in found}

    def _measured(
        self, setting: Setting, exhausted: Callable[[], bool]
    ) -> dict[str, LayerJacobian]:
        """By what is known of the model; it is found out if anything of it changed."""
        # a branch behind a gate of zero shows neither what forward mode loses in it, nor
        # that it mixes samples: what is known is confirmed at each use
        key, known = self._key(setting), self.known
        usable = key == known.key and not (known.study and known.study.fleeting)
        if self._passes.all_true(usable) and known.study is not None:
            task = Task(setting, known.study)
            try:
                if task.still_unmoved():
                    return Measurement(task, exhausted, confirm=True).results()
            except Exception as error:
                if kind_of(error) != "stale":
                    raise
        self.known = Known()
        task = Task(setting, Student(setting).study())
        task.choose_methods()
        self.known = Known(key, task.study)
        return Measurement(task, exhausted).results()

    def _key(self, setting: Setting) -> object:
        reference = setting.reference
        entering = self._perturbable.entering(reference)
        batch = reference.batch
        return (
            tuple((layer.name, id(layer.module)) for layer in setting.watched),
            tuple((tuple(t.shape), t.dtype) for t in entering),
            # by name: which of them is the input is known by its number
            (*batch,) if isinstance(batch, Mapping) else (),
            {(p.dtype, p.device) for p in self._model.parameters()},
            # another module in between may have other operations
            tuple((name, id(m), type(m)) for name, m in self._model.named_modules()),
        )


@dataclass(frozen=True)
class Known:
    """What was found out of a model.

    Attributes:
        key: Of what model and what batch; it has to be the same.
        study: What it is; None: nothing yet.
    """

    key: object = None
    study: Study | None = None

    def holds(self, model: nn.Module) -> bool:
        """Whether a model lives as long as this does.

        Args:
            model: Any.

        Returns:
            Whether an input point is its output.
        """
        points = [] if self.study is None else [self.study.at, self.study.inner]
        return any(p is not None and p.point.module is model for p in points)
