"""Recomputation, activations in place, memory layouts, inference mode: the same numbers."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import svdhooks
from svdhooks.isolation import probe_context
from svdhooks.probe import ReferenceBatch
from svdhooks.sinks.memory import MemorySink
from tests import fits
from tests.models import Checkpointed, InPlace, mlp
from tests.oracles import covariance_eigenvalues
from tests.plain import points_by_hand, train

# torch's own, when it looks for derivatives for the first time
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


def _watch(model: nn.Module, **options: Any) -> tuple[svdhooks.Recorder, MemorySink]:
    memory = MemorySink()
    options = {"every": 1, "max_overhead": None, "on_error": "raise", **options}
    return svdhooks.watch(model, None, sinks=[memory], **options), memory


Spectra = dict[tuple[int, str, str, str], np.ndarray]


def _spectra(memory: MemorySink) -> Spectra:
    return {
        (r.step, r.quantity, r.layer, r.point): r.spectrum
        for r in memory.records
        if "spectrum" in r.values
    }


def _close(found: Spectra, expected: Spectra) -> None:
    assert found.keys() == expected.keys()
    for key, spectrum in expected.items():
        np.testing.assert_allclose(
            found[key], spectrum, rtol=1e-4, atol=1e-6, err_msg=str(key)
        )


# --- recomputation, activations in place, layouts ---------------------------------------


@pytest.mark.parametrize("observe", ["probe", "training"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_segment_counts_its_batch_once(reentrant, observe):
    """Hazard 4: and the training is the same."""
    batches = [torch.randn(16, 6) for _ in range(3)]
    model = Checkpointed(reentrant)
    twin = copy.deepcopy(model)
    options = {"probe_options": svdhooks.ProbeOptions(window=1)}
    recorder, memory = _watch(model, observe=observe, **options)
    train(model, batches, recorder)
    train(twin, batches)
    assert all(map(torch.equal, model.parameters(), twin.parameters()))
    found = {(r.layer, float(r.values["count"])) for r in memory.of("covariance")}
    assert found == {("first", 16), ("body.0", 16), ("body.2", 16)}


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_hook_that_stays_would_count_it_twice(reentrant):
    """The companion: recomputation in the backward pass calls hooks again."""
    model, counts = Checkpointed(reentrant), []
    model.body[0].register_forward_hook(
        lambda _m, args, _z: counts.append(len(args[0]))
    )
    train(model, [torch.randn(16, 6)])
    assert sum(counts) == 32


@pytest.mark.parametrize("observe", ["probe", "training"])
def test_activations_in_place_change_nothing(observe):
    """Hazard 5: a pre-activation is what it was before its ReLU overwrote it."""
    x, found = torch.randn(20, 7), []
    for inplace in (False, True):
        torch.manual_seed(4)
        model = InPlace(inplace)
        recorder, memory = _watch(model, observe=observe)
        model(x)
        recorder.step()
        found.append(_spectra(memory))
    _close(found[1], found[0])
    expected = covariance_eigenvalues(model.first(x))
    seen = found[1][1, "covariance", "first", "output"]
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-6)


def test_a_kept_reference_would_show_the_overwritten_values():
    """The companion: nothing negative is left of the pre-activation."""
    model, kept = InPlace(inplace=True), []
    model.first.register_forward_hook(lambda _m, _args, z: kept.append(z.detach()))
    x = torch.randn(20, 7)
    model(x)
    assert model.first(x).min() < 0 == kept[0].min()


def _images(layout: torch.memory_format) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(6)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, groups=2),
    )
    x = torch.randn(6, 3, 9, 9)
    return model.to(memory_format=layout), x.to(memory_format=layout)


@pytest.mark.parametrize("observe", ["probe", "training"])
def test_channels_last_is_a_layout_and_no_other_number(observe):
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model, x = _images(layout)
        twin = copy.deepcopy(model)
        recorder, memory = _watch(model, observe=observe)
        train(model, [x] * 2, recorder)
        train(twin, [x] * 2)
        assert all(map(torch.equal, model.parameters(), twin.parameters()))
        found.append(_spectra(memory))
    assert {key[1:] for key in found[0]} >= {("covariance", "3", "output")}
    _close(found[1], found[0])


def test_a_view_of_channels_last_would_fail():
    """The companion: what a hook usually does with a map."""
    model, x = _images(torch.channels_last)
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        model[0](x).view(6, 8 * 49)


# --- inference mode ---------------------------------------------------------------------


class _Measuring(fits.Fitted):
    """Looks at itself while it is validated."""

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.modes = torch.is_inference_mode_enabled(), batch[0].is_inference()
        recorder, self.memory = _watch(self, probe=batch[0])
        recorder.step(batch)
        recorder.close()
        self.batch = batch[0]


def test_recording_while_a_trainer_validates():
    """Hazard 7: inference mode, and a batch of inference tensors."""
    module = _Measuring()
    fits.trainer().validate(module, fits.loader(), verbose=False)
    assert module.modes == (True, True)
    seen, points = _spectra(module.memory), points_by_hand(module.net, fits.X[-4:])
    for name in ("0", "3"):
        for point in ("input", "output"):
            expected = covariance_eigenvalues(points[name, point])[:4]
            found = seen[1, "covariance", f"net.{name}", point][:4]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_validation_loop_in_inference_mode_is_no_capture_and_stops_nothing():
    """Hazard 7: the whole of a plain loop, with its validation."""
    model, batches = mlp(4, 6, 3), [torch.randn(16, 4) for _ in range(3)]
    recorder, memory = _watch(model)
    with torch.inference_mode():
        model.eval()
        model(torch.zeros(16, 4))
        model.train()
    train(model, batches, recorder)
    with torch.inference_mode():
        recorder.step((model(batches[0]), batches[0]))
    assert all(r.ok for r in memory.records)
    expected = covariance_eigenvalues(batches[0])
    for step in (1, 2, 3, 4):
        found = _spectra(memory)[step, "covariance", "0", "input"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_a_window_may_begin_in_inference_mode_and_end_outside():
    """Hazard 7: roll-outs and updates in turns, as in reinforcement learning."""
    model, batches = mlp(4, 6, 3), [torch.randn(16, 4) for _ in range(2)]
    recorder, memory = _watch(
        model,
        every=2,
        observe="training",
        probe_options=svdhooks.ProbeOptions(window=2),
    )
    for x, rolling in zip(batches, (True, False), strict=True):
        with torch.inference_mode(rolling):
            model(x)
        recorder.step()
    found = _spectra(memory)[2, "covariance", "0", "input"]
    expected = covariance_eigenvalues(torch.cat(batches))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_what_is_made_in_inference_mode_cannot_be_added_to_outside():
    """The companion: a hook that sums what passes it."""
    layer, total = nn.Linear(4, 6), []

    def hook(_module: nn.Module, _args: Any, z: Tensor) -> None:
        if total:
            total[0] += z.detach().T @ z.detach()
        else:
            total.append(z.detach().T @ z.detach())

    layer.register_forward_hook(hook)
    with torch.inference_mode():
        layer(torch.randn(16, 4))
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"):
        layer(torch.randn(16, 4))


def _tangent(model: nn.Module, x: Tensor) -> Tensor | None:
    with forward_ad.dual_level():
        y = model(forward_ad.make_dual(x, torch.ones_like(x)))
        tangent: Tensor | None = forward_ad.unpack_dual(y).tangent
        return tangent


def test_there_are_derivatives_inside_inference_mode():
    """Hazard 7: of a batch of inference tensors, as local ranks will need them."""
    model = mlp(4, 6, 3)
    expected = _tangent(model, torch.ones(2, 4))
    with torch.inference_mode():
        reference = ReferenceBatch.given(torch.ones(2, 4))
        with probe_context(model, derivatives=True):
            found = _tangent(model, *reference.args)
    torch.testing.assert_close(found, expected)


def test_without_the_context_there_are_none_and_nothing_is_said():
    """The companion."""
    model = mlp(4, 6, 3)
    with torch.inference_mode():
        assert _tangent(model, torch.ones(2, 4)) is None
