"""Interrupted within one process: what is left, and how it goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

import svdhooks
from svdhooks.reports import RecordingWarning
from svdhooks.schema import SUBDIRECTORY
from svdhooks.sinks.memory import MemorySink
from tests import fits
from tests.models import Everything
from tests.plain import hooks_on, train

# --- Ctrl-C, and going on with the same objects ------------------------------------------

PLACES = {
    "reading a weight": "svdhooks.layers.layer.Layer.weight",
    "observing": "svdhooks.linalg.accumulator.CovarianceAccumulator.update",
    "entering the probe": "svdhooks.isolation._plain_kernels",
    "the forward": "tests.models.Everything.forward",
    "writing": "svdhooks.eventfile.writer.EventFileWriter.write",
    "between the sinks": "svdhooks.sinks.memory.MemorySink.write",
}


def _modes(model: nn.Module) -> list[Any]:
    return [
        hooks_on(model),
        [m.training for m in model.modules()],
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.get_rng_state().tolist(),
        {k: v.tolist() for k, v in model.state_dict().items()},
    ]


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("place", PLACES)
def test_after_ctrl_c_the_model_is_as_it_was_and_recording_goes_on(
    place, step, tmp_path
):
    """Hazard 26: in a notebook, where nobody closes anything and the loop is run again."""
    model, memory = Everything(), MemorySink()
    model.norm.eval()
    tokens = torch.randint(0, 11, (6, 5))
    recorder = svdhooks.watch(
        model, tmp_path, every=1, sinks=[memory], max_overhead=None, on_error="raise"
    )
    train(model, [tokens] * (step - 1), recorder)
    model(tokens)
    before = _modes(model)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PLACES[place], _interrupt)
        recorder.step()
    before[0] = 0  # the capturing hook has done its work
    assert _modes(model) == before
    train(model, [tokens] * 2, recorder)
    recorder.close()
    log, whole = svdhooks.RunLog(tmp_path), place == "between the sinks"
    lost = [] if whole else [step]
    expected = [s for s in range(step + 3) if s not in lost]
    assert log.steps.tolist() == expected
    assert set(log.layers) == {x.name for x in recorder.layers}
    assert all(r.ok for r in memory.records)
    assert not any(log.damage.values())


def _interrupt(*_args: Any, **_kwargs: Any) -> Any:
    raise KeyboardInterrupt


# --- fits that fail and are resumed --------------------------------------------------------


class _Crashing(fits.Fitted):
    """Raises in the middle of a step."""

    def __init__(self, at: int | None) -> None:
        super().__init__()
        self.at = at

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        if self.global_step == self.at:
            raise ZeroDivisionError("a crash")
        return super().training_step(batch, index)


def _crash_and_resume(
    directory: Path, crashes: list[int | None], between: Any = lambda: None
) -> dict[int, np.ndarray]:
    """Resume from the last checkpoint after every crash; step -> its last spectrum."""
    found: dict[int, np.ndarray] = {}
    for i, at in enumerate(crashes):
        monitor, memory = fits.monitor(directory / "run", every_n_steps=2)
        saver = ModelCheckpoint(
            directory / "saved", every_n_train_steps=5, save_last=True, save_top_k=0
        )
        trainer = fits.trainer(monitor, saver, max_epochs=3, enable_checkpointing=True)
        module = _Crashing(at)
        torch.manual_seed(100 + i)  # so each part begins with another batch
        last = directory / "saved" / "last.ckpt"
        try:
            trainer.fit(
                module, fits.loader(shuffle=True), ckpt_path=last if i else None
            )
        except ZeroDivisionError:
            assert hooks_on(module) == 0
        for record in memory.of("weight_spectrum", "net.0"):
            found[record.step] = record.spectrum
        between()
    return found


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*exists.*"),
    pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint that ended.*"),
    pytest.mark.filterwarnings("ignore:.*The dirpath has changed.*"),
]


def test_a_fit_that_is_resumed_three_times_reads_as_one(tmp_path):
    """Hazard 26: no step is lost, doubled or begun anew; the probe is the same."""
    told = _crash_and_resume(tmp_path, [8, 14, 27, None])
    log = svdhooks.RunLog(tmp_path / "run")
    assert log.steps.tolist() == sorted(told) == list(range(0, 37, 2))
    assert log.damage["dropped"] >= 1
    assert log.damage["bad"] == 0
    steps, spectra = log.spectra("net.0")
    for step, row in zip(steps.tolist(), spectra, strict=True):
        np.testing.assert_array_equal(row, told[step])
    # what enters the first layer depends on the probe alone
    _, inputs = log.covariance_spectra("net.0", "input")
    assert all(np.array_equal(row, inputs[0]) for row in inputs)


def test_without_the_stored_batch_another_would_be_probed_and_this_is_said(tmp_path):
    """The companion: resumed parts begin with other batches."""

    def forget() -> None:
        (tmp_path / "run" / SUBDIRECTORY / "probe.pt").unlink(missing_ok=True)

    with pytest.warns(RecordingWarning, match="differs from the one"):
        _crash_and_resume(tmp_path, [8, None], forget)
    _, inputs = svdhooks.RunLog(tmp_path / "run").covariance_spectra("net.0", "input")
    assert not np.allclose(inputs[0], inputs[-1], rtol=1e-2)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_end_of_training_is_not_called_after_an_exception(error, tmp_path):
    """The companion: a callback that writes at the end writes nothing."""

    class Naive(pl.Callback):
        calls: tuple[str, ...] = ()

        def on_train_end(self, *_: Any) -> None:
            self.calls += ("end",)

        def teardown(self, *_: Any, **__: Any) -> None:
            self.calls += ("teardown",)

        def on_exception(self, *_: Any) -> None:
            self.calls += ("exception",)

    class Fails(fits.Fitted):
        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            raise error

    naive = Naive()
    with pytest.raises((error, SystemExit)):
        fits.trainer(naive).fit(Fails(), fits.loader())
    assert naive.calls == ("exception",)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Lightning ignores further Ctrl-C from the first one on."""
    import signal

    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)
