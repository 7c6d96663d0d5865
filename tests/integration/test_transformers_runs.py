"""Trainings of Hugging Face that skip steps, stop, break, resume and begin again."""

import gc
import itertools
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from torch._dynamo.utils import counters
from transformers import (
    TrainerCallback,
)

import svdhooks
from svdhooks.sinks.memory import MemorySink
from svdhooks.transformers import SpectrumCallback
from tests.hugging import (
    Stop,
    Texts,
    assert_same_logs,
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
from tests.wandb_files import offline_history

pytestmark = pytest.mark.slow

UP = "model.layers.0.mlp.up_proj"


# --- steps ---------------------------------------------------------------------------------


class Overflow(TrainerCallback):
    """Makes the gradients of some steps infinite.

    Args:
        at: The Trainer's numbers of these steps.
    """

    def __init__(self, *at: int) -> None:
        self.at = at

    def on_pre_optimizer_step(self, args: Any, state: Any, *_: Any, **k: Any) -> None:
        if state.global_step + 1 in self.at:
            next(k["model"].parameters()).grad.fill_(float("inf"))


def _scaled(model: Any) -> tuple[Any, Any]:
    """An optimiser of Accelerate's with a real gradient scaler, on the CPU."""
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    accelerator.scaler.scale(torch.ones(1))  # before its first step it wants to be used
    optimizer, schedule = sgd(model)
    return accelerator.prepare(optimizer), schedule


def _skipping(directory: Path, sink: MemorySink, **options: Any) -> tuple[Any, Any]:
    model = llama()
    training = trainer(
        directory,
        model,
        Overflow(2, 3, 5),
        callback(sink, every_n_steps=1),
        optimizers=_scaled(model),
        max_grad_norm=0,
        **options,
    )
    training.train(options.get("resume_from_checkpoint"))
    return training, model


def test_steps_that_the_scaler_skips_are_no_updates(tmp_path):
    """Hazard 25: the Trainer's own count has them."""
    sink = MemorySink()
    training, _ = _skipping(tmp_path, sink)
    assert training.state.global_step == 8  # the companion: counting by it is wrong
    steps = [r.step for r in sink.of("weight_spectrum", UP)]
    assert steps == [0, 1, 2, 3, 4, 5]
    # no two records of the same weights
    spectra = [r.spectrum for r in sink.of("weight_spectrum", UP)]
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(spectra))
    # the curves are drawn where the Trainer's are
    drawn = [r.values["logged_step"].item() for r in sink.of("run")]
    assert drawn == [0, 1, 4, 6, 7, 8]


def test_accumulated_batches_are_one_update(tmp_path):
    log = train(
        tmp_path,
        llama(),
        gradient_accumulation_steps=3,
        callback=callback(every_n_steps=1),
        max_steps=4,
    )
    assert log.steps.tolist() == [0, 1, 2, 3, 4]


# --- resuming ------------------------------------------------------------------------------


def _part(directory: Path, resume: bool, *callbacks: TrainerCallback) -> None:
    training = trainer(
        directory,
        llama(),
        callback(every_n_steps=3, layers=["*up_proj", "lm_head"]),
        *callbacks,
        data=Texts((3, 8, 5), 96),
        collator=padded,
        max_steps=24,
        save_strategy="steps",
        save_steps=5,
    )
    training.train(resume_from_checkpoint=resume)


def test_three_restarts_read_as_one_run(tmp_path):
    resumed = tmp_path / "resumed"
    # each part runs on after its checkpoint: that is done again
    for i, stop in enumerate((7, 13, 19)):
        _part(resumed, i > 0, Stop(stop))
    _part(resumed, True)
    _part(tmp_path / "whole", False)
    log = svdhooks.RunLog(resumed)
    assert log.steps.tolist() == list(range(0, 25, 3))
    assert_same_logs(log, svdhooks.RunLog(tmp_path / "whole"))
    assert log.damage["dropped"] >= 1  # there were duplicates to be removed


def test_a_crash_resumes_as_a_stop_does(tmp_path):
    for i, stop in enumerate((7, 13)):
        with pytest.raises(KeyboardInterrupt):
            _part(tmp_path / "crashed", i > 0, Stop(stop, KeyboardInterrupt()))
    _part(tmp_path / "crashed", True)
    _part(tmp_path / "whole", False)
    crashed, whole = (svdhooks.RunLog(tmp_path / n) for n in ("crashed", "whole"))
    assert_same_logs(crashed, whole)


def test_skipped_steps_are_not_counted_after_a_resume_either(tmp_path):
    def run(directory: Path, *stops: int | None) -> list[int]:
        for i, stop in enumerate(stops):
            model = llama()
            training = trainer(
                directory,
                model,
                Overflow(2, 3, 7),
                *([] if stop is None else [Stop(stop)]),
                callback(every_n_steps=1),
                optimizers=_scaled(model),
                max_grad_norm=0,
                save_strategy="steps",
                save_steps=4,
            )
            training.train(resume_from_checkpoint=i > 0)
        return svdhooks.RunLog(directory).steps.tolist()

    whole = run(tmp_path / "whole", None)
    assert whole == [0, 1, 2, 3, 4, 5]
    assert run(tmp_path / "resumed", 5, None) == whole


def test_a_checkpoint_saved_without_the_callback_is_resumed_at_its_step(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 4}
    trainer(tmp_path, llama(), Stop(5), **options).train()
    trainer(tmp_path, llama(), callback(), **options).train(True)
    assert svdhooks.RunLog(tmp_path).steps.tolist() == [4, 6, 8]


# --- several trainings ---------------------------------------------------------------------


def test_a_second_training_does_not_write_into_the_log_of_the_first(tmp_path):
    training = trainer(tmp_path, llama(), callback())
    training.train()
    before = svdhooks.RunLog(tmp_path).spectra(UP)[1]
    with pytest.raises(FileExistsError, match=r"resume_from_checkpoint=True.*log_dir="):
        training.train()
    assert hooks_on(training.model) == 0
    np.testing.assert_array_equal(svdhooks.RunLog(tmp_path).spectra(UP)[1], before)


def test_each_trial_of_a_search_has_a_log(tmp_path):
    training = trainer(tmp_path, None, callback(), kind=_Searched)
    for rate in (1e-2, 1e-3):
        training.train(trial={"learning_rate": rate})
    logs = [svdhooks.RunLog(tmp_path / f"run-{i}") for i in range(2)]
    for log in logs:
        assert log.steps.tolist() == [0, 2, 4, 6, 8]
    (_, first), (_, second) = (log.spectra(UP) for log in logs)
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[-1], second[-1])


def _Searched(model: Any, *args: Any, **options: Any) -> Any:
    """A Trainer that sets the parameters of a trial, as a search of any kind does."""
    from tests.hugging import InOrder

    class Searched(InOrder):
        def _hp_search_setup(self, trial: Any) -> None:
            self._trial = trial
            self.args.learning_rate = trial["learning_rate"]

    return Searched(None, *args, model_init=lambda: llama(), **options)


class _Small(torch.nn.Module):
    """Has memory for four texts."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = llama()

    def forward(self, **batch: Any) -> Any:
        if len(batch["input_ids"]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return self.inner(**batch)


def test_a_trainer_that_finds_its_batch_size_begins_its_log_again(tmp_path):
    log = train(
        tmp_path,
        _Small(),
        callback=callback(every_n_steps=1),
        auto_find_batch_size=True,
        per_device_train_batch_size=6,
        remove_unused_columns=False,
        max_steps=3,
    )
    assert log.steps.tolist() == [0, 1, 2, 3]
    assert log.covariance_spectra(f"inner.{UP}")[0].tolist() == [0, 1, 2, 3]


# --- exceptions ----------------------------------------------------------------------------


@pytest.mark.parametrize("observe", ["probe", "training"])
def test_after_an_exception_the_log_is_whole_and_nothing_stays(tmp_path, observe):
    """Hazard 26: the Trainer calls no callback then."""
    own, model = callback(observe=observe), llama()
    training = trainer(tmp_path, model, own, Stop(5, RuntimeError("full")))
    with pytest.raises(RuntimeError, match="full"):
        training.train()
    assert svdhooks.RunLog(tmp_path).steps.tolist() == [0, 2, 4]
    # hooks in the training forward stay until the Trainer is gone; the probe has none
    assert (hooks_on(model) == 0) == (observe == "probe")
    recorder = own.recorder
    assert recorder is not None
    del own, training
    gc.collect()
    assert hooks_on(model) == 0
    assert "closed" in repr(recorder)


def test_an_exception_before_the_first_call_leaves_nothing_on_the_model(tmp_path):
    def broken(_rows: Any) -> Any:
        raise RuntimeError("no such file")

    own, model = callback(), llama()
    training = trainer(tmp_path, model, own, collator=broken)
    with pytest.raises(RuntimeError, match="no such file"):
        training.train()
    assert hooks_on(model) == 1  # the companion: something was there
    gone = weakref.ref(own)
    del own, training
    gc.collect()
    assert gone() is None
    assert hooks_on(model) == 0


def test_a_training_after_an_exception_begins_anew(tmp_path):
    own, model = callback(), llama()
    with pytest.raises(RuntimeError):
        trainer(tmp_path / "a", model, own, Stop(3, RuntimeError())).train()
    trainer(tmp_path / "b", model, own).train()
    assert svdhooks.RunLog(tmp_path / "a").steps.tolist() == [0, 2]
    assert svdhooks.RunLog(tmp_path / "b").steps.tolist() == [0, 2, 4, 6, 8]
    assert hooks_on(model) == 0


# --- other trainers, and what they do to a model ------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "given", "precision"),
    [
        ("eager", False, {}),
        ("eager", True, {}),
        ("aot_eager", False, {"bf16": True}),
    ],
    ids=["captured", "given", "bf16"],
)
def test_a_compiled_training_records_what_an_eager_one_does(
    tmp_path, backend, given, precision
):
    """Hazards 1 to 3: the graph is compiled once, with nothing of ours in it."""
    texts = Texts()
    batch = padded([texts[i] for i in range(4)])
    graphs: list[int] = []

    def run(name: str, *callbacks: Any, **options: Any) -> Any:
        torch._dynamo.reset()
        counters.clear()
        model = llama()
        training = trainer(
            tmp_path / name, model, *callbacks, optimizers=sgd(model), **options
        )
        training.train()
        graphs.append(counters["stats"]["unique_graphs"])
        return model

    options = {"probe": batch} if given else {}
    eager, compiled = MemorySink(), MemorySink()
    how = {"torch_compile": True, "torch_compile_backend": backend} | precision
    run("eager", callback(eager, **options), **precision)
    watched = run("compiled", callback(compiled, **options), **how)
    alone = run("alone", **how)
    assert graphs[0] == 0
    assert graphs[1] == graphs[2] > 0
    for found, expected in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(found, expected)
    if backend == "eager" and not precision:
        assert_same_records(compiled, eager, rtol=1e-5, atol=1e-5)
        return
    # compiled, the training itself rounds in another order: only its begin is the same
    assert measured(compiled).keys() == measured(eager).keys()
    begins = [
        MemorySink([r for r in s.records if not r.step]) for s in (compiled, eager)
    ]
    assert_same_records(*begins)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is dep:FutureWarning")
def test_gradient_checkpointing_by_its_older_name(tmp_path):
    sink, plain = MemorySink(), MemorySink()
    train(tmp_path / "a", llama(), callback=callback(sink), gradient_checkpointing=True)
    train(tmp_path / "b", llama(), callback=callback(plain))
    assert_same_records(sink, plain, rtol=1e-5, atol=1e-5)


# peft asks transformers by an older name
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is dep:FutureWarning")
def test_adapters_are_recorded_as_they_are_trained(tmp_path):
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(llama(), config)
    sink = MemorySink()
    train(
        tmp_path,
        model,
        callback=callback(sink),
        collator=lambda rows: padded(rows, 20),
        label_names=["labels"],
    )
    (adapter,) = {r.layer for r in sink.records if ".lora." in r.layer}
    ranks = [
        r.values["numerical_rank"].item() for r in sink.of("weight_spectrum", adapter)
    ]
    assert ranks[0] == 0  # B begins at zero
    assert set(ranks[1:]) == {2}
    layer = adapter.partition(".lora.")[0]
    assert {r.values["count"].item() for r in sink.of("covariance", layer)} == {32}


@pytest.mark.slow
def test_a_run_of_weights_and_biases_gets_the_headlines(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    run = wandb.init(
        project="svdhooks", mode="offline", dir=tmp_path, settings={"silent": True}
    )
    try:
        train(
            tmp_path / "out",
            llama(),
            report_to=["wandb"],
            logging_strategy="steps",
            logging_steps=1,
        )
    finally:
        run.finish()
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    rows = offline_history(file)
    name = "svdhooks/weight_stable_rank/median"
    ours = [int(r["svdhooks/step"]) for r in rows if name in r]
    assert ours == [0, 2, 4, 6, 8]
    assert len([r for r in rows if "train/loss" in r]) == 8


def test_a_callback_is_not_bound_to_one_trainer():
    assert SpectrumCallback().recorder is None
