"""A record on trial: the model is run on its reference batch, and timed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from svdhooks.conductor.models import Models
from svdhooks.conductor.overhead import OverheadGuard
from svdhooks.planning.result import known
from svdhooks.quantities import Covariance, JacobianQuantity, Quantity, needs_probe
from svdhooks.record import Record

TRIAL_SECONDS = 5.0
"""How long derivatives are taken, at most and about, to time them."""


@dataclass
class Trial:
    """What was seen and timed.

    Attributes:
        counts: (layer, point) -> samples.
        forward: Seconds of a forward; NaN without a reference batch.
        seconds: (quantity, layer) -> seconds, where each layer is measured by itself.
        together: Quantity -> seconds, where the same passes serve all layers.
        records: What was recorded.
        notes: What the times rest on.
    """

    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    forward: float = math.nan
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    together: dict[str, float] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def on_trial(
    models: Models, quantities: Sequence[Quantity], guard: OverheadGuard
) -> Trial:
    """Run each model on its reference batch, and time what is not timed by shapes.

    Args:
        models: The models.
        quantities: What is to be recorded.
        guard: The models', without a limit of its own.

    Returns:
        What was seen; empty without a reference batch.
    """
    trial = Trial()
    others = [q for q in quantities if needs_probe(q) and not isinstance(q, Covariance)]
    for number, model in enumerate(models):
        reference = model.usable_reference(quantities, first=True)
        if reference is None:
            continue
        counted, spent = model.measurer.count_samples(reference)
        trial.counts |= counted
        trial.forward = known(trial.forward) + spent
        for quantity in others:
            chosen = set(models.parts([quantity], [n == number for n in _each(models)]))
            shared = isinstance(quantity, JacobianQuantity)
            for _ in range(2 if shared else 1):  # the first finds out how, for good
                guard.permit(TRIAL_SECONDS if shared else math.inf)
                found = model.measurer.measure(0, [quantity], chosen, reference)
            late, seconds = guard.exhausted(), sum(found.costs.values())
            guard.permit(math.inf)
            trial.records += found.records
            if not shared:
                trial.seconds |= found.costs
                continue
            factor, note = _of_all(quantity, found.records) if late else (1.0, "")
            before = trial.together.get(quantity.name, 0.0)
            trial.together[quantity.name] = before + factor * seconds
            trial.notes += [note] * bool(note)
    return trial


def _each(models: Models) -> range:
    return range(len(list(models)))


def _of_all(quantity: Quantity, records: Sequence[Record]) -> tuple[float, str]:
    """How many times as long all samples take, at most, as those there was time for."""
    done = [r.measures["samples"] for r in records if r.ok and "samples" in r.measures]
    most = getattr(quantity, "max_samples", None)
    if not done or most is None or min(done) >= most:
        return 1.0, ""
    return most / min(done), (
        f"{quantity.name} was timed on {min(done):.0f} of up to {most} samples, and its "
        "time scaled to all of them."
    )
