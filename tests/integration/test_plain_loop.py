"""A plain loop: what is recorded, at which steps, on which data."""

import gc
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import svdhooks
from svdhooks.probe import ProbeOptions
from svdhooks.reports import RecordingWarning
from svdhooks.sinks.memory import MemorySink
from tests.models import Everything, TwoInputs, mlp
from tests.oracles import covariance_eigenvalues, singular_values
from tests.plain import hooks_on, points_by_hand, train

BATCHES = [torch.randn(16, 4) for _ in range(10)]


def _watch(model: nn.Module, **options: Any) -> tuple[svdhooks.Recorder, MemorySink]:
    memory = MemorySink()
    options = {"every": 1, "max_overhead": None, "on_error": "raise", **options}
    return svdhooks.watch(model, None, sinks=[memory], **options), memory


def _steps(memory: MemorySink, quantity: str = "weight_spectrum") -> list[int]:
    return list(dict.fromkeys(r.step for r in memory.of(quantity)))


def _output(memory: MemorySink, step: int, layer: str = "0") -> np.ndarray:
    (record,) = [
        r
        for r in memory.of("covariance", layer)
        if (r.step, r.point) == (step, "output")
    ]
    assert record.ok, record.status
    return record.spectrum


# --- at which steps ----------------------------------------------------------------


def test_the_weights_before_the_first_update_are_recorded():
    model = mlp(4, 6, 3)
    expected = np.linalg.svd(model[0].weight.detach().numpy(), compute_uv=False)
    recorder, memory = _watch(model)
    (first,) = memory.of("weight_spectrum", "0")
    np.testing.assert_allclose(first.spectrum, expected, rtol=1e-5)
    assert first.step == recorder.steps == 0
    assert memory.of("covariance") == []  # no batch is known yet


def test_with_a_probe_step_0_has_covariances():
    _, memory = _watch(mlp(4, 6, 3), probe=BATCHES[0])
    assert _steps(memory, "covariance") == [0]
    assert len(memory.of("covariance")) == 4


def test_a_call_per_update_records_at_the_scheduled_steps():
    model = mlp(4, 6, 3)
    recorder, memory = _watch(model, every=3)
    train(model, BATCHES, recorder)
    assert _steps(memory) == [0, 3, 6, 9]
    assert recorder.steps == 10


def test_following_the_optimiser_needs_no_call():
    model = mlp(4, 6, 3)
    optimizer = torch.optim.Adam(model.parameters())
    recorder, memory = _watch(model, every=3, optimizer=optimizer)
    train(model, BATCHES, None, optimizer)
    assert _steps(memory) == [0, 3, 6, 9]
    assert _steps(memory, "covariance") == [3, 6, 9]  # captured by itself
    recorder.close()
    train(model, BATCHES, None, optimizer)
    assert recorder.steps == 10


def test_a_recorder_that_nobody_keeps_goes_on_with_its_optimiser():
    model, memory = mlp(4, 6, 3), MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    svdhooks.watch(model, None, every=5, sinks=[memory], optimizer=optimizer)
    gc.collect()
    train(model, BATCHES, None, optimizer)
    assert _steps(memory) == [0, 5, 10]


def test_calls_do_not_count_twice_what_the_optimiser_counts():
    model = mlp(4, 6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder, memory = _watch(model, every=5, optimizer=optimizer)
    train(model, BATCHES, recorder, optimizer)
    assert _steps(memory) == [0, 5, 10]


@pytest.mark.parametrize("followed", [True, False])
def test_under_accumulation_updates_count_and_not_batches(followed):
    """Hazard 25: accumulation."""
    model = mlp(4, 6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder, memory = _watch(model, optimizer=optimizer if followed else None)
    for i, x in enumerate(BATCHES):
        model(x).square().mean().backward()
        if i % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
            if not followed:
                recorder.step()
    assert _steps(memory) == [0, 1, 2]


def test_a_step_that_the_gradient_scaler_skips_is_no_update():
    """Hazard 25: skipped steps."""
    model = mlp(4, 6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    recorder, _ = _watch(model, optimizer=optimizer)
    for i, x in enumerate(BATCHES[:4]):
        loss = model(x).square().mean() * (float("inf") if i == 1 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert recorder.steps == 3


def test_lbfgs_makes_one_update_per_step_however_often_it_evaluates():
    """Hazard 25: LBFGS."""
    model, calls = mlp(4, 6, 3), []
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    recorder, memory = _watch(model, optimizer=optimizer)

    def closure() -> Tensor:
        calls.append(1)
        optimizer.zero_grad()
        loss = model(BATCHES[0]).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert recorder.steps == 3 < len(calls)
    assert _steps(memory) == [0, 1, 2, 3]


@pytest.mark.parametrize("scheduler_first", [True, False])
def test_learning_rate_schedulers_change_nothing(scheduler_first):
    model = mlp(4, 6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    made = []
    if scheduler_first:
        made.append(torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, 20))
    recorder, memory = _watch(model, every=4, optimizer=optimizer)
    if not scheduler_first:
        made.append(torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, 20))
    train(model, BATCHES, None, optimizer, after=made[0].step)
    assert recorder.steps == 10
    assert _steps(memory) == [0, 4, 8]


def test_steps_may_be_told_may_jump_and_may_repeat():
    recorder, memory = _watch(mlp(4, 6, 3), every=10)
    told = [recorder.step(step=s) for s in (3, 9, 12, 12, 11, 25, 47, 48)]
    assert told == [False, False, True, False, False, True, True, False]
    assert _steps(memory) == [0, 12, 25, 47]
    assert recorder.step() is False  # 49
    assert recorder.step() is True  # 50


def test_each_quantity_may_have_its_own_schedule():
    model = mlp(4, 6, 3)
    quantities = [
        svdhooks.WeightSpectrum(),
        svdhooks.Covariance(schedule=svdhooks.at(4, 7)),
    ]
    recorder, memory = _watch(model, every=3, quantities=quantities, probe=BATCHES[0])
    train(model, BATCHES, recorder)
    assert _steps(memory) == [0, 3, 6, 9]
    assert _steps(memory, "covariance") == [4, 7]


# --- on which data -----------------------------------------------------------------


def test_the_first_training_call_is_the_reference_and_a_private_copy():
    model = mlp(4, 6, 3)
    recorder, memory = _watch(model, quantities="covariance")
    model.eval()
    model(BATCHES[1])  # a validation pass before training
    model.train()
    x = BATCHES[0].clone().requires_grad_()
    model(x)
    model(BATCHES[2])  # a second call in the same step
    with torch.no_grad():
        x.zero_()  # a loader that reuses its memory
    recorder.step()
    expected = covariance_eigenvalues(points_by_hand(model, BATCHES[0])["0", "output"])
    np.testing.assert_allclose(_output(memory, 1), expected, rtol=1e-4, atol=1e-6)


def test_only_training_mode_is_captured():
    model = mlp(4, 6, 3).eval()
    recorder, memory = _watch(model, on_error="warn")
    model(BATCHES[0])
    with pytest.warns(RecordingWarning, match="probe=") as caught:
        recorder.step()
        recorder.step()
    assert len(caught) == 1  # said once
    assert memory.of("covariance") == []
    assert _steps(memory) == [0, 1, 2]


def test_the_capture_ends_with_the_first_call_or_the_first_step():
    model = mlp(4, 6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for followed, called in product((True, False), repeat=2):
        recorder, _ = _watch(model, optimizer=optimizer if followed else None)
        assert hooks_on(model) == 1
        if called:
            model(BATCHES[0]).sum().backward()
            assert hooks_on(model) == 0
        optimizer.step()
        if not followed:
            recorder.step()
        assert hooks_on(model) == 0
        recorder.close()


def test_nothing_listens_when_a_probe_is_given_and_after_close():
    model = mlp(4, 6, 3)
    _watch(model, probe=BATCHES[0])
    assert hooks_on(model) == 0
    recorder, _ = _watch(model)
    recorder.close()
    assert hooks_on(model) == 0


def test_keyword_arguments_are_captured_as_such():
    model = TwoInputs()
    recorder, memory = _watch(model)
    a, b = torch.randn(9, 4), torch.randn(9, 5)
    model(a, b=b, scale=2.0)
    recorder.step()
    expected = covariance_eigenvalues(model.right(b).detach())
    np.testing.assert_allclose(
        _output(memory, 1, "right"), expected, rtol=1e-4, atol=1e-6
    )


X, Y = torch.randn(12, 4), torch.randint(0, 3, (12,))


@pytest.mark.parametrize(
    "batch",
    [X, (X, Y), [X, Y], {"input": X, "labels": Y}],
    ids=["tensor", "tuple", "list", "mapping"],
)
def test_a_batch_given_to_step_is_read_as_the_loader_gives_it(batch):
    model = mlp(4, 6, 3)  # Sequential.forward names its argument "input"
    recorder, memory = _watch(model)
    recorder.step(batch)
    recorder.step((torch.zeros(2, 4), Y))  # a reference is known: not looked at
    expected = covariance_eigenvalues(points_by_hand(model, X)["0", "output"])
    for step in (1, 2):
        np.testing.assert_allclose(
            _output(memory, step), expected, rtol=1e-4, atol=1e-6
        )


class _Called(nn.Module):
    """A model that the loop never calls as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(4, 6, 3)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


@pytest.mark.parametrize("given", [True, False])
def test_forward_serves_models_that_are_called_otherwise(given):
    model = _Called()
    probe = (X, Y) if given else None
    recorder, memory = _watch(model, probe=probe, forward=lambda m, b: m.loss(b))
    model.loss((X, Y)).backward()
    recorder.step(batch=(X, Y))
    expected = covariance_eigenvalues(points_by_hand(model.net, X)["0", "output"])
    np.testing.assert_allclose(
        _output(memory, 1, "net.0"), expected, rtol=1e-4, atol=1e-6
    )


def test_forward_gets_batches_of_the_loader_and_never_the_arguments_of_a_call():
    """``forward=lambda m, b: m(b[0])`` on a captured ``x`` would see one sample."""
    model = mlp(4, 6, 3)
    recorder, memory = _watch(model, forward=lambda m, b: m(b[0]), on_error="warn")
    model(X)
    with pytest.warns(RecordingWarning, match="probe="):
        recorder.step()
    recorder.step(batch=(X, Y))
    counts = {float(r.values["count"]) for r in memory.of("covariance")}
    assert counts == {12.0}


class _Text(nn.Module):
    """Token embeddings and a position-wise layer; padding is not masked inside."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.linear = nn.Linear(6, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.linear(self.embedding(input_ids)) * attention_mask[..., None]


IDS = torch.randint(1, 20, (7, 9))
MASK = (torch.arange(9) < torch.randint(2, 9, (7, 1))).long()


@pytest.mark.parametrize("captured", [True, False])
def test_padding_is_kept_out_by_the_mask(captured):
    model = _Text()
    batch = {"input_ids": IDS * MASK, "attention_mask": MASK}
    options = ProbeOptions(mask="attention_mask")
    probe = None if captured else batch
    recorder, memory = _watch(model, probe=probe, probe_options=options)
    if captured:
        model(**batch)
        recorder.step()
    tokens = IDS[MASK.bool()]  # the sentences without padding, one after the other
    expected = model.linear(model.embedding(tokens)).detach()
    found = _output(memory, recorder.steps, "linear")
    np.testing.assert_allclose(
        found, covariance_eigenvalues(expected), rtol=1e-4, atol=1e-6
    )
    (record,) = [r for r in memory.of("covariance", "linear") if r.point == "output"]
    assert record.values["count"] == MASK.sum()
    with_padding = model.linear(model.embedding(IDS * MASK)).detach().flatten(0, 1)
    assert not np.allclose(found, covariance_eigenvalues(with_padding), rtol=1e-2)


@pytest.mark.parametrize("samples", ["last", "mean"])
def test_a_sample_may_be_the_last_token_or_the_mean(samples):
    model = _Text()
    batch = {"input_ids": IDS * MASK, "attention_mask": MASK}
    options = ProbeOptions(mask="attention_mask", samples=samples)
    _, memory = _watch(model, probe=batch, probe_options=options)
    rows = []
    for ids, mask in zip(IDS, MASK, strict=True):
        z = model.linear(model.embedding(ids[: mask.sum()])).detach()
        rows.append(z[-1] if samples == "last" else z.mean(0))
    expected = covariance_eigenvalues(torch.stack(rows))
    np.testing.assert_allclose(
        _output(memory, 0, "linear"), expected, rtol=1e-4, atol=1e-6
    )


# --- wrappers ----------------------------------------------------------------------


def _compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [_compiled, nn.DataParallel])
@pytest.mark.parametrize("given", [True, False])
def test_wrappers_are_looked_through(wrap, given):
    model = mlp(4, 6, 3)
    wrapped = wrap(model)
    recorder, memory = _watch(wrapped, every=2, probe=BATCHES[0] if given else None)
    expected = [layer.name for layer in recorder.layers]
    assert expected == ["0", "2"]
    train(wrapped, BATCHES, recorder)
    assert _steps(memory, "covariance") == [0, 2, 4, 6, 8, 10][0 if given else 1 :]
    by_hand = covariance_eigenvalues(points_by_hand(model, BATCHES[0])["0", "output"])
    np.testing.assert_allclose(_output(memory, 10), by_hand, rtol=1e-4, atol=1e-6)
    assert hooks_on(model) == hooks_on(wrapped) == 0


@pytest.mark.distributed
@pytest.mark.parametrize("given", [True, False])
def test_a_model_in_ddp_is_looked_through(given, tmp_path):
    distributed = torch.distributed
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1
    )
    try:
        model = mlp(4, 6, 3)
        wrapped = nn.parallel.DistributedDataParallel(model)
        probe = BATCHES[0] if given else None
        recorder, memory = _watch(wrapped, every=2, probe=probe)
        assert [layer.name for layer in recorder.layers] == ["0", "2"]
        train(wrapped, BATCHES[:4], recorder)
        assert _steps(memory, "covariance") == ([0, 2, 4] if given else [2, 4])
        by_hand = covariance_eigenvalues(
            points_by_hand(model, BATCHES[0])["0", "output"]
        )
        np.testing.assert_allclose(_output(memory, 4), by_hand, rtol=1e-4, atol=1e-6)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("given", [True, False])
def test_a_compiled_model_is_not_compiled_again(given):
    graphs = []

    def backend(graph: Any, _example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model = torch.compile(mlp(4, 6, 3), backend=backend, fullgraph=True)
    recorder, memory = _watch(model, probe=BATCHES[0][:5] if given else None)
    train(model, BATCHES, recorder)
    assert len(graphs) == 1
    assert len(memory.of("covariance", "0")) == 2 * (11 if given else 10)


def test_lazy_modules_are_initialised_by_the_training_and_not_by_us():
    def run(watched: bool) -> tuple[dict[str, Tensor], MemorySink]:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.LazyLinear(3))
        memory = MemorySink()
        recorder = None
        if watched:
            recorder = svdhooks.watch(
                model, None, every=2, probe=BATCHES[0], sinks=[memory], on_error="raise"
            )
        model(BATCHES[0])  # optimisers refuse uninitialised parameters
        train(model, BATCHES[:4], recorder)
        return model.state_dict(), memory

    plain, _ = run(False)
    watched, memory = run(True)
    assert all(torch.equal(plain[k], watched[k]) for k in plain)
    assert {r.layer for r in memory.of("weight_spectrum") if r.step == 0} == {"0"}
    for step in (2, 4):
        measured = {(r.layer, r.point) for r in memory.records if r.step == step}
        assert {("2", "weight"), ("2", "output"), ("0", "input")} <= measured


def test_lazy_modules_appear_in_the_log_with_the_first_forward(tmp_path):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.LazyLinear(3))
    with svdhooks.watch(model, tmp_path, every=1, max_overhead=None) as recorder:
        assert [layer.name for layer in recorder.layers] == ["0"]
        model(BATCHES[0])
        train(model, BATCHES[:3], recorder)
    log = svdhooks.RunLog(tmp_path)
    assert log.layers == ("0", "2")
    assert log.spectra("0")[0].tolist() == [0, 1, 2, 3]
    steps, sigma = log.spectra("2")
    assert steps.tolist() == [1, 2, 3]
    assert sigma.shape == (3, 3)
    assert log.skipped == {}
    assert log.meta["start_step"] == 0


def test_a_lazy_module_that_never_is_called_costs_the_covariances_and_is_said():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.LazyLinear(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Model()
    recorder, memory = _watch(model, on_error="warn", probe=BATCHES[0])
    optimizer = torch.optim.SGD(model.used.parameters(), lr=0.1)
    with pytest.warns(RecordingWarning, match=r"unused is still.*\(lazy\)") as caught:
        train(model, BATCHES[:3], recorder, optimizer)
    assert len(caught) == 1
    assert memory.of("covariance") == []
    assert _steps(memory) == [0, 1, 2, 3]


def test_a_layer_that_is_replaced_is_followed_and_this_is_said(tmp_path):
    """Else the old weights would be recorded for ever, as if they were trained."""
    model, memory = mlp(4, 6, 3), MemorySink()
    with svdhooks.watch(
        model, tmp_path, every=1, probe=BATCHES[0], max_overhead=None, sinks=[memory]
    ) as recorder:
        train(model, BATCHES[:2], recorder)
        model[2] = nn.Linear(6, 8)
        model.append(nn.Linear(8, 5))
        with pytest.warns(RecordingWarning, match="replaced.* 0, 2, 3") as caught:
            train(model, BATCHES[:2], recorder)
        assert len(caught) == 1
        expected = singular_values(model[2].weight.detach())
        del model[3]
        train(model, BATCHES[:1], recorder)  # said once
    (record,) = [r for r in memory.of("weight_spectrum", "2") if r.step == 4]
    np.testing.assert_allclose(record.spectrum, expected, rtol=1e-5)
    assert all(r.ok for r in memory.records)
    log = svdhooks.RunLog(tmp_path)
    assert log.steps.tolist() == [0, 1, 2, 3, 4, 5]
    assert log.spectra("3")[0].tolist() == [3, 4]
    steps, sigma = log.spectra("2")
    assert steps.tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(sigma[4][:6], expected, rtol=1e-5)


def test_a_model_of_everything_is_recorded_without_a_complaint():
    model = Everything()
    recorder, memory = _watch(model, every=2)
    tokens = [torch.randint(0, 11, (6, 5)) for _ in range(4)]
    train(model, tokens, recorder)
    assert all(r.ok for r in memory.records)
    expected = {"conv", "spectral", "head", "attention.q_proj", "attention.out_proj"}
    assert expected <= {r.layer for r in memory.of("covariance")}


def test_leaving_the_with_block_closes_everything():
    model = mlp(4, 6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    memory = MemorySink()
    with svdhooks.watch(
        model, None, every=2, optimizer=optimizer, sinks=[memory]
    ) as recorder:
        train(model, BATCHES[:3], None, optimizer)
    assert memory.closed
    train(model, BATCHES[:3], None, optimizer)
    assert recorder.steps == 3
    assert _steps(memory) == [0, 2]


def test_steps_that_restart_every_epoch_are_told_once():
    recorder, _ = _watch(mlp(4, 6, 3), on_error="warn")
    recorder.step(step=5)
    with pytest.warns(RecordingWarning, match="count over the whole run") as caught:
        recorder.step(step=0)
        recorder.step(step=1)
        recorder.step(step=0)
    assert len(caught) == 1
