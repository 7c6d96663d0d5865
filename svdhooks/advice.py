"""What a recorder says once during training, each with what to do about it."""

from collections.abc import Collection, Sequence

from svdhooks.distributed.meeting import DisagreementError
from svdhooks.distributed.team import TeamError
from svdhooks.jacobians.options import LayerJacobian
from svdhooks.reports import RecordingError, Reporter, status_of


def no_probe(reporter: Reporter, model: str = "") -> None:
    """Say that no reference batch is known.

    Args:
        reporter: Says it.
        model: Of which of several models.
    """
    of = f" of model {model!r}" if model else ""
    reporter.note(
        f"no probe{of}",
        f"svdhooks: no reference batch{of} is known, so only weights are recorded. Pass one "
        "as probe=, or call recorder.step(batch=...); it is captured by itself only when "
        "the object given to watch() is called in training mode, not by a function that "
        "is compiled itself, and forward= is not given.",
    )


def no_mapping(reporter: Reporter, kind: str, names: Collection[str]) -> None:
    """Say that a batch does not tell which of several models it is for.

    Args:
        reporter: Says it.
        kind: What it is.
        names: Of the models.
    """
    reporter.note(
        "batch",
        f"svdhooks: found {kind} as the batch of several models; expected a mapping with "
        f"some of the keys {sorted(names)}.",
    )


def not_probed(reporter: Reporter, reason: str, untraced: Sequence[str] = ()) -> None:
    """Say that a model cannot be run on the side of its training.

    Args:
        reporter: Says it.
        reason: Why, and what to do.
        untraced: Quantities that have to know which layer feeds which.
    """
    traced = (
        f" {', '.join(untraced)} has to know which layer feeds which: give "
        "SpectralEdges(pairs=[(name, name), ...])."
    )
    reporter.note(
        "not probed",
        f"svdhooks: only weights are recorded. {reason}.{traced if untraced else ''}",
    )


def without_batch(reporter: Reporter, ranks: Sequence[int], model: str = "") -> None:
    """Say that some processes have no reference batch.

    Args:
        reporter: Says it.
        ranks: Those.
        model: Of which of several models.
    """
    of = f" of model {model!r}" if model else ""
    reporter.note(
        f"no batch{of} on some",
        f"svdhooks: no reference batch{of} is known on rank "
        f"{', '.join(map(str, ranks))}. The inputs and outputs of layers are those of the "
        "other ranks' batches; of a sharded model they are missing, since all ranks run "
        "its forward. Pass probe= on every rank.",
    )


def failed(reporter: Reporter, step: int, error: Exception) -> None:
    """Report that a whole record failed.

    Args:
        reporter: Says it.
        step: Of the record.
        error: Why.
    """
    reporter.problem(
        "record",
        f"svdhooks: the record of step {step} failed "
        f"({type(error).__name__}: {error}); training goes on.",
        error,
    )


def parted(reporter: Reporter, step: int, error: Exception) -> None:
    """Report that the processes do not record together any more.

    Args:
        reporter: Says it.
        step: Where that was found.
        error: Why.
    """
    told = isinstance(error, (TeamError, DisagreementError, RecordingError))
    reason = str(error) if told else status_of(error)
    reporter.problem(
        "parted",
        f"svdhooks: recording ends at step {step}, because the processes cannot do it "
        f"together any more: {reason}. Training goes on; what was recorded before is in "
        "the log.",
        error,
    )


def no_forward(reporter: Reporter, name: str) -> None:
    """Say that the model cannot be called with a training batch.

    Args:
        reporter: Says it.
        name: The model's class.
    """
    reporter.note(
        "no probe",  # the same subject: one reason is enough
        f"svdhooks: {name} defines no forward(), so the training batch cannot be used as "
        "the reference and only weights are recorded. Pass forward=lambda module, batch: "
        "module.net(batch[0]), or whatever calls your network.",
    )


def went_back(reporter: Reporter, before: int, now: int) -> None:
    """Say that the number of updates fell.

    Args:
        reporter: Says it.
        before: Updates as told before.
        now: As told now.
    """
    reporter.note(
        "went back",
        f"svdhooks: step() was told {now} updates after {before}. Steps count over the "
        f"whole run, so nothing is recorded until they exceed {before}. Leave step= out "
        "to have them counted, or add what earlier epochs made.",
    )


def lazy(reporter: Reporter, names: Sequence[str]) -> None:
    """Say that modules are uninitialised where they should not be any more.

    Args:
        reporter: Says it.
        names: Of the modules.
    """
    reporter.note(
        "lazy",
        f"svdhooks: {', '.join(names[:8])} is still uninitialised (lazy) after an "
        "update, so the model cannot be probed and only weights are recorded. Run one "
        "forward that initialises it before training, or remove it.",
    )


def changed(reporter: Reporter, names: Sequence[str]) -> None:
    """Say that the model has other layers than before.

    Args:
        reporter: Says it.
        names: Of the layers now.
    """
    reporter.note(
        "changed",
        "svdhooks: modules of the model were replaced, added or removed since the last "
        f"record. From now on its layers are {', '.join(names[:8])}"
        f"{', …' if len(names) > 8 else ''}.",
    )


def lost(reporter: Reporter, what: str, error: Exception) -> None:
    """Report that something is not watched any more.

    Args:
        reporter: Says it.
        what: What it is.
        error: Why it is not found.
    """
    reporter.problem(
        f"lost {what}",
        f"svdhooks: the model was changed, and {what} is not recorded any more: {error} "
        "The rest is; training goes on.",
        error,
    )


def nothing_to_measure(
    reporter: Reporter, name: str, reason: str | None = None
) -> None:
    """Say that a quantity will record nothing.

    Args:
        reporter: Says it.
        name: Of the quantity.
        reason: Why, if that is known.
    """
    lacking = (
        "the model has no layer or tap of the kind that it is about (a sequence axis, "
        "attention, experts, a name that you gave)"
    )
    reporter.note(
        f"nothing for {name}",
        f"svdhooks: {name} was asked for and finds nothing to measure here: "
        f"{reason or lacking}.",
    )


def saturated(
    reporter: Reporter, name: str, layers: Sequence[str], jacobian: LayerJacobian
) -> None:
    """Say that a sketch has too few directions to say more than their number.

    Args:
        reporter: Says it.
        name: Of the quantity.
        layers: Of which all directions are needed.
        jacobian: Of the first of them.
    """
    more = "" if len(layers) == 1 else f" and {len(layers) - 1} more"
    reporter.note(
        f"saturated {name}",
        f"svdhooks: {name} of {layers[0]}{more} is at least {jacobian.directions}, the "
        f"number of random directions that were taken of the {jacobian.inputs} of the "
        "input; it will not show a fall that ends above. Take more directions=, or fewer "
        "outputs: positions='mean', or positions=-1, the last one of a sequence, have so "
        "few that the whole Jacobian may fit.",
    )


def no_window(reporter: Reporter, names: Sequence[str], step: int) -> None:
    """Say that no training batch was observed before a record.

    Args:
        reporter: Says it.
        names: Of the quantities that are missing.
        step: Of the record.
    """
    reporter.note(
        "no window",
        f"svdhooks: {', '.join(names)} of step {step} is missing: no training batch was "
        "observed before it, because the steps jumped. Call step() after each update, or "
        "observe more of them: probe_options=ProbeOptions(window=...).",
    )


def closed(reporter: Reporter) -> None:
    """Say that a step was told after the end.

    Args:
        reporter: Says it.
    """
    reporter.note(
        "closed", "svdhooks: step() after close(): nothing is recorded any more."
    )


def stretched(reporter: Reporter, max_overhead: float | None) -> None:
    """Say that records become rarer.

    Args:
        reporter: Says it.
        max_overhead: The limit.
    """
    reporter.note(
        "stretched",
        "svdhooks: recording everything at every scheduled step would cost more than "
        f"max_overhead={max_overhead or 0:g} of the training time (beyond a credit of "
        "10 s), so records become rarer, at most tenfold, and layers take turns. Choose "
        "a longer interval or fewer layers, or max_overhead=None to record everything.",
    )
