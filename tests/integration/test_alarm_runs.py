"""Alarms of whole trainings agree with a truth that knows nothing of ranks.

The trainings are those of ``benchmarks/alarms.py``; two tiny ones run in each test run.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

import svdhooks
from svdhooks.reports import RecordingWarning

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STEPS = 360
SPOILED = 180
"""From this step on the weights of the run that collapses are taken away."""


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The collection's own way to train, log and judge."""
    pytest.importorskip("tensorboard")
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from alarm_runs import judging, kit, tables

    return SimpleNamespace(kit=kit, judging=judging, tables=tables)


def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Four classes around four points of sixteen dimensions."""
    generator = torch.Generator().manual_seed(3)
    centres = 2 * torch.randn(4, 16, generator=generator)
    labels = torch.arange(512) % 4
    return centres[labels] + torch.randn(512, 16, generator=generator), labels


def course(kit: SimpleNamespace, shrink: float) -> object:
    """A classifier; from a step on all weights are multiplied by ``shrink``."""
    x, y = blobs()
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def losses() -> Iterator[float]:
        for step in range(STEPS):
            chosen = torch.randint(0, len(x), (64,))
            loss = functional.cross_entropy(model(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step >= SPOILED:
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.mul_(shrink)
            yield loss.item()

    @torch.no_grad()
    def accuracy() -> float:
        return float((model(x).argmax(1) == y).double().mean())

    options = {"probe": x, "alarms": "supervised"}
    return kit.kit.Course(model, losses(), accuracy, 12, options)


def run_of(kit: SimpleNamespace, shrink: float) -> object:
    return kit.kit.Run(
        "tiny",
        "four blobs",
        "supervised",
        shrink == 1.0,
        "accuracy",
        0.8,
        lambda: course(kit, shrink),
    )


def test_a_healthy_training_raises_no_alarm(
    kit: SimpleNamespace, tmp_path: Path
) -> None:
    run = run_of(kit, 1.0)
    kit.kit.train(run, tmp_path)
    found = kit.judging.evaluate(run, tmp_path)
    assert found.verdict.healthy
    assert found.verdict.last > 0.95
    for choice in kit.tables.OTHERS:
        assert found.alarms(choice) == []
    assert found.alarms(kit.judging.OWN) == []


def test_weights_that_are_taken_away_raise_one_and_not_before(
    kit: SimpleNamespace, tmp_path: Path
) -> None:
    run = run_of(kit, 0.8)
    with pytest.warns(RecordingWarning):
        kit.kit.train(run, tmp_path)
    found = kit.judging.evaluate(run, tmp_path)
    assert not found.verdict.healthy
    assert SPOILED <= found.verdict.since <= SPOILED + 60
    for choice in ("own", *kit.judging.PRESETS):
        assert found.alarms(choice)
        assert found.alarms(choice)[0].step > SPOILED
    log = svdhooks.RunLog(run.folder(tmp_path))
    assert log.alarms() == log.alarms("supervised") != []


def test_a_folder_appears_only_when_it_is_complete(
    kit: SimpleNamespace, tmp_path: Path
) -> None:
    run = run_of(kit, 1.0)

    def broken() -> object:
        made = course(kit, 1.0)
        made.losses = iter(())
        made.truth = lambda: 1 / 0
        return made

    object.__setattr__(run, "make", broken)
    with pytest.raises(ZeroDivisionError):
        kit.kit.train(run, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_run_is_named_once_and_half_are_held_out(kit: SimpleNamespace) -> None:
    from alarm_runs.collection import RUNS

    names = [run.name for run in RUNS]
    assert len(set(names)) == len(names)
    for healthy in (True, False):
        parts = [run.held_out for run in RUNS if run.healthy is healthy]
        assert parts.count(False) >= 12
        assert parts.count(True) >= 12


@pytest.mark.slow
def test_the_quick_benchmark_agrees_with_the_truth() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "alarms.py"), "--quick", "--jobs", "1"],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    own = [row for row in done.stdout.splitlines() if row.startswith("own  ")]
    counts = [row.split()[1:7] for row in own]  # false of healthy, missed of collapsing
    assert counts == [
        ["0", "of", "1", "0", "of", "3"],
        ["0", "of", "2", "0", "of", "1"],
    ]
