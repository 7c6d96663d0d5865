"""observe="training": the covariance of what the model really saw, through hooks."""

import copy
import functools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import svdhooks
from svdhooks.conductor.overhead import Allowance
from svdhooks.reports import RecordingWarning
from tests.models import mlp
from tests.oracles import covariance_eigenvalues
from tests.plain import hooks_on


def _batches(count: int, width: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, width, generator=generator) for _ in range(count)]


def _train(
    model: nn.Module, batches: list[Tensor], recorder: svdhooks.Recorder | None
) -> list[Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for x in batches:
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        if recorder is not None:
            recorder.step()
    return losses


def _watch(
    model: nn.Module, sink: svdhooks.MemorySink, window: int = 2, **options: Any
) -> svdhooks.Recorder:
    probe_options = svdhooks.ProbeOptions(window=window, **options.pop("probing", {}))
    options = {"every": 5, "max_overhead": None, **options}
    return svdhooks.watch(
        model,
        None,
        sinks=[sink],
        observe="training",
        probe_options=probe_options,
        **options,
    )


def test_a_record_holds_the_batches_of_the_window_before_it():
    model, sink, batches = mlp(4, 6, 3), svdhooks.MemorySink(), _batches(10)
    with _watch(model, sink) as recorder:
        _train(model, batches, recorder)
    inputs = [r for r in sink.of("covariance", "0") if r.point == "input"]
    assert [r.step for r in inputs] == [5, 10]  # at step 0 nothing was seen yet
    for record, seen in zip(inputs, (batches[3:5], batches[8:10]), strict=True):
        assert record.measures["count"] == 32
        expected = covariance_eigenvalues(torch.cat(seen))
        np.testing.assert_allclose(record.spectrum, expected, rtol=1e-5)
    assert [r.step for r in sink.of("weight_spectrum", "0")] == [0, 5, 10]


def test_outputs_are_of_the_weights_with_which_they_were_computed():
    model, sink, batches = mlp(4, 6), svdhooks.MemorySink(), _batches(5)
    twin = copy.deepcopy(model)
    with _watch(model, sink, window=1) as recorder:
        _train(model, batches, recorder)
    _train(twin, batches[:4], None)  # the last update comes after the forward
    (record,) = [r for r in sink.of("covariance", "0") if r.point == "output"]
    expected = covariance_eigenvalues(twin(batches[4]))
    np.testing.assert_allclose(record.spectrum, expected, rtol=1e-4, atol=1e-7)


def test_training_is_not_changed_and_hooks_are_there_only_in_the_window():
    plain, watched, batches = mlp(4, 6, 3), mlp(4, 6, 3), _batches(10)
    watched.load_state_dict(plain.state_dict())
    expected = _train(plain, batches, None)
    hooks = []
    with _watch(watched, svdhooks.MemorySink()) as recorder:
        optimizer = torch.optim.SGD(watched.parameters(), lr=0.1)
        losses = []
        for x in batches:
            hooks.append(bool(hooks_on(watched)))
            losses.append(watched(x).square().mean())
            losses[-1].backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.step()
    assert all(map(torch.equal, expected, losses))
    assert all(map(torch.equal, plain.parameters(), watched.parameters()))
    assert hooks == [False] * 3 + [True] * 2 + [False] * 3 + [True] * 2
    assert not hooks_on(watched)


def test_a_copy_made_in_the_window_is_not_observed():
    """Hazard 12: while hooks are there."""
    model, sink = mlp(4, 6), svdhooks.MemorySink()
    with _watch(model, sink, every=1, window=1) as recorder:
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            twin.train()(torch.randn(50, 4))
        model(torch.randn(7, 4))
        recorder.step()
    assert sink.of("covariance", "0")[-1].measures["count"] == 7


def test_calls_in_evaluation_mode_do_not_count():
    model, sink = mlp(4, 6), svdhooks.MemorySink()
    with _watch(model, sink, every=1, window=1) as recorder:
        model.eval()(torch.randn(50, 4))
        model.train()(torch.randn(7, 4))
        recorder.step()
    assert {r.measures["count"] for r in sink.of("covariance")} == {7}


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_count_once(reentrant):
    """Hazard 4: in the training's own forward."""

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = checkpoint(self.first, x.requires_grad_(), use_reentrant=reentrant)
            return self.second(x)

    model, sink = Checkpointed(), svdhooks.MemorySink()
    with _watch(model, sink, every=1, window=1) as recorder:
        _train(model, _batches(2), recorder)
    counts = {(r.layer, r.measures["count"]) for r in sink.of("covariance")}
    assert counts == {("first", 16), ("second", 16)}


def test_a_layer_that_never_fires_is_a_status_and_a_warning():
    """Hazard 13: a weight used as a function."""

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.bypassed = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.used(x), self.bypassed.weight)

    model, sink = Functional(), svdhooks.MemorySink()
    with (
        pytest.warns(RecordingWarning, match="not called in the training forward"),
        _watch(model, sink, every=1, window=1) as recorder,
    ):
        _train(model, _batches(2), recorder)
    assert {r.ok for r in sink.of("covariance", "bypassed")} == {False}
    assert {r.ok for r in sink.of("covariance", "used")} == {True}


def test_masked_tokens_do_not_count():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 3)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.net(x)

    model, sink = Tokens(), svdhooks.MemorySink()
    x, mask = torch.randn(6, 5, 4), torch.rand(6, 5) > 0.5
    with _watch(model, sink, every=1, window=1, probing={"mask": "mask"}) as recorder:
        model(x, mask=mask)
        recorder.step()
    (record,) = [r for r in sink.of("covariance", "net") if r.point == "input"]
    assert record.measures["count"] == int(mask.sum())
    expected = covariance_eigenvalues(x[mask])
    np.testing.assert_allclose(record.spectrum, expected, rtol=1e-4, atol=1e-6)


def test_a_mask_that_cannot_be_known_is_no_silent_mix():
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 3)

    model, sink = Whole(), svdhooks.MemorySink()
    x, mask = torch.randn(6, 5, 4), torch.rand(6, 5) > 0.5
    probing = {"mask": lambda batch: batch[1]}
    with _watch(model, sink, every=1, window=1, probing=probing) as recorder:
        with pytest.warns(RecordingWarning, match="no mask is known"):
            model.net(x)  # not called as a whole, as Lightning does
            recorder.step()
        recorder.begin_batch((x, mask))
        model.net(x)
        recorder.step()
    first, second = [r for r in sink.of("covariance", "net") if r.point == "input"]
    assert not first.ok
    assert second.measures["count"] == int(mask.sum())


def test_taps_and_several_models_are_observed_too():
    models = {"a": mlp(4, 6, 3), "b": mlp(3, 2)}
    sink = svdhooks.MemorySink()
    with _watch(models, sink, every=1, window=1, taps={"h": "a.1"}) as recorder:
        models["b"](models["a"](torch.randn(20, 4)))
        recorder.step()
    seen = {r.layer for r in sink.of("covariance") if r.ok}
    assert seen == {"a.0", "a.2", "b.0", "h"}


@pytest.mark.parametrize("shape", ["outer", "in place", "inner"])
def test_a_compiled_model_is_refused(shape):
    model = mlp(4, 6, 3)
    if shape == "outer":
        model = torch.compile(model, backend="eager")
    elif shape == "in place":
        model.compile(backend="eager")
    else:
        model[0] = torch.compile(model[0], backend="eager")
    with pytest.raises(ValueError, match="needs an eager forward"):
        _watch(model, svdhooks.MemorySink())


def test_time_in_the_hooks_is_counted_as_ours():
    model, sink = mlp(64, 64, 64), svdhooks.MemorySink()
    with _watch(model, sink, every=4, window=4) as recorder:
        spent = recorder._guard.spent
        model(torch.randn(512, 64))
        assert recorder._guard.spent > spent


def test_lightning_observes_its_training_steps(tmp_path):
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(4, 6, 3)

        def training_step(self, batch: Tensor, _: int) -> Tensor:
            return self.net(batch).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    sink, batches = svdhooks.MemorySink(), _batches(6)
    monitor = svdhooks.SpectrumMonitor(
        every_n_steps=3,
        observe="training",
        probe_options=svdhooks.ProbeOptions(window=2),
        max_overhead=None,
        sinks=[sink],
    )
    trainer = L.Trainer(
        max_epochs=1,
        callbacks=[monitor],
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        accelerator="cpu",
    )
    loader = torch.utils.data.DataLoader(torch.cat(batches), batch_size=16)
    trainer.fit(Module(), loader)
    found = [r for r in sink.of("covariance", "net.0") if r.point == "input"]
    assert [(r.step, r.measures["count"]) for r in found] == [(3, 32), (6, 32)]
    expected = covariance_eigenvalues(torch.cat(batches[1:3]))
    np.testing.assert_allclose(found[0].spectrum, expected, rtol=1e-5)


def _of(sink: svdhooks.MemorySink, point: str) -> list[svdhooks.Record]:
    return [r for r in sink.of("covariance", "0") if r.point == point]


def test_each_quantity_has_its_own_window():
    """A record of weights in the middle of a window neither ends nor shows it."""
    model, sink, batches = mlp(4, 6, 3), svdhooks.MemorySink(), _batches(21)
    quantities = [
        svdhooks.WeightSpectrum(),
        svdhooks.Covariance(schedule=svdhooks.every(10)),
    ]
    with _watch(model, sink, 4, every=2, quantities=quantities) as recorder:
        _train(model, batches, recorder)
    inputs = _of(sink, "input")
    assert [r.step for r in inputs] == [10, 20]
    for record in inputs:
        seen = torch.cat(batches[record.step - 4 : record.step])
        assert record.values["count"] == 64
        expected = covariance_eigenvalues(seen)
        np.testing.assert_allclose(record.spectrum, expected, rtol=1e-5)


def test_a_window_is_closed_where_its_record_is_put_off():
    """The guard stretches the interval: hooks do not stay until the next record."""
    model, sink = mlp(4, 3), svdhooks.MemorySink()
    with _watch(model, sink, 2, max_overhead=0.01) as recorder:
        _train(model, _batches(4), recorder)
        assert hooks_on(model)
        recorder._guard.allowance = Allowance(stretch=3)
        _train(model, _batches(2), recorder)
        assert not hooks_on(model)


def test_steps_that_jump_are_observed_all_the_same():
    model, sink = mlp(4, 3), svdhooks.MemorySink()
    with _watch(model, sink, every=20) as recorder:
        for i, x in enumerate(_batches(41)):
            model(x)
            if i % 5 == 4:
                recorder.step(step=i + 1)
    # the batches since the step told before
    assert [(r.step, r.values["count"]) for r in _of(sink, "input")] == [
        (20, 5 * 16),
        (40, 5 * 16),
    ]


def test_a_jump_that_nobody_could_foresee_is_told():
    model, sink = mlp(4, 3), svdhooks.MemorySink()
    with _watch(model, sink, every=20) as recorder:
        model(_batches(1)[0])
        with pytest.warns(RecordingWarning, match="covariance of step 20 is missing"):
            recorder.step(step=20)


def test_what_fails_within_a_window_says_when_and_why():
    """A tap of changing width: the reason is the first one, at the record's step."""

    class Narrowing(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x[:, self.calls % 3 :]

    model, sink = nn.Sequential(nn.Linear(4, 3), Narrowing()), svdhooks.MemorySink()
    with (
        _watch(model, sink, 4, taps={"t": "1"}) as recorder,
        pytest.warns(RecordingWarning, match="expected \\(n, 1\\)"),
    ):
        _train(model, _batches(5), recorder)
    (record,) = sink.of("covariance", "t")
    assert record.step == 5
    assert "expected (n, 1)" in record.status


def test_attention_is_observed_under_autocast():
    """Its input is bfloat16 there, its weights are not."""

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 8)
            self.mha = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            result: Tensor = self.mha(hidden, hidden, hidden)[0]
            return result

    model, sink, x = Attending(), svdhooks.MemorySink(), torch.randn(8, 6, 4)
    with _watch(model, sink, 1, every=1) as recorder:
        with torch.autocast("cpu", torch.bfloat16):
            model(x)
            hidden = model.first(x)
        recorder.step()
    (record,) = [r for r in sink.of("covariance", "mha.q_proj") if r.point == "output"]
    assert record.ok
    weight = model.mha.in_proj_weight[:8].detach()
    exact = hidden.float().reshape(-1, 8) @ weight.T
    expected = covariance_eigenvalues(exact.detach())
    np.testing.assert_allclose(record.spectrum, expected, rtol=0.02, atol=1e-4)


def test_a_mask_told_by_the_loader_outlives_a_call_without_it():
    """Positional arguments have no names; the batch of the loader has."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            result: Tensor = self.layer(x)
            return result

    model, sink = Named(), svdhooks.MemorySink()
    batch = {"x": torch.randn(5, 6, 4), "mask": torch.arange(30).reshape(5, 6) % 3}
    with _watch(model, sink, 1, every=1, probing={"mask": "mask"}) as recorder:
        recorder.begin_batch(batch)
        model(batch["x"], batch["mask"])
        recorder.step()
    (record,) = [r for r in sink.of("covariance", "layer") if r.point == "input"]
    assert record.ok
    assert record.values["count"] == int((batch["mask"] != 0).sum())


@pytest.mark.parametrize("batch", [torch.zeros(3), (torch.zeros(3),), {"x": 1}])
def test_a_batch_of_none_of_several_models_does_not_stop_the_training(batch):
    model, sink = mlp(4, 3), svdhooks.MemorySink()
    with _watch({"a": model}, sink, 1, every=1) as recorder:
        recorder.begin_batch(batch)


def test_a_model_compiled_in_the_window_has_nothing_of_ours_in_its_graph():
    model, sink, x = mlp(4, 3), svdhooks.MemorySink(), torch.randn(8, 4)
    expected = model(x)
    with _watch(model, sink, 1, every=2) as recorder:
        recorder.step()
        assert hooks_on(model)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), expected)
        with pytest.warns(RecordingWarning, match="not called in the training"):
            recorder.step()


def test_no_batch_is_kept_where_none_is_needed():
    model, sink = mlp(4, 3), svdhooks.MemorySink()
    with _watch(model, sink) as recorder:
        recorder.step(torch.zeros(8, 4))
        (watched,) = recorder._models
        assert watched.reference.batch is None


def _keep_products(
    _context: Any, operation: Any, *_: Any, **__: Any
) -> CheckpointPolicy:
    products = {torch.ops.aten.mm.default, torch.ops.aten.sub.Tensor}
    wanted = operation in products
    return CheckpointPolicy.MUST_SAVE if wanted else CheckpointPolicy.PREFER_RECOMPUTE


class _Selective(nn.Module):
    """Keeps its products and recomputes the rest in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def _segment(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(torch.relu(self.a(x)) - x)
        return result

    def forward(self, x: Tensor) -> Tensor:
        contexts = functools.partial(
            create_selective_checkpoint_contexts, _keep_products
        )
        result: Tensor = checkpoint(
            self._segment, x, use_reentrant=False, context_fn=contexts
        )
        return result


def test_selective_checkpointing_does_not_keep_our_products_for_its_own():
    model, sink, batches = _Selective(), svdhooks.MemorySink(), _batches(6)
    twin = copy.deepcopy(model)
    expected = _train(twin, batches, None)
    with _watch(model, sink) as recorder:
        found = _train(model, batches, recorder)
    assert all(map(torch.equal, found, expected))
    assert all(map(torch.equal, model.parameters(), twin.parameters()))
    (record,) = [r for r in sink.of("covariance", "b") if r.point == "output"]
    assert (record.ok, record.values["count"]) == (True, 32)


def test_layers_that_never_fire_are_named_together_and_stop_nobody():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.rest = nn.Linear(4, 4), mlp(4, 5, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model, sink = Functional(), svdhooks.MemorySink()
    told = r"not called in the training forward.*: rest\.0, rest\.2\. Their"
    with (
        pytest.warns(RecordingWarning, match=told) as caught,
        _watch(model, sink, every=1, window=1, on_error="raise") as recorder,
    ):
        _train(model, _batches(2), recorder)
    assert len(caught) == 1
    assert {r.layer for r in sink.of("covariance") if not r.ok} == {"rest.0", "rest.2"}
