"""Small models and trainings of Hugging Face, without any download."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import svdhooks
from svdhooks.record import Record
from svdhooks.sinks.memory import MemorySink
from svdhooks.transformers import SpectrumCallback

VOCABULARY = 32
Batch = dict[str, Tensor]


def llama(seed: int = 0, **options: Any) -> LlamaForCausalLM:
    """A small decoder with random weights."""
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
    }
    return LlamaForCausalLM(LlamaConfig(**(sizes | options)))


class Texts(Dataset[Batch]):
    """Token sequences, each with a mask and itself as its labels.

    Args:
        lengths: Of the sequences, which follow one another.
        count: How many there are.
    """

    def __init__(self, lengths: Sequence[int] = (8,), count: int = 48) -> None:
        self.lengths = lengths
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        generator = torch.Generator().manual_seed(index)
        length = self.lengths[index % len(self.lengths)]
        tokens = torch.randint(1, VOCABULARY, (length,), generator=generator)
        return {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "labels": tokens,
        }


def padded(rows: list[Batch], length: int | None = None) -> Batch:
    """A batch of sequences of several lengths, padded as a tokeniser's collator does."""
    length = length or max(len(row["input_ids"]) for row in rows)
    fills = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        key: torch.stack([
            torch.nn.functional.pad(row[key], (0, length - len(row[key])), value=fill)
            for row in rows
        ])
        for key, fill in fills.items()
    }


class InOrder(Trainer):
    """A Trainer that does not shuffle."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(train_dataset or self.train_dataset)


class Stop(TrainerCallback):
    """Ends a training after some updates, as a full queue or a user would.

    Args:
        at: The step.
        error: Raised there; None: the Trainer is asked to stop.
    """

    def __init__(self, at: int, error: BaseException | None = None) -> None:
        self.at = at
        self.error = error

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.at:
            if self.error is not None:
                raise self.error
            control.should_training_stop = True


def arguments(directory: Path, **options: Any) -> TrainingArguments:
    """Eight updates on the CPU, silently."""
    defaults = {
        "per_device_train_batch_size": 4,
        "max_steps": 8,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "learning_rate": 1e-2,
        "logging_strategy": "no",
    }
    return TrainingArguments(str(directory), **(defaults | options))


def callback(*sinks: Any, **options: Any) -> SpectrumCallback:
    """A record every second update, whose problems are errors."""
    defaults = {"max_overhead": None, "on_error": "raise"}
    if "schedule" not in options:
        options.setdefault("every_n_steps", 2)
    return SpectrumCallback(sinks=sinks, **(defaults | options))


def trainer(
    directory: Path,
    model: Any,
    *callbacks: TrainerCallback,
    kind: type[Trainer] = InOrder,
    data: Any = None,
    collator: Any = None,
    optimizers: Any = (None, None),
    **options: Any,
) -> Trainer:
    """A Trainer that is ready to train."""
    return kind(
        model,
        arguments(directory, **options),
        data_collator=collator,
        train_dataset=Texts() if data is None else data,
        eval_dataset=Texts(count=8),
        callbacks=list(callbacks),
        optimizers=optimizers,
    )


def train(directory: Path, model: Any, **options: Any) -> svdhooks.RunLog:
    """Train with a callback and read the log."""
    own = options.pop("callback", None) or callback()
    trainer(directory, model, own, **options).train()
    return svdhooks.RunLog(directory)


def sgd(model: Any, rate: float = 0.1) -> tuple[Any, Any]:
    """Plain gradient descent at a constant rate."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


def measured(sink: MemorySink) -> dict[tuple[int, str, str, str], Record]:
    """The records of layers by what they are of."""
    return {
        (r.step, r.layer, r.quantity, r.point): r
        for r in sink.records
        if r.quantity not in {"run", "meta"}
    }


def assert_same_records(
    found: MemorySink, expected: MemorySink, rtol: float = 0.0, atol: float = 0.0
) -> None:
    """Both recorded the same of the same, value for value."""
    ours, theirs = measured(found), measured(expected)
    assert ours.keys() == theirs.keys()
    assert ours
    for key, record in ours.items():
        assert record.status == theirs[key].status, key
        assert record.values.keys() == theirs[key].values.keys()
        for name, value in record.values.items():
            np.testing.assert_allclose(
                value,
                theirs[key].values[name],
                rtol=rtol,
                atol=atol,
                err_msg=f"{key} {name}",
            )


def assert_same_logs(found: svdhooks.RunLog, expected: svdhooks.RunLog) -> None:
    """Both logs read the same, in every metric and spectrum of every layer."""
    assert found.steps.tolist() == expected.steps.tolist()
    assert found.layers == expected.layers
    for layer in expected.layers:
        for metric in expected.metrics:
            if metric.startswith("seconds"):
                continue
            ours, theirs = found.series(layer, metric), expected.series(layer, metric)
            np.testing.assert_array_equal(ours[0], theirs[0])
            np.testing.assert_array_equal(
                ours[1], theirs[1], err_msg=f"{layer} {metric}"
            )
        for point in ("input", "output") if "embed" not in layer else ():
            ours = found.covariance_spectra(layer, point)
            theirs = expected.covariance_spectra(layer, point)
            np.testing.assert_array_equal(ours[0], theirs[0])
            np.testing.assert_array_equal(ours[1], theirs[1])
