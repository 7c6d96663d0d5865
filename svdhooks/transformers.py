"""The callback for the Trainer of Hugging Face: a thin adapter of `Recorder`."""

import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise ModuleNotFoundError(
        "svdhooks.transformers needs the Trainer of Hugging Face: "
        "pip install 'transformers[torch]'",
        name="transformers",
    ) from error

from svdhooks import huggingface
from svdhooks.conductor.journal import check_sinks
from svdhooks.conductor.settings import (
    AlarmChoice,
    Observe,
    QuantityChoice,
    make_settings,
)
from svdhooks.layers import Selector
from svdhooks.layers.tap import TapChoice
from svdhooks.monitor import as_names, check_monitored, monitored_values
from svdhooks.probe import Forward, ProbeOptions
from svdhooks.recorder import Recorder
from svdhooks.reports import OnError
from svdhooks.schedule import Schedule
from svdhooks.sinks import Sink


class SpectrumCallback(TrainerCallback):
    """Record every layer's rank while a Hugging Face ``Trainer`` trains.

    ``Trainer(..., callbacks=[SpectrumCallback()])`` is all that is needed. The
    reference batch is what the model is called with first; padding is masked where
    that has an ``attention_mask`` of ``(batch, length)``. Of an encoder-decoder it is
    the encoder's: of the decoder all tokens count, and of both where their sequences
    are equally long.

    The log goes to ``<output_dir>/svdhooks``, so that ``tensorboard --logdir
    <output_dir>`` shows it beside the Trainer's own curves, which are in a new
    ``<output_dir>/runs/<date>`` after every restart. With
    ``$TENSORBOARD_LOGGING_DIR`` both go there. ``resume_from_checkpoint`` continues
    the log; the trials of a hyperparameter search get ``run-0``, ``run-1``, ... each.

    Steps count optimiser updates, so accumulated batches are one and steps that a
    gradient scaler skips are none; the curves' x coordinate is the Trainer's. The
    state before the first update is recorded just before it, once the batch is known.
    If the Trainer reports to Weights & Biases, about 20 numbers over all layers are
    added to its run.

    The Trainer calls no callback after an exception. What was recorded is in the log by
    then; the log is closed when the Trainer is gone, trains again, or Python ends.

    Args:
        every_n_steps: Interval in optimiser steps (default 100).
        schedule: A schedule instead: ``log_spaced()``, ``at(0, 10)``, ``any_of(...)``.
        layers: Which layers: globs, module types, a predicate ``(name, module)``.
        taps: Your name -> module whose output is observed too, such as
            ``{"embedding": "bert.embeddings"}``.
        quantities: Names or objects (default: weight spectra and covariances).
        probe: The reference batch, such as ``next(iter(trainer.get_train_dataloader()))``;
            None: the first training batch.
        probe_options: Mask, what a sample is, how the batch is kept. Without a mask of
            your own padding is masked as above; ``mask=lambda batch: None`` counts it.
        forward: ``(model, batch)``, for models that are called otherwise; ``batch``
            holds the arguments of the model by name.
        observe: ``"probe"``, the reference batch on the side of the training; or
            ``"training"``, what the model really saw in the last
            ``ProbeOptions.window`` steps before a record.
        max_overhead: Largest share of training time beyond a credit of 10 s; None:
            no limit.
        alarms: What to be warned of: ``"auto"``, ``"ssl"``, ``"supervised"``, ``"lm"``,
            rules, or `Alarms`, which may stop the training; None: nothing.
        log_dir: The run's directory; None: as above.
        on_error: ``"warn"``, or ``"raise"`` to let failed measurements stop training.
        monitor: Measures to add to those of every evaluation, so that
            ``metric_for_best_model="output_effective_rank/encoder.0"`` and an
            ``EarlyStoppingCallback`` that comes after this callback find them;
            ``"weight_stable_rank/median"`` (min, median, max) is over all layers. What
            is not known yet is NaN, which is never the best. With ``alarms`` also
            ``"alarms/healthy_steps"``, ``"alarms/open"``, ``"alarms/raised"``.
        sinks: Further receivers of records, such as `MemorySink`.
        max_log_gb: From this size of the log on, spectra are stored in their display
            form; None: no limit.
        log_per_layer: Send the headline measures of every layer to Weights & Biases too.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        *,
        schedule: Schedule | None = None,
        layers: Selector | Sequence[Selector] | None = None,
        taps: TapChoice | None = None,
        quantities: QuantityChoice = None,
        probe: Any = None,
        probe_options: ProbeOptions | None = None,
        forward: Forward | None = None,
        observe: Observe = "probe",
        max_overhead: float | None = 0.01,
        alarms: AlarmChoice = None,
        log_dir: str | Path | None = None,
        on_error: OnError = "warn",
        monitor: str | Sequence[str] = (),
        sinks: Sequence[Sink] = (),
        max_log_gb: float | None = 2.0,
        log_per_layer: bool = False,
    ) -> None:
        super().__init__()
        self._options: dict[str, Any] = {
            "every_n_steps": every_n_steps,
            "schedule": schedule,
            "quantities": quantities,
            "alarms": alarms,
            "layers": layers,
            "taps": taps,
            "observe": observe,
            "max_log_gb": max_log_gb,
            "probe": probe,
            "probe_options": probe_options or ProbeOptions(),
            "forward": forward,
            "max_overhead": max_overhead,
            "on_error": on_error,
        }
        make_settings(**self._options).of("")  # a wrong argument is told here
        check_sinks(sinks)
        self._log_dir = None if log_dir is None else str(log_dir)
        self._monitor = as_names(monitor)
        self._sinks = tuple(sinks)
        self._per_layer = log_per_layer
        self._monitored: dict[str, float] = {}
        self._count = self._told = 0
        self._trials = 0
        self._begun = False
        self._recorder: Recorder | None = None
        self._first: huggingface.FirstCall | None = None
        self._end: weakref.finalize[Any, Any] | None = None

    @property
    def recorder(self) -> Recorder | None:
        """The recorder while a training runs."""
        return self._recorder

    # --- the Trainer calls these ------------------------------------------------------

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        """Set up the recorder; wrong configuration is raised here.

        Args:
            args: The trainer's arguments.
            state: The trainer's state.
            control: Unused.
            model: The plain module.
            **kwargs: Unused.
        """
        again = self._recorder is not None and bool(args.auto_find_batch_size)
        self._close()
        self._count, self._begun, self._monitored = (
            huggingface.updates_before(state),
            False,
            {},
        )
        self._told = state.global_step
        # out of memory: the Trainer begins again by itself, with smaller batches
        self._trials += bool(state.is_hyper_param_search) and not again
        continued = again or state.global_step > 0
        self._recorder = recorder = self._set_up(args, state, model, continued)
        observing = self._options["observe"] != "probe"
        known = observing or self._options["probe"] is not None
        self._first = None if known else huggingface.FirstCall(model)
        self._end = weakref.finalize(self, _end, recorder, self._first)
        try:
            check_monitored(self._monitor, recorder.recorded, recorder.alarms)
            if known:
                self._begin(state)
        except BaseException:
            self._close()
            raise

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, **kwargs: Any
    ) -> None:
        """Record the state before the first update, now that a batch is known."""
        if not self._begun:
            self._begin(state)

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Count the update, unless the gradient scaler skipped it.

        Args:
            args: Unused.
            state: Unused.
            control: Unused.
            optimizer: Accelerate's, which knows; also where no hook of an optimiser
                runs, because updates are made elsewhere (LOMO, DeepSpeed).
            **kwargs: Unused.
        """
        self._count += not getattr(optimizer, "step_was_skipped", False)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record if the update made a record due; stop if an alarm is to."""
        if self._recorder is None:
            return
        huggingface.note_updates(state, self._count)
        context = huggingface.position(state, self._told)
        if self._recorder.step(step=self._count, context=context):
            self._told = state.global_step
            self._look_at_monitored()
        control.should_training_stop |= self._recorder.should_stop  # some come later

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Add what is monitored to the metrics of an evaluation, in place."""
        if self._recorder is None or metrics is None:
            return
        for name in self._monitor:
            # always something: a metric that is missing would end the training
            metrics[f"eval_{name}"] = self._monitored.get(name, math.nan)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the log."""
        self._close()

    # --- inside -----------------------------------------------------------------------

    def _set_up(self, args: Any, state: Any, model: Any, continued: bool) -> Recorder:
        huggingface.refuse_compiled(args, self._options["observe"])
        start = self._count if continued else None
        options = self._options | {"probe_options": self._masked_for(model)}
        known = huggingface.hparams_of(args)
        settings = make_settings(**options, start_step=start, hparams=known)
        directory = huggingface.find_directory(
            args, state, self._log_dir, self._trials - 1
        )
        extra = huggingface.wandb_sink(args, self._per_layer)
        sinks = self._sinks if extra is None else (*self._sinks, extra)
        with huggingface.in_terms_of_the_trainer(directory):
            made = Recorder(model, directory, settings, sinks=sinks, begin=False)
        made.counted = huggingface.COUNTED
        return made

    def _masked_for(self, model: Any) -> ProbeOptions:
        options: ProbeOptions = self._options["probe_options"]
        masked = options.mask is not None
        return (
            options if masked else replace(options, mask=huggingface.PaddingMask(model))
        )

    def __getstate__(self) -> dict[str, Any]:
        # a copy follows another training, or none
        own = {"_recorder": None, "_first": None, "_end": None}
        return self.__dict__ | own

    def _begin(self, state: Any) -> None:
        self._begun = True
        if self._recorder is None:
            return
        batch = None
        if self._first is not None:
            self._first.remove()
            batch, self._first = self._first.batch, None
        self._recorder.begin(batch, huggingface.position(state))
        self._look_at_monitored()

    def _look_at_monitored(self) -> None:
        if self._recorder is not None and self._monitor:
            last, alarms = self._recorder.last, self._recorder.alarms
            self._monitored |= monitored_values(self._monitor, last, alarms)

    def _close(self) -> None:
        self._recorder = self._first = None
        if self._end is not None:
            self._end()
            self._end = None


def _end(recorder: Recorder, first: huggingface.FirstCall | None) -> None:
    """Leave nothing of ours on the model, and close the log."""
    if first is not None:
        first.remove()
    recorder.close()
