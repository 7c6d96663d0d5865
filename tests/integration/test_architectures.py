"""Models of many architectures, trained in a plain loop with everything recorded."""

import contextlib
import copy
import functools
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import svdhooks
from svdhooks import isolation
from svdhooks.layers import unwrap
from svdhooks.recorder import Recorder
from svdhooks.reports import RecordingWarning
from tests.architectures import Training, build
from tests.architectures.truth import outputs_by_hand, weights_by_hand
from tests.oracles import covariance_eigenvalues, singular_values

FAST = (
    "llama_checkpointed",
    "bert_padded",
    "mixtral",
    "mamba",
    "t5",
    "lora",
    "transformer",
    "lstm",
    "momentum_contrast",
    "unet",
    "vae",
    "parametrized",
)
SLOW = (
    "gpt2",
    "llama_in_bfloat16",
    "llama_compiled",
    "vit",
    "qwen_moe",
    "gpt_oss",
    "rwkv",
    "whisper",
    "resnet",
    "mobilenet",
    "dora",
    "lora_with_a_trained_head",
    "lora_of_experts",
    "gru",
)

pytestmark = [
    # beartype draws from Python's random stream to choose which items it checks
    pytest.mark.usefixtures("as_a_user_calls"),
    # transformers' and peft's own, of their modules and of tiny vocabularies
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*nested_tensor.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*requires_grad=True.*:UserWarning"),
]

every_architecture = pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)


def _quantities(name: str) -> list[Any]:
    found: list[Any] = [
        svdhooks.WeightSpectrum(heads=True),
        "covariance",
        "update_spectrum",
        svdhooks.Light(),
    ]
    if name not in {
        "unet",
        "vae",
        "parametrized",
        "momentum_contrast",
        "resnet",
        "mobilenet",
    }:
        found.append("token_rank")
        if name not in {"lstm", "gru", "mamba", "rwkv"}:
            found.append("attention_logits")
    if name in {"mixtral", "qwen_moe", "gpt_oss"}:
        found.append("expert_load")
    return found


def _train(
    name: str, watch: Callable[[nn.Module], Recorder] | None = None
) -> tuple[Training, list[Tensor], Recorder | None]:
    """Train for three steps; keep all losses, gradients, buffers and random numbers."""
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    training = build(name)
    model = training.model.train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-2)
    recorder = watch(model) if watch else None
    trail: list[Tensor] = []
    for batch in training.batches:
        loss = training.loss(model, batch)
        loss.backward()
        trail += [
            loss.detach(),
            *(p.grad.clone() for p in learned if p.grad is not None),
        ]
        optimizer.step()
        optimizer.zero_grad()
        if recorder:
            recorder.step()
        trail += [*(b.clone() for b in model.buffers()), torch.rand(())]
    if recorder:
        recorder.close()
    trail += [x for x in model.state_dict().values() if isinstance(x, Tensor)]
    return training, trail, recorder


@dataclass
class Run:
    """A training that was recorded."""

    training: Training
    trail: list[Tensor]
    recorder: Recorder
    memory: svdhooks.MemorySink
    told: list[str]
    log_dir: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """The recorded training of an architecture; once for all tests."""
    return functools.cache(lambda name: _run(name, tmp_path_factory.mktemp(name)))


def _run(name: str, log_dir: Path) -> Run:
    memory = svdhooks.MemorySink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RecordingWarning)
        training, trail, recorder = _train(
            name,
            lambda model: svdhooks.watch(
                model,
                log_dir,
                every=1,
                max_overhead=None,
                on_error="raise",
                quantities=_quantities(name),
                sinks=[memory],
            ),
        )
    assert recorder is not None
    told = [str(w.message) for w in caught if w.category is RecordingWarning]
    return Run(training, trail, recorder, memory, told, log_dir)


@every_architecture
def test_training_is_recorded_and_not_changed(name: str, run: Callable[[str], Run]):
    _, plain, _ = _train(name)
    found = run(name)
    assert len(found.trail) == len(plain)
    assert all(map(torch.equal, found.trail, plain))
    uncalled = found.training.uncalled
    assert len(found.told) == bool(uncalled), found.told  # once, all together
    assert all("calls no module of" in text for text in found.told)
    for record in found.memory.records:
        silent = record.layer.endswith(uncalled) if uncalled else False
        allowed = {"ok", "not called in the probe"} if silent else {"ok"}
        assert record.status in allowed, record
    covariances = found.memory.of("covariance")
    assert {r.step for r in covariances} == {1, 2, 3}
    weights = {r.layer for r in found.memory.of("weight_spectrum")}
    assert weights == {x.name for x in found.recorder.layers if x.tied_to is None}


@pytest.mark.parametrize(
    "name", ["momentum_contrast", pytest.param("rwkv", marks=pytest.mark.slow)]
)
def test_without_care_for_parameters_it_would_be_changed(
    name: str,
    run: Callable[[str], Run],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    """The companion: these models really write to their weights in a forward."""
    protected = run(name).trail  # before the patch: it is made once for all tests
    monkeypatch.setattr(
        isolation, "originals_kept", lambda *_, **__: contextlib.nullcontext()
    )
    unprotected = _run(name, tmp_path).trail
    assert not all(map(torch.equal, unprotected, protected))


@every_architecture
def test_the_log_says_what_the_memory_says(name: str, run: Callable[[str], Run]):
    memory, log = run(name).memory, svdhooks.RunLog(run(name).log_dir)
    records = [r for r in memory.records if "spectrum" in r.values]
    found = {(r.layer, r.point) for r in records}
    for layer, point in found:
        several = [r for r in records if (r.layer, r.point) == (layer, point)]
        steps, values = log.spectra(layer, point)
        assert list(steps) == [r.step for r in several]
        for row, record in zip(values, several, strict=True):
            told = record.values["spectrum"]
            # zeros behind those that the number of samples allows
            np.testing.assert_array_equal(row[: len(told)], told)
            assert not row[len(told) :].any()
    key = ["step", "layer", "metric"]
    logged, live = (x.frame().set_index(key)["value"] for x in (log, memory))
    assert len(live) > 100
    np.testing.assert_allclose(logged.reindex(live.index), live, rtol=1e-6)
    assert logged.index.isin(live.index).all(), logged[~logged.index.isin(live.index)]


@every_architecture
def test_numbers_are_those_of_numpy(name: str, run: Callable[[str], Run]):
    training, recorder = run(name).training, run(name).recorder
    model = unwrap(training.model)
    last = {
        (r.layer, r.point): r
        for r in run(name).memory.records
        if r.quantity in {"weight_spectrum", "covariance"} and r.ok
    }
    weights = weights_by_hand(model)
    seen = outputs_by_hand(model, training)
    tolerance = 1e-2 if "bfloat16" in name else 1e-4
    checked = 0
    for layer in recorder.layers:
        if (layer.name, "output") in last and layer.name in seen:
            samples = seen[layer.name].flatten(0, -2)
            expected = covariance_eigenvalues(samples.float())
            found = last[layer.name, "output"].values["spectrum"]
            _close(found, expected, tolerance)
            checked += 1
        if (layer.name, "weight") in last and layer.name in weights:
            expected = singular_values(weights[layer.name].float())
            if layer.experts:  # told as the median expert, value by value
                expected = np.median(expected, axis=0)
            _close(last[layer.name, "weight"].values["spectrum"], expected, 1e-5)
            checked += 1
    assert checked >= min(len(recorder.layers), 6)


@every_architecture
def test_a_plan_can_be_made(name: str):
    torch.manual_seed(3)
    training = build(name)
    batch = training.batches[0]
    before = copy.deepcopy(unwrap(training.model).state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)  # what is not called
        plan = svdhooks.plan(training.model, batch, quantities=_quantities(name))
    assert 0 < plan.probe_seconds < plan.seconds_per_record
    assert plan.log_bytes > 0
    after = unwrap(training.model).state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def _close(found: Any, expected: Any, tolerance: float) -> None:
    found = np.pad(found, (0, len(expected) - len(found)))
    np.testing.assert_allclose(
        found, expected, atol=tolerance * max(expected[0], 1e-12)
    )
