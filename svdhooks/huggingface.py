"""What the Trainer of Hugging Face says of itself; nothing of it is imported here."""

import functools
import inspect
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from svdhooks.capture import capture_next_call
from svdhooks.layers import unwrap
from svdhooks.nested import private
from svdhooks.reports import Reporter
from svdhooks.sinks import Sink
from svdhooks.sinks.loggers import logger_sink
from svdhooks.trainers import in_terms_of

COUNTED = (
    "what the Trainer announces by on_optimizer_step(), and it announced none: a "
    "training loop of its own has to call "
    "self.callback_handler.on_optimizer_step(args, state, control)"
)
"""What the callback counts as an update, for the note on a training without any."""

_KEY = "svdhooks"
_HPARAMS = (
    "learning_rate",
    "weight_decay",
    "seed",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "warmup_steps",
    "max_grad_norm",
    "optim",
    "lr_scheduler_type",
    "bf16",
    "fp16",
)
_NO_DATA = "num_items_in_batch"


class PaddingMask:
    """The ``attention_mask`` of a batch where it is one of ``(batch, length)``.

    As ``ProbeOptions(mask=PaddingMask())``: batches without a mask, or with one of
    another shape (four axes: who attends to whom), count whole. So do those of an
    encoder-decoder whose two sequences are equally long: tokens are told from padding
    by the shape, and the mask of the encoder would be taken for that of the decoder.

    Args:
        model: That the batches are for; None: one with a single sequence.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._two = model is not None and _has_two_sequences(unwrap(model))
        self._reporter = Reporter()

    def __call__(self, batch: Any) -> Tensor | None:
        """Read the mask.

        Args:
            batch: As the model was called with it.

        Returns:
            The mask ``(batch, length)``, or None.
        """
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            return None
        if self._two and mask.shape[1] == _decoder_length(batch, mask.shape[1]):
            self._reporter.note(
                "two sequences",
                "svdhooks: the sequences of the encoder and of the decoder are equally "
                f"long ({mask.shape[1]}), so that padding cannot be told apart by shape: "
                "all tokens count. Give a probe= with labels of another length.",
            )
            return None
        return mask

    def __repr__(self) -> str:
        return "attention_mask, where there is one"


def _has_two_sequences(model: nn.Module) -> bool:
    config = getattr(model, "config", None)
    if not getattr(config, "is_encoder_decoder", False):
        return False
    # the encoder of such a model has its configuration
    return any(name.split(".")[-1] == "decoder" for name, _ in model.named_modules())


def _decoder_length(batch: Mapping[str, Any], otherwise: int) -> int:
    """Of what the decoder is given; without anything, models shift the input."""
    for name in ("decoder_input_ids", "decoder_inputs_embeds", "labels"):
        value = batch.get(name)
        if isinstance(value, Tensor) and value.ndim > 1:
            return value.shape[1]
    return otherwise


class FirstCall:
    """What a model is given at its next call in training mode.

    Args:
        model: The plain module.

    Attributes:
        batch: The arguments by name, copied; None before the call.
    """

    def __init__(self, model: nn.Module) -> None:
        self.batch: Any = None
        self._forward = unwrap(model).forward
        self._capture = capture_next_call(model, self._take)

    def _take(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        batch = _by_name(self._forward, args, kwargs)
        try:
            self.batch = private(batch)
        except Exception:  # noqa: BLE001  # training goes on; the recorder says why
            self.batch = batch

    def remove(self) -> None:
        """Wait no more; may be called more than once."""
        self._capture.remove()


def _by_name(forward: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The arguments of a call as a mapping, where the forward names them all."""
    named = {name: value for name, value in kwargs.items() if name != _NO_DATA}
    if not args:
        return named
    try:
        signature = inspect.signature(forward)
        bound = signature.bind(*args, **named)
    except (TypeError, ValueError):  # builtins have no signature
        return args
    kinds = {signature.parameters[name].kind for name in bound.arguments}
    collected = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    return args if kinds & collected else dict(bound.arguments)


def find_directory(args: Any, state: Any, chosen: str | None, trial: int) -> Path:
    """Where the records of a training go.

    Args:
        args: The trainer's arguments.
        state: The trainer's state.
        chosen: By the user, or None.
        trial: Number of the trial in a hyperparameter search.

    Returns:
        The user's choice, else ``$TENSORBOARD_LOGGING_DIR``, where the Trainer's own
        TensorBoard log then is, else ``args.output_dir``; within it a directory for
        each trial of a search, called as that of its checkpoints.
    """
    told = os.environ.get("TENSORBOARD_LOGGING_DIR")
    base = Path(chosen or told or args.output_dir).expanduser()
    if not state.is_hyper_param_search:
        return base
    return base / (state.trial_name or f"run-{trial}")


in_terms_of_the_trainer = functools.partial(
    in_terms_of,
    "training",
    "To continue that one: trainer.train(resume_from_checkpoint=True). For a new one: "
    "another output_dir, or SpectrumCallback(log_dir=...)",
)


def updates_before(state: Any) -> int:
    """Optimiser updates in the weights when a training begins.

    Args:
        state: The trainer's state, of a checkpoint where one is resumed.

    Returns:
        The number; the Trainer's own counts skipped steps as well.
    """
    noted = state.stateful_callbacks.get(_KEY)
    own = noted.get("attributes", {}) if isinstance(noted, Mapping) else {}
    at = own.get("global_step")
    since = state.global_step - at if isinstance(at, int) else -1
    # noted at every step: more than one later it was saved without us
    return int(own["updates"]) + since if since >= 0 else int(state.global_step)


def note_updates(state: Any, updates: int) -> None:
    """Let the trainer's checkpoints know the number of updates, where it differs.

    Args:
        state: The trainer's state.
        updates: Updates so far.
    """
    if updates != state.global_step:
        # the form of what transformers keeps for its own callbacks
        noted = {"updates": updates, "global_step": state.global_step}
        state.stateful_callbacks[_KEY] = {"args": {}, "attributes": noted}


def position(state: Any, since: int | None = None) -> dict[str, float | int]:
    """Where a trainer stands, for the record.

    Args:
        state: The trainer's state.
        since: Step of the record before; None: no loss is wanted.

    Returns:
        ``logged_step`` (the x coordinate of its loggers), ``global_step``, ``epoch``;
        and ``loss`` if the trainer has logged one after the record before.
    """
    step = int(state.global_step)
    found = {"logged_step": step, "global_step": step, "epoch": float(state.epoch or 0)}
    if since is not None:
        # the same one twice would look like a loss that stands still
        logged = (entry for entry in reversed(state.log_history) if "loss" in entry)
        latest: Mapping[str, Any] = next(logged, {})
        # the trainer logs a step after its records are made
        if latest.get("step", -1) >= since:
            found["loss"] = float(latest["loss"])
    return found


def hparams_of(args: Any) -> dict[str, Any]:
    """The hyper-parameters of a training, of all the trainer's arguments.

    Args:
        args: The trainer's arguments.

    Returns:
        Name -> value.
    """
    named = {name: getattr(args, name, None) for name in _HPARAMS}
    return {name: value for name, value in named.items() if value is not None}


def wandb_sink(args: Any, per_layer: bool) -> Sink | None:
    """A sink for the run of Weights & Biases that the Trainer reports to.

    Args:
        args: The trainer's arguments.
        per_layer: Send values of each layer too.

    Returns:
        None if there is no such run, as on all processes but the first.
    """
    run = getattr(sys.modules.get("wandb"), "run", None)
    if run is None or "wandb" not in (args.report_to or ()):
        return None
    return logger_sink([run], per_layer)


def refuse_compiled(args: Any, observe: str) -> None:
    """Refuse to observe a training forward that the Trainer compiles.

    Args:
        args: The trainer's arguments.
        observe: ``"probe"`` or ``"training"``.

    Raises:
        ValueError: If hooks in the forward would never fire.
    """
    if observe == "training" and args.torch_compile:
        raise ValueError(
            'observe="training" needs an eager forward; found '
            "TrainingArguments(torch_compile=True). Hooks that are added to a compiled "
            'forward never fire. Use the default observe="probe", which runs the model '
            "eagerly on its side."
        )
