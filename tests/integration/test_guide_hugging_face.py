"""The code in the guide's section on Hugging Face, as it is written there."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import svdhooks
from tests.hugging import Texts, arguments, llama, padded

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"


def _blocks() -> list[str]:
    section = GUIDE.read_text().split("## Hugging Face\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_there_are_two_pieces_of_code():
    trainer, accelerate = _blocks()
    assert "trainer.train()" in trainer
    assert "accelerator.prepare" in accelerate


def _run(code: str, **given: Any) -> dict[str, Any]:
    names = {"svdhooks": svdhooks, "model": llama(), **given}
    exec(compile(code, str(GUIDE), "exec"), names)  # our own page
    return names


def test_the_trainer_of_the_guide(tmp_path):
    names = _run(_blocks()[0], args=arguments(tmp_path), texts=Texts())
    assert names["log"].steps.tolist() == [0]


def test_the_accelerated_loop_of_the_guide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    model = llama()
    names = _run(
        _blocks()[1],
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        loader=DataLoader(Texts(), batch_size=4, collate_fn=padded),
    )
    assert names["updates"] == 3
    assert svdhooks.RunLog("runs/exp1").steps.tolist() == [0]


def test_code_that_is_wrong_does_not_pass():
    with pytest.raises(TypeError):
        _run(_blocks()[0].replace("every_n_steps", "every"), args=None, texts=None)
