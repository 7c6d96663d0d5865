"""A training whose updates nobody told the recorder of is spoken of at the end."""

import warnings

import pytest
import torch
from torch import nn

import svdhooks
from svdhooks.reports import RecordingWarning
from tests import fits
from tests.plain import hooks_on


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation as it is mostly written: nobody calls ``step``."""

    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, {"rho": rho, **options})
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["before"] = p.clone()
                p.add_(p.grad, alpha=group["rho"])

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(self.state[p]["before"])
        self.base.step()


def _train(optimizer, model, between=lambda: None, steps=3):
    x = torch.randn(8, 4)
    for _ in range(steps):
        model(x).square().mean().backward()
        if isinstance(optimizer, SAM):
            optimizer.first_step()
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.second_step()
        else:
            optimizer.step()
        optimizer.zero_grad()
        between()


def _watch(model, **options):
    sink = svdhooks.MemorySink()
    return sink, svdhooks.watch(model, None, sinks=[sink], every=1, **options)


def _net():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def test_a_loop_that_forgets_step_is_told():
    model = _net()
    sink, recorder = _watch(model)
    with pytest.warns(RecordingWarning, match=r"after step 0.*optimizer= to watch"):  # noqa: SIM117
        with recorder:
            _train(torch.optim.SGD(model.parameters(), lr=0.1), model)
    assert {r.step for r in sink.records} == {0}


def test_a_wrapper_whose_step_is_never_called_is_told_and_its_inner_one_counts():
    model = _net()
    sam = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    _, recorder = _watch(model, optimizer=sam)
    _train(sam, model)
    with pytest.warns(RecordingWarning, match=r"SAM\.step\(\).*the inner one"):
        recorder.close()
    sink, recorder = _watch(model, optimizer=sam.base)
    with recorder:
        _train(sam, model)
    assert {r.step for r in sink.records} == {0, 1, 2, 3}


def test_an_optimiser_of_something_else_is_told():
    model, other = _net(), torch.optim.AdamW(_net().parameters())
    _, recorder = _watch(model, optimizer=other)
    _train(torch.optim.SGD(model.parameters(), lr=0.1), model, recorder.step)
    with pytest.warns(RecordingWarning, match=r"AdamW\.step\(\), and there was none"):
        recorder.close()


@pytest.mark.parametrize("kind", ["fused", "data"])
def test_writes_that_torch_does_not_count_are_seen(kind):
    """Fused optimisers, Hugging Face's default, leave a tensor's version as it was."""
    model, x = _net(), torch.randn(8, 4)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    _, recorder = _watch(model)
    model(x).square().mean().backward()
    versions = [p._version for p in model.parameters()]
    if kind == "fused":
        optimizer.step()
    else:
        for p in model.parameters():
            p.data.sub_(p.grad)
    assert versions == [p._version for p in model.parameters()]
    with pytest.warns(RecordingWarning, match="no update was noticed"):
        recorder.close()


def test_weights_that_are_not_numbers_have_not_changed():
    model = _net()
    model[0].weight.data.fill_(torch.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        _, recorder = _watch(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorder.close()


def test_nothing_is_raised_where_values_cannot_be_read(monkeypatch):
    """After an error of a GPU everything raises; closing has to go on."""
    model = _net()
    _, recorder = _watch(model)

    def failed(*_):
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(torch, "equal", failed)
    monkeypatch.setattr(torch.Tensor, "take", failed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorder.close()
    assert hooks_on(model) == 0


def test_a_resumed_loop_that_forgets_step_is_told_where_it_stands():
    model = _net()
    _, recorder = _watch(model, start_step=7)
    _train(torch.optim.SGD(model.parameters(), lr=0.1), model)
    with pytest.warns(RecordingWarning, match="after step 7"):
        recorder.close()


@pytest.mark.parametrize("work", ["nothing", "a forward", "a backward", "told"])
def test_where_nothing_was_missed_nothing_is_said(work):
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, recorder = _watch(model)
        if work == "a forward":
            model(torch.randn(8, 4))
        elif work == "a backward":
            model(torch.randn(8, 4)).sum().backward()
        elif work == "told":
            _train(optimizer, model, recorder.step)
        recorder.close()


def test_lazy_layers_and_inference_tensors_count_no_writes():
    with torch.inference_mode():
        frozen = nn.Linear(4, 4)
    model = nn.Sequential(frozen, nn.LazyLinear(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        _, recorder = _watch(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.inference_mode():
            model.eval()(torch.randn(2, 4))
        recorder.close()


class _Sharp(fits.Fitted):
    """Manual optimisation by a wrapper that Lightning knows, and its inner one."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.both = both

    def training_step(self, batch, index):
        wrapped = self.optimizers()
        sam = (wrapped[0] if self.both else wrapped).optimizer
        for update in (sam.first_step, sam.second_step):
            self.manual_backward(self(batch[0]).square().mean())
            update()
            sam.zero_grad()

    def configure_optimizers(self):
        sam = SAM(self.parameters(), torch.optim.SGD, lr=0.01)
        return [sam, sam.base] if self.both else sam


def test_a_fit_whose_updates_are_made_elsewhere_is_told(tmp_path):
    monitor, memory = fits.monitor(tmp_path / "none")
    with pytest.warns(RecordingWarning, match=r"SAM.*optimiser 0.*optimizer=\.\.\."):
        fits.trainer(monitor).fit(_Sharp(both=False), fits.loader())
    assert {r.step for r in memory.records} == {0}
    monitor, memory = fits.monitor(tmp_path / "all", optimizer=1)
    fits.trainer(monitor).fit(_Sharp(both=True), fits.loader())
    assert {r.step for r in memory.records} == set(range(13))
