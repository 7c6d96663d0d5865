"""On a GPU: the numbers of the CPU, and nobody waits for the device between records."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import svdhooks
from svdhooks.record import Record
from svdhooks.reports import RecordingWarning

pytestmark = pytest.mark.gpu


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, groups=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 36, 256),
        nn.ReLU(),
        nn.Linear(256, 10, dtype=torch.float32),
    )


def _batch(device: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(512, 3, 8, 8, generator=generator).to(device)


@contextmanager
def _no_synchronisation() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _train(
    device: str, compute: str, quantities: object = None, steps: int = 0
) -> list[Record]:
    model, x = _model().to(device), _batch(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sink = svdhooks.MemorySink()
    with svdhooks.watch(
        model,
        None,
        every=1,
        probe=x,
        sinks=[sink],
        max_overhead=None,
        quantities=quantities,
        probe_options=svdhooks.ProbeOptions(compute=compute),
    ) as recorder:
        for _ in range(steps):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
            recorder.step()
    return [r for r in sink.records if r.layer]


@pytest.mark.parametrize("compute", ["inline", "thread"])
def test_records_are_those_of_the_cpu(compute):
    expected, found = _train("cpu", "inline"), _train("cuda", compute)
    assert len(expected) == len(found)
    for one, two in zip(expected, found, strict=True):
        assert (one.layer, one.point, one.status) == (two.layer, two.point, two.status)
        scale = one.spectrum[0]
        # TF32 is off by default for products of matrices, not for convolutions
        rtol = 1e-6 if one.point == "weight" else 1e-2
        np.testing.assert_allclose(
            two.spectrum / scale, one.spectrum / scale, atol=rtol
        )


def test_the_thread_solves_the_weights_of_the_recorded_step():
    """Hazard 36: the copy to the host waits on the stream before the next update."""
    inline = _train("cuda", "inline", "weight_spectrum", steps=5)
    thread = _train("cuda", "thread", "weight_spectrum", steps=5)
    assert [r.step for r in thread] == [r.step for r in inline]
    for one, two in zip(inline, thread, strict=True):
        np.testing.assert_allclose(two.spectrum, one.spectrum, rtol=1e-5, atol=1e-6)


def test_between_records_nobody_waits_for_the_device():
    model, x = _model().cuda(), _batch("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sink = svdhooks.MemorySink()
    with (
        svdhooks.watch(model, None, every=50, probe=x, sinks=[sink]) as recorder,
        _no_synchronisation(),
    ):
        for _ in range(20):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
            assert not recorder.step()
    assert {r.status for r in sink.records if r.layer} == {"ok"}


def test_a_record_of_weights_by_a_thread_waits_for_nothing_either():
    model, x = _model().cuda(), _batch("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sink = svdhooks.MemorySink()
    with (
        svdhooks.watch(
            model,
            None,
            every=4,
            sinks=[sink],
            quantities="weight_spectrum",
            max_overhead=None,
            probe_options=svdhooks.ProbeOptions(compute="thread"),
        ) as recorder,
        _no_synchronisation(),
    ):
        for _ in range(20):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
            recorder.step()
    steps = sorted({r.step for r in sink.records})
    assert steps == [0, 4, 8, 12, 16, 20]


def test_a_record_at_once_does_wait():
    """The companion: solving on the device synchronises, and the mode says so."""
    model = _model().cuda()
    sink = svdhooks.MemorySink()
    options = svdhooks.ProbeOptions(compute="inline")
    with (
        svdhooks.watch(
            model,
            None,
            every=1,
            sinks=[sink],
            quantities="weight_spectrum",
            probe_options=options,
        ) as recorder,
        _no_synchronisation(),
        pytest.warns(RecordingWarning),
    ):
        recorder.step()
    assert any("synchroniz" in r.status for r in sink.records)
