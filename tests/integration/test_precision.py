"""Mixed and half precision: what is recorded, and that it is the same training."""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

import svdhooks
from svdhooks.sinks.memory import MemorySink
from tests import fits
from tests.models import mlp
from tests.oracles import covariance_eigenvalues, singular_values
from tests.plain import points_by_hand

EVERYTHING = [
    "weight_spectrum",
    "covariance",
    "light",
    "update_spectrum",
    "attention_logits",
    "token_rank",
    "weight_vectors",
]


def _watch(model: nn.Module, **options: Any) -> tuple[svdhooks.Recorder, MemorySink]:
    memory = MemorySink()
    options = {"every": 1, "max_overhead": None, "on_error": "raise", **options}
    return svdhooks.watch(model, None, sinks=[memory], **options), memory


def _spectra(memory: MemorySink) -> dict[tuple[int, str, str, str], np.ndarray]:
    return {
        (r.step, r.quantity, r.layer, r.point): r.spectrum
        for r in memory.records
        if "spectrum" in r.values
    }


def _same_values(one: MemorySink, other: MemorySink) -> None:
    """All numbers of both are equal, but the time that they took."""
    assert len(one.records) == len(other.records)
    for a, b in zip(one.records, other.records, strict=True):
        key = (a.step, a.quantity, a.layer, a.point)
        assert key == (b.step, b.quantity, b.layer, b.point)
        assert a.status == b.status
        if a.layer:
            for name, value in a.values.items():
                np.testing.assert_array_equal(b.values[name], value, str((key, name)))


# --- Lightning's precisions ------------------------------------------------------------


class _Stateful(nn.Module):
    """Starts from a state of zeros, as recurrent models do: in the default dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = fits.network(), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 3)
        result: Tensor = self.outer(self.inner(x) + self.outer.weight[0] + state)
        return result + self.outer(state)


class _Spiking(fits.Fitted):
    """A loss that is infinite at two steps, which a gradient scaler then skips."""

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss = super().training_step(batch, index)
        return loss * torch.inf if index in {1, 4} else loss


def _scaled() -> MixedPrecision:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    return MixedPrecision("16-mixed", "cpu", scaler=scaler)


PRECISIONS: dict[str, dict[str, Any]] = {
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    "64-true": {"precision": "64-true"},
    "scaled": {},
}


@pytest.mark.parametrize("kind", PRECISIONS)
def test_a_trainers_precision_is_recorded_and_not_changed(kind, tmp_path):
    """Hazard 6, 8 and 25: all records are there, the training is bit by bit the same."""

    def fit(*callbacks: Any) -> fits.Fitted:
        module = (_Spiking if kind == "scaled" else fits.Fitted)(_Stateful())
        torch.manual_seed(5)
        plugins = [_scaled()] if kind == "scaled" else None
        trainer = fits.trainer(*callbacks, plugins=plugins, **PRECISIONS[kind])
        trainer.fit(module, fits.loader(shuffle=True))
        assert trainer.global_step == 12
        return module

    monitor, memory = fits.monitor(tmp_path)
    plain, watched = fit(), fit(monitor)
    assert all(map(torch.equal, plain.losses, watched.losses))
    assert all(map(torch.equal, plain.parameters(), watched.parameters()))
    assert all(record.ok for record in memory.records)
    # two updates were skipped; the trainer counts them
    updates = 10 if kind == "scaled" else 12
    for point in ("weight", "input", "output"):
        steps = [
            r.step for r in memory.records if (r.layer, r.point) == ("net.outer", point)
        ]
        assert steps == list(range(updates + 1))


def test_a_module_of_half_precision_needs_the_trainers_default_dtype():
    """The companion: called as it is, such a module fails, and so would a probe."""
    module = _Stateful().bfloat16()
    with pytest.raises(RuntimeError, match="same dtype"):
        module(torch.randn(4, 6, dtype=torch.bfloat16))


def test_in_mixed_precision_the_probe_is_of_the_parameters_own(tmp_path):
    monitor, memory = fits.monitor(tmp_path)
    module = fits.Fitted()
    fits.trainer(monitor, precision="bf16-mixed").fit(module, fits.loader())
    (last,) = [
        r
        for r in memory.of("covariance", "net.3")
        if (r.step, r.point) == (12, "output")
    ]
    by_hand = points_by_hand(module.net, fits.X[:4])["3", "output"]
    expected = covariance_eigenvalues(by_hand)
    np.testing.assert_allclose(last.spectrum, expected[:3], rtol=1e-4, atol=1e-7)


# --- plain autocast and half precision ----------------------------------------------------

# far from 0, with directions of very different size: what a product in bfloat16 loses
SIZES = torch.logspace(0, -2, 8)
SPREAD = 3 + (torch.randn(64, 8) * SIZES) @ torch.linalg.qr(torch.randn(8, 8)).Q


def _autocast() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("inside", [True, False], ids=["all inside", "forward inside"])
def test_under_autocast_the_numbers_are_those_of_the_parameters(inside):
    """Hazard 6: wherever the training loop calls us."""
    model = mlp(8, 10, 5)
    recorder, memory = _watch(model, probe=SPREAD)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with _autocast() if inside else nullcontext():
        for _ in range(2):
            with _autocast():
                model(SPREAD).square().mean().backward()
            optimizer.step()
            recorder.step()
    seen, points = _spectra(memory), points_by_hand(model, SPREAD)
    for name in ("0", "2"):
        weight = singular_values(dict(model.named_modules())[name].weight)
        found = seen[2, "weight_spectrum", name, "weight"]
        np.testing.assert_allclose(found, weight, rtol=1e-6)
        for point in ("input", "output"):
            expected = covariance_eigenvalues(points[name, point])
            found = seen[2, "covariance", name, point]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)


def test_a_product_in_a_hook_under_autocast_would_be_bfloat16():
    """The companion: a hook that casts to float32 is not enough."""
    model, grams = mlp(8, 10), []

    def hook(_module: nn.Module, args: tuple[Tensor], _output: Tensor) -> None:
        centred = args[0].float() - args[0].float().mean(0)
        grams.append(centred.T @ centred / len(centred))

    model[0].register_forward_hook(hook)
    with _autocast():
        model(SPREAD)
    assert grams[0].dtype == torch.bfloat16
    found = np.linalg.eigvalsh(grams[0].double().numpy())[::-1]
    wrong = np.abs(found / covariance_eigenvalues(SPREAD) - 1)
    assert wrong.max() > 0.05


def test_what_autocast_let_pass_is_reduced_in_double_precision():
    """Hazard 6: ``observe="training"`` sees bfloat16, and adds nothing to its error."""
    model = mlp(8, 10, 5)
    recorder, memory = _watch(model, observe="training")
    with _autocast():
        seen = model[0](SPREAD)
        model(SPREAD)
        recorder.step()
    assert seen.dtype == torch.bfloat16
    found = _spectra(memory)[1, "covariance", "0", "output"]
    expected = covariance_eigenvalues(seen.float())
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * expected[0])


def test_rounding_to_bfloat16_is_not_taken_for_rank():
    planted = torch.randn(256, 3) @ torch.randn(3, 8)
    model = mlp(8, 40)
    recorder, memory = _watch(model, observe="training")
    with _autocast():
        model(planted)
        output = model(planted).detach()
    recorder.step()
    (record,) = [r for r in memory.of("covariance") if r.point == "output"]
    assert record.values["numerical_rank"] == 3
    # the companion: in the way that is usual for matrices of double precision, it is
    eigenvalues = covariance_eigenvalues(output.float())
    assert (eigenvalues > eigenvalues[0] * 40 * np.finfo(float).eps).sum() > 30


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SURROUNDINGS = {
    "bfloat16 by default": lambda: _default(torch.bfloat16),
    "float64 by default": lambda: _default(torch.float64),
    "autocast": _autocast,
    "inference mode": torch.inference_mode,
    "no gradient": torch.no_grad,
}


def _transformer_records(surroundings: Any) -> MemorySink:
    torch.manual_seed(2)
    model = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model.linear1 = nn.utils.parametrizations.weight_norm(model.linear1)
    x = torch.randn(300, 3, 16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with surroundings():
        recorder, memory = _watch(model, probe=x, quantities=EVERYTHING)
    for i in range(3):
        model(x).square().mean().backward()
        optimizer.step()
        with surroundings() if i != 1 else nullcontext():
            recorder.step()
    return memory


@functools.cache
def _usual_records() -> MemorySink:
    return _transformer_records(nullcontext)


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_no_measure_depends_on_the_callers_modes(name):
    """Hazard 6 and 7: what is made in a mode is used outside it at the next step."""
    _same_values(_usual_records(), _transformer_records(SURROUNDINGS[name]))


def test_a_default_dtype_changes_what_is_computed_without_a_dtype():
    """The companion: 64 of 300 sequences would be others in bfloat16."""
    with _default(torch.bfloat16):
        chosen = torch.linspace(0, 299, 64).round().long()
    assert not torch.equal(chosen, torch.linspace(0, 299, 64).round().long())
