"""What a Lightning trainer says of itself; nothing of Lightning is imported here."""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def find_directory(trainer: Any, chosen: str | None) -> str | None:
    """Where a trainer's records go.

    Args:
        trainer: The trainer; asked on every process, because it communicates.
        chosen: By the user, or None.

    Returns:
        The user's choice, the directory of the first TensorBoard logger, or that of
        the trainer; None: nowhere, in a trial run.
    """
    own = trainer.log_dir
    if trainer.fast_dev_run:
        return None
    if chosen is not None:
        return chosen
    for logger in trainer.loggers:
        if type(logger).__name__ == "TensorBoardLogger":
            return str(logger.log_dir)
    return str(own or trainer.default_root_dir)


@contextmanager
def in_terms_of(before: str, remedies: str, directory: object) -> Iterator[None]:
    """Say what somebody with a trainer can do where a directory is used already.

    Args:
        before: What left records there, in the trainer's words.
        remedies: How to continue that, and how to begin another.
        directory: Where records would go.

    Yields:
        Nothing.

    Raises:
        FileExistsError: In place of one that speaks of ``start_step``.
    """
    try:
        yield
    except FileExistsError as error:
        raise FileExistsError(
            f"{directory} already holds svdhooks records of an earlier {before}. "
            f"{remedies}; or delete its sub-directory 'svdhooks'."
        ) from error


in_terms_of_trainers = functools.partial(
    in_terms_of,
    "fit",
    "To continue that one: trainer.fit(..., ckpt_path=...). For a new one: a logger that "
    "numbers its versions, such as the default one, or SpectrumMonitor(log_dir=...)",
)


def check_alone(directory: str | None, others: list[str | None]) -> None:
    """Refuse to let two callbacks write one log.

    Args:
        directory: Of one callback.
        others: Those of the trainer's other callbacks of this kind.

    Raises:
        ValueError: If one of them is the same.
    """
    if directory is not None and directory in others:
        raise ValueError(
            f"Two SpectrumMonitors of this trainer would write to {directory}. Give "
            "one of them its own log_dir=."
        )


def check_index(optimizer: object) -> None:
    """Refuse what cannot say which optimiser is meant.

    Args:
        optimizer: As given by the user.

    Raises:
        TypeError: If it is no whole number.
    """
    if isinstance(optimizer, bool) or not isinstance(optimizer, int):
        raise TypeError(
            f"SpectrumMonitor(optimizer={optimizer!r}): expected the index of one "
            "of the module's optimisers, such as 0."
        )


def followed(trainer: Any, index: int) -> Optimizer:
    """The optimiser whose updates are counted.

    Args:
        trainer: The trainer.
        index: Among the optimisers of its module.

    Returns:
        The optimiser.

    Raises:
        ValueError: If there are not so many.
    """
    optimizers: list[Optimizer] = trainer.optimizers
    if not 0 <= index < len(optimizers):
        raise ValueError(
            f"SpectrumMonitor(optimizer={index}): the module has "
            f"{len(optimizers)} optimiser(s); expected an index below that."
        )
    return optimizers[index]


def calls_counted(optimizer: Optimizer, index: int) -> str:
    """What a callback counts as an update, and what to do if that is wrong.

    Args:
        optimizer: Whose updates.
        index: Among the optimisers of its module.

    Returns:
        For the note on a fit without any update.
    """
    return (
        f"calls of {type(optimizer).__name__}.step(), the module's optimiser {index}, "
        "and there was none: choose another by SpectrumMonitor(optimizer=...); where a "
        "wrapper such as SAM calls an inner one, return that from "
        "configure_optimizers(), too"
    )


def counted_before(
    checkpoint: Mapping[str, Any], callback: str, optimizer: int
) -> int | None:
    """What callbacks of a class have counted, whatever their options were.

    Args:
        checkpoint: A trainer's.
        callback: The name of the class.
        optimizer: Whose updates.

    Returns:
        The number of updates; None if nobody has counted them.
    """
    for key, state in checkpoint.get("callbacks", {}).items():
        ours = str(key).startswith(f"{callback}{{")
        if ours and state.get("optimizer", 0) == optimizer:
            return int(state["step"])
    return None


def defines_forward(module: Any) -> bool:
    """Whether a LightningModule can be called; the base class only pretends."""
    return not type(module).forward.__module__.startswith((
        "lightning.pytorch.",
        "pytorch_lightning.",
        "torch.nn.modules.",
    ))


def position(trainer: Any, batch_idx: int, outputs: Any = None) -> dict[str, Any]:
    """Where a trainer stands, for the record.

    Args:
        trainer: The trainer.
        batch_idx: Number of the batch in its epoch.
        outputs: What the training step gave.

    Returns:
        ``logged_step`` (the loggers' x coordinate), ``global_step``, ``epoch``,
        ``batch_idx``, and ``loss`` if the training step told one.
    """
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if isinstance(loss, Tensor) and loss.numel() != 1:
        loss = None  # of a step by hand, which may give anything
    told = {}
    if isinstance(loss, (Tensor, float)):
        # Lightning divided it by the number of batches that make an update
        batches = trainer.accumulate_grad_batches
        told["loss"] = loss if batches == 1 else loss * batches
    loop = getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None)
    # private, and what Lightning's own loggers use as x coordinate
    logged = getattr(loop, "_batches_that_stepped", trainer.global_step)
    return {
        "logged_step": logged,
        "global_step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "batch_idx": batch_idx,
        **told,
    }


def hparams_of(trainer: Any, pl_module: Any) -> dict[str, Any]:
    """The hyper-parameters that a module and its data module saved.

    Args:
        trainer: The trainer.
        pl_module: The module.

    Returns:
        Name -> value, as Lightning's loggers get them.
    """
    found: dict[str, Any] = {}
    for owner in (getattr(trainer, "datamodule", None), pl_module):
        if owner is not None and getattr(owner, "_log_hyperparams", False):
            found |= dict(owner.hparams)
    return found


def dtype_in_forwards(trainer: Any) -> torch.dtype:
    """The dtype of what a module makes without saying which, in a trainer's forwards.

    Args:
        trainer: The trainer.

    Returns:
        That of the parameters with ``precision="bf16-true"`` and the like.
    """
    with trainer.precision_plugin.forward_context():
        return torch.get_default_dtype()


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new tensors in a dtype where none is given.

    Args:
        dtype: A floating one.

    Yields:
        Nothing.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
