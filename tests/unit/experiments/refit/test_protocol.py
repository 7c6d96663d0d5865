"""The refit: a run, resuming, a case whose answer is known, and bad input."""

import json

import pytest
import torch
from torch import nn

from svdhooks.experiments.refit import ARMS, RefitSettings, run_refit
from svdhooks.experiments.refit import networks as networks
from svdhooks.experiments.refit import scores as scores
from svdhooks.experiments.refit.training import split

TINY = {
    "seeds": 1,
    "restarts": 1,
    "steps": 3,
    "widths": (8, 6, 5, 3),
    "batch_size": 16,
    "chance_draws": 2,
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data():
    x = torch.randn(60, 8, generator=seeded(1))
    return x, (x @ torch.randn(8, 3, generator=seeded(2))).argmax(1)


def network(seed: int, widths=(8, 6, 5, 3)) -> nn.Sequential:
    return networks.make_model(widths, seed).double()


# --- a run --------------------------------------------------------------------------------


def test_a_run_has_all_arms_layers_and_sides_and_tells_of_every_step(tmp_path, data):
    told = []
    settings = RefitSettings(**TINY)
    result = run_refit(
        settings, tmp_path / "out", data=data, tell=lambda *what: told.append(what)
    )
    assert {r["arm"] for r in result.table} == {*ARMS, "original"}
    assert {r["side"] for r in result.table} == {
        "left", "right", "left cosine", "right cosine", "signal", "units",
        "adjacency", "function",
    }  # fmt: skip
    layers = {r["layer"] for r in result.table if r["side"] == "right"}
    assert layers == {"fc1", "fc2", "fc3"}
    steps = {r["step"] for r in result.trajectory if r["arm"] == "fixed_s"}
    assert steps == {0, 1, 2, 3}
    assert {r["step"] for r in result.trajectory if r["arm"] == "haar"} == {0}
    assert told[-1][1:] == (21, 21)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    gap = {r["arm"]: r["score"] for r in result.table if r["layer"] == scores.GAP}
    assert gap["original"] == 0
    assert all(r["chance"] is None for r in result.table if r["layer"] == scores.GAP)


@pytest.mark.slow
def test_a_run_repeats_and_leaves_the_random_state_alone(tmp_path, data):
    state = torch.get_rng_state()
    results = [
        run_refit(RefitSettings(**TINY), tmp_path / name, data=data) for name in "ab"
    ]
    assert json.dumps(results[0].table) == json.dumps(results[1].table)
    assert json.dumps(results[0].trajectory) == json.dumps(results[1].trajectory)
    assert torch.equal(state, torch.get_rng_state())


class Stopped(Exception):
    pass


def stop_at(what: str):
    def tell(name: str, done: int, whole: int) -> None:
        if name == what:
            raise Stopped

    return tell


@pytest.mark.parametrize(
    "where",
    [
        "seed 1, flat_s",
        pytest.param("seed 0, free", marks=pytest.mark.slow),
        pytest.param("seed 1, original", marks=pytest.mark.slow),
    ],
)
def test_a_second_call_goes_on_where_the_first_was_stopped(tmp_path, data, where):
    settings = RefitSettings(**{**TINY, "seeds": 2})
    whole = run_refit(settings, tmp_path / "whole", data=data)
    out = tmp_path / "stopped"
    with pytest.raises(Stopped):
        run_refit(settings, out, data=data, tell=stop_at(where))
    kept = {p.name: p.stat().st_mtime_ns for p in out.glob("seed*")}
    assert "seed0-fixed_s.json" in kept
    assert "seed1-perturbed.json" not in kept
    # a kill in the middle of writing leaves part of a file under another name
    (out / "seed1-perturbed.json.part").write_text('{"table": [')
    resumed = run_refit(settings, out, data=data)
    assert json.dumps(resumed.table) == json.dumps(whole.table)
    assert json.dumps(resumed.trajectory) == json.dumps(whole.trajectory)
    assert all((out / n).stat().st_mtime_ns == time for n, time in kept.items())


@pytest.mark.slow
def test_seeds_can_be_added(tmp_path, data):
    first = run_refit(RefitSettings(**TINY), tmp_path / "a", data=data)
    more = RefitSettings(**{**TINY, "seeds": 2})
    both = run_refit(more, tmp_path / "a", data=data)
    assert json.dumps(both.table[: len(first.table)]) == json.dumps(first.table)
    fresh = run_refit(more, tmp_path / "b", data=data)
    assert json.dumps(both.table) == json.dumps(fresh.table)


def test_results_of_other_settings_data_or_models_are_refused(tmp_path, data):
    out = tmp_path / "out"
    run_refit(RefitSettings(**TINY), out, data=data)
    other = RefitSettings(**{**TINY, "steps": 4})
    with pytest.raises(ValueError, match=r"other settings in .*: steps 3 instead of 4"):
        run_refit(other, out, data=data)
    moved = (data[0] + 1, data[1])
    with pytest.raises(ValueError, match=r"other settings in .*: data "):
        run_refit(RefitSettings(**TINY), out, data=moved)
    with pytest.raises(ValueError, match=r"other settings in .*: data "):
        run_refit(RefitSettings(**TINY), out, data=data, model=network(0).float())


def test_a_directory_of_other_files_is_refused_and_left_alone(tmp_path, data):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="Found other files at"):
        run_refit(RefitSettings(**TINY), tmp_path, data=data)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_a_linear_model_with_white_inputs_comes_back(tmp_path):
    """The theorem of MATH 5.2, through the whole experiment and a model of one's own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    U, V = torch.linalg.qr(torch.randn(4, 4))[0], torch.linalg.qr(torch.randn(6, 4))[0]
    with torch.no_grad():
        model[0].weight.copy_((U * torch.tensor([4.0, 3.0, 2.0, 1.0])) @ V.T)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = 6**0.5 * torch.eye(6)
    settings = RefitSettings(
        seeds=1,
        steps=500,
        chance_draws=2,
        turn_rate=0.05,
        weight_decay=0.0,
        test_share=0.0,
    )
    with torch.no_grad():
        y = model(x)
    result = run_refit(settings, tmp_path / "out", model=model, data=(x, y))
    score = {
        (r["arm"], r["side"], r["k"], r["restart"]): r["score"] for r in result.table
    }
    for arm in ("fixed_s", "perturbed"):
        for restart in range(settings.restarts):
            for side in ("left", "right", "left cosine", "right cosine"):
                assert score[arm, side, 1, restart] > 0.999
                assert score[arm, side, 4, restart] > 0.999
            assert score[arm, "function", None, restart] < 1e-6
    assert score["haar", "right", 1, 0] < 0.9
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


# --- bad input ----------------------------------------------------------------------------


def test_models_that_are_no_stack_of_linear_layers_are_refused(tmp_path, data):
    settings = RefitSettings(**TINY)
    normed = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(TypeError, match=r"Found 1 \(BatchNorm1d\), with parameters"):
        run_refit(settings, tmp_path / "a", model=normed, data=data)
    with pytest.raises(ValueError, match="Found no Linear layer"):
        run_refit(settings, tmp_path / "a", model=nn.Sequential(nn.ReLU()), data=data)
    assert not (tmp_path / "a").exists()
    with pytest.raises(TypeError, match=r"Found a Linear, expected a torch\.nn\.Seq"):
        networks.check_model(nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seeds", 0),
        ("steps", 0),
        ("turn_rate", -0.1),
        ("test_share", 1.0),
        ("orthogonal_map", "polar"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ValueError, match=f"Found {name}="):
        RefitSettings(**{name: value})


@pytest.mark.usefixtures("as_a_user_calls")
def test_other_bad_input_is_refused(data):
    with pytest.raises(ValueError, match=r"Found the widths \(8,\)"):
        networks.make_model((8,), 0)
    with pytest.raises(ValueError, match="Found 60 inputs and 59 targets"):
        split(data[0], data[1][:59], seeded())


def test_a_training_that_diverges_says_so(tmp_path, data):
    settings = RefitSettings(**{**TINY, "learning_rate": 1e30})
    with pytest.raises(FloatingPointError, match="not finite after training with"):
        run_refit(settings, tmp_path / "out", data=data)


def test_samples_are_split_without_loss(data):
    found = split(*data, seeded(), 0.25)
    assert (len(found.train_x), len(found.test_x)) == (45, 15)
    together = torch.cat([found.train_x, found.test_x])
    assert torch.equal(together.sort(0)[0], data[0].sort(0)[0])
    whole = split(*data, seeded(), 0.0)
    assert len(whole.train_x) == 60
    assert torch.equal(whole.train_x, whole.test_x)
