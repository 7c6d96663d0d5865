"""The Jacobians of one record: found by each process for its samples, put together by one."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from svdhooks import advice
from svdhooks.conductor.measured import Measured
from svdhooks.conductor.sharing import Subject, WeightShare
from svdhooks.distributed.meeting import Turn
from svdhooks.distributed.refusals import needs_all
from svdhooks.distributed.team import Team, TeamError
from svdhooks.jacobians.differentiator import Differentiator
from svdhooks.jacobians.options import LayerJacobian
from svdhooks.layers import Layer
from svdhooks.layers.sharding import as_stored
from svdhooks.layers.tap import Watched
from svdhooks.probe import Forward, ReferenceBatch
from svdhooks.quantities.protocols import JacobianContext, JacobianQuantity
from svdhooks.quantities.weight_spectrum import WeightSpectrum, singular_values_of
from svdhooks.record import OK, Record
from svdhooks.reports import Reporter, status_of

OfJacobians = Sequence[tuple[JacobianQuantity, Sequence[Watched]]]
"""What is measured of what."""

Found = Mapping[str, LayerJacobian]
Sigma = NDArray[Any]
_WEIGHT = WeightSpectrum()  # of a sharded weight its Gram is all that is gathered


class JacobianProbe:
    """Differentiates one model at its reference batch.

    Args:
        model: The plain module.
        layers: All layers of the model, in its order.
        forward: How to call it; None: ``model(*args, **kwargs)``.
        reporter: Where problems go.
        exhausted: Whether the time of a record is used up; further samples are left out.
        team: The processes that record the model.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        forward: Forward | None,
        reporter: Reporter,
        exhausted: Callable[[], bool],
        team: Team,
    ) -> None:
        self._model = model
        self._layers = {layer.name: layer for layer in layers}
        self._forward = forward
        self._reporter = reporter
        self._exhausted = exhausted
        self._team = team
        # a forward that communicates: all processes make the same passes
        self._lockstep = needs_all(model) and not team.alone
        self._share = WeightShare(team, layers)
        self._differentiators: dict[str, Differentiator] = {}
        self._late: set[str] = set()

    def measure(
        self,
        of_jacobians: OfJacobians,
        step: int,
        reference: ReferenceBatch | None,
        turn: Turn,
        chains: Mapping[str, tuple[str, ...]],
    ) -> Measured:
        """Differentiate the model, and measure; collective.

        Args:
            of_jacobians: What is measured, and of which layers and taps.
            step: Optimiser updates contained in the weights.
            reference: The reference batch; None where this process has none.
            turn: What this process does of it.
            chains: See `JacobianContext`.

        Returns:
            One record per quantity, layer and tap, which of several processes rank 0
            has; what each part cost this process.
        """
        measured = Measured()
        for quantity, watched in of_jacobians:
            begun = time.perf_counter()
            records = self._records(quantity, watched, step, reference, turn, chains)
            # one pass serves all of them, but those for which there was no time
            names = [x.name for x in watched if x.name not in self._late]
            seconds = (time.perf_counter() - begun) / max(len(names), 1)
            for record in records:
                measured.records.append(replace(record, seconds=seconds))
            for name in names:
                measured.costs[quantity.name, name] = seconds
        return measured

    def failed(self, of_jacobians: OfJacobians, step: int, status: str) -> Measured:
        """What is recorded where the model cannot be run.

        Args:
            of_jacobians: What was to be measured, and of which layers and taps.
            step: Optimiser updates contained in the weights.
            status: Why not.

        Returns:
            Records without numbers, which of several processes rank 0 has.
        """
        measured = Measured()
        context, nothing = JacobianContext(step, {}, {}), LayerJacobian.failed(status)
        for quantity, watched in of_jacobians:
            for x in watched:
                measured.costs[quantity.name, x.name] = 0.0
                if self._team.rank == 0:
                    record = self._record(quantity, x, nothing, context)
                    measured.records.append(record)
        return measured

    def _records(
        self,
        quantity: JacobianQuantity,
        watched: Sequence[Watched],
        step: int,
        reference: ReferenceBatch | None,
        turn: Turn,
        chains: Mapping[str, tuple[str, ...]],
    ) -> list[Record]:
        """Those of one quantity; of several processes rank 0 has them."""
        self._late = set()
        own: Found = {}
        problem: str | None = None
        if turn.runs and reference is not None:
            try:
                own = self._differentiate(quantity, watched, reference)
            except TeamError:
                raise
            except Exception as error:  # noqa: BLE001  # a measurement may fail
                problem = status_of(error)
                self._report(quantity, step, error)
        watched = [x for x in watched if x.name not in self._late]
        weights = self._weights(watched, chains)
        told = self._team.collect((own if turn.counts else {}, problem, weights), to=0)
        if told is None:
            return []
        context = JacobianContext(step, _united(w for *_, w in told), chains)
        states = [(found, failed) for found, failed, _ in told]
        merged = {x.name: _merged(x.name, states) for x in watched}
        self._say_saturated(quantity, merged)
        return [self._record(quantity, x, merged[x.name], context) for x in watched]

    def _record(
        self,
        quantity: JacobianQuantity,
        watched: Watched,
        jacobian: LayerJacobian,
        context: JacobianContext,
    ) -> Record:
        try:
            return quantity.of_jacobian(watched, jacobian, context)
        except Exception as error:  # noqa: BLE001  # that of one layer, not of all
            failed = LayerJacobian.failed(status_of(error))
            return quantity.of_jacobian(watched, failed, context)

    def _differentiate(
        self,
        quantity: JacobianQuantity,
        watched: Sequence[Watched],
        reference: ReferenceBatch,
    ) -> Found:
        known = self._differentiators
        if quantity.name not in known:
            known[quantity.name] = Differentiator(
                self._model,
                self._forward,
                quantity.jacobian_options,
                self._team,
                self._lockstep,
            )
        measure = known[quantity.name].measure
        found = measure(watched, reference, exhausted=self._exhausted)
        self._late = {x.name for x in watched} - found.keys()
        return found

    def _weights(
        self, watched: Sequence[Watched], chains: Mapping[str, tuple[str, ...]]
    ) -> dict[str, Sigma]:
        """The singular values of the weights that this process has a share in."""
        names = dict.fromkeys(x.name for x in watched)
        for name in list(names):
            names |= dict.fromkeys(chains.get(name, ()))
        found: dict[str, Sigma] = {}

        def measure(_quantity: object, layer: Subject) -> list[Record]:
            # a weight that cannot be read is told by the weight spectrum
            with suppress(Exception):
                sigma = singular_values_of(layer)
                if sigma.size and np.isfinite(sigma).all():
                    found[layer.name] = sigma
            return []

        def failed(*_: object) -> list[Record]:
            return []

        layers = [self._layers[name] for name in names if name in self._layers]
        pieces = [(_WEIGHT, x) for x in layers if not x.experts]
        with as_stored(self._model):
            self._share.measure(pieces, measure, failed)
        return found

    def _say_saturated(self, quantity: JacobianQuantity, found: Found) -> None:
        """Say so where a sketch has no smaller rank than it has directions."""
        full = [name for name, x in found.items() if _is_saturated(x)]
        if full:
            advice.saturated(self._reporter, quantity.name, full, found[full[0]])

    def _report(self, quantity: JacobianQuantity, step: int, error: Exception) -> None:
        self._reporter.problem(
            f"{quantity.name}: {status_of(error)}",  # its records are not told again
            f"svdhooks: {quantity.name} could not be measured at step {step}: "
            f"{status_of(error)}. It is missing in this record; training goes on.",
            error,
        )


def _is_saturated(jacobian: LayerJacobian) -> bool:
    spectra = jacobian.spectra
    if jacobian.complete or not spectra.numel() or len(spectra.T) < jacobian.directions:
        return False
    # nearly all directions are as good as the first
    return bool((spectra[:, -1] > 0.1 * spectra[:, 0]).all())


def _united(several: Iterable[Mapping[str, Sigma]]) -> dict[str, Sigma]:
    """The weights of all processes, each of which had a share."""
    return {name: sigma for each in several for name, sigma in each.items()}


def _merged(name: str, states: Sequence[tuple[Found, str | None]]) -> LayerJacobian:
    """The samples of all processes; the first failure of any is that of all."""
    found: list[LayerJacobian] = []
    for rank, (jacobians, problem) in enumerate(states):
        of = f" (rank {rank})" if len(states) > 1 else ""
        if problem is not None:
            return LayerJacobian.failed(f"{problem}{of}")
        if name in jacobians:
            if jacobians[name].status != OK:
                return LayerJacobian.failed(f"{jacobians[name].status}{of}")
            found.append(jacobians[name])
    if not found:
        return LayerJacobian.failed("no samples")
    if len(found) == 1:
        return found[0]
    # a batch of longer sequences has more outputs
    width = max(x.spectra.shape[-1] for x in found)
    spectra = [_padded(x.spectra, width) for x in found]
    errors = [x.error for x in found if x.error is not None]
    return replace(
        found[0],
        spectra=torch.cat(spectra),
        frobenius=torch.cat([x.frobenius for x in found]),
        error=torch.cat(errors) if len(errors) == len(found) else None,
        complete=all(x.complete for x in found),
        directions=min(x.directions for x in found),
        outputs=max(x.outputs for x in found),
    )


def _padded(
    spectra: Float[Tensor, "samples r"], width: int
) -> Float[Tensor, "samples width"]:
    return torch.nn.functional.pad(spectra, (0, width - spectra.shape[-1]))
