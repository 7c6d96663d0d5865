"""The first run of a probe, without measuring: does it work, and what is called how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from svdhooks.distributed.refusals import needs_all
from svdhooks.distributed.team import Team
from svdhooks.flow import Flow
from svdhooks.flow.tracing import Tracer
from svdhooks.hooks import count_calls, observed
from svdhooks.isolation import probe_context
from svdhooks.layers import Layer, PointValue, samples_of
from svdhooks.layers.tap import Tap, Watched
from svdhooks.nested import tensors_in
from svdhooks.probe import Forward, Mask, ReferenceBatch
from svdhooks.reports import status_of

CHANGED = "changes parameters in place"
"""What `originals_kept` says of a model that must not be run again."""


@dataclass(frozen=True)
class Rehearsal:
    """What was seen in the first run.

    Attributes:
        calls: ``id(module)`` -> calls in one forward.
        features: Tap -> number of features.
        flow: Which layer feeds which; empty if that could not be traced.
    """

    calls: Mapping[int, int] = field(default_factory=dict)
    features: Mapping[str, int] = field(default_factory=dict)
    flow: Flow = field(default_factory=Flow)


class Rehearser:
    """Runs a model once, traced if asked to; where that fails, once more without.

    Args:
        model: The plain module.
        forward: How to call the model; None: ``model(*args, **kwargs)``.
        mask: Which is looked for in the batch.
        team: The processes. They rehearse together where a forward communicates.
        traced: Whether to find out what feeds what.

    Attributes:
        untraced: Why what feeds what could not be found out; None if it could.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward | None,
        mask: Mask | None,
        team: Team,
        traced: bool = True,
    ) -> None:
        self._model = model
        self._forward = forward
        self._mask = mask
        self._team = team
        self._traceable = traced
        self.untraced: str | None = None

    def run(self, reference: ReferenceBatch, watched: Sequence[Watched]) -> Rehearsal:
        """Run once; collective where a forward communicates.

        Args:
            reference: The reference batch.
            watched: The layers and taps.

        Returns:
            What was seen.

        Raises:
            Exception: Whatever the model or the mask raises.
        """
        failure: Exception | None = None
        found = Rehearsal()
        try:
            found = self._once(reference, watched, self._traceable)
        except Exception as error:  # noqa: BLE001  # raised below, unless it was the trace
            failure = error
        if self._traceable and (untraced := self._again(failure)):
            self._traceable, failure = False, None  # which holds what it computed
            found = self._once(reference, watched, traced=False)
            self.untraced = untraced  # it works without
            return found
        if failure is not None:
            raise failure
        return found

    def _again(self, failure: Exception | None) -> str | None:
        """Why all who have to run the forward together run it without a trace."""
        told = [None if failure is None else status_of(failure)]
        if needs_all(self._model):
            told = self._team.exchange(told[0])
        failed = [text for text in told if text is not None]
        return (
            None
            if any(CHANGED in text for text in failed)
            else next(iter(failed), None)
        )

    def _once(
        self, reference: ReferenceBatch, watched: Sequence[Watched], traced: bool
    ) -> Rehearsal:
        reference.mask(self._mask, self._model)
        features: dict[str, int] = {}

        def receive(tap: Watched, values: Mapping[str, PointValue]) -> None:
            features[tap.name] = samples_of(values["output"]).shape[-1]

        def fail(tap: Watched, error: Exception) -> None:
            """A tap that cannot be read says so in its records."""

        taps = [x for x in watched if isinstance(x, Tap)]
        layers = [x for x in watched if isinstance(x, Layer)] if traced else []
        with (
            probe_context(self._model),
            count_calls([x.module for x in watched]) as calls,
            observed(taps, receive, fail),
        ):
            flow = self._traced(reference, layers)
        return Rehearsal(dict(calls), features, flow)

    def _traced(self, reference: ReferenceBatch, layers: Sequence[Layer]) -> Flow:
        """Run the model, and follow its tensors from layer to layer."""
        if not layers:
            reference.run(self._model, self._forward)
            return Flow()
        given = (reference.batch, reference.args, dict(reference.kwargs))
        tracer = Tracer(self._model, layers, tensors_in(given))
        with observed(tracer.watched, tracer.receive, tracer.fail), tracer:
            reference.run(self._model, self._forward)
        return tracer.flow()
