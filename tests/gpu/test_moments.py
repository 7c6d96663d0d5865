"""Vectors, moments and drift on a GPU: the numbers of the CPU, stored on the host."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import svdhooks
from svdhooks.analysis import layer_snapshot

pytestmark = pytest.mark.gpu


def run(model: nn.Module, batch: torch.Tensor) -> svdhooks.MemorySink:
    sink, schedule = svdhooks.MemorySink(), svdhooks.every(1)
    quantities = [
        svdhooks.WeightVectors(k=None, schedule=schedule),
        svdhooks.PointMoments(schedule=schedule),
        svdhooks.SubspaceDrift(k=2),
    ]
    with svdhooks.watch(
        model, None, probe=batch, sinks=[sink], quantities=quantities, max_overhead=None
    ) as recorder:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        recorder.step()
    return sink


def test_they_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(320, 7)
    )
    batch, other = torch.randn(30, 3, 8, 8), copy.deepcopy(model).cuda()
    found, expected = run(other, batch.cuda()), run(model, batch)
    assert found.metrics == expected.metrics
    for name in ("0", "2"):
        one, two = (layer_snapshot(sink, name) for sink in (found, expected))
        np.testing.assert_allclose(one.weight(), two.weight(), atol=1e-6)
        np.testing.assert_array_equal(one.bias, two.bias)
        for point in ("input", "output"):
            passed, wanted = getattr(one, point), getattr(two, point)
            assert passed.count == wanted.count
            scale = np.abs(wanted.covariance).max()
            np.testing.assert_allclose(
                passed.covariance, wanted.covariance, atol=1e-5 * scale
            )
