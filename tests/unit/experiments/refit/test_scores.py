"""What renumbered units change of a refit's scores, what chance gives, where arms start."""

import pytest
import torch
from torch import nn

from svdhooks.experiments.refit import ARMS
from svdhooks.experiments.refit import networks as networks
from svdhooks.experiments.refit import scores as scores
from svdhooks.experiments.refit.training import Data

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
