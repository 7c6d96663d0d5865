"""The callback in real Trainers of Hugging Face; models with random weights."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
)

import svdhooks
from svdhooks.huggingface import PaddingMask
from svdhooks.probe import ProbeOptions
from svdhooks.reports import RecordingWarning
from svdhooks.sinks.memory import MemorySink
from svdhooks.transformers import SpectrumCallback
from tests.hugging import (
    VOCABULARY,
    InOrder,
    Texts,
    assert_same_records,
    callback,
    llama,
    measured,
    padded,
    sgd,
    train,
    trainer,
)
from tests.plain import hooks_on

UP = "model.layers.0.mlp.up_proj"


def _batch(texts: Texts, start: int = 0, size: int = 4) -> dict[str, Tensor]:
    return padded([texts[i] for i in range(start, start + size)])


# --- the door ------------------------------------------------------------------------------


def test_one_line_records_weights_and_covariances(tmp_path):
    own = SpectrumCallback(2)
    training = trainer(tmp_path, llama(), own)
    assert own.recorder is None
    training.train()
    log = svdhooks.RunLog(tmp_path)
    assert (tmp_path / "svdhooks").is_dir()
    assert log.steps.tolist() == [0, 2, 4, 6, 8]
    assert UP in log.layers
    # the batch is known at step 0 already
    assert log.covariance_spectra(UP, "input")[0].tolist() == [0, 2, 4, 6, 8]
    assert own.recorder is None
    assert hooks_on(training.model) == 0


def _loaded_by(code: str) -> set[str]:
    code += "; import sys; print(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


@pytest.mark.slow
def test_the_package_loads_transformers_only_through_its_door():
    heavy = {"torch", "transformers"}
    assert not _loaded_by("import svdhooks") & heavy
    assert _loaded_by("import svdhooks.transformers") >= heavy  # the companion


def test_without_transformers_it_is_said_what_to_install():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "try:\n    import svdhooks.transformers\n"
        "except ImportError as error:\n    print(error)"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "pip install 'transformers[torch]'" in said


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"every_n_steps": 0}, "0"),
        ({"observe": "both"}, "observe"),
        ({"probe_options": "attention_mask"}, "ProbeOptions"),
        ({"sinks": [3]}, "sink"),
        ({"alarms": ["collaps"]}, "collapse"),
        ({"forward": 3}, "callable"),
    ],
)
def test_a_wrong_argument_is_told_before_there_is_a_trainer(wrong, match):
    with pytest.raises((ValueError, TypeError), match=match):
        SpectrumCallback(**wrong)


@pytest.mark.slow
def test_an_unknown_measure_to_monitor_is_told_before_the_first_step(tmp_path):
    training = trainer(tmp_path, llama(), callback(monitor="output_rank/model.norm"))
    with pytest.raises(ValueError, match="unknown measure"):
        training.train()
    assert hooks_on(training.model) == 0
    # nothing was recorded, so the corrected training may use the same directory
    assert train(tmp_path, llama()).steps.tolist() == [0, 2, 4, 6, 8]


def test_the_log_is_where_the_trainers_own_curves_are(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "curves"))
    trainer(tmp_path / "output", llama(), callback(), report_to=["tensorboard"]).train()
    assert list((tmp_path / "curves").glob("events.out.tfevents.*"))
    log = svdhooks.RunLog(tmp_path / "curves")
    assert log.steps.tolist() == [0, 2, 4, 6, 8]
    assert not (tmp_path / "output" / "svdhooks").exists()


def test_a_directory_of_ones_own(tmp_path):
    own = callback(log_dir=tmp_path / "own")
    trainer(tmp_path / "output", llama(), own).train()
    assert svdhooks.RunLog(tmp_path / "own").steps.tolist() == [0, 2, 4, 6, 8]


# --- the same numbers ----------------------------------------------------------------------


def _by_hand(model: nn.Module, texts: Texts, batches: int, sink: MemorySink) -> None:
    """The loop that the Trainer runs, written out."""
    optimizer, _ = sgd(model)
    model.train()
    with svdhooks.watch(
        model,
        None,
        every=2,
        sinks=[sink],
        max_overhead=None,
        on_error="raise",
        probe=_batch(texts),
        probe_options=ProbeOptions(mask="attention_mask"),
    ) as recorder:
        for i in range(batches):
            batch = _batch(texts, 4 * i)
            tokens = (batch["labels"][:, 1:] != -100).sum()
            model(**batch, num_items_in_batch=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.step()


@pytest.mark.parametrize("lengths", [(8,), (3, 8, 5)], ids=["equal", "padded"])
@pytest.mark.slow
def test_a_trainer_and_a_loop_by_hand_record_the_same(tmp_path, lengths):
    texts, ours, theirs = Texts(lengths), MemorySink(), MemorySink()
    model = llama()
    train(
        tmp_path,
        model,
        callback=callback(ours),
        data=texts,
        collator=padded,
        optimizers=sgd(model),
        max_grad_norm=0,
    )
    twin = llama()
    _by_hand(twin, texts, 8, theirs)
    for found, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert_same_records(ours, theirs)


@pytest.mark.slow
def test_the_captured_batch_is_the_first_one_of_the_training(tmp_path):
    texts, captured, given = Texts((3, 8, 5)), MemorySink(), MemorySink()
    for name, sink, options in (
        ("captured", captured, {}),
        ("given", given, {"probe": _batch(texts)}),
    ):
        own = callback(sink, **options)
        train(tmp_path / name, llama(), callback=own, data=texts, collator=padded)
    assert_same_records(captured, given)
    stored = torch.load(tmp_path / "captured" / "svdhooks" / "probe.pt")
    assert sorted(stored["kwargs"]) == ["attention_mask", "input_ids", "labels"]
    for key, value in _batch(texts).items():
        assert torch.equal(stored["kwargs"][key], value)


def test_training_is_bit_identical_with_and_without_the_callback(tmp_path):
    def fit(*callbacks: TrainerCallback) -> list[Tensor]:
        model = llama(attention_dropout=0.3)
        seen: list[Tensor] = []

        class Streams(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                seen.append(torch.get_rng_state())

        training = trainer(
            tmp_path, model, *callbacks, Streams(), kind=Trainer, max_steps=10
        )
        loss = training.train().training_loss
        return [*seen, *model.state_dict().values(), torch.tensor(loss)]

    for found, expected in zip(fit(callback()), fit(), strict=True):
        assert torch.equal(found, expected)


def test_the_curves_have_the_trainers_x(tmp_path):
    log = train(tmp_path, llama(), gradient_accumulation_steps=3, max_steps=4)
    assert log.steps.tolist() == [0, 2, 4]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "svdhooks")).Reload()
    ours = events.Scalars("svd_weight_stable_rank/" + UP)
    assert [e.step for e in ours] == [0, 2, 4]


# --- padding -------------------------------------------------------------------------------


def _to_20(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return padded(rows, 20)


def _padded_run(directory: Path, collator: Any, **options: Any) -> MemorySink:
    sink, model = MemorySink(), llama()
    train(
        directory,
        model,
        callback=callback(sink, **options),
        data=Texts((8,)),
        collator=collator,
        optimizers=sgd(model),
    )
    return sink


@pytest.mark.parametrize("observe", ["probe", "training"])
@pytest.mark.slow
def test_padding_is_masked(tmp_path, observe):
    """60 % of padding changes no record, beyond rounding."""
    plain = _padded_run(tmp_path / "plain", padded, observe=observe)
    masked = _padded_run(tmp_path / "masked", _to_20, observe=observe)
    # squares of singular values lose half of the digits of float32
    assert_same_records(masked, plain, rtol=1e-5, atol=1e-5)
    counts = {r.values["count"].item() for r in masked.of("covariance", UP)}
    assert counts == ({32} if observe == "probe" else {64})


@pytest.mark.parametrize("observe", ["probe", "training"])
@pytest.mark.slow
def test_padding_that_is_not_masked_distorts_the_ranks(tmp_path, observe):
    """The companion: a mask of the user's that lets everything count."""
    counted = ProbeOptions(mask=lambda batch: None)
    plain = _padded_run(tmp_path / "plain", padded, observe=observe)
    whole = _padded_run(
        tmp_path / "whole", _to_20, observe=observe, probe_options=counted
    )
    ours, theirs = plain.of("covariance", UP)[-1], whole.of("covariance", UP)[-1]
    assert theirs.values["count"].item() == 2.5 * ours.values["count"].item()
    with pytest.raises(AssertionError):
        assert_same_records(whole, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_options_without_a_mask_keep_the_padding_out_too(tmp_path):
    last = _padded_run(
        tmp_path / "last", _to_20, probe_options=ProbeOptions(samples="last")
    )
    plain = _padded_run(
        tmp_path / "plain", padded, probe_options=ProbeOptions(samples="last")
    )
    assert {r.values["count"].item() for r in last.of("covariance", UP)} == {4}
    assert_same_records(last, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ({"attention_mask": torch.ones(2, 3)}, True),
        ({"attention_mask": torch.ones(2, 1, 3, 3)}, False),
        ({"attention_mask": None}, False),
        ({"pixel_values": torch.ones(2, 3)}, False),
        (torch.ones(2, 3), False),
    ],
)
def test_only_a_mask_of_batch_and_length_is_one_of_padding(batch, found):
    assert (PaddingMask()(batch) is not None) == found


@pytest.mark.parametrize("observe", ["probe", "training"])
def test_batches_without_a_mask_count_whole(tmp_path, observe):
    def without(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        batch = padded(rows)
        del batch["attention_mask"]
        return batch

    sink = _padded_run(tmp_path, without, observe=observe)
    window = 1 if observe == "probe" else 2
    assert {r.values["count"].item() for r in sink.of("covariance", UP)} == {
        32 * window
    }
    assert all(r.ok for r in sink.records)


# --- other models and ways to train --------------------------------------------------------


class Images(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        pixels = torch.randn(3, 8, 8, generator=generator)
        return {"pixel_values": pixels, "labels": torch.tensor(index % 2)}


@pytest.mark.slow
def test_images_have_no_mask_and_need_none(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    model = ViTForImageClassification(
        ViTConfig(num_attention_heads=2, image_size=8, patch_size=4, **sizes)
    )
    sink = MemorySink()
    log = train(tmp_path, model, callback=callback(sink), data=Images())
    assert log.steps.tolist() == [0, 2, 4, 6, 8]
    first = sink.of("covariance", "classifier")[0]
    assert first.values["count"].item() == 4
    assert all(r.ok for r in sink.records)


@pytest.mark.slow
def test_an_encoder_that_classifies(tmp_path):
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
        )
    )

    def classes(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return padded(rows, 12) | {"labels": torch.tensor([0, 1, 0, 1][: len(rows)])}

    sink = MemorySink()
    train(tmp_path, model, callback=callback(sink), collator=classes)
    # of 4 texts of 8 tokens, padded to 12; the classifier sees one vector each
    of = {r.layer: r.values["count"].item() for r in sink.of("covariance")}
    assert of["bert.encoder.layer.1.output.dense"] == 32
    assert of["classifier"] == 4


def test_a_plain_module_called_with_positional_arguments(tmp_path):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(VOCABULARY, 8)
            self.head = nn.Linear(8, VOCABULARY)

        def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
            return self.head(self.embed(tokens)) * attention_mask.unsqueeze(-1)

    class Own(InOrder):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any
        ) -> Any:
            out = model(inputs["input_ids"], inputs["attention_mask"])
            loss = nn.functional.cross_entropy(out.mT, inputs["labels"])
            return (loss, out) if return_outputs else loss

    torch.manual_seed(0)
    sink, texts = MemorySink(), Texts((3, 8, 5))
    train(
        tmp_path,
        Net(),
        kind=Own,
        callback=callback(sink),
        data=texts,
        collator=padded,
        remove_unused_columns=False,
    )
    first = sink.of("covariance", "head")[0]
    assert first.step == 0
    assert first.values["count"].item() == 3 + 8 + 5 + 3


def test_a_forward_of_ones_own_gets_the_arguments_by_name(tmp_path):
    sink = MemorySink()
    seen: set[str] = set()

    def backbone(model: Any, batch: Any) -> None:
        seen.update(batch)
        model.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        )

    own = callback(sink, forward=backbone, layers="model.layers.*")
    train(tmp_path, llama(), callback=own)
    assert seen == {"input_ids", "attention_mask", "labels"}
    assert len(sink.of("covariance", UP)) == 2 * 5


def test_mixed_precision_is_left_to_the_training(tmp_path):
    """Hazard 6: Accelerate puts autocast into the forward, out of which the probe gets.

    The weights before the first update are the same; so must be what is recorded.
    """
    plain, mixed = MemorySink(), MemorySink()
    train(
        tmp_path / "plain", llama(), callback=callback(plain, schedule=svdhooks.at(0))
    )
    model = llama()
    train(
        tmp_path / "mixed",
        model,
        bf16=True,
        callback=callback(mixed, schedule=svdhooks.at(0)),
    )
    assert_same_records(mixed, plain)
    # the companion: autocast is still there for everybody else
    naive: list[torch.dtype] = []
    model.model.layers[0].mlp.up_proj.register_forward_hook(
        lambda _m, _i, out: naive.append(out.dtype)
    )
    model(**_batch(Texts()))
    assert naive == [torch.bfloat16]


@pytest.mark.slow
def test_two_trainings_with_mixed_precision_wrap_the_forward_twice(tmp_path):
    model, sinks = llama(), [MemorySink(), MemorySink()]
    for name, sink in zip("ab", sinks, strict=True):
        own = callback(sink, schedule=svdhooks.at(0))
        train(tmp_path / name, model, bf16=True, callback=own, learning_rate=0.0)
    assert_same_records(*sinks)


def test_checkpointed_activations_are_counted_once(tmp_path):
    """Hazard 4: the backward pass runs the forward again."""
    sink = MemorySink()
    train(tmp_path, llama(), callback=callback(sink), activation_checkpointing=True)
    assert {r.values["count"].item() for r in sink.of("covariance", UP)} == {32}


def test_what_a_compiled_training_sees_is_refused(tmp_path):
    training = trainer(
        tmp_path,
        llama(),
        callback(observe="training"),
        torch_compile=True,
        torch_compile_backend="eager",
    )
    with pytest.raises(ValueError, match="torch_compile=True"):
        training.train()


# --- evaluation ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_monitored_measure_chooses_the_best_model_and_stops_early(tmp_path):
    seen: list[float] = []
    name = f"weight_stable_rank/{UP}"

    class Falling(TrainerCallback):
        """Shrinks all but one direction of a weight, so that its rank falls."""

        def on_step_end(self, args: Any, state: Any, control: Any, **k: Any) -> None:
            weight = k["model"].get_parameter(f"{UP}.weight")
            with torch.no_grad():
                weight[1:] *= 0.5

        def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
            seen.append(metrics[f"eval_{name}"])

    training = trainer(
        tmp_path,
        llama(),
        callback(every_n_steps=1, monitor=name),
        Falling(),
        EarlyStoppingCallback(2),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        metric_for_best_model=name,
        greater_is_better=True,
        load_best_model_at_end=True,
    )
    training.train()
    recorded = svdhooks.RunLog(tmp_path).series(UP, "weight_stable_rank")[1]
    np.testing.assert_allclose(seen, recorded[1:], rtol=1e-6)
    assert training.state.best_metric == max(seen)
    assert training.state.global_step == len(seen) == 3  # two without a better one


def test_what_is_not_known_yet_stops_nothing(tmp_path):
    name = "output_effective_rank/median"
    seen: list[float] = []

    class Look(TrainerCallback):
        def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
            seen.append(metrics[f"eval_{name}"])

    training = trainer(
        tmp_path,
        llama(),
        callback(every_n_steps=4, observe="training", monitor=name),
        Look(),
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        metric_for_best_model=name,
        greater_is_better=True,
    )
    training.train()
    assert [math.isnan(x) for x in seen] == [True, False, False, False]
    assert training.state.best_metric == max(seen[1:])


@pytest.mark.slow
def test_an_evaluation_in_between_is_not_recorded(tmp_path):
    plain, evaluated = MemorySink(), MemorySink()
    train(tmp_path / "plain", llama(), callback=callback(plain))
    train(
        tmp_path / "evaluated",
        llama(),
        callback=callback(evaluated),
        eval_strategy="steps",
        eval_steps=1,
        eval_on_start=True,
    )
    assert_same_records(evaluated, plain)


@pytest.mark.slow
def test_two_callbacks_of_one_trainer_need_a_directory_each(tmp_path):
    first, second = MemorySink(), MemorySink()
    training = trainer(
        tmp_path, llama(), callback(first), callback(second, log_dir=tmp_path / "b")
    )
    training.train()
    assert_same_records(first, second)


def test_a_problem_is_a_warning_and_the_training_goes_on(tmp_path):
    def fails(_model: Any, _batch: Any) -> None:
        raise ArithmeticError("no")

    own = callback(forward=fails, on_error="warn")
    training = trainer(tmp_path, llama(), own)
    with pytest.warns(RecordingWarning, match="no"):
        training.train()
    assert training.state.global_step == 8
    log = svdhooks.RunLog(tmp_path)
    assert log.spectra(UP)[0].tolist() == [0, 2, 4, 6, 8]


def test_records_say_how_padding_was_masked(tmp_path):
    sink = MemorySink()
    train(tmp_path, llama(), callback=callback(sink))
    (meta,) = {r.values["json"].item() for r in sink.of("meta")}
    assert '"mask": "attention_mask, where there is one"' in meta
    assert measured(sink)
