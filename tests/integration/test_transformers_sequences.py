"""The callback where there are two sequences, and copies of it."""

import pickle
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    TrainerCallback,
)

from svdhooks.huggingface import PaddingMask
from svdhooks.reports import RecordingWarning
from svdhooks.sinks.memory import MemorySink
from tests.hugging import (
    VOCABULARY,
    InOrder,
    Texts,
    callback,
    llama,
    measured,
    padded,
    trainer,
)


def _t5(kind: Any = T5ForConditionalGeneration) -> Any:
    torch.manual_seed(0)
    return kind(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=16,
            d_kv=8,
            d_ff=24,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
        )
    )


def _counts_of_pairs(tmp_path: Path, length: int) -> dict[str, float]:
    """How many tokens of 4 texts of 8, in 12 places, with labels of a length, count."""

    def pairs(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return padded(rows, 12) | {"labels": padded(rows, length)["labels"]}

    sink = MemorySink()
    arguments = Seq2SeqTrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=4,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    Seq2SeqTrainer(
        _t5(),
        arguments,
        data_collator=pairs,
        train_dataset=Texts(),
        callbacks=[callback(sink)],
    ).train()
    # both ends look up in tables of their own, which are tied to this one
    failed = {r.layer: r.status for r in sink.records if not r.ok}
    assert failed == {"shared": "not called in the probe"}
    return {r.layer: r.values["count"].item() for r in sink.of("covariance")}


def test_an_encoder_decoder_is_called_with_its_labels(tmp_path):
    of = _counts_of_pairs(tmp_path, 9)
    # of the decoder's 9 places all count
    assert of["encoder.block.0.layer.1.DenseReluDense.wi"] == 4 * 8
    assert of["decoder.block.0.layer.2.DenseReluDense.wi"] == 4 * 9
    assert of["decoder.block.0.layer.1.EncDecAttention.k"] == 4 * 8


def test_the_mask_of_an_encoder_is_not_taken_for_that_of_its_decoder(tmp_path):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        of = _counts_of_pairs(tmp_path, 12)
    assert any("equally long (12)" in str(each.message) for each in said)
    assert of["decoder.block.0.layer.2.DenseReluDense.wi"] == 4 * 12
    assert of["encoder.block.0.layer.1.DenseReluDense.wi"] == 4 * 12


def test_only_two_sequences_of_one_length_are_confused():
    batch = padded([Texts()[0]], 12)
    alone = {k: v for k, v in batch.items() if k != "labels"}
    longer = batch | {"decoder_input_ids": torch.ones(1, 13, dtype=torch.long)}
    embedded = batch | {"decoder_inputs_embeds": torch.ones(1, 5, 16)}
    for given, counted in (
        (batch, False),
        (alone, False),
        (longer, True),
        (embedded, True),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RecordingWarning)
            assert (PaddingMask(_t5())(given) is not None) == counted
    for model in (None, llama(), _t5(T5EncoderModel)):
        assert PaddingMask(model)(batch) is batch["attention_mask"]


class _Silent(InOrder):
    """A Trainer whose loop does not announce its updates."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.callback_handler.on_optimizer_step = lambda _a, _s, control: control


def test_a_trainer_that_announces_no_update_is_told_of(tmp_path):
    sink = MemorySink()
    with pytest.warns(RecordingWarning, match="no update was noticed.*announced none"):
        trainer(tmp_path, llama(), callback(sink), kind=_Silent).train()
    assert {step for step, *_ in measured(sink)} == {0}


@pytest.mark.slow
def test_a_copy_made_in_a_training_records_nothing(tmp_path):
    own, copies = callback(MemorySink()), []

    class Copies(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            copies.extend([deepcopy(own), pickle.loads(pickle.dumps(own))])

    trainer(tmp_path, llama(), own, Copies()).train()
    assert len(copies) == 16
    assert all(copy.recorder is None for copy in copies)
    sink = MemorySink()
    copies[-1]._sinks = (sink,)
    trainer(tmp_path / "other", llama(), copies[-1]).train()
    assert {step for step, *_ in measured(sink)} == {0, 2, 4, 6, 8}
