"""The front door: watch a training loop, or scan a model now."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from svdhooks.conductor.choices import untraced
from svdhooks.conductor.measuring import Measurer
from svdhooks.conductor.outcome import Outcome, united
from svdhooks.conductor.settings import (
    AlarmChoice,
    Observe,
    QuantityChoice,
    make_settings,
)
from svdhooks.distributed.refusals import needs_all
from svdhooks.distributed.team import Team, form_team
from svdhooks.flow.pairs import FoundPairs, find_pairs
from svdhooks.layers import LayerTable, Selector, find_layers, unwrap
from svdhooks.layers.tap import TapChoice
from svdhooks.probe import Forward, ProbeOptions, ReferenceBatch
from svdhooks.quantities import SpectralEdges, WeightSpectrum, WeightVectors
from svdhooks.quantities.moments import PointMoments
from svdhooks.record import Record
from svdhooks.recorder import Recorder
from svdhooks.reports import OnError, Reporter
from svdhooks.schedule import Schedule, at
from svdhooks.sinks import Sink
from svdhooks.sinks.memory import MemorySink


def watch(
    model: nn.Module | Mapping[str, nn.Module],
    log_dir: str | Path | None,
    *,
    every: int | None = None,
    schedule: Schedule | None = None,
    layers: Selector | Sequence[Selector] | None = None,
    taps: TapChoice | None = None,
    quantities: QuantityChoice = None,
    probe: Any = None,
    probe_options: ProbeOptions | None = None,
    forward: Forward | Mapping[str, Forward] | None = None,
    observe: Observe = "probe",
    optimizer: Optimizer | None = None,
    max_overhead: float | None = 0.01,
    alarms: AlarmChoice = None,
    hparams: Mapping[str, Any] | None = None,
    start_step: int | None = None,
    on_error: OnError = "warn",
    sinks: Sequence[Sink] = (),
    max_log_gb: float | None = 2.0,
) -> Recorder:
    """Record every layer's rank while ``model`` trains in a plain loop.

    Args:
        model: The object that the training loop calls; several by name
            (``{"generator": G, "discriminator": D}``), whose layers are then called
            ``generator.…``, and ``probe`` and ``forward`` may be mappings too.
        log_dir: The run's directory; the log goes to ``<log_dir>/svdhooks``. None: no
            log file, only ``sinks``.
        every: Interval in optimiser steps (default 100).
        schedule: A schedule instead: ``log_spaced()``, ``at(0, 10)``, ``any_of(...)``.
        layers: Which layers: globs, module types, a predicate ``(name, module)``.
        taps: Your name -> module whose output is observed too, such as
            ``{"embedding": "backbone"}``.
        quantities: Names or objects (default: weight spectra and covariances).
        probe: The reference batch: tensor; tuple of positional arguments; mapping of
            keyword arguments. None: captured from the first call of ``model`` in
            training mode, or from `Recorder.step`.
        probe_options: Mask, what a sample is, how the batch is kept.
        forward: ``(model, batch)``, for models that are called otherwise; ``batch``
            is ``probe`` or what `Recorder.step` was given.
        observe: ``"probe"``, the reference batch on the side of the training; or
            ``"training"``, what the model really saw in the last
            ``ProbeOptions.window`` steps before a record.
        optimizer: Its updates are counted, and `Recorder.step` need not be called.
        max_overhead: Largest share of training time beyond a credit of 10 s; None:
            no limit.
        alarms: What to be warned of: ``"auto"``, ``"ssl"``, ``"supervised"``, ``"lm"``,
            rules, or `Alarms` with what is to happen then; None: nothing.
        hparams: Of the training, ``{"lr": 0.1, "seed": 0}``, for comparing runs.
        start_step: Resume: updates already in the weights. Records at or after it in
            ``log_dir`` are superseded.
        on_error: ``"warn"``, or ``"raise"`` to let failed measurements stop training.
        sinks: Further receivers of records, such as `MemorySink`.
        max_log_gb: From this size of the log on, spectra are stored in their display
            form; None: no limit.

    Returns:
        The recorder, a context manager.

    Raises:
        ValueError: If an argument is out of range or no layer matches.
        TypeError: If an argument is of a wrong kind.
        OSError: If ``log_dir`` cannot be written or already holds records.
    """
    if log_dir is None and not sinks:
        raise ValueError(
            "Found log_dir=None and no sinks: nothing would be kept. Expected a "
            "log_dir, or sinks=[svdhooks.MemorySink()]."
        )
    settings = make_settings(
        every,
        schedule,
        quantities,
        alarms,
        hparams,
        layers=layers,
        taps=taps,
        observe=observe,
        probe=probe,
        probe_options=probe_options or ProbeOptions(),
        forward=forward,
        max_overhead=max_overhead,
        on_error=on_error,
        start_step=start_step,
        max_log_gb=max_log_gb,
    )
    return Recorder(model, log_dir, settings, optimizer=optimizer, sinks=sinks)


def scan(
    model: nn.Module, layers: Selector | Sequence[Selector] | None = None
) -> list[Record]:
    """Weight spectra and ranks of every layer, now.

    Args:
        model: The model; wrappers are looked through. One that is sharded over several
            processes is scanned by all of them together, and all get all records.
        layers: Which layers: globs, module types, a predicate ``(name, module)``.

    Returns:
        One record per layer, in the order of the model; tied weights once.

    Raises:
        ValueError: If no layer can be watched.
        TypeError: If ``model`` is not a module or ``layers`` is of a wrong kind.
    """
    table = find_layers(model, layers)
    team = form_team() if needs_all(model) else Team()
    try:
        measurer = Measurer(
            unwrap(model), table, ProbeOptions(), None, Reporter(), team=team
        )
        quantity = WeightSpectrum()
        parts = measurer.parts([quantity], probing=False)
        own = Outcome(measurer.measure(0, [quantity], set(parts), None))
        return united(team, own, parts, [], to_all=True).measured.records
    finally:
        team.leave()


def snapshot(
    model: nn.Module,
    batch: Any,
    *,
    layers: Selector | Sequence[Selector] | None = None,
    k: int | None = None,
    max_features: int = 2048,
    pairs: Sequence[tuple[str, str]] | None = None,
    probe_options: ProbeOptions | None = None,
    forward: Forward | None = None,
) -> MemorySink:
    """Singular vectors, moments and spectral graph of a model, now.

    What it returns is read like the log of a run: ``svdhooks.analysis.descrambled``,
    ``svdhooks.analysis.spectral_graph``.

    Args:
        model: The model; wrappers are looked through.
        batch: As ``probe=`` of `watch`.
        layers: Which layers: globs, module types, a predicate ``(name, module)``.
        k: Leading singular vectors of each layer; None: all.
        max_features: Moments of points with more features are left out.
        pairs: Names ``(layer, next layer)``; None: as traced.
        probe_options: Mask, what a sample is.
        forward: ``(model, batch)``, for models that are called otherwise.

    Returns:
        The records of one step.

    Raises:
        ValueError: If no layer can be watched, one is not initialised (lazy), or the
            model does not take the batch.
        TypeError: If an argument is of a wrong kind.
    """
    for each in model.values() if isinstance(model, Mapping) else (model,):
        _check_initialised(find_layers(each))
    sink = MemorySink()
    now = at(0)
    quantities = (
        WeightVectors(k, schedule=now),
        PointMoments(max_features=max_features, schedule=now),
        SpectralEdges(k, pairs=pairs, schedule=now),
    )
    with watch(
        model,
        None,
        schedule=now,
        layers=layers,
        quantities=quantities,
        probe=batch,
        probe_options=probe_options,
        forward=forward,
        max_overhead=None,
        sinks=[sink],
    ):
        """Step 0 is recorded on entering."""
    return sink


def layer_pairs(
    model: nn.Module,
    batch: Any,
    *,
    layers: Selector | Sequence[Selector] | None = None,
    streams: Literal["next", "all", "none"] = "next",
    forward: Forward | None = None,
) -> FoundPairs:
    """Which layers feed which, traced in one forward on the side of the training.

    Args:
        model: The model; wrappers are looked through.
        batch: As ``probe=`` of `watch`.
        layers: Which layers.
        streams: Of residual streams: the last writers before each reader, all, or none.
        forward: ``(model, batch)``, for models that are called otherwise.

    Returns:
        The pairs, and what feeds each other but cannot be compared, with the reason.

    Raises:
        ValueError: If no layer can be watched, one is not initialised (lazy), or the
            forward works but not while it is traced.
        TypeError: If ``model`` is not a module, ``layers`` is of a wrong kind or there is
            no tensor in ``batch``.
        Exception: Whatever the model raises on the batch.
    """
    table, plain = find_layers(model, layers), unwrap(model)
    _check_initialised(table)
    measurer = Measurer(plain, table, ProbeOptions(), forward, Reporter())
    measurer.rehearse(ReferenceBatch.given(batch))
    if measurer.untraced:
        raise ValueError(f"Found no pairs: {untraced(measurer.untraced)}.")
    return find_pairs(measurer.flow, table.layers, streams=streams, model=plain)


def _check_initialised(table: LayerTable) -> None:
    """Refuse lazy modules, which our forward would initialise from our random stream."""
    lazy = [skipped.name for skipped in table.skipped if "(lazy)" in skipped.reason]
    if table.incomplete:
        raise ValueError(
            f"Found modules that are not initialised (lazy): {', '.join(lazy[:8])}; "
            "expected weights with shapes. Call the model once on a batch before."
        )
