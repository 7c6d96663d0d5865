"""A wrong configuration raises at setup, says what to do, and leaves nothing behind."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import svdhooks
from svdhooks.probe import ProbeOptions
from svdhooks.reports import RecordingWarning
from svdhooks.sinks.memory import MemorySink
from tests.models import TwoInputs, mlp
from tests.plain import hooks_on, train

pytestmark = pytest.mark.usefixtures("as_a_user_calls")

X = torch.randn(8, 4)


def _refused(
    error: type[Exception], says: str, model: Any, log_dir: Path | None, **options: Any
) -> None:
    """Expect an error, and that no trace of the attempt is left."""
    watched = model if isinstance(model, nn.Module) else nn.Module()
    optimizer = torch.optim.SGD(mlp(2, 2).parameters(), lr=0.1)
    options.setdefault("optimizer", optimizer)
    before = hooks_on(watched), _state(watched), _listing(log_dir)
    with pytest.raises(error, match=says):
        svdhooks.watch(model, log_dir, **options)
    after = hooks_on(watched), _state(watched), _listing(log_dir)
    assert before[0] == after[0]
    assert all(map(torch.equal, before[1], after[1]))
    assert before[2] == after[2]
    assert not optimizer._optimizer_step_post_hooks


def _state(model: nn.Module) -> list[Tensor]:
    tensors = [*model.parameters(), *model.buffers()]
    return [t.detach().clone() for t in tensors if not t.is_meta]


def _listing(log_dir: Path | None) -> list[tuple[str, int]]:
    if log_dir is None:
        return []
    return sorted((str(p), p.stat().st_size) for p in log_dir.parent.rglob("*"))


WRONG: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "no layer matches": (
        ValueError,
        r"layers='encoder\.\*' matches no layer. The model has 2: 0, 2",
        {"layers": "encoder.*"},
    ),
    "no selector": (ValueError, "matches no layer", {"layers": []}),
    "selector of a wrong kind": (TypeError, "a glob such as", {"layers": 3}),
    "selector that is no module": (TypeError, "a module type", {"layers": dict}),
    "empty schedule": (ValueError, "expected a positive whole number", {"every": 0}),
    "negative interval": (ValueError, "for example every", {"every": -5}),
    "interval of a wrong kind": (ValueError, "whole number", {"every": "100"}),
    "schedule of a wrong kind": (
        TypeError,
        r"expected every\(n\), log_spaced",
        {"schedule": 100},
    ),
    "two schedules": (
        ValueError,
        "both an interval",
        {"every": 5, "schedule": svdhooks.at(3)},
    ),
    "unknown quantity": (
        ValueError,
        r"'local_rnk'.*'covariance'.*'weight_spectrum'",
        {"quantities": ["local_rnk"]},
    ),
    "quantity twice": (
        ValueError,
        "more than once",
        {"quantities": ["covariance", svdhooks.Covariance()]},
    ),
    "no quantity": (ValueError, "quantities= is empty", {"quantities": []}),
    "quantity that is none": (TypeError, r"svdhooks\.Covariance", {"quantities": [3]}),
    "quantity not made": (TypeError, "Covariance", {"quantities": svdhooks.Covariance}),
    "overhead of nothing": (ValueError, "between 0 and 1", {"max_overhead": 0.0}),
    "overhead of all": (ValueError, "such as 0.01", {"max_overhead": 1}),
    "overhead in per cent": (ValueError, "between 0 and 1", {"max_overhead": 5}),
    "overhead in words": (TypeError, "a share", {"max_overhead": "1%"}),
    "overhead as a flag": (TypeError, "None for no limit", {"max_overhead": True}),
    "overhead that is no number": (
        ValueError,
        "between 0 and 1",
        {"max_overhead": float("nan")},
    ),
    "on_error": (ValueError, "'warn' or 'raise'", {"on_error": "ignore"}),
    "tap of no module": (
        ValueError,
        "no such module; did you mean 2",
        {"taps": {"z": "22"}},
    ),
    "tap named as a layer": (
        ValueError,
        "a layer has that name",
        {"taps": {"0": "2"}},
    ),
    "tap that is no name": (TypeError, "the name of a module", {"taps": {"z": 3}}),
    "taps as a list": (TypeError, "a mapping of your names", {"taps": ["2"]}),
    "tap with too much": (TypeError, "the axis", {"taps": {"z": ("2", 1, 1)}}),
    "tap with too little": (TypeError, "the axis", {"taps": {"z": ()}}),
    "tap with an axis in words": (TypeError, "the axis", {"taps": {"z": ("2", "1")}}),
    "tap with a flag as axis": (TypeError, "the axis", {"taps": {"z": ("2", True)}}),
    "log size in words": (TypeError, "number of gigabytes", {"max_log_gb": "2"}),
    "log size of nothing": (ValueError, "positive", {"max_log_gb": 0}),
    "log size that is no number": (
        ValueError,
        "positive",
        {"max_log_gb": float("nan")},
    ),
    "observe as a list": (ValueError, "expected 'probe'", {"observe": ["training"]}),
    "alarms": (ValueError, "supervised", {"alarms": "superviced"}),
    "alarms of a wrong kind": (TypeError, "alarms", {"alarms": 3}),
    "hparams of a wrong kind": (TypeError, "mapping of names", {"hparams": ["lr"]}),
    "observe": (ValueError, "expected 'probe'.*'training'", {"observe": "both"}),
    "observe with a probe": (
        ValueError,
        "give one of them",
        {"observe": "training", "probe": X},
    ),
    "negative start": (ValueError, "expected a step >= 0", {"start_step": -1}),
    "start in words": (TypeError, "whole number", {"start_step": "100"}),
    "start in between": (TypeError, "whole number", {"start_step": 2.5}),
    "probe of the wrong shape": (
        ValueError,
        r"does not accept the given probe=.*shapes.*Expected a batch",
        {"probe": torch.zeros(3, 5)},
    ),
    "probe with too many arguments": (
        ValueError,
        "does not accept",
        {"probe": (X, torch.zeros(8))},
    ),
    "probe with unknown keywords": (
        ValueError,
        "mapping of keyword arguments",
        {"probe": {"x": X}},
    ),
    "probe without tensors": (TypeError, "without any tensor", {"probe": [1, 2]}),
    "probe that is a generator": (
        TypeError,
        "DataLoader: give one batch",
        {"probe": (x for x in [X])},
    ),
    "probe of numpy": (TypeError, "expected a tensor", {"probe": np.zeros((8, 4))}),
    "probe options as a dict": (
        TypeError,
        "ProbeOptions",
        {"probe_options": {"mask": "m"}},
    ),
    "forward that is none": (TypeError, "a callable", {"forward": "net"}),
    "forward that fails": (
        ValueError,
        "ZeroDivisionError",
        {"probe": X, "forward": lambda m, b: 1 / 0},
    ),
    "mask without a mapping": (
        ValueError,
        "no keys at all.*Give a mapping",
        {"probe": X, "probe_options": ProbeOptions(mask="attention_mask")},
    ),
    "mask of a wrong shape": (
        ValueError,
        r"\(batch, length\).*\(8, 4, 1\)",
        {"probe": X, "probe_options": ProbeOptions(mask=lambda b: b[..., None])},
    ),
    "optimiser of a wrong kind": (
        TypeError,
        r"torch\.optim\.Optimizer",
        {"optimizer": mlp(2, 2)},
    ),
    "sink of a wrong kind": (TypeError, "MemorySink", {"sinks": [print]}),
    "sink not made": (TypeError, "MemorySink", {"sinks": [MemorySink]}),
    "one sink without a list": (TypeError, "sequence", {"sinks": MemorySink()}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_argument_is_told_and_leaves_nothing_behind(wrong, tmp_path):
    error, says, options = WRONG[wrong]
    _refused(error, f"(?s){says}", mlp(4, 6, 3), tmp_path / "run", **options)


def test_the_check_for_what_is_left_behind_can_fail(tmp_path):
    """The companion: a directory, a hook, a changed weight are each noticed."""
    model = mlp(4, 6, 3)

    acts: list[Callable[[], object]] = [
        lambda: (tmp_path / "made").mkdir(),
        lambda: model.register_forward_hook(lambda *_: None),
        lambda: nn.init.zeros_(model[0].weight),
    ]
    for act in acts:

        def attempt(act: Callable[[], object] = act) -> None:
            before = hooks_on(model), _state(model), _listing(tmp_path / "run")
            act()
            assert before[0] == hooks_on(model)
            assert before[2] == _listing(tmp_path / "run")
            assert all(map(torch.equal, before[1], _state(model)))

        with pytest.raises(AssertionError):
            attempt()


# --- models ------------------------------------------------------------------------


class _Clamps(nn.Module):
    """Changes its parameters in every forward."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.linear.weight.mul_(0.5)
        return self.linear(x)


MODELS: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "on the meta device": (
        ValueError,
        "on the meta device.*to_empty",
        lambda: mlp(4, 6).to("meta"),
    ),
    "without weights": (
        ValueError,
        "at least one Linear, Conv",
        lambda: nn.Sequential(nn.ReLU()),
    ),
    "without a rule": (
        ValueError,
        "no rule",
        lambda: nn.ParameterList([torch.zeros(2, 3)]),
    ),
    "a function": (TypeError, r"expected a torch\.nn\.Module", lambda: torch.relu),
    "a class": (TypeError, r"expected a torch\.nn\.Module", lambda: nn.Linear),
    "parameters": (TypeError, "generator", lambda: mlp(2, 2).parameters()),
    "nothing": (TypeError, "NoneType", lambda: None),
}


@pytest.mark.parametrize("which", MODELS)
def test_a_model_that_cannot_be_watched_is_told(which, tmp_path):
    error, says, make = MODELS[which]
    _refused(error, says, make(), tmp_path / "run")
    with pytest.raises(error, match=says):
        svdhooks.scan(make())


def test_a_model_that_changes_its_parameters_is_probed_and_left_as_it_was(tmp_path):
    model = _Clamps()
    before = [p.clone() for p in model.parameters()], model.linear.weight._version
    with svdhooks.watch(model, tmp_path, probe=X) as recorder:
        assert recorder.last["linear", "output"].ok
    assert all(map(torch.equal, before[0], model.parameters()))
    assert model.linear.weight._version == before[1]


def test_a_wrong_keyword_of_the_model_is_quoted(tmp_path):
    probe = {"a": torch.zeros(2, 4), "c": torch.zeros(2, 5)}
    _refused(ValueError, "argument 'c'", TwoInputs(), tmp_path / "run", probe=probe)


def test_a_mask_key_that_the_batch_lacks_is_told_with_those_it_has(tmp_path):
    options = ProbeOptions(mask="attention_mask")
    probe = {"a": torch.zeros(2, 4), "b": torch.zeros(2, 5)}
    says = r"no such key; found \['a', 'b'\]"
    _refused(
        ValueError,
        says,
        TwoInputs(),
        tmp_path / "run",
        probe=probe,
        probe_options=options,
    )


# --- the log directory --------------------------------------------------------------


def test_a_log_dir_that_is_a_file_is_told(tmp_path):
    place = tmp_path / "file"
    place.write_text("mine")
    for log_dir in (place, place / "run"):
        _refused(OSError, "choose another log_dir", mlp(4, 6), log_dir)
    assert place.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_log_dir_without_permission_is_told(tmp_path):
    tmp_path.chmod(0o500)
    try:
        _refused(OSError, "another log_dir", mlp(4, 6), tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)


def test_a_log_dir_in_the_cloud_is_told(tmp_path):
    with pytest.raises(ValueError, match="local"):
        svdhooks.watch(mlp(4, 6), "s3://bucket/run")


def test_a_used_log_dir_names_the_choices(tmp_path):
    model = mlp(4, 6, 3)
    with svdhooks.watch(model, tmp_path / "run", every=2) as recorder:
        train(model, [X] * 5, recorder)
    says = (
        "records of steps 0 to 4. Choose another log_dir.*start_step=N to resume.*"
        "delete"
    )
    _refused(FileExistsError, f"(?s){says}", model, tmp_path / "run")
    # and one of the choices works
    with svdhooks.watch(model, tmp_path / "run", every=2, start_step=5) as recorder:
        train(model, [X] * 5, recorder)
    assert svdhooks.RunLog(tmp_path / "run").steps.tolist() == [0, 2, 4, 6, 8, 10]


def test_a_failed_attempt_does_not_stand_in_the_way_of_the_next(tmp_path):
    model = mlp(4, 6, 3)
    for options in ({"every": 0}, {"probe": torch.zeros(3, 5)}, {"optimizer": 3}):
        with pytest.raises((ValueError, TypeError)):
            svdhooks.watch(model, tmp_path, **options)
    with svdhooks.watch(model, tmp_path, probe=X):
        pass
    assert svdhooks.RunLog(tmp_path).steps.tolist() == [0]


def test_failing_at_the_first_record_with_on_error_raise_leaves_no_hook(tmp_path):
    model = mlp(4, 6, 3)
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    memory = MemorySink()
    with pytest.raises(RuntimeError, match=r"layer '0'.*NaN") as caught:
        svdhooks.watch(
            model, None, on_error="raise", optimizer=optimizer, sinks=[memory]
        )
    assert "the record of step" not in str(caught.value)  # said once, not wrapped
    assert not optimizer._optimizer_step_post_hooks
    assert hooks_on(model) == 0
    assert memory.closed


def test_scan_refuses_what_watch_refuses():
    with pytest.raises(ValueError, match="matches no layer"):
        svdhooks.scan(mlp(4, 6), "x*")


# --- in the loop: nothing may stop training -------------------------------------------


@pytest.mark.parametrize("batch", [100, "batch", (1, 2), {"lr": 0.1}])
def test_a_batch_without_data_is_told_once_and_training_goes_on(batch):
    model, memory = mlp(4, 6, 3), MemorySink()
    recorder = svdhooks.watch(model, None, every=1, sinks=[memory])
    with pytest.warns(RecordingWarning) as caught:
        recorder.step(batch)  # such as a step number, given by mistake
        recorder.step(batch)
    messages = [str(w.message) for w in caught]
    assert sum("holds no data" in m for m in messages) == 1
    assert [r.step for r in memory.of("weight_spectrum", "0")] == [0, 1, 2]


def test_records_that_would_go_nowhere_are_refused():
    with pytest.raises(ValueError, match=r"MemorySink"):
        svdhooks.watch(mlp(2, 2), None)


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"taps": ["1"]}, "taps="),
        ({"taps": {"z": ("2",)}}, "the axis"),
        ({"max_log_gb": "2"}, "max_log_gb="),
        ({"on_error": "ignore"}, "on_error="),
        ({"layers": 3}, "layers="),
        ({"forward": {"a": abs}}, "single model"),
        ({"monitor": 3}, "monitor="),
        ({"monitor": [3]}, "monitor="),
        ({"optimizer": "0"}, "optimizer="),
        ({"sinks": [MemorySink]}, "sinks="),
    ],
)
def test_a_callback_tells_what_is_wrong_when_it_is_made(wrong, says):
    from svdhooks.lightning import SpectrumMonitor

    with pytest.raises((TypeError, ValueError), match=says):
        SpectrumMonitor(**wrong)


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (svdhooks.TokenRank, {"max_length": 2.5}),
        (svdhooks.TokenRank, {"layers": 3}),
        (svdhooks.TokenRank, {"layers": [3]}),
        (svdhooks.UpdateSpectrum, {"directions": "2"}),
        (svdhooks.WeightVectors, {"k": True}),
        (svdhooks.Covariance, {"max_features": "8"}),
        (ProbeOptions, {"window": 2.5}),
        (ProbeOptions, {"window": True}),
        (ProbeOptions, {"max_bytes": "1"}),
    ],
)
def test_options_of_a_wrong_kind_are_told_by_name(make, wrong):
    (name,) = wrong
    with pytest.raises(TypeError, match=f"{name}=.*expected"):
        make(**wrong)


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize("taps", [["1"], "1", {"z": ()}, {"z": 3}])
def test_taps_of_a_wrong_kind_are_told_for_several_models_too(taps):
    with pytest.raises(TypeError, match="taps="):
        svdhooks.watch({"g": mlp(4, 3)}, None, sinks=[MemorySink()], taps=taps)
