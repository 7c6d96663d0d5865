"""What a plan says of quantities that have to be tried: derivatives, the ledger."""

from typing import Any

import numpy as np
import pytest
import torch

import svdhooks
from svdhooks.conductor.overhead import OverheadGuard
from svdhooks.quantities import JacobianSpectrum, Ledger
from tests.models import mlp

ALWAYS = JacobianSpectrum(schedule=svdhooks.every(1))


def test_the_log_of_jacobians_and_ledger_grows_as_the_plan_says(tmp_path):
    model, probe = mlp(30, 40, 20), torch.randn(16, 30)
    quantities = [
        JacobianSpectrum(schedule=svdhooks.every(1), max_directions=8),
        Ledger(),
    ]
    plan = svdhooks.plan(model, probe, quantities=quantities)
    without = svdhooks.plan(model, quantities=quantities)
    sizes = []
    with svdhooks.watch(
        model,
        tmp_path,
        every=1,
        probe=probe,
        quantities=quantities,
        max_overhead=None,
    ) as recorder:
        for _ in range(4):
            recorder.step()
            files = (tmp_path / "svdhooks").rglob("*tfevents*")
            sizes.append(sum(f.stat().st_size for f in files))
    grown = np.diff(sizes)[-2:].mean()
    assert abs(plan.log_bytes - grown) < 0.05 * grown
    assert abs(without.log_bytes - grown) < 0.15 * grown


def test_what_serves_all_layers_is_told_once_and_belongs_to_none():
    plan = svdhooks.plan(
        mlp(30, 40, 20), torch.randn(16, 30), quantities=[ALWAYS, Ledger()]
    )
    assert all(set(row.costs) == {"ledger"} for row in plan.layers)
    assert plan.together["local_rank"] > 0
    rows = sum(row.seconds for row in plan.layers)
    assert plan.seconds_per_record == pytest.approx(
        rows + plan.probe_seconds + plan.together["local_rank"]
    )
    assert "of it for local_rank of all layers" in str(plan)


def test_what_is_found_out_once_is_not_the_cost_of_a_record(monkeypatch):
    from svdhooks.jacobians import differentiator

    seen: list[int] = []
    measure = differentiator.Differentiator.measure

    def noted(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(id(self))
        return measure(self, *args, **options)

    monkeypatch.setattr(differentiator.Differentiator, "measure", noted)
    svdhooks.plan(mlp(30, 40, 20), torch.randn(16, 30), quantities=ALWAYS)
    assert len(seen) == 2  # the same one, so that the second knows the model
    assert len(set(seen)) == 1


def test_a_plan_does_not_wait_for_all_samples(monkeypatch):
    asked = 0

    def permit(self: OverheadGuard, seconds: float) -> None:
        nonlocal asked
        asked = 0

    def exhausted(self: OverheadGuard) -> bool:
        nonlocal asked
        asked += 1
        return asked > 2  # asked twice before the first sample

    monkeypatch.setattr(OverheadGuard, "permit", permit)
    monkeypatch.setattr(OverheadGuard, "exhausted", exhausted)
    slow = JacobianSpectrum(max_bytes=3 * 4 * 40 * 30, max_samples=8)
    plan = svdhooks.plan(mlp(30, 40), torch.randn(16, 30), quantities=slow)
    assert any("timed on 1 of up to 8 samples" in note for note in plan.notes)
