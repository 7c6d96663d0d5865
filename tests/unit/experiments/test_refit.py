"""The refit: gauge, chance, controls, resuming, and a case whose answer is known."""

import json

import pytest
import torch
from torch import nn

from svdhooks.experiments import refit_networks as networks
from svdhooks.experiments import refit_scores as scores
from svdhooks.experiments.refit import ARMS, RefitSettings, run_refit
from svdhooks.experiments.refit_training import Data, split

TINY = {
    "seeds": 1,
    "restarts": 1,
    "steps": 3,
    "widths": (8, 6, 5, 3),
    "batch_size": 16,
    "chance_draws": 2,
}
INVARIANT = {("fc1", "right"), ("fc3", "left"), ("fc1->fc2", "adjacency")}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data():
    x = torch.randn(60, 8, generator=seeded(1))
    return x, (x @ torch.randn(8, 3, generator=seeded(2))).argmax(1)


def network(seed: int, widths=(8, 6, 5, 3)) -> nn.Sequential:
    return networks.make_model(widths, seed).double()


def seen(model: nn.Sequential, x: torch.Tensor) -> scores.Seen:
    y = torch.zeros(len(x), dtype=torch.int64)
    return scores.see(model, Data(x.double(), y, x.double(), y))[0]


def permuted(model: nn.Sequential) -> nn.Sequential:
    """The same function; hidden units of both layers have other numbers."""
    out = network(0)
    out.load_state_dict(model.state_dict())
    first, second = (
        torch.randperm(6, generator=seeded(5)),
        torch.tensor([3, 0, 4, 2, 1]),
    )
    with torch.no_grad():
        out.fc1.weight.copy_(model.fc1.weight[first])
        out.fc2.weight.copy_(model.fc2.weight[second][:, first])
        out.fc3.weight.copy_(model.fc3.weight[:, second])
    return out


def by_place(found):
    return {(s.layer, s.side, s.k): s.score for s in found}


# --- what a renumbering of units changes, and what not ------------------------------------


def test_permuted_hidden_units_change_no_invariant_score(data):
    """E2: to 1e-10, while the raw cosine of the first U falls to chance."""
    original, x = network(0), data[0]
    renumbered = permuted(original)
    torch.testing.assert_close(original(x.double()), renumbered(x.double()))
    first, second = seen(original, x), seen(renumbered, x)
    other = seen(network(1), x)
    before, after = (
        by_place(scores.compare(s, other, gap=1e-9)) for s in (first, second)
    )
    same = by_place(scores.compare(first, second, gap=1e-9))
    checked = 0
    for place, value in before.items():
        if place[:2] in INVARIANT or place[1] in {"signal", "function"}:
            assert after[place] == pytest.approx(value, abs=1e-10, nan_ok=True)
            checked += 1
    assert checked > 20
    # after matching all other scores see the same network too
    for (layer, side, _), value in same.items():
        if side not in {"function", "adjacency"} or layer in {
            scores.AGREEMENT,
            scores.CKA,
        }:
            assert value == pytest.approx(1, abs=1e-10), (layer, side)
    raw = (first.factors[0].U * second.factors[0].U).sum(0).abs()
    assert float(raw.mean()) < 0.6


def test_without_matching_inner_vectors_would_look_unlike(data, monkeypatch):
    """The matching is what makes the test above pass."""
    original = network(0)
    monkeypatch.setattr(
        scores.similarity, "match_units", lambda A, B: torch.arange(A.shape[1])
    )
    first, second = seen(original, data[0]), seen(permuted(original), data[0])
    same = by_place(scores.compare(first, second, gap=1e-9))
    assert same["fc1", "right", 2] == pytest.approx(1)
    assert same["fc1", "left", 2] < 0.9
    assert same["fc2", "right", 2] < 0.9


def test_joint_signs_of_a_pair_change_nothing(data):
    original, other = seen(network(0), data[0]), seen(network(1), data[0])
    before = by_place(scores.compare(original, other))
    for factors in other.factors:
        factors.U[:, 1] *= -1
        factors.V[:, 1] *= -1
    after = by_place(scores.compare(original, other))
    for place, value in before.items():
        assert after[place] == pytest.approx(value, abs=1e-12, nan_ok=True)


def test_the_scores_of_networks_side_by_side_are_those_of_each(data):
    x = data[0].double()
    model = network(0)
    many = networks.start_of("haar", model, 3, seeded())
    y = torch.zeros(len(x), dtype=torch.int64)
    together = scores.see(many, Data(x, y, x, y))
    for r, one in enumerate(together):
        alone = network(0)
        with torch.no_grad():
            for name, layer in networks.linear_layers(alone).items():
                layer.weight.copy_(many.get_submodule(name).weight[r])
        expected = scores.compare(seen(model, x), seen(alone, x))
        found = by_place(scores.compare(seen(model, x), one))
        for place, value in by_place(expected).items():
            assert found[place] == pytest.approx(value, abs=1e-9, nan_ok=True)


def test_the_haar_control_gives_chance(data):
    """E3: k/n within three standard errors, for what needs no matching."""
    original = seen(network(0), data[0])
    drawn = networks.start_of("haar", network(0), 150, seeded(3))
    x = data[0].double()
    y = torch.zeros(len(x), dtype=torch.int64)
    rows = [
        s
        for one in scores.see(drawn, Data(x, y, x, y))
        for s in scores.compare(original, one, (1, 2, 3), gap=1e-9)
        if s.chance is not None
    ]
    lengths = {("fc1", "right"): 8, ("fc3", "left"): 3}
    for place, n in lengths.items():
        for k in (1, 2):
            here = [s for s in rows if (s.layer, s.side, s.k) == (*place, k)]
            values = torch.tensor([s.score for s in here], dtype=torch.float64)
            error = float(values.std()) / len(values) ** 0.5
            assert abs(float(values.mean()) - k / n) < 3 * error
            assert here[0].chance == pytest.approx(k / n)
    adjacent = [s.score for s in rows if s.side == "adjacency" and s.k == 3]
    values = torch.tensor(adjacent, dtype=torch.float64)
    values = values[values.isfinite()]
    assert len(values) > 250
    assert abs(float(values.mean())) < 3 * float(values.std()) / len(values) ** 0.5


# --- where the arms start -----------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS)
def test_each_arm_starts_with_its_spectrum(arm):
    model = network(0)
    found = networks.decompose(networks.start_of(arm, model, 4, seeded()))
    true = networks.decompose(model)
    for own, other in zip(true, found, strict=True):
        sigma = own.sigma.expand(4, -1)
        if arm in {"fixed_s", "haar", "perturbed"}:
            torch.testing.assert_close(other.sigma, sigma)
        if arm == "flat_s":
            assert float((other.sigma[:, 0] / other.sigma[:, -1]).max()) < 1 + 1e-9
        if arm in {"flat_s", "shuffled_s"}:
            norms = own.sigma.norm().expand(4)
            torch.testing.assert_close(other.sigma.norm(dim=1), norms)
            assert not torch.allclose(other.sigma, sigma)
        if arm == "free":
            # as nn.Linear draws: uniform within 1/√in
            weight, bound = other.weight(), own.V.shape[0] ** -0.5
            assert 0.8 * bound < float(weight.abs().max()) <= bound
            assert not torch.allclose(weight[0], weight[1])
    if arm == "shuffled_s":
        pool = torch.cat([f.sigma for f in true])
        ratios = torch.cat([f.sigma[0] / f.sigma[0, 0] for f in found])
        dealt = {round(float(a / b), 6) for a in pool for b in pool}
        assert {round(float(r), 6) for r in ratios} <= dealt


def test_a_perturbed_start_is_near_and_a_haar_start_is_not(data):
    model, x = network(0), data[0]
    first = seen(model, x)
    for arm, low, high in (("perturbed", 0.95, 1.0), ("haar", 0.0, 0.9)):
        y = torch.zeros(len(x), dtype=torch.int64)
        start = networks.start_of(arm, model, 1, seeded(), angle=0.1)
        (other,) = scores.see(start, Data(x.double(), y, x.double(), y))
        found = by_place(scores.compare(first, other, gap=1e-9))
        assert low <= found["fc1", "right", 2] <= high


def test_the_models_bias_stays_where_s_is_fixed_and_is_learned_where_w_is_free():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    fixed = networks.start_of("fixed_s", model, 2, seeded())
    torch.testing.assert_close(fixed[0].bias, model[0].bias.detach())
    free = networks.start_of("free", model, 2, seeded())
    assert isinstance(free[0].bias, nn.Parameter)
    assert free[0].bias.shape == (2, 3)
    assert free(torch.zeros(5, 4)).shape == fixed(torch.zeros(5, 4)).shape == (2, 5, 2)


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
    "where", ["seed 0, free", "seed 1, original", "seed 1, flat_s"]
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
        seeds=1, steps=500, chance_draws=2, turn_rate=0.05, weight_decay=0.0, test_share=0.0
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
