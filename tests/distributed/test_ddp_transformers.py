"""The Trainer of Hugging Face in two processes: one log, of all that both saw."""

from pathlib import Path
from typing import Any

import pytest

import svdhooks
from tests.distributed.harness import Ranks

UP = "model.layers.0.mlp.up_proj"
MONITORED = f"output_effective_rank/{UP}"
LENGTHS = (3, 8, 5)


def run_trainer(
    rank: int, directory: Path, resume: bool = False, stop: int = 0
) -> tuple[str, list[float]]:
    """Train as ``torchrun`` has it; what wraps the model, and what was monitored."""
    from accelerate.state import AcceleratorState, GradientState
    from transformers import TrainerCallback

    from tests.hugging import Stop, Texts, callback, llama, padded, trainer

    class Look(TrainerCallback):
        def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
            seen.append(metrics[f"eval_{MONITORED}"])

    # they remember the group of an earlier test
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    seen: list[float] = []
    training = trainer(
        directory,
        llama(),
        callback(layers=["*up_proj", "lm_head"], monitor=MONITORED),
        Look(),
        Stop(stop),
        data=Texts(LENGTHS),
        collator=padded,
        per_device_train_batch_size=2,
        max_steps=6,
        save_strategy="steps",
        save_steps=2,
        ddp_backend="gloo",
        eval_strategy="steps",
        eval_steps=3,
    )
    training.train(resume_from_checkpoint=resume)
    return type(training.model_wrapped).__name__, seen


@pytest.mark.slow
def test_two_processes_of_a_trainer_write_one_log(ranks: Ranks, tmp_path: Path):
    (wrapper, ours), (_, theirs) = ranks.run(2, run_trainer, tmp_path)
    assert wrapper == "DistributedDataParallel"  # there was something to merge
    log = svdhooks.RunLog(tmp_path)
    assert log.steps.tolist() == [0, 2, 4, 6]
    assert log.damage["bad"] == log.damage["dropped"] == 0
    # tokens of both processes' first batches: no padding, nothing twice
    counts = log.series(UP, "input_count")[1]
    assert set(counts.tolist()) == {sum(LENGTHS[i % 3] for i in range(4))}
    # an early stop is decided alike
    recorded = log.series(UP, "output_effective_rank")[1]
    assert ours == theirs == pytest.approx(recorded[[1, 3]].tolist(), rel=1e-6)


@pytest.mark.slow
def test_two_processes_of_a_trainer_resume_one_log(ranks: Ranks, tmp_path: Path):
    from tests.hugging import assert_same_logs

    ranks.run(2, run_trainer, tmp_path / "resumed", False, 3)
    ranks.run(2, run_trainer, tmp_path / "resumed", True)
    ranks.run(2, run_trainer, tmp_path / "whole")
    resumed = svdhooks.RunLog(tmp_path / "resumed")
    assert resumed.steps.tolist() == [0, 2, 4, 6]
    assert_same_logs(resumed, svdhooks.RunLog(tmp_path / "whole"))
