"""The Lightning callback: a thin adapter of `Recorder`.

Works with ``lightning.pytorch`` and ``pytorch_lightning`` trainers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from svdhooks import advice, trainers
from svdhooks._callback import callback_bases
from svdhooks.conductor.journal import check_sinks
from svdhooks.conductor.settings import (
    AlarmChoice,
    Observe,
    QuantityChoice,
    make_settings,
)
from svdhooks.hooks import after_each_update
from svdhooks.layers import Selector
from svdhooks.layers.tap import TapChoice
from svdhooks.monitor import as_names, check_monitored, monitored_values
from svdhooks.probe import Forward, ProbeOptions
from svdhooks.recorder import Recorder
from svdhooks.reports import OnError
from svdhooks.schedule import Schedule
from svdhooks.sinks import Sink
from svdhooks.sinks.loggers import logger_sink


class SpectrumMonitor(*callback_bases()):  # type: ignore[misc]  # bases depend on what is imported
    """Record every layer's rank while a Lightning trainer fits.

    ``Trainer(callbacks=[SpectrumMonitor(every_n_steps=100)])`` is all that is needed.
    The log goes to ``<log_dir>/svdhooks``, where ``log_dir`` is that of the first
    TensorBoard logger, else the trainer's.

    Args:
        every_n_steps: Interval in optimiser steps (default 100).
        schedule: A schedule instead: ``log_spaced()``, ``at(0, 10)``, ``any_of(...)``.
        layers: Which layers: globs, module types, a predicate ``(name, module)``.
        taps: Your name -> module whose output is observed too, such as
            ``{"embedding": "backbone"}``.
        quantities: Names or objects (default: weight spectra and covariances).
        probe: The reference batch; None: the first training batch.
        probe_options: Mask, what a sample is, how the batch is kept.
        forward: ``(module, batch)``; needed by a module without ``forward``.
        observe: ``"probe"``, the reference batch on the side of the training; or
            ``"training"``, what the model really saw in the last
            ``ProbeOptions.window`` steps before a record.
        max_overhead: Largest share of training time beyond a credit of 10 s; None:
            no limit.
        alarms: What to be warned of: ``"auto"``, ``"ssl"``, ``"supervised"``, ``"lm"``,
            rules, or `Alarms`, which may stop the training; None: nothing.
        log_dir: The run's directory; None: as above.
        on_error: ``"warn"``, or ``"raise"`` to let failed measurements stop training.
        monitor: Measures to log so that ``EarlyStopping`` and ``ModelCheckpoint``
            find them: ``"output_effective_rank/encoder.0"`` for one layer,
            ``"weight_stable_rank/median"`` (min, median, max) over all. What the
            first record does not hold yet (with ``observe="training"`` all but weights;
            updates) is unknown until the second: ``EarlyStopping(strict=False)``.
            With ``alarms``: ``"alarms/healthy_steps"``, updates without an open alarm,
            for ``EarlyStopping(mode="max")``; ``"alarms/open"``, ``"alarms/raised"``.
        optimizer: Index of the optimiser whose updates are counted.
        sinks: Further receivers of records, such as `MemorySink`.
        max_log_gb: From this size of the log on, spectra are stored in their display
            form; None: no limit.
        log_per_layer: Send the headline measures of every layer to the trainer's
            loggers too, besides about 20 numbers over all layers. (TensorBoard's own
            log has them in any case.)
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
        optimizer: int = 0,
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
        trainers.check_index(optimizer)
        self._log_dir = None if log_dir is None else str(log_dir)
        self._monitor = as_names(monitor)
        self._optimizer = optimizer
        self._sinks = tuple(sinks)
        self._per_layer = log_per_layer
        self._directory: str | None = None
        self._count = self._global_step = 0
        self._restored = self._begun = False
        self._dtype = torch.get_default_dtype()
        self._recorder: Recorder | None = None
        self._handle: RemovableHandle | None = None

    @property
    def recorder(self) -> Recorder | None:
        """The recorder while a fit runs; of several processes the first one's writes."""
        return self._recorder

    # --- Lightning calls these ------------------------------------------------------

    @property
    def state_key(self) -> str:
        """Tells several monitors of one trainer apart in its checkpoints."""
        told = make_settings(**self._options).describe()
        told = {k: told[k] for k in ("schedule", "layers", "quantities")}
        key: str = self._generate_state_key(log_dir=str(self._log_dir), **told)
        return key

    def state_dict(self) -> dict[str, Any]:
        """Updates so far, as plain numbers, for the trainer's checkpoint."""
        return {"step": self._count, "optimizer": self._optimizer}

    def on_load_checkpoint(
        self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Continue the count of a monitor with another interval or directory.

        Args:
            trainer: The trainer.
            pl_module: The module.
            checkpoint: All of it; if it holds our own state, that is loaded afterwards.
        """
        if count := trainers.counted_before(
            checkpoint, type(self).__name__, self._optimizer
        ):
            self.load_state_dict({"step": count})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue counting where the checkpoint was saved.

        Args:
            state_dict: What `state_dict` gave.
        """
        self._count = int(state_dict["step"])
        self._restored = True

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Find out where to write; on every process, because Lightning communicates.

        Args:
            trainer: The trainer.
            pl_module: The module.
            stage: Only ``"fit"`` matters.
        """
        self._restored = False  # what this stage is to restore is loaded after it
        if stage == "fit":
            self._directory = trainers.find_directory(trainer, self._log_dir)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Set up the recorder; wrong configuration is raised here.

        Args:
            trainer: The trainer.
            pl_module: The module.
        """
        self._close()
        resumed = self._restored or trainer.global_step > 0
        if not resumed:
            self._count = 0
        elif not self._restored and self._global_step != trainer.global_step:
            # a checkpoint saved without this callback, which may have counted another fit
            self._count = trainer.global_step
        settings = make_settings(
            **self._options,
            start_step=self._count if resumed else None,
            hparams=trainers.hparams_of(trainer, pl_module),
        )
        monitors = [c for c in trainer.callbacks if isinstance(c, SpectrumMonitor)]
        trainers.check_alone(
            self._directory, [c._directory for c in monitors if c is not self]
        )
        logged = logger_sink(trainer.loggers, self._per_layer)
        sinks = self._sinks if logged is None else (*self._sinks, logged)
        with trainers.in_terms_of_trainers(self._directory):
            self._recorder = Recorder(
                pl_module, self._directory, settings, sinks=sinks, begin=False
            )
        check_monitored(self._monitor, self._recorder.recorded, self._recorder.alarms)
        optimizer = trainers.followed(trainer, self._optimizer)
        self._recorder.counted = trainers.calls_counted(optimizer, self._optimizer)
        self._handle = after_each_update(optimizer, self._updated)
        self._dtype = trainers.dtype_in_forwards(trainer)
        self._begun = self._restored = False

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the state before the first update, once a batch is at hand.

        Args:
            trainer: The trainer.
            pl_module: The module.
            batch: The batch, on the device.
            batch_idx: Its number.
        """
        if self._recorder is None:
            return
        if self._begun:
            self._recorder.begin_batch(batch)
            return
        self._begun = True
        usable = self._options["forward"] is not None or trainers.defines_forward(
            pl_module
        )
        if not usable and self._options["observe"] == "probe":
            advice.no_forward(self._recorder.reporter, type(pl_module).__name__)
        known = batch if usable else None
        with trainers.default_dtype(self._dtype):
            self._recorder.begin(known, trainers.position(trainer, batch_idx))
        self._recorder.begin_batch(batch)
        self._log_monitored(self._recorder, pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record if an update made a record due; stop if an alarm is to."""
        if self._recorder is None:
            return
        context = trainers.position(trainer, batch_idx, outputs)
        self._global_step = context["global_step"]
        with trainers.default_dtype(self._dtype):
            recorded = self._recorder.step(step=self._count, context=context)
        if recorded:
            self._log_monitored(self._recorder, pl_module)
        trainer.should_stop |= self._recorder.should_stop  # records may come later

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the log."""
        self._close()

    def on_exception(
        self, trainer: Any, pl_module: Any, exception: BaseException
    ) -> None:
        """Close the log; after an exception Lightning calls nothing else."""
        self._close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Close the log, if nothing else did."""
        self._close()

    # --- inside -----------------------------------------------------------------------

    def _updated(self) -> None:
        self._count += 1

    def _log_monitored(self, recorder: Recorder, pl_module: Any) -> None:
        if not self._monitor:
            return
        values = monitored_values(self._monitor, recorder.last, recorder.alarms)
        for name, value in values.items():  # not to the loggers: the log has it
            pl_module.log(name, value, logger=False, batch_size=1, rank_zero_only=True)

    def __getstate__(self) -> dict[str, Any]:
        # a copy records nothing; by the last two Lightning ties it to the module
        left = ("_recorder", "_handle", "log", "log_dict")
        return self.__dict__ | dict.fromkeys(left)

    def _close(self) -> None:
        recorder, handle = self._recorder, self._handle
        self._recorder = self._handle = None
        if handle is not None:
            handle.remove()
        if recorder is not None:
            recorder.close()
